//! Keeps hints flowing: the runtime's events where it has some, a relist where not.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Error, Hint, Runtime};

/// Where the runtime has no events at all. On the list of things that poll.
const RELIST: Duration = Duration::from_secs(2);
/// Beside events: an event that the runtime lost must not leave a pod wrong for ever. On the list of things that poll.
const SAFETY: Duration = Duration::from_secs(300);
const RECONNECT: Duration = Duration::from_millis(500);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// Every (re)connection begins with `Hint::All`. A full queue makes this wait: the runtime's own stream buffers, and after a break comes `All`.
pub async fn follow(runtime: Arc<dyn Runtime>, hints: mpsc::Sender<Hint>, stop: CancellationToken) {
    let mut pause = RECONNECT;
    loop {
        let mut events = runtime.events();
        let mut safety = tokio::time::interval(SAFETY);
        let broke = loop {
            let hint = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = events.next() => match event {
                    Some(Ok(hint)) => hint,
                    Some(Err(error)) => break error,
                    None => break Error::Unavailable("the stream of events ended".into()),
                },
                // The first tick is immediate, so it is the `All` of a new connection too.
                _ = safety.tick() => Hint::All,
            };
            if matches!(hint, Hint::Container { .. } | Hint::Images) {
                pause = RECONNECT;
            }
            if hints.send(hint).await.is_err() {
                return;
            }
        };
        let wait = match broke {
            Error::Unimplemented(_) => RELIST,
            error => {
                tracing::debug!(%error, "runtime events broke off");
                // The node has to say so even where no connection comes about any more.
                if hints.send(Hint::All).await.is_err() {
                    return;
                }
                pause = (pause * 2).min(RECONNECT_MAX);
                pause
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

//! Restarts a part that ended, so that its neighbours in the process do not notice.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::BoxError;
use crate::backoff::Backoff;
use crate::tasks::DRAIN;

/// A part that ran this long is taken to have been healthy: its next restart is a quick one.
const HEALTHY: Duration = Duration::from_secs(60);

/// Runs `part` until `stop`; each time it ends before that, well, badly or by panic, it is started again after a pause
/// that grows from 100 ms to 30 s. Each run gets a token of its own under `stop`.
pub async fn supervise<F, E>(name: &'static str, stop: CancellationToken, mut part: impl FnMut(CancellationToken) -> F)
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let run = stop.child_token();
        let began = Instant::now();
        let mut set = JoinSet::new();
        let future = part(run.clone());
        set.spawn(async move { future.await.map_err(Into::<BoxError>::into) });
        let end = tokio::select! {
            biased;
            () = stop.cancelled() => {
                // The part gets the same time to end as its own tasks have, and a little to notice that.
                if tokio::time::timeout(DRAIN + Duration::from_secs(2), set.join_next()).await.is_err() {
                    error!(part = name, "did not stop in time");
                }
                return;
            }
            Some(end) = set.join_next() => end,
        };
        run.cancel();
        if began.elapsed() >= HEALTHY {
            backoff.reset();
        }
        let pause = backoff.pause();
        match end {
            Ok(Ok(())) => info!(part = name, ?pause, "ended; restarting"),
            Ok(Err(cause)) => {
                error!(part = name, error = %crate::chain(cause.as_ref()), ?pause, "failed; restarting");
            }
            Err(panic) => error!(part = name, error = %panic, ?pause, "panicked; restarting"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_ends_or_panics_is_started_again_and_stop_ends_it() {
        let stop = CancellationToken::new();
        let runs = Arc::new(AtomicU32::new(0));
        supervise("part", stop.clone(), |token| {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            let stop = stop.clone();
            async move {
                match run {
                    0 => Ok::<(), Infallible>(()),
                    1 => panic!("boom"),
                    _ => {
                        stop.cancel();
                        token.cancelled().await;
                        Ok(())
                    }
                }
            }
        })
        .await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }
}

//! What a cluster is born with and cannot do without is brought back while the server runs, as upstream's controllers of
//! the `kubernetes` Service and of the system namespaces do.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Parameters, Wanted, objects, reconcile};
use crate::admission::addresses::Addresses;
use crate::cache::{Delta, Event};
use crate::registry::Registry;

/// The resources of which somebody may take away what is wanted.
pub const KINDS: [(&str, &str); 4] = [
    ("", "namespaces"),
    ("", "services"),
    ("", "endpoints"),
    ("discovery.k8s.io", "endpointslices"),
];

/// Upstream looks every so often. Who insists on another content, another server for one, is answered no faster.
const PAUSE: Duration = Duration::from_secs(10);

/// Keeps what is wanted of one of the [`KINDS`] until `stop`. The address of a Service that was brought back is nobody
/// else's: `addresses` are put right too.
pub async fn keep(
    registry: Arc<Registry>,
    parameters: Parameters,
    (group, plural): (&str, &str),
    addresses: Arc<Addresses>,
    stop: CancellationToken,
) {
    let wanted: Vec<Wanted> = objects::wanted(&parameters)
        .into_iter()
        .filter(|wanted| (wanted.group, wanted.plural) == (group, plural))
        .collect();
    let Some(cache) = registry.cache(group, plural) else {
        return stop.cancelled().await;
    };
    let mut subscription = cache.subscribe();
    let mut again = false;
    loop {
        if !again {
            let delta = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                delta = subscription.next() => delta,
            };
            if !concerns(&delta, &wanted) {
                continue;
            }
        }
        match reconcile(&registry, &wanted, jiff::Timestamp::now()).await {
            Ok(0) => {
                again = false;
                continue;
            }
            Ok(count) => {
                tracing::info!(plural, count, "brought back what a cluster is born with");
                again = false;
                if let Err(status) = addresses.repair().await {
                    tracing::warn!(message = status.message, "addresses were not put right");
                }
            }
            Err(error) => {
                tracing::warn!(plural, %error, "what a cluster is born with could not be brought back");
                again = true;
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

fn concerns(delta: &Delta, wanted: &[Wanted]) -> bool {
    match delta {
        Delta::Reset(_) => true,
        Delta::Changes(events) => events.iter().any(|event| {
            let (Event::Added(item) | Event::Modified(item) | Event::Deleted { item, .. }) = event;
            let facts = &item.facts;
            wanted
                .iter()
                .any(|wanted| *facts.name == *wanted.text("name") && *facts.namespace == *wanted.text("namespace"))
        }),
    }
}

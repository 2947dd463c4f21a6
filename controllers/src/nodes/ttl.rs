//! How long nodes may keep Secrets and ConfigMaps before they ask again: an annotation that grows with the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use daemon::informer::{Change, Lister};
use daemon::{Next, Queue};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key};
use crate::{Error, is_gone};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// From how many nodes on, up to how many, and the seconds. The ranges overlap, so that a cluster at an edge keeps still.
// Follows pkg/controller/ttl (1.36).
const STEPS: [(usize, usize, u32); 6] = [
    (0, 100, 0),
    (90, 500, 15),
    (450, 1000, 30),
    (900, 2000, 60),
    (1800, 10_000, 300),
    (9000, usize::MAX, 600),
];

/// The step for so many nodes, coming from another.
fn step(mut at: usize, nodes: usize) -> usize {
    while nodes > STEPS[at].1 {
        at += 1;
    }
    while nodes < STEPS[at].0 {
        at -= 1;
    }
    at
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let nodes = context.all::<Node>();
    nodes.synced().await;
    let at = Arc::new(AtomicUsize::new(step(0, nodes.len())));
    let (into, all, current) = (queue.clone(), nodes.clone(), at.clone());
    nodes.on_change(move |change| {
        let is_news = match change {
            Change::Applied { old, new } => {
                into.add(Key::new("", &new.name));
                old.is_none()
            }
            Change::Deleted { .. } => true,
        };
        if is_news {
            let before = current.load(Ordering::SeqCst);
            let after = step(before, all.len());
            if before != after {
                current.store(after, Ordering::SeqCst);
                all.list().iter().for_each(|node| into.add(Key::new("", &node.name)));
            }
        }
    });
    let client = context.client.clone();
    context
        .work(queue, stop, move |key| {
            let seconds = STEPS[at.load(Ordering::SeqCst)].2;
            reconcile(client.clone(), nodes.clone(), key, seconds)
        })
        .await
}

async fn reconcile(client: kube::Client, nodes: Lister<Node>, key: Key, seconds: u32) -> Result<Next, Error> {
    let Some(entry) = nodes.get("", &key.name) else {
        return Ok(Next::Done);
    };
    let node = entry.typed()?;
    let text = seconds.to_string();
    if api::volume::annotation(&node.metadata, ANNOTATION) == Some(&text) {
        return Ok(Next::Done);
    }
    let change = json!({"metadata": {"annotations": {ANNOTATION: text}}});
    let api: Api<Node> = Api::all(client);
    match api
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(change))
        .await
    {
        Err(error) if is_gone(&error) => Ok(Next::Done),
        answer => answer.map(|_| Next::Done).map_err(Error::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_grows_with_the_cluster_and_does_not_flutter_at_an_edge() {
        assert_eq!(STEPS[step(0, 1)].2, 0);
        let larger = step(0, 101);
        assert_eq!(STEPS[larger].2, 15);
        assert_eq!(step(larger, 95), larger);
        assert_eq!(step(larger, 80), 0);
        assert_eq!(STEPS[step(0, 20_000)].2, 600);
    }
}

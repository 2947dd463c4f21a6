//! Removes pods that nobody else will: those of nodes that are gone, those that were deleted before they had a node,
//! and the oldest ended ones when there are too many.

use std::sync::Arc;
use std::time::Duration;

use api::pod;
use daemon::informer::{Change, Lister};
use daemon::{Next, Queue};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::context::{Context, Key};
use crate::pods::this_one;
use crate::{Error, is_conflict, is_gone};

/// A node that is not there may be on its way: it is asked for again after this time.
const QUARANTINE: Duration = Duration::from_secs(40);

/// What an index of pods needs to read.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Place {
    #[serde(default)]
    spec: PlaceSpec,
    #[serde(default)]
    status: PlaceStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PlaceSpec {
    node_name: Option<String>,
}

#[derive(Deserialize, Default)]
struct PlaceStatus {
    phase: Option<String>,
}

/// Has pods indexed by node. Shared with who else asks for it.
pub fn index_nodes(pods: &Lister<Pod>) {
    pods.index("node", |pod| {
        let place: Option<Place> = pod.view().ok();
        place
            .and_then(|place| place.spec.node_name)
            .filter(|name| !name.is_empty())
            .into_iter()
            .collect()
    });
}

fn is_ended(pod: &daemon::Entry<Pod>) -> bool {
    let place: Option<Place> = pod.view().ok();
    matches!(
        place.and_then(|place| place.status.phase).as_deref(),
        Some("Succeeded" | "Failed")
    )
}

/// The ended pods beyond the threshold, oldest first.
fn surplus(mut ended: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    let surplus = ended.len().saturating_sub(threshold);
    ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    ended.truncate(surplus);
    ended
}

struct Controller {
    context: Context,
    pods: Lister<Pod>,
    nodes: Lister<Node>,
}

/// Keys: a node's name alone; a pod; neither, for the count of ended pods.
pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let (pods, nodes) = (context.all::<Pod>(), context.all::<Node>());
    index_nodes(&pods);
    pods.index(
        "ended",
        |pod| if is_ended(pod) { vec![String::new()] } else { Vec::new() },
    );
    nodes.synced().await;
    pods.synced().await;
    let into = queue.clone();
    nodes.on_change(move |change| {
        if let Change::Deleted { old } = change {
            into.add_after(Key::new("", &old.name), QUARANTINE);
        }
    });
    let (into, known) = (queue.clone(), nodes.clone());
    let threshold = context.config.terminated_pod_threshold;
    pods.on_change(move |change| {
        let Change::Applied { old, new } = change else { return };
        let place: Place = new.view().unwrap_or_default();
        match place.spec.node_name.filter(|name| !name.is_empty()) {
            // A pod may be bound to a node that went at the same moment.
            Some(node) if old.is_none() && known.get("", &node).is_none() => {
                into.add_after(Key::new("", &node), QUARANTINE);
            }
            None if new.deleting => into.add(Key::of(new)),
            _ => {}
        }
        if threshold > 0 && is_ended(new) && old.is_none_or(|old| !is_ended(old)) {
            into.add(Key::new("", ""));
        }
    });
    let controller = Arc::new(Controller {
        context: context.clone(),
        pods,
        nodes,
    });
    context
        .work(queue, stop, move |key| reconcile(controller.clone(), key))
        .await
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<Next, Error> {
    let Controller { context, pods, nodes } = &*controller;
    let mut gone: Vec<Arc<Pod>> = Vec::new();
    let mut why = "";
    if !key.namespace.is_empty() {
        let pod = pods.get(&key.namespace, &key.name).filter(|pod| pod.deleting);
        let pod = pod.map(|pod| pod.typed()).transpose()?;
        gone.extend(pod.filter(|pod| pod::node_name(pod).is_none()));
    } else if key.name.is_empty() {
        let ended = pods
            .by("ended", "")
            .iter()
            .map(|pod| pod.typed())
            .collect::<Result<_, _>>()?;
        gone = surplus(ended, context.config.terminated_pod_threshold);
    } else {
        if nodes.get("", &key.name).is_some() {
            return Ok(Next::Done);
        }
        let api: Api<Node> = Api::all(context.client.clone());
        match api.get(&key.name).await {
            Ok(_) => return Ok(Next::Done),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error.into()),
        }
        why = "PodGC: node no longer exists";
        gone = pods
            .by("node", &key.name)
            .iter()
            .map(|pod| pod.typed())
            .collect::<Result<_, _>>()?;
    }
    for pod in gone {
        remove(&context.client, &pod, why).await?;
    }
    Ok(Next::Done)
}

/// Deletes a pod at once: there is no kubelet to wait for. Where it had not ended it is marked as failed first.
async fn remove(client: &kube::Client, pod: &Pod, why: &str) -> Result<(), Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    if !why.is_empty() && !pod::is_terminal(pod) {
        let mut conditions = pod
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default();
        let target = k8s_openapi::api::core::v1::PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some("DeletionByPodGC".to_owned()),
            message: Some(why.to_owned()),
            ..Default::default()
        };
        api::condition::set(&mut conditions, target, &crate::context::now());
        let change = json!({
            "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
            "status": {"phase": "Failed", "conditions": conditions},
        });
        match api
            .patch_status(name, &PatchParams::default(), &Patch::Merge(change))
            .await
        {
            Err(error) if is_gone(&error) => return Ok(()),
            answer => drop(answer?),
        }
    }
    let mut params = this_one(&pod.metadata);
    params.grace_period_seconds = Some(0);
    match api.delete(name, &params).await {
        Err(error) if is_gone(&error) || is_conflict(&error) => {}
        answer => drop(answer?),
    }
    info!(namespace, name, "pod removed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_oldest_ended_pods_go_first() {
        let pods = ["3", "1", "2"].map(|day| {
            let pod = json!({"metadata": {"name": day, "creationTimestamp": format!("2026-01-0{day}T00:00:00Z")}});
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        });
        let names = |threshold: usize| -> Vec<_> {
            surplus(pods.to_vec(), threshold)
                .iter()
                .filter_map(|pod| pod.metadata.name.clone())
                .collect()
        };
        assert_eq!(names(1), ["1", "2"]);
        assert!(names(3).is_empty());
    }
}

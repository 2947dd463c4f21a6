//! Moves pods off nodes with NoExecute taints that they do not tolerate, or not for ever. Upstream: tainteviction (1.36).

use std::sync::Arc;
use std::time::Duration;

use api::node::eviction_after;
use api::pod;
use daemon::events::EventType;
use daemon::informer::{Change, Lister};
use daemon::{Next, Queue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint};
use kube::api::{Api, Patch, PatchParams};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cleanup::pod_gc::index_nodes;
use crate::context::{Context, Key};
use crate::pods::this_one;
use crate::{Error, is_conflict, is_gone};

#[derive(Deserialize)]
struct View {
    spec: Option<Spec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    taints: Option<Vec<Taint>>,
    node_name: Option<String>,
}

fn moving(node: &daemon::Entry<Node>) -> Vec<Taint> {
    let view: Option<View> = node.view().ok();
    let taints = view
        .and_then(|view| view.spec)
        .and_then(|spec| spec.taints)
        .unwrap_or_default();
    taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect()
}

/// How long the pod may stay: zero when it has to go, nothing when it may stay for ever.
fn plan(pod: &Pod, taints: &[Taint], now: Timestamp) -> Option<Duration> {
    if taints.is_empty() || !pod::is_active(pod) {
        return None;
    }
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let Ok(seconds) = eviction_after(taints, tolerations) else {
        return Some(Duration::ZERO);
    };
    let added = taints
        .iter()
        .filter_map(|taint| taint.time_added.as_ref())
        .map(|time| time.0)
        .max();
    let end = added.unwrap_or(now) + Duration::from_secs(seconds?);
    Some(end.duration_since(now).try_into().unwrap_or(Duration::ZERO))
}

struct Controller {
    context: Context,
    nodes: Lister<Node>,
    pods: Lister<Pod>,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let (nodes, pods) = (context.all::<Node>(), context.all::<Pod>());
    index_nodes(&pods);
    nodes.synced().await;
    pods.synced().await;
    let (on_node, into) = (pods.clone(), queue.clone());
    nodes.on_change(move |change| {
        let Change::Applied { old, new } = change else { return };
        let taints = moving(new);
        if !taints.is_empty() && old.is_none_or(|old| moving(old) != taints) {
            on_node
                .by("node", &new.name)
                .iter()
                .for_each(|pod| into.add(Key::of(pod)));
        }
    });
    let (known, into) = (nodes.clone(), queue.clone());
    pods.on_change(move |change| {
        let Change::Applied { new, .. } = change else { return };
        let view: Option<View> = new.view().ok();
        let Some(node) = view.and_then(|view| view.spec).and_then(|spec| spec.node_name) else {
            return;
        };
        if known.get("", &node).is_some_and(|node| !moving(&node).is_empty()) {
            into.add(Key::of(new));
        }
    });
    let controller = Arc::new(Controller {
        context: context.clone(),
        nodes,
        pods,
    });
    context
        .work(queue, stop, move |key| reconcile(controller.clone(), key))
        .await
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<Next, Error> {
    let Controller { context, nodes, pods } = &*controller;
    let Some(entry) = pods.get(&key.namespace, &key.name) else {
        return Ok(Next::Done);
    };
    let pod = entry.typed()?;
    let node = pod::node_name(&pod).and_then(|name| nodes.get("", name));
    let Some(taints) = node.map(|node| moving(&node)) else {
        return Ok(Next::Done);
    };
    match plan(&pod, &taints, crate::context::instant()) {
        None => return Ok(Next::Done),
        Some(left) if !left.is_zero() => return Ok(Next::After(left)),
        Some(_) => {}
    }
    let about = daemon::events::reference(&*pod);
    let text = format!("Marking for deletion Pod {key}");
    context
        .recorder
        .publish(&about, EventType::Normal, "TaintManagerEviction", text);
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let target = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("DeletionByTaintManager".to_owned()),
        message: Some("Taint manager: deleting due to NoExecute taint".to_owned()),
        ..Default::default()
    };
    if condition_changes(&mut conditions, target) {
        let change = json!({
            "metadata": {"uid": &*entry.uid, "resourceVersion": pod.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        match api
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(change))
            .await
        {
            Err(error) if is_gone(&error) => return Ok(Next::Done),
            answer => drop(answer?),
        }
    }
    match api.delete(&key.name, &this_one(&pod.metadata)).await {
        Err(error) if is_gone(&error) || is_conflict(&error) => Ok(Next::Done),
        answer => answer.map(|_| Next::Done).map_err(Error::from),
    }
}

fn condition_changes(conditions: &mut Vec<PodCondition>, new: PodCondition) -> bool {
    api::condition::set(conditions, new, &crate::context::now())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pod_goes_when_its_toleration_ends() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let taint = json!({"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
        let left = |tolerations: Value, taints: Value| {
            let pod = json!({"spec": {"containers": [], "tolerations": tolerations}});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let taints: Vec<Taint> = serde_json::from_value(taints).unwrap();
            plan(&pod, &taints, now).map(|left| left.as_secs())
        };
        let tolerated = |seconds: Value| json!([{"key": "k", "operator": "Exists", "tolerationSeconds": seconds}]);
        assert_eq!(left(json!([]), json!([taint])), Some(0));
        assert_eq!(left(tolerated(json!(300)), json!([taint])), Some(240));
        assert_eq!(left(tolerated(json!(30)), json!([taint])), Some(0));
        assert_eq!(left(tolerated(json!(null)), json!([taint])), None);
        assert_eq!(left(json!([]), json!([])), None);
    }
}

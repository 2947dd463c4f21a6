//! Nodes that fall silent: their conditions become unknown, their taints follow their conditions, and their pods are
//! no longer called ready. Upstream: nodelifecycle/node_lifecycle_controller.go (1.36).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::names::well_known::{
    NAMESPACE_NODE_LEASE, TAINT_DISK_PRESSURE, TAINT_MEMORY_PRESSURE, TAINT_NETWORK_UNAVAILABLE, TAINT_NOT_READY,
    TAINT_PID_PRESSURE, TAINT_UNREACHABLE, TAINT_UNSCHEDULABLE,
};
use api::{condition, pod};
use daemon::events::EventType;
use daemon::informer::{Change, Lister};
use daemon::{Next, Queue};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cleanup::pod_gc::index_nodes;
use crate::context::{Context, Key};
use crate::{Error, is_conflict, is_gone};

/// The conditions that a silent kubelet cannot vouch for any more.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that keep new pods away while they are true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", TAINT_MEMORY_PRESSURE),
    ("DiskPressure", TAINT_DISK_PRESSURE),
    ("PIDPressure", TAINT_PID_PRESSURE),
    ("NetworkUnavailable", TAINT_NETWORK_UNAVAILABLE),
];
/// The taints that this controller puts on and takes off.
const OURS: [&str; 7] = [
    TAINT_NOT_READY,
    TAINT_UNREACHABLE,
    TAINT_UNSCHEDULABLE,
    TAINT_MEMORY_PRESSURE,
    TAINT_DISK_PRESSURE,
    TAINT_PID_PRESSURE,
    TAINT_NETWORK_UNAVAILABLE,
];

/// The conditions of a node that says nothing, where they are not so already.
fn unknown(node: &Node, now: &Time) -> Option<Vec<NodeCondition>> {
    let mut conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let mut changed = false;
    for kind in VOUCHED {
        let old = condition::find(Some(&conditions), kind);
        if old.is_some_and(|old| old.status == "Unknown") {
            continue;
        }
        let (reason, message) = match old {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let new = NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: old
                .and_then(|old| old.last_heartbeat_time.clone())
                .or_else(|| node.metadata.creation_timestamp.clone()),
            last_transition_time: None,
        };
        changed |= condition::set(&mut conditions, new, now);
    }
    changed.then_some(conditions)
}

fn status<'a>(node: &'a Node, kind: &str) -> &'a str {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    condition::find(conditions, kind).map_or("", |condition| condition.status.as_str())
}

/// The taints that the node's conditions call for, if they differ from what it has. Taints of others stay. Without
/// `evict` no new taint that moves pods is put on, but what is there is kept or taken off as the node recovers.
fn taints(node: &Node, evict: bool, now: &Time) -> Option<Vec<Taint>> {
    let have = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let unready = match status(node, "Ready") {
        "False" => Some(TAINT_NOT_READY),
        "Unknown" => Some(TAINT_UNREACHABLE),
        "True" => None,
        // Nothing is known of a node that has just registered: its kubelet says first.
        _ => Some(TAINT_NOT_READY),
    };
    if let Some(key) = unready {
        wanted.push((key, "NoSchedule"));
        let there = have.iter().any(|taint| taint.key == key && taint.effect == "NoExecute");
        if there || (evict && !status(node, "Ready").is_empty()) {
            wanted.push((key, "NoExecute"));
        }
    }
    for (kind, key) in PRESSURES {
        if status(node, kind) == "True" {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        wanted.push((TAINT_UNSCHEDULABLE, "NoSchedule"));
    }
    let is = |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let ours = |taint: &Taint| OURS.contains(&taint.key.as_str()) && taint.effect != "PreferNoSchedule";
    let mut next: Vec<Taint> = have.clone();
    next.retain(|taint| !ours(taint) || wanted.iter().any(|wanted| is(taint, wanted)));
    for wanted in &wanted {
        if !next.iter().any(|taint| is(taint, wanted)) {
            next.push(Taint {
                key: wanted.0.to_owned(),
                effect: wanted.1.to_owned(),
                time_added: Some(now.clone()),
                value: None,
            });
        }
    }
    (next != have).then_some(next)
}

/// The pause between two nodes whose pods are moved; nothing where so much is down that the fault is likely elsewhere.
fn pace(unready: usize, total: usize) -> Option<Duration> {
    if unready >= total {
        return None;
    }
    let disrupted = unready > 2 && unready * 100 >= total * 55;
    match (disrupted, total > 50) {
        (false, _) => Some(Duration::from_secs(10)),
        (true, true) => Some(Duration::from_secs(100)),
        (true, false) => None,
    }
}

struct Controller {
    context: Context,
    nodes: Lister<Node>,
    pods: Lister<Pod>,
    /// When each node was last heard of: its Lease or its conditions changed. Our own clock counts, not the node's.
    heard: Arc<Mutex<HashMap<Arc<str>, Heard>>>,
    /// The first moment at which the next node's pods may be moved.
    next_eviction: Mutex<Instant>,
}

#[derive(Debug)]
struct Heard {
    at: Instant,
    /// What the last sign of life said.
    heartbeat: Option<String>,
    lease: Option<u64>,
}

#[derive(Deserialize)]
struct Signs {
    status: Option<SignsStatus>,
}

#[derive(Deserialize)]
struct SignsStatus {
    conditions: Option<Vec<Sign>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sign {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    last_heartbeat_time: Option<String>,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let (nodes, pods) = (context.all::<Node>(), context.all::<Pod>());
    let leases: Lister<Lease> = context.informers.of(daemon::Options {
        namespace: Some(NAMESPACE_NODE_LEASE.to_owned()),
        ..Default::default()
    });
    index_nodes(&pods);
    let heard: Arc<Mutex<HashMap<Arc<str>, Heard>>> = Arc::default();
    let (hears, into) = (heard.clone(), queue.clone());
    nodes.on_change(move |change| {
        let mut heard = hears.lock().expect("no holder of this lock panics");
        match change {
            Change::Applied { new, .. } => {
                let signs: Option<Signs> = new.view().ok();
                let conditions = signs
                    .and_then(|signs| signs.status)
                    .and_then(|status| status.conditions);
                let ready = conditions.into_iter().flatten().find(|sign| sign.kind == "Ready");
                // Our own word, that nothing is known, is no sign of life.
                let ready = ready.filter(|sign| sign.status != "Unknown");
                let heartbeat = ready.map(|sign| sign.status + &sign.last_heartbeat_time.unwrap_or_default());
                let entry = heard.entry(new.name.clone()).or_insert_with(|| Heard {
                    at: Instant::now(),
                    heartbeat: None,
                    lease: None,
                });
                if heartbeat.is_some() && entry.heartbeat != heartbeat {
                    entry.at = Instant::now();
                    entry.heartbeat = heartbeat;
                }
                into.add(Key::of(new));
            }
            Change::Deleted { old } => drop(heard.remove(&old.name)),
        }
    });
    let (hears, into) = (heard.clone(), queue.clone());
    leases.on_change(move |change| {
        let Change::Applied { new, .. } = change else { return };
        let mut heard = hears.lock().expect("no holder of this lock panics");
        let Some(entry) = heard.get_mut(&new.name) else { return };
        if entry.lease != Some(new.revision) {
            let silent_before = entry.at.elapsed();
            entry.at = Instant::now();
            entry.lease = Some(new.revision);
            // The timer of a node that is heard of all the time is set once per grace period, not per Lease.
            if silent_before > Duration::from_secs(30) {
                into.add(Key::new("", &new.name));
            }
        }
    });
    nodes.synced().await;
    pods.synced().await;
    leases.synced().await;
    let controller = Arc::new(Controller {
        context: context.clone(),
        nodes,
        pods,
        heard,
        next_eviction: Mutex::new(Instant::now()),
    });
    context
        .work(queue, stop, move |key| reconcile(controller.clone(), key))
        .await
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<Next, Error> {
    let Controller { context, nodes, .. } = &*controller;
    let Some(entry) = nodes.get("", &key.name) else {
        return Ok(Next::Done);
    };
    let silent = {
        let heard = controller.heard.lock().expect("no holder of this lock panics");
        heard.get(&key.name).map_or(Duration::ZERO, |heard| heard.at.elapsed())
    };
    let grace = context.config.node_monitor_grace_period;
    let api: Api<Node> = Api::all(context.client.clone());
    let mut node = (*entry.typed()?).clone();
    let now = crate::context::now();
    if silent >= grace
        && let Some(conditions) = unknown(&node, &now)
    {
        info!(node = %key.name, "nothing heard of the node");
        let text = format!("Node {} status is now: NodeNotReady", key.name);
        context.recorder.publish(
            &daemon::events::reference(&node),
            EventType::Normal,
            "NodeNotReady",
            text,
        );
        node.status.get_or_insert_default().conditions = Some(conditions);
        node = match api.replace_status(&key.name, &PostParams::default(), &node).await {
            Err(error) if is_gone(&error) => return Ok(Next::Done),
            // It has said something at the last moment.
            Err(error) if is_conflict(&error) => return Ok(Next::After(Duration::from_millis(20))),
            answer => answer?,
        };
    }
    let ready = status(&node, "Ready");
    let unready = !ready.is_empty() && ready != "True";
    let mut wait = None;
    let evict = unready && {
        let (allowed, again) = controller.may_evict(&node)?;
        wait = again;
        allowed
    };
    if let Some(taints) = taints(&node, evict, &now) {
        // A merge patch replaces the list, so the revision has to match; the rest of the node is the kubelet's.
        let change = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints},
        });
        match api
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(change))
            .await
        {
            Err(error) if is_gone(&error) => return Ok(Next::Done),
            Err(error) if is_conflict(&error) => return Ok(Next::After(Duration::from_millis(20))),
            answer => drop(answer?),
        }
    }
    if unready {
        controller.mark_pods(&key.name).await?;
    }
    let left = grace.saturating_sub(silent).max(Duration::from_millis(100));
    // A node that is unknown already has no timer: a sign of life brings it back here.
    let look = (silent < grace).then_some(left);
    let next = [look, wait].into_iter().flatten().min();
    Ok(next.map_or(Next::Done, Next::After))
}

impl Controller {
    /// Whether the pods of this node may be moved now, or when to ask again.
    fn may_evict(&self, node: &Node) -> Result<(bool, Option<Duration>), Error> {
        let moved = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let mut moved = moved.filter(|taint| taint.effect == "NoExecute");
        let key = if status(node, "Ready") == "False" {
            TAINT_NOT_READY
        } else {
            TAINT_UNREACHABLE
        };
        if moved.any(|taint| taint.key == key) {
            return Ok((true, None));
        }
        let all = self.nodes.list();
        let mut unready = 0;
        for other in &all {
            let same = Some(&*other.name) == node.metadata.name.as_deref();
            unready += usize::from(same || status(&*other.typed()?, "Ready") != "True");
        }
        let Some(pace) = pace(unready, all.len()) else {
            return Ok((false, Some(Duration::from_secs(60))));
        };
        let mut next = self.next_eviction.lock().expect("no holder of this lock panics");
        let now = Instant::now();
        if *next > now {
            return Ok((false, Some(*next - now)));
        }
        *next = now + pace;
        Ok((true, None))
    }

    /// Nobody can vouch for the readiness of these pods, so traffic has to go elsewhere.
    async fn mark_pods(&self, name: &str) -> Result<(), Error> {
        let now = crate::context::now();
        for entry in self.pods.by("node", name) {
            let pod = entry.typed()?;
            if !pod::is_ready(&pod) || pod::is_terminal(&pod) {
                continue;
            }
            let mut conditions = pod
                .status
                .as_ref()
                .and_then(|status| status.conditions.clone())
                .unwrap_or_default();
            if let Some(ready) = conditions.iter_mut().find(|condition| condition.type_ == "Ready") {
                ready.status = "False".to_owned();
                ready.last_transition_time = Some(now.clone());
            }
            let change = json!({
                "metadata": {"uid": &*entry.uid, "resourceVersion": pod.metadata.resource_version},
                "status": {"conditions": conditions},
            });
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &entry.namespace);
            match api
                .patch_status(&entry.name, &PatchParams::default(), &Patch::Merge(change))
                .await
            {
                Err(error) if is_gone(&error) => {}
                answer => drop(answer?),
            }
            let text = "Node is not ready";
            let pod = daemon::events::reference(&*pod);
            self.context
                .recorder
                .publish(&pod, EventType::Warning, "NodeNotReady", text);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn node(conditions: &[(&str, &str)], spec: Value) -> Node {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status)| json!({"type": kind, "status": status}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "n1"}, "spec": spec, "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn named(taints: Option<Vec<Taint>>) -> Vec<String> {
        taints
            .unwrap()
            .iter()
            .map(|taint| format!("{}:{}", taint.key.rsplit('/').next().unwrap(), taint.effect))
            .collect()
    }

    #[test]
    fn taints_follow_conditions_and_those_of_others_stay() {
        let now = crate::context::now();
        let other = json!({"key": "dedicated", "effect": "NoExecute"});
        let not_ready = json!({"key": TAINT_NOT_READY, "effect": "NoSchedule"});
        for (conditions, spec, evict, want) in [
            (
                &[("Ready", "False")][..],
                json!({}),
                true,
                &["not-ready:NoSchedule", "not-ready:NoExecute"][..],
            ),
            (&[("Ready", "Unknown")], json!({}), false, &["unreachable:NoSchedule"]),
            (&[], json!({}), true, &["not-ready:NoSchedule"]),
            (
                &[("Ready", "True"), ("DiskPressure", "True")],
                json!({"taints": [other, not_ready]}),
                false,
                &["dedicated:NoExecute", "disk-pressure:NoSchedule"],
            ),
            (
                &[("Ready", "True")],
                json!({"unschedulable": true}),
                false,
                &["unschedulable:NoSchedule"],
            ),
            (&[("Ready", "True")], json!({"taints": [not_ready]}), false, &[]),
        ] {
            assert_eq!(
                named(taints(&node(conditions, spec), evict, &now)),
                want,
                "{conditions:?}"
            );
        }
        assert_eq!(
            taints(&node(&[("Ready", "True")], json!({"taints": [other]})), false, &now),
            None
        );
    }

    #[test]
    fn a_taint_that_moves_pods_stays_while_its_cause_does() {
        let now = crate::context::now();
        let spec = json!({"taints": [
            {"key": TAINT_UNREACHABLE, "effect": "NoSchedule"}, {"key": TAINT_UNREACHABLE, "effect": "NoExecute"}]});
        assert_eq!(taints(&node(&[("Ready", "Unknown")], spec), false, &now), None);
    }

    #[test]
    fn a_silent_node_is_unknown_in_all_that_its_kubelet_vouched_for() {
        let now = crate::context::now();
        let mut node = node(&[("Ready", "True"), ("NetworkUnavailable", "False")], json!({}));
        let conditions = unknown(&node, &now).unwrap();
        let unknown_ones: Vec<_> = conditions
            .iter()
            .filter(|c| c.status == "Unknown")
            .map(|c| c.reason.clone().unwrap())
            .collect();
        let never = "NodeStatusNeverUpdated";
        assert_eq!(unknown_ones, ["NodeStatusUnknown", never, never, never]);
        node.status.as_mut().unwrap().conditions = Some(conditions);
        assert_eq!(unknown(&node, &now), None);
    }

    #[test]
    fn the_more_nodes_are_down_the_slower_pods_are_moved() {
        let seconds = |unready, total| pace(unready, total).map(|pace| pace.as_secs());
        assert_eq!(seconds(1, 1), None);
        assert_eq!(seconds(1, 3), Some(10));
        assert_eq!(seconds(6, 10), None);
        assert_eq!(seconds(60, 100), Some(100));
        assert_eq!(seconds(10, 100), Some(10));
    }
}

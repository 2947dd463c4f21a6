//! ReplicaSets and ReplicationControllers: so many pods of one template.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use api::owner::{Claim, controller_reference};
use api::selector::Labels;
use api::{condition, pod};
use daemon::informer::{Kind, Lister};
use daemon::{Next, Queue};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key, enqueue_each, enqueue_owner};
use crate::guard::Guard;
use crate::pods::{self, Hands, from_template, matches, selects};
use crate::{Error, is_conflict, is_gone};

/// What ReplicaSets and ReplicationControllers have in common.
pub trait Replicated:
    Kind
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + k8s_openapi::Resource<Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
{
    fn selector(&self) -> Result<Labels, Error>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn status(&self) -> Status;
    fn set_status(&mut self, status: Status);
}

/// The status of both kinds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: Option<i32>,
    pub observed_generation: i64,
    pub conditions: Vec<ReplicaSetCondition>,
}

/// What one reconciliation looks at.
#[derive(Debug)]
struct Observed<'a, S> {
    set: &'a S,
    selector: &'a Labels,
    /// Every pod that is ours or could be.
    pods: &'a [Arc<Pod>],
    /// Active pods of sets with the same owner, by node: a node with many of them loses one first.
    neighbours: HashMap<String, usize>,
    now: Timestamp,
}

#[derive(Debug, Default)]
struct Plan {
    adopt: Vec<Arc<Pod>>,
    release: Vec<Arc<Pod>>,
    create: usize,
    delete: Vec<Arc<Pod>>,
    status: Status,
    /// When a pod that is ready becomes available.
    look_again: Option<Duration>,
}

fn plan<S: Replicated>(observed: &Observed<'_, S>) -> Plan {
    let Observed {
        set,
        selector,
        pods,
        neighbours,
        now,
    } = observed;
    let metadata = set.metadata();
    let deleting = metadata.deletion_timestamp.is_some();
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let mut plan = Plan::default();
    let mut ours: Vec<Arc<Pod>> = Vec::new();
    let mut terminating = 0;
    for pod in pods.iter() {
        match pods::claim(pod, selector, uid, deleting) {
            Claim::Keep if pod::is_active(pod) => ours.push(pod.clone()),
            Claim::Keep => terminating += i32::from(pod::is_deleting(pod) && !pod::is_terminal(pod)),
            Claim::Adopt if pod::is_active(pod) => {
                plan.adopt.push(pod.clone());
                ours.push(pod.clone());
            }
            Claim::Release => plan.release.push(pod.clone()),
            Claim::Adopt | Claim::Ignore => {}
        }
    }
    let wanted = usize::try_from(set.replicas()).unwrap_or(0);
    plan.status = status(*set, &ours, terminating, *now);
    if !deleting {
        plan.create = wanted.saturating_sub(ours.len());
        let surplus = ours.len().saturating_sub(wanted).min(pods::BURST);
        if surplus > 0 {
            ours.sort_by(|a, b| expendable(a, b, neighbours, *now));
            plan.delete = ours.drain(..surplus).collect();
        }
    }
    let available = plan.status.available;
    if set.min_ready_seconds() > 0 && plan.status.ready > available {
        let minimum = i64::from(set.min_ready_seconds());
        let remaining = ours.iter().filter_map(|pod| {
            let since = ready_since(pod)?.as_second();
            u64::try_from(since + minimum - now.as_second())
                .ok()
                .filter(|left| *left > 0)
        });
        plan.look_again = remaining.min().map(Duration::from_secs);
    }
    plan
}

fn status<S: Replicated>(set: &S, ours: &[Arc<Pod>], terminating: i32, now: Timestamp) -> Status {
    let count = |test: &dyn Fn(&Pod) -> bool| i32::try_from(ours.iter().filter(|pod| test(pod)).count());
    let count = |test: &dyn Fn(&Pod) -> bool| count(test).unwrap_or(i32::MAX);
    let labels = set
        .template()
        .and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    let labels = Labels::equal(labels.cloned().unwrap_or_default());
    Status {
        replicas: count(&|_| true),
        fully_labeled: count(&|pod| matches(&labels, &pod.metadata)),
        ready: count(&pod::is_ready),
        available: count(&|pod| pod::is_available(pod, set.min_ready_seconds(), now.as_second())),
        terminating: Some(terminating),
        observed_generation: set.metadata().generation.unwrap_or_default(),
        conditions: set.status().conditions,
    }
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_deref();
    let ready = condition::find(conditions, "Ready").filter(|ready| ready.status == "True")?;
    Some(ready.last_transition_time.as_ref()?.0)
}

/// Orders pods by who can go first. Upstream: controller.ActivePodsWithRanks (1.36).
pub(super) fn expendable(a: &Pod, b: &Pod, neighbours: &HashMap<String, usize>, now: Timestamp) -> std::cmp::Ordering {
    let phase = |pod: &Pod| match pod::phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = |pod: &Pod| -> i32 {
        let annotations = pod.metadata.annotations.as_ref();
        let cost = annotations.and_then(|all| all.get(api::names::well_known::POD_DELETION_COST));
        // The server lets only numbers in.
        cost.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let crowd = |pod: &Pod| {
        pod::node_name(pod)
            .and_then(|node| neighbours.get(node))
            .copied()
            .unwrap_or(0)
    };
    let restarts = |pod: &Pod| -> i32 {
        let statuses = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_deref());
        statuses
            .unwrap_or_default()
            .iter()
            .map(|status| status.restart_count)
            .max()
            .unwrap_or(0)
    };
    // Ages are compared by powers of two, so that of pods of about one age any may go and not always the youngest.
    let age = |since: Option<Timestamp>| {
        let seconds = since.map_or(0, |since| now.duration_since(since).as_secs().max(0));
        i64::from((seconds + 1).ilog2())
    };
    let made = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let both_ready = pod::is_ready(a) && pod::is_ready(b);
    pod::node_name(a)
        .is_some()
        .cmp(&pod::node_name(b).is_some())
        .then(phase(a).cmp(&phase(b)))
        .then(pod::is_ready(a).cmp(&pod::is_ready(b)))
        .then(cost(a).cmp(&cost(b)))
        .then(crowd(b).cmp(&crowd(a)))
        .then_with(|| {
            if both_ready {
                age(ready_since(a)).cmp(&age(ready_since(b)))
            } else {
                std::cmp::Ordering::Equal
            }
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| age(made(a)).cmp(&age(made(b))))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

struct Controller<S> {
    context: Context,
    sets: Lister<S>,
    pods: Lister<Pod>,
    guard: Guard,
}

pub async fn start_replica_sets(context: Context, stop: CancellationToken) -> Result<(), Error> {
    start::<ReplicaSet>(context, stop).await
}

pub async fn start_replication_controllers(context: Context, stop: CancellationToken) -> Result<(), Error> {
    start::<ReplicationController>(context, stop).await
}

async fn start<S: Replicated>(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let (sets, pods) = (context.all::<S>(), context.all::<Pod>());
    index_orphans(&pods);
    enqueue_each(&sets, &queue);
    let (candidates, into) = (sets.clone(), queue.clone());
    enqueue_owner(&pods, S::KIND, &queue, move |pod| {
        for set in candidates.in_namespace(&pod.namespace) {
            let selector = set.typed().map_err(Error::from).and_then(|set| set.selector());
            if selector.is_ok_and(|selector| !selector.is_everything() && selects(&selector, pod)) {
                into.add(Key::of(&set));
            }
        }
    });
    sets.synced().await;
    pods.synced().await;
    let controller = Arc::new(Controller {
        context: context.clone(),
        sets,
        pods,
        guard: Guard::default(),
    });
    context
        .work(queue, stop, move |key| reconcile(controller.clone(), key))
        .await
}

async fn reconcile<S: Replicated>(controller: Arc<Controller<S>>, key: Key) -> Result<Next, Error> {
    let Controller {
        context,
        sets,
        pods,
        guard,
    } = &*controller;
    let Some(entry) = sets.get(&key.namespace, &key.name) else {
        return Ok(Next::Done);
    };
    if !guard.is_open(&key, pods.revision()) {
        // Our write comes with a change of a pod, which brings this key back.
        return Ok(Next::After(Duration::from_secs(1)));
    }
    let set = entry.typed()?;
    let selector = set.selector()?;
    let candidates = pods_of(pods, &key.namespace, &entry.uid, &selector)?;
    let neighbours = neighbours(sets, pods, &entry)?;
    let plan = plan(&Observed {
        set: &*set,
        selector: &selector,
        pods: &candidates,
        neighbours,
        now: crate::context::instant(),
    });
    let api: Api<S> = Api::namespaced(context.client.clone(), &key.namespace);
    let reference = controller_reference(&*set);
    let about = daemon::events::reference(&*set);
    let hands = Hands {
        context,
        guard,
        key: &key,
        owner: &about,
    };
    if !plan.adopt.is_empty() {
        // The lister may be behind: an owner that is going must not take anything with it.
        match api.get(&key.name).await {
            Ok(live) if live.metadata().uid == set.metadata().uid && live.metadata().deletion_timestamp.is_none() => {}
            Ok(_) => return Ok(Next::Done),
            Err(error) if is_gone(&error) => return Ok(Next::Done),
            Err(error) => return Err(error.into()),
        }
    }
    for pod in &plan.adopt {
        hands.adopt(pod, &reference).await?;
    }
    for pod in &plan.release {
        hands.release(pod, &entry.uid).await?;
    }
    let mut failure = None;
    if plan.create > 0
        && let Some(template) = set.template()
    {
        let make = || from_template(template, &key.name, &key.namespace, reference.clone());
        let (_, failed) = hands.create((0..plan.create).map(|_| make()).collect()).await;
        failure = failed.map(|error| ("FailedCreate", error));
    }
    if let Err(error) = hands.delete(plan.delete.iter().map(|pod| &**pod)).await {
        failure = Some(("FailedDelete", error));
    }
    let mut status = plan.status;
    note_failure(&mut status.conditions, failure.as_ref(), &crate::context::now());
    if status != set.status() {
        let mut changed = (*set).clone();
        changed.set_status(status);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Err(error) if is_gone(&error) => {}
            // The set has changed, and its change has put it on the queue or will.
            Err(error) if is_conflict(&error) && failure.is_none() => {
                return Ok(Next::After(Duration::from_millis(20)));
            }
            answer => drop(answer?),
        }
    }
    match failure {
        Some((_, error)) => Err(error),
        None => Ok(plan.look_again.map_or(Next::Done, Next::After)),
    }
}

fn note_failure(conditions: &mut Vec<ReplicaSetCondition>, failure: Option<&(&str, Error)>, now: &Time) {
    match failure {
        Some((reason, error)) => {
            let message = match error {
                Error::Api(error) => pods::message(error),
                other => other.to_string(),
            };
            let failed = ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some((*reason).to_owned()),
                message: Some(message),
                last_transition_time: None,
            };
            condition::set(conditions, failed, now);
        }
        None => {
            condition::remove(conditions, "ReplicaFailure");
        }
    }
}

/// Has the pods without a controller indexed, by namespace.
pub(super) fn index_orphans(pods: &Lister<Pod>) {
    pods.index("orphans", |pod| match pod.owner() {
        None => vec![pod.namespace.to_string()],
        Some(_) => Vec::new(),
    });
}

/// The pods that an owner has or may adopt, typed. The orphans are indexed.
pub(super) fn pods_of(
    pods: &Lister<Pod>,
    namespace: &str,
    owner_uid: &str,
    selector: &Labels,
) -> Result<Vec<Arc<Pod>>, Error> {
    let owned = pods.by("owner", owner_uid);
    let orphans = pods.by("orphans", namespace).into_iter();
    let orphans = orphans.filter(|pod| !pod.deleting && selects(selector, pod));
    let all = owned.into_iter().chain(orphans);
    all.map(|pod| Ok(pod.typed()?)).collect()
}

/// Active pods by node, of all sets with the same controller as this one.
fn neighbours<S: Replicated>(
    sets: &Lister<S>,
    pods: &Lister<Pod>,
    set: &daemon::Entry<S>,
) -> Result<HashMap<String, usize>, Error> {
    let mut nodes = HashMap::new();
    let siblings = match set.owner() {
        Some(owner) => sets.by("owner", &owner.uid).iter().map(|set| set.uid.clone()).collect(),
        None => vec![set.uid.clone()],
    };
    for uid in siblings {
        for pod in pods.by("owner", &uid) {
            let pod = pod.typed()?;
            if let Some(node) = pod::node_name(&pod).filter(|_| pod::is_active(&pod)) {
                *nodes.entry(node.to_owned()).or_insert(0) += 1;
            }
        }
    }
    Ok(nodes)
}

impl Replicated for ReplicaSet {
    fn selector(&self) -> Result<Labels, Error> {
        let selector = self.spec.as_ref().map(|spec| &spec.selector);
        Ok(Labels::from_structured(selector)?)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation.unwrap_or(0),
            conditions: status.conditions.unwrap_or_default(),
        }
    }

    fn set_status(&mut self, status: Status) {
        self.status = Some(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: Some(status.fully_labeled),
            ready_replicas: Some(status.ready),
            available_replicas: Some(status.available),
            terminating_replicas: status.terminating,
            observed_generation: Some(status.observed_generation),
            conditions: Some(status.conditions).filter(|conditions| !conditions.is_empty()),
        });
    }
}

impl Replicated for ReplicationController {
    fn selector(&self) -> Result<Labels, Error> {
        let selector: BTreeMap<_, _> = self
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.clone())
            .unwrap_or_default();
        Ok(if selector.is_empty() {
            Labels::nothing()
        } else {
            Labels::equal(selector)
        })
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default().into_iter();
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            // This kind does not tell; it must not look like a difference.
            terminating: None,
            observed_generation: status.observed_generation.unwrap_or(0),
            conditions: conditions
                .map(|condition| ReplicaSetCondition {
                    type_: condition.type_,
                    status: condition.status,
                    reason: condition.reason,
                    message: condition.message,
                    last_transition_time: condition.last_transition_time,
                })
                .collect(),
        }
    }

    fn set_status(&mut self, status: Status) {
        let conditions: Vec<_> = status
            .conditions
            .into_iter()
            .map(|condition| ReplicationControllerCondition {
                type_: condition.type_,
                status: condition.status,
                reason: condition.reason,
                message: condition.message,
                last_transition_time: condition.last_transition_time,
            })
            .collect();
        self.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: Some(status.fully_labeled),
            ready_replicas: Some(status.ready),
            available_replicas: Some(status.available),
            observed_generation: Some(status.observed_generation),
            conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "n", "uid": "u", "generation": 3},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a", "v": "1"}}}},
        }))
        .unwrap()
    }

    /// A running, ready pod of ours; `change` is merged into it.
    fn pod(name: &str, change: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "labels": {"app": "a", "v": "1"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "u", "controller": true}]},
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]},
        });
        merge(&mut pod, change);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn merge(into: &mut Value, change: Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                change
                    .into_iter()
                    .for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, change) => *into = change,
        }
    }

    fn planned(set: &ReplicaSet, pods: &[Arc<Pod>], neighbours: &[(&str, usize)]) -> Plan {
        plan(&Observed {
            set,
            selector: &set.selector().unwrap(),
            pods,
            neighbours: neighbours
                .iter()
                .map(|(node, count)| ((*node).to_owned(), *count))
                .collect(),
            now: NOW.parse().unwrap(),
        })
    }

    #[test]
    fn what_is_missing_is_made_and_ended_pods_do_not_count() {
        let pods = [
            pod("a", json!({})),
            pod("b", json!({"status": {"phase": "Failed"}})),
            pod("c", json!({"metadata": {"deletionTimestamp": NOW}})),
        ];
        let plan = planned(&set(3), &pods, &[]);
        assert_eq!((plan.create, plan.delete.len()), (2, 0));
        assert_eq!(
            (plan.status.replicas, plan.status.ready, plan.status.terminating),
            (1, 1, Some(1))
        );
        assert_eq!(plan.status.observed_generation, 3);
    }

    #[test]
    fn a_set_that_is_being_deleted_makes_and_deletes_nothing() {
        let mut set = set(3);
        set.metadata.deletion_timestamp = serde_json::from_value(json!(NOW)).unwrap();
        let plan = planned(&set, &[pod("a", json!({}))], &[]);
        assert_eq!((plan.create, plan.delete.len(), plan.status.replicas), (0, 0, 1));
    }

    #[test]
    fn orphans_are_adopted_and_strangers_released() {
        let pods = [
            pod("orphan", json!({"metadata": {"ownerReferences": null}})),
            pod("stranger", json!({"metadata": {"labels": {"app": "other"}}})),
            pod(
                "other",
                json!({"metadata": {"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "t", "uid": "t", "controller": true}]}}),
            ),
        ];
        let plan = planned(&set(2), &pods, &[]);
        let names = |pods: &[Arc<Pod>]| {
            pods.iter()
                .filter_map(|pod| pod.metadata.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (names(&plan.adopt), names(&plan.release)),
            (vec!["orphan".into()], vec!["stranger".into()])
        );
        assert_eq!(plan.create, 1);
    }

    #[test]
    fn the_most_expendable_pod_goes_first() {
        let pending = json!({"spec": {"nodeName": null}, "status": {"phase": "Pending", "conditions": null}});
        let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let cheap = json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}});
        let crowded = json!({"spec": {"nodeName": "n2"}});
        let fresh = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:59:50Z"}]}});
        let restarted = json!({"status": {"containerStatuses": [
            {"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 4}]}});
        let young = json!({"metadata": {"creationTimestamp": "2026-01-01T00:59:00Z"}});
        // Each is more expendable than all that follow.
        let order = [pending, unready, cheap, crowded, fresh, restarted, young, json!({})];
        let pods: Vec<_> = order
            .iter()
            .enumerate()
            .rev()
            .map(|(at, change)| pod(&at.to_string(), change.clone()))
            .collect();
        for surplus in 1..order.len() {
            let wanted = i32::try_from(order.len() - surplus).unwrap();
            let plan = planned(&set(wanted), &pods, &[("n1", 1), ("n2", 2)]);
            let mut gone: Vec<_> = plan.delete.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
            gone.sort();
            assert_eq!(gone, (0..surplus).map(|at| at.to_string()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_ready_pod_is_looked_at_again_when_it_becomes_available() {
        let mut set = set(1);
        set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
        let fresh = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:59:50Z"}]}});
        let plan = planned(&set, &[pod("a", fresh)], &[]);
        assert_eq!((plan.status.ready, plan.status.available), (1, 0));
        assert_eq!(plan.look_again, Some(Duration::from_secs(20)));
    }
}

//! DaemonSets: one pod on every node that wants one.
//! `plan` decides over nodes and pods; this file reads, keeps the history of the template, performs and writes the status.
//! It never binds a pod: it says in the pod's affinity which node it is for. A pod and its node match at all times, or the
//! pod is on its way out.

mod plan;
mod pods;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::names::well_known::CONTROLLER_REVISION_HASH;
use api::owner::{Claim, controller_reference};
use api::selector::Labels;
use daemon::events::EventType;
use daemon::informer::Lister;
use daemon::{Change, Next, Queue};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, PostParams};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::replicaset::{index_orphans, pods_of};
use super::revisions::{self, History, Wanted};
use crate::context::{Context, Key, enqueue_each, enqueue_owner};
use crate::guard::Guard;
use crate::pods::{Hands, claim, selects};
use crate::{Error, is_conflict, is_gone, is_terminating};
use plan::{Observed, plan};

/// The pause after a pod that failed on a node, doubled with each further one, and forgotten after twice the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(900);

struct Controller {
    context: Context,
    sets: Lister<DaemonSet>,
    nodes: Lister<Node>,
    pods: Lister<Pod>,
    revisions: Lister<ControllerRevision>,
    guard: Guard,
    /// Of the revisions' lister.
    history: Guard,
    /// Nodes on which a set's pods fail, by the set's UID and the node's name.
    failures: Mutex<HashMap<(Arc<str>, String), Failure>>,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    at: Instant,
    pause: Duration,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let sets = context.all::<DaemonSet>();
    let nodes = context.all::<Node>();
    let pods = context.all::<Pod>();
    let revisions = context.all::<ControllerRevision>();
    index_orphans(&pods);
    revisions::index_orphans(&revisions);
    enqueue_each(&sets, &queue);
    let (candidates, into) = (sets.clone(), queue.clone());
    enqueue_owner(&pods, "DaemonSet", &queue, move |pod| {
        for set in candidates.in_namespace(&pod.namespace) {
            let selector = set.typed().map_err(Error::from).and_then(|set| selector(&set));
            if selector.is_ok_and(|selector| !selector.is_everything() && selects(&selector, pod)) {
                into.add(Key::of(&set));
            }
        }
    });
    let (candidates, into) = (sets.clone(), queue.clone());
    enqueue_owner(&revisions, "DaemonSet", &queue, move |revision| {
        for set in candidates.in_namespace(&revision.namespace) {
            let selector = set.typed().map_err(Error::from).and_then(|set| selector(&set));
            if selector.is_ok_and(|selector| !selector.is_everything() && selects(&selector, revision)) {
                into.add(Key::of(&set));
            }
        }
    });
    let (all, into) = (sets.clone(), queue.clone());
    nodes.on_change(move |change| {
        let concerned = match change {
            Change::Applied { old: None, new } => new.typed().map(|node| (None, Some(node))),
            Change::Applied { old: Some(old), new } => match (old.typed(), new.typed()) {
                // Conditions and heart-beats change all the time; what is wanted of a node does not.
                (Ok(old), Ok(new)) if same_wishes(&old, &new) => return,
                (Ok(old), Ok(new)) => Ok((Some(old), Some(new))),
                (Err(error), _) | (_, Err(error)) => Err(error),
            },
            Change::Deleted { old } => old.typed().map(|node| (Some(node), None)),
        };
        let Ok((old, new)) = concerned else { return };
        for set in all.list() {
            let Ok(typed) = set.typed() else { continue };
            let wish = |node: &Option<Arc<Node>>| node.as_ref().map(|node| pods::wish(&typed, node));
            if wish(&old) != wish(&new) {
                into.add(Key::of(&set));
            }
        }
    });
    sets.synced().await;
    nodes.synced().await;
    pods.synced().await;
    revisions.synced().await;
    let controller = Arc::new(Controller {
        context: context.clone(),
        sets,
        nodes,
        pods,
        revisions,
        guard: Guard::default(),
        history: Guard::default(),
        failures: Mutex::default(),
    });
    context
        .work(queue, stop, move |key| reconcile(controller.clone(), key))
        .await
}

fn same_wishes(old: &Node, new: &Node) -> bool {
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    old.metadata.labels == new.metadata.labels && taints(old) == taints(new)
}

fn selector(set: &DaemonSet) -> Result<Labels, Error> {
    let selector = set.spec.as_ref().map(|spec| &spec.selector);
    Ok(Labels::from_structured(selector)?)
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<Next, Error> {
    let Controller {
        context,
        sets,
        pods,
        guard,
        history,
        ..
    } = &*controller;
    if !guard.is_open(&key, pods.revision()) || !history.is_open(&key, controller.revisions.revision()) {
        return Ok(Next::After(Duration::from_secs(1)));
    }
    let Some(entry) = sets.get(&key.namespace, &key.name) else {
        return Ok(Next::Done);
    };
    if entry.deleting {
        return Ok(Next::Done);
    }
    let set = entry.typed()?;
    let selector = selector(&set)?;
    let about = daemon::events::reference(&*set);
    let hands = Hands {
        context,
        guard,
        key: &key,
        owner: &about,
    };
    if selector.is_everything() {
        let text = "This daemon set is selecting all pods. A non-empty selector is required.";
        hands.say(EventType::Warning, "SelectingAll", text.to_owned());
        return Ok(Next::Done);
    }
    let line = History {
        context,
        guard: history,
        key: &key,
        owner: controller_reference(&*set),
        deleting: entry.deleting,
    };
    let known = line.list(&controller.revisions, &selector).await?;
    let template = set.spec.clone().unwrap_or_default().template;
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
    let hash =
        |collisions: i32| super::deployment::template_hash(&template, Some(collisions).filter(|count| *count != 0));
    let wanted = Wanted {
        patch: revisions::patch(&entry)?,
        labels: labels.unwrap_or_default(),
        annotations: set.metadata.annotations.clone().unwrap_or_default(),
        label: CONTROLLER_REVISION_HASH,
        hash: &hash,
    };
    let before = set.status.clone().unwrap_or_default();
    let mut collisions = before.collision_count.unwrap_or(0);
    let current = match line.settle(&known, &wanted, &mut collisions).await {
        Err(Error::Api(error)) if is_terminating(&error) => return Ok(Next::Done),
        answer => answer?,
    };
    let mut ours = Vec::new();
    for pod in pods_of(pods, &key.namespace, &entry.uid, &selector)? {
        match claim(&pod, &selector, &entry.uid, entry.deleting) {
            Claim::Keep => ours.push(pod),
            Claim::Adopt => controller.adopt(&hands, &set, &pod).await?,
            Claim::Release => hands.release(&pod, &entry.uid).await?,
            Claim::Ignore => {}
        }
    }
    let hash = hash_of(&current).to_owned();
    let twins: Vec<_> = known
        .iter()
        .filter(|other| other.metadata.name != current.metadata.name && revisions::is_of(other, &wanted.patch))
        .cloned()
        .collect();
    controller.merge(&hands, &line, &twins, &hash, &ours).await?;
    let nodes: Vec<Arc<Node>> = controller
        .nodes
        .list()
        .iter()
        .map(|node| node.typed())
        .collect::<Result<_, _>>()?;
    let plan = plan(&Observed {
        set: &set,
        nodes: &nodes,
        pods: &ours,
        hash: &hash,
        collisions: Some(collisions).filter(|count| *count != 0),
        held: &controller.held(&entry.uid),
        now: crate::context::instant(),
    });
    for node in &plan.failed {
        controller.note_failure(&entry.uid, node);
    }
    for (kind, reason, text) in plan.events {
        hands.say(kind, reason, text);
    }
    let make = |node: &String| pods::new_pod(&set, node, &hash);
    let (_, failed) = hands.create(plan.create.iter().map(make).collect()).await;
    let deleted = hands.delete(plan.delete.iter().map(|pod| &**pod)).await;
    if plan.status != before {
        let api: Api<DaemonSet> = Api::namespaced(context.client.clone(), &key.namespace);
        let mut changed = (*set).clone();
        changed.status = Some(plan.status);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Err(error) if is_gone(&error) => {}
            Err(error) if is_conflict(&error) => return Ok(Next::After(Duration::from_millis(20))),
            answer => drop(answer?),
        }
    }
    let live = |revision: &ControllerRevision| {
        let of = hash_of(revision);
        revision.metadata.name == current.metadata.name || ours.iter().any(|pod| pods::hash(pod) == of)
    };
    let keep = set
        .spec
        .as_ref()
        .and_then(|spec| spec.revision_history_limit)
        .unwrap_or(10);
    line.remove(&revisions::surplus(&known, live, keep)).await?;
    deleted?;
    match failed {
        Some(error) => Err(error),
        None => Ok(plan.look_again.map_or(Next::Done, Next::After)),
    }
}

fn hash_of(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(CONTROLLER_REVISION_HASH))
        .map_or("", String::as_str)
}

impl Controller {
    /// Takes an orphan in, if the set is still there and stays: the lister may be behind.
    async fn adopt(&self, hands: &Hands<'_>, set: &DaemonSet, pod: &Pod) -> Result<(), Error> {
        let api: Api<DaemonSet> = Api::namespaced(self.context.client.clone(), &hands.key.namespace);
        match api.get(&hands.key.name).await {
            Ok(live) if live.metadata.uid == set.metadata.uid && live.metadata.deletion_timestamp.is_none() => {
                hands.adopt(pod, &controller_reference(set)).await
            }
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes revisions that hold the same template as the newest, and has their pods count as the newest's, so that
    /// none is restarted for a name.
    async fn merge(
        &self,
        hands: &Hands<'_>,
        line: &History<'_>,
        twins: &[Arc<ControllerRevision>],
        hash: &str,
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        for twin in twins {
            for pod in pods.iter().filter(|pod| pods::hash(pod) == hash_of(twin)) {
                let change = json!({"metadata": {"uid": pod.metadata.uid, "labels": {CONTROLLER_REVISION_HASH: hash}}});
                hands.patch(pod, change).await?;
            }
        }
        line.remove(twins).await
    }

    /// The nodes that have to wait, and how long still.
    fn held(&self, uid: &Arc<str>) -> BTreeMap<String, Duration> {
        let mut failures = self.failures.lock().expect("no holder of this lock panics");
        failures.retain(|_, failure| failure.at.elapsed() < LAST_PAUSE * 2);
        let ours = failures.iter().filter(|((of, _), _)| of == uid);
        ours.filter_map(|((_, node), failure)| {
            let left = failure.pause.saturating_sub(failure.at.elapsed());
            (!left.is_zero()).then(|| (node.clone(), left))
        })
        .collect()
    }

    fn note_failure(&self, uid: &Arc<str>, node: &str) {
        let mut failures = self.failures.lock().expect("no holder of this lock panics");
        let key = (uid.clone(), node.to_owned());
        let pause = failures
            .get(&key)
            .map_or(FIRST_PAUSE, |failure| (failure.pause * 2).min(LAST_PAUSE));
        failures.insert(
            key,
            Failure {
                at: Instant::now(),
                pause,
            },
        );
    }
}

//! StatefulSets: numbered pods that keep their names and their claims.
//! `plan` decides which pods and claims to make, change and delete; this file reads, keeps the history of the template,
//! performs the steps in their order and writes the status. Nothing here knows what a claim becomes.
//! In an ordered set at most one pod is made or deleted at a time, and only while all before it are available.

mod plan;
mod pods;

use std::sync::Arc;
use std::time::Duration;

use api::owner::{Claim, controller_reference};
use api::selector::Labels;
use daemon::events::EventType;
use daemon::informer::Lister;
use daemon::{Change, Next, Queue};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

use super::replicaset::{index_orphans, pods_of};
use super::revisions::{self, History, Wanted};
use crate::context::{Context, Key, enqueue_each, enqueue_owner};
use crate::guard::Guard;
use crate::pods::{Hands, claim, message, selects, this_one};
use crate::{Error, is_conflict, is_gone, is_terminating};
use plan::{Observed, Step, plan};
use pods::Claims;

/// The label of a revision that carries its hash. Upstream: history.ControllerRevisionHashLabel.
const HASH: &str = "controller.kubernetes.io/hash";

struct Controller {
    context: Context,
    sets: Lister<StatefulSet>,
    pods: Lister<Pod>,
    claims: Lister<PersistentVolumeClaim>,
    revisions: Lister<ControllerRevision>,
    guard: Guard,
    /// Of the revisions' lister.
    history: Guard,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let sets = context.all::<StatefulSet>();
    let pods = context.all::<Pod>();
    let claims = context.all::<PersistentVolumeClaim>();
    let revisions = context.all::<ControllerRevision>();
    index_orphans(&pods);
    revisions::index_orphans(&revisions);
    enqueue_each(&sets, &queue);
    let (candidates, into) = (sets.clone(), queue.clone());
    enqueue_owner(&pods, "StatefulSet", &queue, move |pod| {
        for set in candidates.in_namespace(&pod.namespace) {
            let selector = set.typed().map_err(Error::from).and_then(|set| selector(&set));
            if selector.is_ok_and(|selector| !selector.is_everything() && selects(&selector, pod)) {
                into.add(Key::of(&set));
            }
        }
    });
    enqueue_owner(&revisions, "StatefulSet", &queue, |_| {});
    // A pod may wait for a claim of its predecessor to be gone, and a claim that is gone may have to be made again.
    let (owners, into) = (sets.clone(), queue.clone());
    claims.on_change(move |change| {
        let Change::Deleted { old } = change else { return };
        for set in owners.in_namespace(&old.namespace) {
            if old.name.contains(&format!("-{}-", set.name)) {
                into.add(Key::of(&set));
            }
        }
    });
    sets.synced().await;
    pods.synced().await;
    claims.synced().await;
    revisions.synced().await;
    let controller = Arc::new(Controller {
        context: context.clone(),
        sets,
        pods,
        claims,
        revisions,
        guard: Guard::default(),
        history: Guard::default(),
    });
    context
        .work(queue, stop, move |key| reconcile(controller.clone(), key))
        .await
}

fn selector(set: &StatefulSet) -> Result<Labels, Error> {
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
    let set = entry.typed()?;
    let selector = selector(&set)?;
    let about = daemon::events::reference(&*set);
    let hands = Hands {
        context,
        guard,
        key: &key,
        owner: &about,
    };
    let mut ours = Vec::new();
    for pod in pods_of(pods, &key.namespace, &entry.uid, &selector)? {
        let member = pod.metadata.name.as_deref().and_then(pods::parent_and_ordinal);
        let member = member.is_some_and(|(parent, _)| *parent == *key.name);
        match claim(&pod, &selector, &entry.uid, entry.deleting) {
            Claim::Keep if member => ours.push(pod),
            Claim::Adopt if member => controller.adopt(&hands, &set, &pod).await?,
            Claim::Release => hands.release(&pod, &entry.uid).await?,
            Claim::Keep | Claim::Adopt | Claim::Ignore => {}
        }
    }
    let line = History {
        context,
        guard: history,
        key: &key,
        owner: controller_reference(&*set),
        deleting: entry.deleting,
    };
    let before = set.status.clone().unwrap_or_default();
    let known = line.list(&controller.revisions, &selector).await?;
    let patch = revisions::patch(&entry)?;
    let hash = |collisions| revisions::patch_hash(&patch, collisions);
    let template = set.spec.clone().unwrap_or_default().template;
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
    let wanted = Wanted {
        patch: patch.clone(),
        labels: labels.unwrap_or_default(),
        annotations: set.metadata.annotations.clone().unwrap_or_default(),
        label: HASH,
        hash: &hash,
    };
    let mut collisions = before.collision_count.unwrap_or(0);
    let update = match line.settle(&known, &wanted, &mut collisions).await {
        Err(Error::Api(error)) if is_terminating(&error) => return Ok(Next::Done),
        answer => answer?,
    };
    let named = |revision: &&Arc<ControllerRevision>| revision.metadata.name == before.current_revision;
    let current = known.iter().find(named).unwrap_or(&update);
    let current_template = revisions::template(current).unwrap_or_else(|| template.clone());
    let claims = controller.claims_of(&set, &ours)?;
    let plan = plan(&Observed {
        set: &set,
        pods: &ours,
        claims: &claims,
        current: (current, &current_template),
        update: (&update, &template),
        collisions,
        now: crate::context::instant(),
    });
    let ordered = set.spec.as_ref().is_none_or(|spec| !pods::is_parallel(spec));
    let performed = controller.perform(&hands, &set, plan.steps, ordered).await;
    if plan.status != before {
        let api: Api<StatefulSet> = Api::namespaced(context.client.clone(), &key.namespace);
        let mut changed = (*set).clone();
        changed.status = Some(plan.status);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Err(error) if is_gone(&error) => {}
            Err(error) if is_conflict(&error) => return Ok(Next::After(Duration::from_millis(20))),
            answer => drop(answer?),
        }
    }
    let live = |revision: &ControllerRevision| {
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        let one = |other: &ControllerRevision| other.metadata.name == revision.metadata.name;
        one(current) || one(&update) || ours.iter().any(|pod| pods::revision(pod) == name)
    };
    let keep = set
        .spec
        .as_ref()
        .and_then(|spec| spec.revision_history_limit)
        .unwrap_or(10);
    if !entry.deleting {
        line.remove(&revisions::surplus(&known, live, keep)).await?;
    }
    performed?;
    Ok(plan.look_again.map_or(Next::Done, Next::After))
}

impl Controller {
    /// Takes an orphan in, if the set is still there and stays: the lister may be behind.
    async fn adopt(&self, hands: &Hands<'_>, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let api: Api<StatefulSet> = Api::namespaced(self.context.client.clone(), &hands.key.namespace);
        match api.get(&hands.key.name).await {
            Ok(live) if live.metadata.uid == set.metadata.uid && live.metadata.deletion_timestamp.is_none() => {
                hands.adopt(pod, &controller_reference(set)).await
            }
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The claims that the set's pods have, and those that its next pods would have.
    fn claims_of(&self, set: &StatefulSet, ours: &[Arc<Pod>]) -> Result<Claims, Error> {
        let mut found = Claims::new();
        let Some(spec) = &set.spec else { return Ok(found) };
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let first = pods::start(spec);
        let numbers = first..first.saturating_add(pods::replicas(spec));
        for number in numbers.chain(ours.iter().filter_map(|pod| pods::ordinal(pod))) {
            for (_, name) in pods::claims(set, number) {
                if let Some(entry) = self.claims.get(namespace, &name) {
                    found.insert(name, entry.typed()?);
                }
            }
        }
        Ok(found)
    }

    /// Performs the steps: one after the other in an ordered set, else one, then two, then four at a time.
    async fn perform(
        &self,
        hands: &Hands<'_>,
        set: &StatefulSet,
        steps: Vec<Step>,
        ordered: bool,
    ) -> Result<(), Error> {
        let mut steps = steps.into_iter().peekable();
        let mut batch = 1;
        while steps.peek().is_some() {
            let now = steps.by_ref().take(batch).map(|step| self.step(hands, set, step));
            for answer in join_all(now.collect::<Vec<_>>()).await {
                answer?;
            }
            batch = if ordered { 1 } else { batch * 2 };
        }
        Ok(())
    }

    async fn step(&self, hands: &Hands<'_>, set: &StatefulSet, step: Step) -> Result<(), Error> {
        let set_name = set.metadata.name.as_deref().unwrap_or_default();
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        let params = PostParams::default();
        let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
        let told = |verb: &str, pod: &str, answer: Result<Pod, kube::Error>| match answer {
            Ok(pod_now) => {
                self.guard.wrote(hands.key, &pod_now.metadata);
                let text = format!("{verb} Pod {pod} in StatefulSet {set_name} successful");
                hands.say(EventType::Normal, &format!("Successful{}", title(verb)), text);
                Ok(())
            }
            Err(error) if is_terminating(&error) => Ok(()),
            // It is gone, or the name is taken by a pod that the lister does not show yet.
            Err(error) if verb != "create" && (is_gone(&error) || is_conflict(&error)) => Ok(()),
            Err(error) => {
                let text = format!(
                    "{verb} Pod {pod} in StatefulSet {set_name} failed error: {}",
                    message(&error)
                );
                hands.say(EventType::Warning, &format!("Failed{}", title(verb)), text);
                Err(error.into())
            }
        };
        match step {
            Step::Create { pod, claims } => {
                self.make_claims(hands, set_name, &name(&pod), claims).await?;
                told("create", &name(&pod), api.create(&params, &pod).await)
            }
            Step::Claim { pod, claims } => self.make_claims(hands, set_name, &name(&pod), claims).await,
            Step::Update { pod, claims } => {
                self.make_claims(hands, set_name, &name(&pod), claims).await?;
                told("update", &name(&pod), api.replace(&name(&pod), &params, &pod).await)
            }
            Step::Own(claim) => {
                let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), namespace);
                let name = claim.metadata.name.clone().unwrap_or_default();
                match claims.replace(&name, &params, &claim).await {
                    Err(error) if !is_gone(&error) => Err(error.into()),
                    Ok(_) | Err(_) => Ok(()),
                }
            }
            Step::Delete(pod) => {
                let answer = api.delete(&name(&pod), &this_one(&pod.metadata)).await;
                let answer = answer.map(|answer| answer.left().unwrap_or_else(|| (*pod).clone()));
                told("delete", &name(&pod), answer)
            }
        }
    }

    async fn make_claims(
        &self,
        hands: &Hands<'_>,
        set: &str,
        pod: &str,
        claims: Vec<PersistentVolumeClaim>,
    ) -> Result<(), Error> {
        for claim in claims {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &hands.key.namespace);
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let text = format!("create Claim {name} Pod {pod} in StatefulSet {set} success");
                    hands.say(EventType::Normal, "SuccessfulCreate", text);
                }
                // The lister does not show it yet.
                Err(error) if is_conflict(&error) => {}
                Err(error) => {
                    let text = format!(
                        "create Claim {name} for Pod {pod} in StatefulSet {set} failed error: {}",
                        message(&error)
                    );
                    hands.say(EventType::Warning, "FailedCreate", text);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}

fn title(verb: &str) -> String {
    let mut letters = verb.chars();
    letters
        .next()
        .map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

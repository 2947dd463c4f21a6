//! Deployments: one ReplicaSet per template, and pods moved from the old ones to the new one at the pace that the
//! strategy allows.
//! `plan` decides over copies of the sets; this file reads, performs what differs, and writes the status. Nothing here
//! touches pods: that is the ReplicaSets' affair.
//! Between two rollouts exactly one set has pods, and its template is the Deployment's.

mod plan;
mod sets;
mod status;

use std::sync::Arc;
use std::time::Duration;

use api::owner::{Claim, claim};
use api::selector::Labels;
use daemon::events::EventType;
use daemon::informer::Lister;
use daemon::{Next, Queue};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key, enqueue_each, enqueue_owner};
use crate::pods::{matches, message, selects, this_one};
use crate::{Error, is_conflict, is_gone, is_terminating};
use plan::{Observed, Plan, Step, plan};
pub(super) use sets::hash as template_hash;

struct Controller {
    context: Context,
    deployments: Lister<Deployment>,
    sets: Lister<ReplicaSet>,
    pods: Lister<Pod>,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let deployments = context.all::<Deployment>();
    let sets = context.all::<ReplicaSet>();
    let pods = context.all::<Pod>();
    enqueue_each(&deployments, &queue);
    let (candidates, into) = (deployments.clone(), queue.clone());
    enqueue_owner(&sets, "Deployment", &queue, move |set| {
        for deployment in candidates.in_namespace(&set.namespace) {
            let selector = deployment
                .typed()
                .map_err(Error::from)
                .and_then(|deployment| selector(&deployment));
            if selector.is_ok_and(|selector| !selector.is_everything() && selects(&selector, set)) {
                into.add(Key::of(&deployment));
            }
        }
    });
    // A Deployment that recreates waits for the last pod of the old sets to be gone.
    let (owners, into) = (sets.clone(), queue.clone());
    pods.on_change(move |change| {
        let daemon::Change::Deleted { old } = change else {
            return;
        };
        let Some(owner) = old.owner().filter(|owner| &*owner.kind == "ReplicaSet") else {
            return;
        };
        let set = owners.get(&old.namespace, &owner.name);
        if let Some(owner) = set
            .as_ref()
            .and_then(|set| set.owner())
            .filter(|owner| &*owner.kind == "Deployment")
        {
            into.add(Key {
                namespace: old.namespace.clone(),
                name: owner.name.clone(),
            });
        }
    });
    deployments.synced().await;
    sets.synced().await;
    pods.synced().await;
    let controller = Arc::new(Controller {
        context: context.clone(),
        deployments,
        sets,
        pods,
    });
    let again = queue.clone();
    context
        .work(queue, stop, move |key| {
            reconcile(controller.clone(), again.clone(), key)
        })
        .await
}

fn selector(deployment: &Deployment) -> Result<Labels, Error> {
    let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
    Ok(Labels::from_structured(selector)?)
}

async fn reconcile(controller: Arc<Controller>, queue: Queue<Key>, key: Key) -> Result<Next, Error> {
    let Controller {
        context, deployments, ..
    } = &*controller;
    let Some(entry) = deployments.get(&key.namespace, &key.name) else {
        return Ok(Next::Done);
    };
    let deployment = entry.typed()?;
    let about = daemon::events::reference(&*deployment);
    let selector = selector(&deployment)?;
    if selector.is_everything() {
        let text = "This deployment is selecting all pods. A non-empty selector is required.";
        context
            .recorder
            .publish(&about, EventType::Warning, "SelectingAll", text);
        return Ok(Next::Done);
    }
    let sets = controller.claim(&deployment, &selector).await?;
    let mut pods_running = Vec::new();
    for set in &sets {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        for pod in controller.pods.by("owner", uid) {
            let pod = pod.typed()?;
            if !api::pod::is_terminal(&pod) {
                pods_running.push(uid.to_owned());
                break;
            }
        }
    }
    let observed = Observed {
        deployment: &deployment,
        sets: &sets,
        with_pods: &pods_running,
        now: crate::context::instant(),
    };
    let plan = plan(&observed);
    Box::pin(controller.perform(&key, &deployment, plan, &queue)).await
}

impl Controller {
    /// The sets that are the Deployment's, after taking in orphans and letting go of what matches no longer.
    async fn claim(&self, deployment: &Deployment, selector: &Labels) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let deleting = deployment.metadata.deletion_timestamp.is_some();
        let api: Api<ReplicaSet> = Api::namespaced(self.context.client.clone(), namespace);
        let mut ours = Vec::new();
        for set in self.sets.in_namespace(namespace) {
            if set.owner().is_some_and(|owner| &*owner.uid != uid) {
                continue;
            }
            let set = set.typed()?;
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let mut owners = set.metadata.owner_references.clone().unwrap_or_default();
            match claim(&set.metadata, matches(selector, &set.metadata), uid, deleting) {
                Claim::Keep => {
                    ours.push(set);
                    continue;
                }
                Claim::Ignore => continue,
                Claim::Adopt => {
                    let deployments: Api<Deployment> = Api::namespaced(self.context.client.clone(), namespace);
                    let live = deployments
                        .get(deployment.metadata.name.as_deref().unwrap_or_default())
                        .await?;
                    if live.metadata.uid.as_deref() != Some(uid) || live.metadata.deletion_timestamp.is_some() {
                        continue;
                    }
                    owners.push(api::owner::controller_reference(deployment));
                }
                Claim::Release => owners.retain(|owner| owner.uid != uid),
            }
            let change = json!({"metadata": {
                "uid": set.metadata.uid, "resourceVersion": set.metadata.resource_version, "ownerReferences": owners,
            }});
            match api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await {
                Ok(set) if api::owner::is_controlled_by(&set.metadata, uid) => ours.push(Arc::new(set)),
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ours)
    }

    async fn perform(&self, key: &Key, deployment: &Deployment, plan: Plan, queue: &Queue<Key>) -> Result<Next, Error> {
        let about = daemon::events::reference(deployment);
        let say = |kind, reason: &str, text: String| self.context.recorder.publish(&about, kind, reason, text);
        let client = || self.context.client.clone();
        let sets: Api<ReplicaSet> = Api::namespaced(client(), &key.namespace);
        let deployments: Api<Deployment> = Api::namespaced(client(), &key.namespace);
        let params = PostParams::default();
        let mut status = plan.status;
        let mut failure = None;
        for step in plan.steps {
            match step {
                Step::Create(set) => {
                    let name = set.metadata.name.clone().unwrap_or_default();
                    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                    match sets.create(&params, &set).await {
                        Ok(_) if replicas > 0 => {
                            let text = format!("Scaled up replica set {name} from 0 to {replicas}");
                            say(EventType::Normal, "ScalingReplicaSet", text);
                        }
                        Ok(_) => {}
                        Err(error) if is_terminating(&error) => return Ok(Next::Done),
                        Err(error) if is_conflict(&error) => {
                            // The name is taken: by our own set, which the lister does not show yet, or by another
                            // template with the same hash.
                            let there = sets.get(&name).await?;
                            let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
                            if api::owner::is_controlled_by(&there.metadata, uid)
                                && sets::same_template(deployment, &there)
                            {
                                return Ok(Next::After(Duration::from_millis(50)));
                            }
                            let mut next = deployment.status.clone().unwrap_or_default();
                            next.collision_count = Some(next.collision_count.unwrap_or(0) + 1);
                            let mut changed = deployment.clone();
                            changed.status = Some(next);
                            deployments.replace_status(&key.name, &params, &changed).await?;
                            queue.add(key.clone());
                            return Ok(Next::Done);
                        }
                        Err(error) => {
                            let text = format!("Failed to create new replica set {name:?}: {}", message(&error));
                            say(EventType::Warning, "ReplicaSetCreateError", text.clone());
                            status::failed_create(&mut status, deployment, text, crate::context::instant());
                            failure = Some(error);
                            break;
                        }
                    }
                }
                Step::Update { set, from } => {
                    let name = set.metadata.name.clone().unwrap_or_default();
                    let to = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                    match sets.replace(&name, &params, &set).await {
                        Ok(_) if from != to => {
                            let way = if to > from { "up" } else { "down" };
                            let text = format!("Scaled {way} replica set {name} from {from} to {to}");
                            say(EventType::Normal, "ScalingReplicaSet", text);
                        }
                        Ok(_) => {}
                        Err(error) if is_gone(&error) => {}
                        Err(error) => {
                            failure = Some(error);
                            break;
                        }
                    }
                }
                Step::Delete(set) => {
                    let name = set.metadata.name.clone().unwrap_or_default();
                    match sets.delete(&name, &this_one(&set.metadata)).await {
                        Err(error) if is_gone(&error) || is_conflict(&error) => {}
                        answer => drop(answer?),
                    }
                }
            }
        }
        let mut changed = deployment.clone();
        changed.status = Some(status);
        if let Some(revision) = plan.revision {
            let annotations = changed.metadata.annotations.get_or_insert_default();
            annotations.insert(api::names::well_known::DEPLOYMENT_REVISION.to_owned(), revision);
        }
        if changed != *deployment {
            // The annotation goes with the status: anywhere else it would count as a new generation.
            match deployments.replace_status(&key.name, &params, &changed).await {
                Err(error) if is_gone(&error) => {}
                answer => drop(answer?),
            }
        }
        match failure {
            // The next look will show what was in the way.
            Some(error) if is_conflict(&error) => Ok(Next::After(Duration::from_millis(20))),
            Some(error) => Err(error.into()),
            None => Ok(plan.look_again.map_or(Next::Done, Next::After)),
        }
    }
}

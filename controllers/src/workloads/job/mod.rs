//! Jobs: pods that have to end well so many times.
//! `tally` counts what ended, each pod once whatever is restarted in between; `plan` decides; this file performs.
//! Nothing here runs before the counts of what ended are written: a pod is let go only after it was counted.

mod indexes;
mod plan;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use api::names::well_known::{JOB_COMPLETION_INDEX, JOB_TRACKING};
use api::owner::{Claim, controller_reference};
use api::selector::Labels;
use daemon::events::EventType;
use daemon::informer::Lister;
use daemon::{Next, Queue};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::api::{Api, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::replicaset::{index_orphans, pods_of};
use crate::context::{Context, Key, enqueue_each, enqueue_owner};
use crate::guard::Guard;
use crate::pods::{Hands, claim, from_template, selects};
use crate::{Error, is_conflict, is_gone};
use plan::{New, Observed, Plan, plan};

struct Controller {
    context: Context,
    jobs: Lister<Job>,
    pods: Lister<Pod>,
    guard: Guard,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let (jobs, pods) = (context.all::<Job>(), context.all::<Pod>());
    index_orphans(&pods);
    enqueue_each(&jobs, &queue);
    let (candidates, into) = (jobs.clone(), queue.clone());
    enqueue_owner(&pods, "Job", &queue, move |pod| {
        for job in candidates.in_namespace(&pod.namespace) {
            let selector = job.typed().map_err(Error::from).and_then(|job| selector(&job));
            if selector.is_ok_and(|selector| !selector.is_everything() && selects(&selector, pod)) {
                into.add(Key::of(&job));
            }
        }
    });
    jobs.synced().await;
    pods.synced().await;
    let controller = Arc::new(Controller {
        context: context.clone(),
        jobs,
        pods,
        guard: Guard::default(),
    });
    context
        .work(queue, stop, move |key| reconcile(controller.clone(), key))
        .await
}

fn selector(job: &Job) -> Result<Labels, Error> {
    Ok(Labels::from_structured(
        job.spec.as_ref().and_then(|spec| spec.selector.as_ref()),
    )?)
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<Next, Error> {
    let Controller {
        context,
        jobs,
        pods,
        guard,
    } = &*controller;
    if !guard.is_open(&key, pods.revision()) {
        return Ok(Next::After(Duration::from_secs(1)));
    }
    let Some(entry) = jobs.get(&key.namespace, &key.name) else {
        controller.free_orphans(&key).await?;
        return Ok(Next::Done);
    };
    let job = entry.typed()?;
    // Another controller may have claimed the Job for itself.
    let managed_by = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    if managed_by.is_some_and(|name| name != "kubernetes.io/job-controller") {
        return Ok(Next::Done);
    }
    let about = daemon::events::reference(&*job);
    let hands = Hands {
        context,
        guard,
        key: &key,
        owner: &about,
    };
    let selector = selector(&job)?;
    let mut ours = Vec::new();
    for pod in pods_of(pods, &key.namespace, &entry.uid, &selector)? {
        match claim(&pod, &selector, &entry.uid, entry.deleting) {
            Claim::Keep => ours.push(pod),
            Claim::Adopt => hands.adopt(&pod, &controller_reference(&*job)).await?,
            Claim::Release => hands.release(&pod, &entry.uid).await?,
            Claim::Ignore => {}
        }
    }
    let plan = plan(&Observed {
        job: &job,
        pods: &ours,
        now: crate::context::instant(),
    });
    controller.perform(&hands, &job, plan).await
}

impl Controller {
    async fn perform(&self, hands: &Hands<'_>, job: &Job, plan: Plan) -> Result<Next, Error> {
        let before = job.status.clone().unwrap_or_default();
        let mut status = plan.status;
        let mut current = job.clone();
        // What was counted has to be written before anything follows from it.
        if plan.counted && status != before {
            current = self.write(&current, &status).await?;
        }
        for pod in &plan.free {
            let finalizers = pod
                .metadata
                .finalizers
                .iter()
                .flatten()
                .filter(|name| *name != JOB_TRACKING);
            let finalizers: Vec<_> = finalizers.collect();
            hands
                .patch(
                    pod,
                    json!({"metadata": {"uid": pod.metadata.uid, "finalizers": finalizers}}),
                )
                .await?;
        }
        let deleted = hands.delete(plan.delete.iter().map(|pod| &**pod)).await;
        let (made, failed) = hands
            .create(plan.create.iter().map(|new| new_pod(job, *new)).collect())
            .await;
        let made = i32::try_from(made).unwrap_or(i32::MAX);
        if made > 0 {
            status.active = Some(status.active.unwrap_or(0) + made);
        }
        let written = current.status.unwrap_or_default();
        // Where the counts were written just now, the pods' own changes bring the rest.
        if status != written && !(plan.counted && made > 0) {
            let live = Job {
                status: Some(written),
                ..current
            };
            self.write(&live, &status).await?;
        }
        for (kind, reason, message) in plan.events {
            hands.say(kind, reason, message);
        }
        deleted?;
        match failed {
            Some(error) => Err(error),
            None => Ok(plan.look_again.map_or(Next::Done, Next::After)),
        }
    }

    async fn write(&self, job: &Job, status: &JobStatus) -> Result<Job, Error> {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), namespace);
        let mut changed = job.clone();
        changed.status = Some(status.clone());
        Ok(api.replace_status(name, &PostParams::default(), &changed).await?)
    }

    /// Pods of a Job that is gone are counted by nobody: they must not be held.
    async fn free_orphans(&self, key: &Key) -> Result<(), Error> {
        for entry in self.pods.in_namespace(&key.namespace) {
            let of_job = entry
                .owner()
                .is_some_and(|owner| &*owner.kind == "Job" && owner.name == key.name);
            if !of_job || !entry.finalizers.iter().any(|name| &**name == JOB_TRACKING) {
                continue;
            }
            let finalizers: Vec<_> = entry
                .finalizers
                .iter()
                .filter(|name| &***name != JOB_TRACKING)
                .collect();
            let change = json!({"metadata": {
                "uid": &*entry.uid, "resourceVersion": entry.revision.to_string(), "finalizers": finalizers,
            }});
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
            let params = kube::api::PatchParams::default();
            match api.patch(&entry.name, &params, &kube::api::Patch::Merge(change)).await {
                Err(error) if is_gone(&error) || is_conflict(&error) => {}
                answer => drop(answer?),
            }
        }
        Ok(())
    }
}

fn new_pod(job: &Job, new: New) -> Pod {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let template = job.spec.clone().unwrap_or_default().template;
    let mut pod = from_template(&template, name, namespace, controller_reference(job));
    pod.metadata
        .finalizers
        .get_or_insert_default()
        .push(JOB_TRACKING.to_owned());
    let Some(index) = new.index else { return pod };
    let text = index.to_string();
    pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert(JOB_COMPLETION_INDEX.to_owned(), text.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(JOB_COMPLETION_INDEX.to_owned(), text);
    if let Some((failures, ignored)) = new.failures {
        annotations.insert(tally::FAILURES.to_owned(), failures.to_string());
        if ignored > 0 {
            annotations.insert(tally::IGNORED.to_owned(), ignored.to_string());
        }
    }
    if let Some(spec) = &mut pod.spec {
        spec.hostname.get_or_insert_with(|| format!("{name}-{index}"));
        let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
        for container in containers {
            let env = container.env.get_or_insert_default();
            if env.iter().any(|var| var.name == "JOB_COMPLETION_INDEX") {
                continue;
            }
            let field = ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{JOB_COMPLETION_INDEX}']"),
            };
            env.push(EnvVar {
                name: "JOB_COMPLETION_INDEX".to_owned(),
                value_from: Some(EnvVarSource {
                    field_ref: Some(field),
                    ..Default::default()
                }),
                ..Default::default()
            });
        }
    }
    pod
}

/// An event to publish: how loud, the reason, the text.
type Said = (EventType, &'static str, String);

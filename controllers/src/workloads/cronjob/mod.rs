//! CronJobs: a Job at each time of a schedule.
//! `plan` decides from the schedule, the Jobs and the time of day; this file performs and writes the status. It knows
//! nothing of pods. Each CronJob has one timer, to its next time; when the clock jumps, all are looked at again.
//! A Job's name says for which minute it is: no time has two, whatever is restarted in between.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use daemon::clock::Jumps;
use daemon::events::EventType;
use daemon::informer::Lister;
use daemon::{Next, Queue};
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::api::{Api, DeleteParams, PostParams, PropagationPolicy};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key, enqueue_each, enqueue_owner};
use crate::guard::Guard;
use crate::pods::{message, this_one};
use crate::{Error, is_conflict, is_gone, is_terminating};
use plan::{Observed, Plan, plan};

struct Controller {
    context: Context,
    crons: Lister<CronJob>,
    jobs: Lister<Job>,
    /// Of the CronJobs' own lister: the status tells which Jobs are active.
    own: Guard,
    /// Of the Jobs' lister.
    guard: Guard,
    /// The zone of schedules that name none.
    zone: TimeZone,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let (crons, jobs) = (context.all::<CronJob>(), context.all::<Job>());
    enqueue_each(&crons, &queue);
    enqueue_owner(&jobs, "CronJob", &queue, |_| {});
    crons.synced().await;
    jobs.synced().await;
    let mut jumps = Jumps::new().map_err(|error| Error::Plan(format!("cannot listen to the clock: {error}")))?;
    let controller = Arc::new(Controller {
        context: context.clone(),
        crons: crons.clone(),
        jobs,
        own: Guard::default(),
        guard: Guard::default(),
        zone: TimeZone::system(),
    });
    let again = queue.clone();
    let listen = async move {
        loop {
            jumps
                .next()
                .await
                .map_err(|error| Error::Plan(format!("cannot listen to the clock: {error}")))?;
            for cron in crons.list() {
                again.add(Key::of(&cron));
            }
        }
    };
    let work = context.work(queue, stop, move |key| reconcile(controller.clone(), key));
    tokio::select! {
        ended = work => ended,
        failed = listen => failed,
    }
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<Next, Error> {
    let Controller {
        context,
        crons,
        jobs,
        own,
        guard,
        zone,
    } = &*controller;
    if !own.is_open(&key, crons.revision()) || !guard.is_open(&key, jobs.revision()) {
        return Ok(Next::After(Duration::from_secs(1)));
    }
    let Some(entry) = crons.get(&key.namespace, &key.name) else {
        return Ok(Next::Done);
    };
    let cron = entry.typed()?;
    let children: Vec<Arc<Job>> = jobs
        .by("owner", &entry.uid)
        .iter()
        .map(|job| job.typed())
        .collect::<Result<_, _>>()?;
    let api: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut unseen = Vec::new();
    for active in cron.status.iter().flat_map(|status| status.active.iter().flatten()) {
        if children.iter().any(|job| job.metadata.uid == active.uid) {
            continue;
        }
        match api.get(active.name.as_deref().unwrap_or_default()).await {
            Ok(job) if job.metadata.uid == active.uid => unseen.extend(job.metadata.uid),
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let plan = plan(&Observed {
        cron: &cron,
        jobs: &children,
        unseen: &unseen,
        zone,
        now: crate::context::instant(),
    });
    Box::pin(controller.perform(&key, &cron, plan)).await
}

impl Controller {
    async fn perform(&self, key: &Key, cron: &CronJob, mut plan: Plan) -> Result<Next, Error> {
        let about = daemon::events::reference(cron);
        let say = |kind, reason: &str, text: String| self.context.recorder.publish(&about, kind, reason, text);
        for (kind, reason, text) in std::mem::take(&mut plan.events) {
            say(kind, reason, text);
        }
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), &key.namespace);
        for job in &plan.clean {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            self.delete(&api, name, this_one(&job.metadata), &say).await?;
        }
        for job in &plan.replace {
            let only = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                uid: job.uid.clone(),
                ..Default::default()
            };
            let name = job.name.as_deref().unwrap_or_default();
            self.delete(&api, name, this_one(&only), &say).await?;
        }
        let mut failure = None;
        if let Some((job, time)) = plan.create.take() {
            match api.create(&PostParams::default(), &job).await {
                Ok(job) => {
                    self.guard.wrote(key, &job.metadata);
                    let text = format!("Created job {}", job.metadata.name.as_deref().unwrap_or_default());
                    say(EventType::Normal, "SuccessfulCreate", text);
                    plan.started(daemon::events::reference(&job), time);
                }
                Err(error) if is_conflict(&error) => {
                    // Made before a restart that kept its status from being written, or somebody else's.
                    let there = api.get(job.metadata.name.as_deref().unwrap_or_default()).await?;
                    let uid = cron.metadata.uid.as_deref().unwrap_or_default();
                    if api::owner::is_controlled_by(&there.metadata, uid) {
                        plan.started(daemon::events::reference(&there), time);
                    }
                }
                Err(error) if is_terminating(&error) => {}
                Err(error) => {
                    say(
                        EventType::Warning,
                        "FailedCreate",
                        format!("Error creating job: {}", message(&error)),
                    );
                    failure = Some(error);
                }
            }
        }
        if plan.status != cron.status.clone().unwrap_or_default() {
            let api: Api<CronJob> = Api::namespaced(self.context.client.clone(), &key.namespace);
            let mut changed = cron.clone();
            changed.status = Some(plan.status);
            match api.replace_status(&key.name, &PostParams::default(), &changed).await {
                Ok(written) => self.own.wrote(key, &written.metadata),
                Err(error) if is_gone(&error) => return Ok(Next::Done),
                Err(error) if is_conflict(&error) => return Ok(Next::After(Duration::from_millis(20))),
                Err(error) => return Err(error.into()),
            }
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(plan.look_again.map_or(Next::Done, Next::After)),
        }
    }

    async fn delete(
        &self,
        api: &Api<Job>,
        name: &str,
        mut params: DeleteParams,
        say: &impl Fn(EventType, &str, String),
    ) -> Result<(), Error> {
        params.propagation_policy = Some(PropagationPolicy::Background);
        match api.delete(name, &params).await {
            Ok(_) => say(EventType::Normal, "SuccessfulDelete", format!("Deleted job {name}")),
            // It is gone, or the name is another Job's by now.
            Err(error) if is_gone(&error) || is_conflict(&error) => {}
            Err(error) => {
                say(
                    EventType::Warning,
                    "FailedDelete",
                    format!("Deleted job: {}", message(&error)),
                );
                return Err(error.into());
            }
        }
        Ok(())
    }
}

//! What a Job does next. Upstream: job/job_controller.go (1.36).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::{condition, pod};
use daemon::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::tally::{Tally, index, is_indexed, tally, waits_for_the_end};
use super::{Said, indexes};

/// The pause after a failure, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LAST_PAUSE: Duration = Duration::from_secs(600);

/// What one reconciliation looks at.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) job: &'a Job,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: JobStatus,
    /// Pods were counted: the status has to be written before anything else.
    pub(super) counted: bool,
    /// Pods to let go of.
    pub(super) free: Vec<Arc<Pod>>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods to make, with their completion index.
    pub(super) create: Vec<Option<i32>>,
    pub(super) events: Vec<Said>,
    pub(super) look_again: Option<Duration>,
}

fn is(status: &JobStatus, kind: &str) -> bool {
    condition::is(status.conditions.as_deref(), kind, "True")
}

pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let Observed { job, pods, now } = observed;
    let Some(spec) = &job.spec else { return Plan::default() };
    let before = job.status.clone().unwrap_or_default();
    let mut plan = Plan {
        status: before.clone(),
        ..Plan::default()
    };
    let tally = tally(job, spec, pods, *now);
    if is(&before, "Complete") || is(&before, "Failed") {
        // Nothing is counted any more; pods that came late only have to be let go.
        plan.free = tally.free;
        return plan;
    }
    let suspended = spec.suspend == Some(true);
    if before.start_time.is_none() && !suspended {
        plan.status.start_time = Some(Time(*now));
    }
    plan.note_suspension(spec, suspended, *now);
    plan.judge(spec, &tally, *now);
    plan.act(job, spec, &tally, suspended, *now);
    plan.count(&before, spec, tally);
    plan.finish(job, *now);
    plan
}

impl Plan {
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> bool {
        let new = JobCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(now)),
            last_transition_time: None,
        };
        let conditions = self.status.conditions.get_or_insert_default();
        let changes = condition::find(Some(conditions.as_slice()), kind)
            .is_none_or(|old| old.status != new.status || old.reason != new.reason);
        if changes {
            condition::set(conditions, new, &Time(now));
        }
        changes
    }

    fn note_suspension(&mut self, spec: &JobSpec, suspended: bool, now: Timestamp) {
        if suspended {
            if self.set("Suspended", "True", "JobSuspended", "Job suspended", now) {
                self.events
                    .push((EventType::Normal, "Suspended", "Job suspended".to_owned()));
            }
            self.status.start_time = None;
        } else if is(&self.status, "Suspended") {
            self.set("Suspended", "False", "JobResumed", "Job resumed", now);
            self.events
                .push((EventType::Normal, "Resumed", "Job resumed".to_owned()));
            // The deadline counts from the resumption.
            self.status.start_time = Some(Time(now));
        }
        if let (Some(seconds), Some(start), false) = (spec.active_deadline_seconds, &self.status.start_time, suspended)
        {
            let end = start.0 + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            let left: Duration = end.duration_since(now).try_into().unwrap_or(Duration::ZERO);
            if !left.is_zero() {
                self.look_again = Some(left);
            }
        }
    }

    /// Whether the Job's end is decided.
    fn judge(&mut self, spec: &JobSpec, tally: &Tally, now: Timestamp) {
        if is(&self.status, "FailureTarget") || is(&self.status, "SuccessCriteriaMet") {
            return;
        }
        let limit = spec.backoff_limit.unwrap_or(6);
        let over = spec
            .active_deadline_seconds
            .zip(self.status.start_time.as_ref())
            .is_some_and(|(seconds, start)| now.duration_since(start.0).as_secs() >= seconds);
        let failure = if let Some(why) = &tally.fatal {
            Some(("PodFailurePolicy", why.as_str()))
        } else if tally.failed > limit || restarts_too_often(spec, tally, limit) {
            Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
        } else if over {
            Some(("DeadlineExceeded", "Job was active longer than specified deadline"))
        } else {
            None
        };
        if let Some((reason, message)) = failure {
            self.set("FailureTarget", "True", reason, message, now);
            return;
        }
        let complete = match spec.completions {
            Some(wanted) => tally.succeeded >= wanted,
            // A work queue: one success says that all the work is done, when the others have ended too.
            None => tally.succeeded > 0 && tally.active.is_empty() && tally.terminating == 0,
        };
        if complete {
            let text = "Reached expected number of succeeded pods";
            self.set("SuccessCriteriaMet", "True", "CompletionsReached", text, now);
        }
    }

    fn act(&mut self, job: &Job, spec: &JobSpec, tally: &Tally, suspended: bool, now: Timestamp) {
        let decided = is(&self.status, "FailureTarget") || is(&self.status, "SuccessCriteriaMet");
        if decided || suspended {
            self.delete = tally.active.clone();
            return;
        }
        if job.metadata.deletion_timestamp.is_some() {
            return;
        }
        let parallelism = spec.parallelism.unwrap_or(1);
        let wanted = match spec.completions {
            Some(completions) => parallelism.min((completions - tally.succeeded).max(0)),
            None if tally.succeeded > 0 => i32::try_from(tally.active.len()).unwrap_or(i32::MAX).min(parallelism),
            None => parallelism,
        };
        let wanted = usize::try_from(wanted).unwrap_or(0);
        if tally.active.len() > wanted {
            let mut active = tally.active.clone();
            active.sort_by_key(|pod| {
                (
                    pod::node_name(pod).is_some(),
                    pod::phase(pod) == "Running",
                    pod::is_ready(pod),
                )
            });
            active.truncate(tally.active.len() - wanted);
            self.delete = active;
            return;
        }
        // A pod that is going still does its work under this policy.
        let going = if waits_for_the_end(spec) { tally.terminating } else { 0 };
        let missing = wanted.saturating_sub(tally.active.len() + going);
        if missing == 0 {
            return;
        }
        if let Some(pause) = pause(tally, now) {
            self.look_again = Some(self.look_again.map_or(pause, |look| look.min(pause)));
            return;
        }
        if is_indexed(spec) {
            let taken: BTreeSet<i32> = tally.active.iter().filter_map(|pod| index(pod)).collect();
            let all = 0..spec.completions.unwrap_or(0);
            let free = all.filter(|index| !taken.contains(index) && !tally.completed.contains(index));
            self.create = free.take(missing).map(Some).collect();
        } else {
            self.create = vec![None; missing];
        }
    }

    fn count(&mut self, before: &JobStatus, spec: &JobSpec, tally: Tally) {
        let some = |count: usize| Some(i32::try_from(count).unwrap_or(i32::MAX));
        let nonzero = |count: i32| Some(count).filter(|count| *count != 0);
        let active = tally.active.len() - self.delete.len();
        self.status.active = some(active).filter(|count| *count != 0);
        let deleted = |pod: &&Arc<Pod>| !self.delete.iter().any(|gone| Arc::ptr_eq(gone, pod));
        let ready = tally
            .active
            .iter()
            .filter(deleted)
            .filter(|pod| pod::is_ready(pod))
            .count();
        self.status.ready = some(ready.min(tally.ready));
        self.status.terminating = some(tally.terminating + self.delete.len());
        self.status.succeeded = nonzero(tally.counted_succeeded);
        self.status.failed = nonzero(tally.counted_failed);
        if is_indexed(spec) {
            let text = indexes::print(&tally.completed);
            self.status.completed_indexes = Some(text).filter(|text| !text.is_empty());
        }
        self.status.uncounted_terminated_pods = Some(tally.uncounted);
        self.free = tally.free;
        let counts = |status: &JobStatus| {
            (
                status.succeeded,
                status.failed,
                status.completed_indexes.clone(),
                status.uncounted_terminated_pods.clone(),
            )
        };
        let mut had = before.clone();
        had.uncounted_terminated_pods.get_or_insert_default();
        self.counted = counts(&self.status) != counts(&had);
    }

    /// The end itself, once every pod has ended and is counted.
    fn finish(&mut self, job: &Job, now: Timestamp) {
        let counted = self.status.uncounted_terminated_pods == Some(UncountedTerminatedPods::default());
        let idle = self.status.active.is_none() && self.status.terminating == Some(0) && self.free.is_empty();
        if !counted || !idle || !self.delete.is_empty() {
            return;
        }
        let target = |kind: &str| condition::find(self.status.conditions.as_deref(), kind).cloned();
        if let Some(why) = target("FailureTarget").filter(|target| target.status == "True") {
            let reason = why.reason.unwrap_or_default();
            let message = why.message.unwrap_or_default();
            self.set("Failed", "True", &reason, &message, now);
            self.events.push((EventType::Warning, event_reason(&reason), message));
        } else if target("SuccessCriteriaMet").is_some_and(|target| target.status == "True") {
            let text = "Reached expected number of succeeded pods";
            self.set("Complete", "True", "CompletionsReached", text, now);
            self.status.completion_time = Some(Time(now));
            self.events
                .push((EventType::Normal, "Completed", "Job completed".to_owned()));
        } else {
            return;
        }
        if self.status.start_time.is_none() {
            self.status.start_time = job.metadata.creation_timestamp.clone().or(Some(Time(now)));
        }
        self.status.ready = Some(0);
        self.create.clear();
        self.look_again = None;
    }
}

fn event_reason(reason: &str) -> &'static str {
    match reason {
        "DeadlineExceeded" => "DeadlineExceeded",
        "PodFailurePolicy" => "PodFailurePolicy",
        _ => "BackoffLimitExceeded",
    }
}

/// Containers that are restarted in place count towards the limit too.
fn restarts_too_often(spec: &JobSpec, tally: &Tally, limit: i32) -> bool {
    let policy = spec
        .template
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let statuses = tally
        .active
        .iter()
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|status| {
            status
                .container_statuses
                .iter()
                .flatten()
                .chain(status.init_container_statuses.iter().flatten())
        });
    let restarts: i32 = statuses.map(|status| status.restart_count).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// How long to wait after failures before the next pod; nothing when that time is over.
fn pause(tally: &Tally, now: Timestamp) -> Option<Duration> {
    let last = tally.failures.iter().max()?;
    let times = u32::try_from(tally.failures.len() - 1).unwrap_or(u32::MAX).min(10);
    let pause = (FIRST_PAUSE * 2u32.pow(times)).min(LAST_PAUSE);
    let left: Duration = (*last + pause).duration_since(now).try_into().unwrap_or(Duration::ZERO);
    (!left.is_zero()).then_some(left)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

//! What a Job does next. Upstream: job/job_controller.go (1.36).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::{condition, pod};
use daemon::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::tally::{End, Tally, end, failures_with, index, is_indexed, tally, waits_for_the_end};
use super::{Said, indexes};
use crate::pods::BURST;
use crate::workloads::replicaset::expendable;

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

/// A pod to make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct New {
    /// Its completion index, in an indexed Job.
    pub(super) index: Option<i32>,
    /// How often its index has failed before, where each has its own limit: those that count, and those that do not.
    pub(super) failures: Option<(u32, u32)>,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: JobStatus,
    /// Pods were counted: the status has to be written before anything else.
    pub(super) counted: bool,
    /// Pods to let go of.
    pub(super) free: Vec<Arc<Pod>>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) create: Vec<New>,
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
    let over = if is(&before, "FailureTarget") || is(&before, "Failed") {
        Some(End::Failure)
    } else if is(&before, "SuccessCriteriaMet") || is(&before, "Complete") {
        Some(End::Success)
    } else {
        None
    };
    let tally = tally(job, spec, pods, over, *now);
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
    let dropped = plan.act(job, spec, &tally, suspended, *now);
    plan.count(&before, spec, tally);
    if dropped {
        // Nobody is to blame for their end: they are let go before they are deleted, and not counted.
        let tracked = plan.delete.iter().filter(|pod| super::tally::is_tracked(pod)).cloned();
        plan.free.extend(tracked);
    }
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
        } else if spec
            .max_failed_indexes
            .is_some_and(|most| count(tally.broken.len()) > most)
        {
            let text = "Job has exceeded the specified maximal number of failed indexes";
            Some(("MaxFailedIndexesExceeded", text))
        } else if !tally.broken.is_empty()
            && count(tally.broken.len() + tally.completed.len()) >= spec.completions.unwrap_or(i32::MAX)
        {
            Some(("FailedIndexes", "Job has failed indexes"))
        } else {
            None
        };
        if let Some((reason, message)) = failure {
            self.set("FailureTarget", "True", reason, message, now);
            return;
        }
        if let Some(text) = meets_policy(spec, &tally.completed) {
            self.set("SuccessCriteriaMet", "True", "SuccessPolicy", &text, now);
            return;
        }
        let enough = match spec.completions {
            Some(wanted) => tally.succeeded >= wanted,
            // A work queue: one success says that all the work is done, when the others have ended too.
            None => tally.succeeded > 0 && tally.terminating == 0,
        };
        let complete = enough && tally.active.is_empty();
        if complete {
            let text = "Reached expected number of succeeded pods";
            self.set("SuccessCriteriaMet", "True", "CompletionsReached", text, now);
        }
    }

    /// Makes what is missing and deletes what is too much. Says whether what it deletes is dropped for no fault of its own.
    fn act(&mut self, job: &Job, spec: &JobSpec, tally: &Tally, suspended: bool, now: Timestamp) -> bool {
        let decided = is(&self.status, "FailureTarget") || is(&self.status, "SuccessCriteriaMet");
        if decided || suspended {
            self.delete = tally.active.clone();
            return !decided;
        }
        if job.metadata.deletion_timestamp.is_some() {
            return false;
        }
        let parallelism = spec.parallelism.unwrap_or(1);
        let wanted = match spec.completions {
            Some(completions) => parallelism.min((completions - tally.succeeded).max(0)),
            None if tally.succeeded > 0 => i32::try_from(tally.active.len()).unwrap_or(i32::MAX).min(parallelism),
            None => parallelism,
        };
        let wanted = usize::try_from(wanted).unwrap_or(0);
        self.delete = surplus(spec, tally, wanted, now);
        if !self.delete.is_empty() {
            return true;
        }
        // A pod that is going still does its work under this policy.
        let going = if waits_for_the_end(spec) { tally.terminating } else { 0 };
        let missing = wanted.saturating_sub(tally.active.len() + going).min(BURST);
        if missing == 0 {
            return false;
        }
        if spec.backoff_limit_per_index.is_some() {
            self.create_per_index(spec, tally, missing, now);
            return false;
        }
        if let Some(pause) = pause(tally, now) {
            self.wait(pause);
        } else if is_indexed(spec) {
            let free = pending_indexes(spec, tally).take(missing);
            self.create = free
                .map(|index| New {
                    index: Some(index),
                    failures: None,
                })
                .collect();
        } else {
            self.create = vec![New::default(); missing];
        }
        false
    }

    /// Each index waits for its own pause after its own failures.
    fn create_per_index(&mut self, spec: &JobSpec, tally: &Tally, missing: usize, now: Timestamp) {
        let chosen: Vec<i32> = pending_indexes(spec, tally).take(missing).collect();
        for index in chosen {
            let last = tally.waiting.get(&index);
            let failures = last.map_or((0, 0), |last| failures_with(spec, last));
            let times = usize::try_from(failures.0 + failures.1).unwrap_or(usize::MAX);
            match last.and_then(|last| pause_after(times, end(last, now), now)) {
                Some(pause) => self.wait(pause),
                None => self.create.push(New {
                    index: Some(index),
                    failures: Some(failures),
                }),
            }
        }
    }

    fn wait(&mut self, pause: Duration) {
        self.look_again = Some(self.look_again.map_or(pause, |look| look.min(pause)));
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
        if spec.backoff_limit_per_index.is_some() {
            self.status.failed_indexes = Some(indexes::print(&tally.broken));
        }
        self.status.uncounted_terminated_pods = Some(tally.uncounted);
        self.free = tally.free;
        let counts = |status: &JobStatus| {
            (
                status.succeeded,
                status.failed,
                status.completed_indexes.clone(),
                status.failed_indexes.clone(),
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
            let why = target("SuccessCriteriaMet").unwrap_or_default();
            let (reason, text) = (why.reason.unwrap_or_default(), why.message.unwrap_or_default());
            self.set("Complete", "True", &reason, &text, now);
            self.status.completion_time = Some(Time(now));
            let spec = job.spec.as_ref();
            let wanted = spec.and_then(|spec| spec.completions).unwrap_or(i32::MAX);
            if self.status.succeeded.unwrap_or(0) > wanted {
                let text = "Too many succeeded pods running after completion count reached";
                self.events
                    .push((EventType::Warning, "TooManySucceededPods", text.to_owned()));
            }
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
        "MaxFailedIndexesExceeded" => "MaxFailedIndexesExceeded",
        "FailedIndexes" => "FailedIndexes",
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
    pause_after(tally.failures.len(), *last, now)
}

/// What is left of the pause after so many failures, of which the last was then.
fn pause_after(times: usize, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = u32::try_from(times.checked_sub(1)?).unwrap_or(u32::MAX).min(10);
    let pause = (FIRST_PAUSE * 2u32.pow(doublings)).min(LAST_PAUSE);
    let left: Duration = (last + pause).duration_since(now).try_into().unwrap_or(Duration::ZERO);
    (!left.is_zero()).then_some(left)
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// The indexes that want a pod, from the lowest.
fn pending_indexes(spec: &JobSpec, tally: &Tally) -> impl Iterator<Item = i32> {
    let mut taken: BTreeSet<i32> = tally.active.iter().filter_map(|pod| index(pod)).collect();
    taken.extend(&tally.completed);
    taken.extend(&tally.broken);
    if waits_for_the_end(spec) {
        taken.extend(&tally.going);
    }
    (0..spec.completions.unwrap_or(0)).filter(move |index| !taken.contains(index))
}

/// The active pods beyond those that are wanted: first those of no index or of one that another pod has, then those that
/// are the least use. Upstream: job_controller.go, activePodsForRemoval (1.36).
fn surplus(spec: &JobSpec, tally: &Tally, wanted: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let nowhere = HashMap::new();
    let mut left = tally.active.clone();
    left.sort_by(|a, b| expendable(a, b, &nowhere, now));
    let mut gone = Vec::new();
    if is_indexed(spec) {
        let completions = spec.completions.unwrap_or(0);
        let mut seen = BTreeSet::new();
        // The most useful pod of an index stays.
        let (stay, go): (Vec<_>, Vec<_>) = left
            .into_iter()
            .rev()
            .partition(|pod| index(pod).is_some_and(|index| index < completions && seen.insert(index)));
        left = stay.into_iter().rev().collect();
        gone = go;
    }
    let more = tally.active.len().saturating_sub(wanted).saturating_sub(gone.len());
    gone.extend(left.into_iter().take(more));
    gone.truncate(BURST);
    gone
}

/// The first rule for success that the completed indexes meet, if any. Upstream: job/success_policy.go (1.36).
fn meets_policy(spec: &JobSpec, completed: &BTreeSet<i32>) -> Option<String> {
    let completions = spec.completions?;
    let rules = spec.success_policy.iter().flat_map(|policy| &policy.rules);
    for (at, rule) in rules.enumerate() {
        let met = match &rule.succeeded_indexes {
            Some(text) => {
                let listed = indexes::parse(text, completions);
                let done = listed.intersection(completed).count();
                count(done) >= rule.succeeded_count.unwrap_or(count(listed.len()))
            }
            None => rule
                .succeeded_count
                .is_some_and(|wanted| count(completed.len()) >= wanted),
        };
        if met {
            return Some(format!("Matched rules at index {at}"));
        }
    }
    None
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

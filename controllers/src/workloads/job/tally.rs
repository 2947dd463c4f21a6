//! Counts pods that ended, each exactly once.
//!
//! A pod of a Job carries a finalizer. When it ended, its UID is written into the Job's status (`uncounted`); then the
//! finalizer is taken off; when that is seen, the UID becomes one more in a counter. At every moment the sum is right,
//! whatever is restarted in between. Pods with a completion index that succeed are counted by their index instead.
//!
//! Where each index has its own limit of failures, a pod says how often its index has failed before. The last failed pod
//! of an index is therefore not let go until another has taken its number over. Upstream: job/indexed_job_utils.go (1.36).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::names::well_known::{JOB_COMPLETION_INDEX, JOB_TRACKING};
use api::pod;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, PodFailurePolicyRule, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::indexes;

/// On pods of Jobs that limit the failures of each index: how often the index has failed before, and how often it has
/// failed in a way that does not count.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// So many pods at most wait in the status to be counted: it must not grow without end.
const MOST_UNCOUNTED: usize = 500;

/// What is known of a Job's pods after counting.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) active: Vec<Arc<Pod>>,
    pub(super) terminating: usize,
    pub(super) ready: usize,
    /// All that ended, whether it is in a counter already or not.
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    pub(super) completed: BTreeSet<i32>,
    /// The indexes that have failed for good, where each has its own limit.
    pub(super) broken: BTreeSet<i32>,
    /// The last failed pod of each index that is to be tried again.
    pub(super) waiting: BTreeMap<i32, Arc<Pod>>,
    /// The indexes of pods that are going but have not ended.
    pub(super) going: BTreeSet<i32>,
    /// Counted, and may go once the status is written.
    pub(super) free: Vec<Arc<Pod>>,
    pub(super) uncounted: UncountedTerminatedPods,
    /// As the status has to say.
    pub(super) counted_succeeded: i32,
    pub(super) counted_failed: i32,
    /// The times at which pods failed since the last one succeeded.
    pub(super) failures: Vec<Timestamp>,
    /// A rule says that a pod's failure is the Job's.
    pub(super) fatal: Option<String>,
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

pub(super) fn index(pod: &Pod) -> Option<i32> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(JOB_COMPLETION_INDEX)?
        .parse()
        .ok()
}

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|name| name == JOB_TRACKING)
}

/// Whether a pod that is being deleted is replaced only once it has really ended.
pub(super) fn waits_for_the_end(spec: &JobSpec) -> bool {
    match spec.pod_replacement_policy.as_deref() {
        Some(policy) => policy == "Failed",
        None => spec.pod_failure_policy.is_some(),
    }
}

/// The number that an annotation of a pod says.
fn number(pod: &Pod, key: &str) -> u32 {
    let annotations = pod.metadata.annotations.as_ref();
    let text = annotations.and_then(|annotations| annotations.get(key));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// How often an index had failed when this pod of it had failed: those that count and those that do not.
pub(super) fn failures_with(spec: &JobSpec, pod: &Pod) -> (u32, u32) {
    let (failures, ignored) = (number(pod, FAILURES), number(pod, IGNORED));
    match judge(spec, pod) {
        Verdict::Ignore => (failures, ignored + 1),
        Verdict::Count | Verdict::Break | Verdict::Fatal(_) => (failures + 1, ignored),
    }
}

/// Whether the pod counts as failed. One that is being deleted may never get as far as to say so.
fn is_failed(spec: &JobSpec, pod: &Pod) -> bool {
    let gone = pod::is_deleting(pod) && pod::phase(pod) != "Succeeded" && !waits_for_the_end(spec);
    pod::phase(pod) == "Failed" || gone
}

/// Whether this failure is the last of its index.
fn breaks_index(spec: &JobSpec, pod: &Pod) -> bool {
    let limit = u32::try_from(spec.backoff_limit_per_index.unwrap_or(i32::MAX)).unwrap_or(0);
    match judge(spec, pod) {
        Verdict::Break => true,
        Verdict::Ignore => false,
        Verdict::Count | Verdict::Fatal(_) => number(pod, FAILURES) >= limit,
    }
}

impl Tally {
    /// Looks at the failures of each index. The completed indexes are known already.
    fn look_at_indexes(&mut self, spec: &JobSpec, pods: &[Arc<Pod>], completions: i32, now: Timestamp) {
        let failed: Vec<_> = pods
            .iter()
            .filter(|pod| is_failed(spec, pod))
            .filter_map(|pod| Some((index(pod).filter(|index| *index < completions)?, pod)))
            .collect();
        let broken = failed
            .iter()
            .filter(|(_, pod)| is_tracked(pod) && breaks_index(spec, pod));
        self.broken.extend(broken.map(|(index, _)| *index));
        let active: BTreeSet<i32> = self.active.iter().filter_map(|pod| index(pod)).collect();
        let all = |pod: &Pod| number(pod, FAILURES) + number(pod, IGNORED);
        for (index, pod) in failed {
            if self.completed.contains(&index) || self.broken.contains(&index) || active.contains(&index) {
                continue;
            }
            let later = self
                .waiting
                .get(&index)
                .is_none_or(|last| all(last) <= all(pod) && end(last, now) <= end(pod, now));
            if later {
                self.waiting.insert(index, pod.clone());
            }
        }
    }
}

/// Counts the pods. `over` says that the Job's end is decided, and whether as a failure.
pub(super) fn tally(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>], over: Option<End>, now: Timestamp) -> Tally {
    let status: JobStatus = job.status.clone().unwrap_or_default();
    let before = status.uncounted_terminated_pods.unwrap_or_default();
    let completions = spec.completions.unwrap_or(i32::MAX);
    let mut tally = Tally {
        completed: indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions),
        counted_succeeded: status.succeeded.unwrap_or(0),
        counted_failed: status.failed.unwrap_or(0),
        ..Tally::default()
    };
    let tracked = |uid: &String| {
        pods.iter()
            .any(|pod| pod.metadata.uid.as_ref() == Some(uid) && is_tracked(pod))
    };
    // Those that were let go since move into the counters.
    let (succeeded, gone): (Vec<_>, Vec<_>) = before.succeeded.unwrap_or_default().into_iter().partition(&tracked);
    tally.counted_succeeded += i32::try_from(gone.len()).unwrap_or(0);
    let (failed, gone): (Vec<_>, Vec<_>) = before.failed.unwrap_or_default().into_iter().partition(&tracked);
    tally.counted_failed += i32::try_from(gone.len()).unwrap_or(0);
    let (mut succeeded, mut failed) = (succeeded, failed);
    let mut last_success: Option<Timestamp> = None;
    let mut ended: Vec<Timestamp> = Vec::new();
    for pod in pods {
        if pod::is_deleting(pod) && !pod::is_terminal(pod) {
            tally.terminating += 1;
            tally.going.extend(index(pod));
        } else if pod::is_active(pod) {
            tally.active.push(pod.clone());
            tally.ready += usize::from(pod::is_ready(pod));
        }
    }
    if is_indexed(spec) {
        let done = pods
            .iter()
            .filter(|pod| pod::phase(pod) == "Succeeded" && is_tracked(pod));
        let done = done.filter_map(|pod| index(pod)).filter(|index| *index < completions);
        tally.completed.extend(done);
    }
    if spec.backoff_limit_per_index.is_some() {
        let broken = status.failed_indexes.as_deref().unwrap_or_default();
        tally.broken = indexes::parse(broken, completions);
        tally.look_at_indexes(spec, pods, completions, now);
    }
    let let_go = over.is_some() || job.metadata.deletion_timestamp.is_some();
    for pod in pods {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let has_succeeded = pod::phase(pod) == "Succeeded";
        let has_failed = is_failed(spec, pod);
        if has_succeeded {
            last_success = last_success.max(Some(end(pod, now)));
        }
        if has_failed {
            ended.push(end(pod, now));
            if let Verdict::Fatal(why) = judge(spec, pod) {
                tally.fatal.get_or_insert(why);
            }
        }
        if !is_tracked(pod) || succeeded.len() + failed.len() >= MOST_UNCOUNTED {
            continue;
        }
        // The next pod of its index will take its number of failures over.
        let needed = index(pod)
            .and_then(|index| tally.waiting.get(&index))
            .is_some_and(|last| last.metadata.uid == pod.metadata.uid);
        if !let_go && !has_succeeded && (!has_failed || needed) {
            continue;
        }
        if has_succeeded {
            if !is_indexed(spec) && !succeeded.contains(&uid) {
                succeeded.push(uid);
            }
        } else if has_failed || over == Some(End::Failure) {
            // What still runs when the Job has failed has failed too.
            let meant = !is_indexed(spec) || index(pod).is_some_and(|index| index < completions);
            let counts = !matches!(judge(spec, pod), Verdict::Ignore);
            if meant && counts && !failed.contains(&uid) {
                failed.push(uid);
            }
        }
        tally.free.push(pod.clone());
    }
    tally.failures = ended
        .into_iter()
        .filter(|at| last_success.is_none_or(|last| *at > last))
        .collect();
    let length = |list: &Vec<String>| i32::try_from(list.len()).unwrap_or(0);
    if is_indexed(spec) {
        tally.counted_succeeded = i32::try_from(tally.completed.len()).unwrap_or(0);
        tally.succeeded = tally.counted_succeeded;
    } else {
        tally.succeeded = tally.counted_succeeded + length(&succeeded);
    }
    tally.failed = tally.counted_failed + length(&failed);
    tally.uncounted = UncountedTerminatedPods {
        succeeded: Some(succeeded).filter(|list| !list.is_empty()),
        failed: Some(failed).filter(|list| !list.is_empty()),
    };
    tally
}

/// How a Job's end is decided, before it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Success,
    Failure,
}

/// When a pod ended.
pub(super) fn end(pod: &Pod, now: Timestamp) -> Timestamp {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|status| Some(status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0));
    let deletion = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0.min(now));
    ends.max().or(deletion).unwrap_or(now)
}

enum Verdict {
    Count,
    /// It counts, and its index is not tried again.
    Break,
    Ignore,
    Fatal(String),
}

/// What the first rule that fits says of a failed pod.
fn judge(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (at, rule) in rules.enumerate() {
        let Some(why) = fits(rule, at, pod) else { continue };
        return match rule.action.as_str() {
            "FailJob" => Verdict::Fatal(why),
            "Ignore" => Verdict::Ignore,
            "FailIndex" if spec.backoff_limit_per_index.is_some() => Verdict::Break,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn fits(rule: &PodFailurePolicyRule, at: usize, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let action = &rule.action;
    if let Some(codes) = &rule.on_exit_codes {
        let inits = status.init_container_statuses.iter().flatten();
        for container in status.container_statuses.iter().flatten().chain(inits) {
            if codes
                .container_name
                .as_ref()
                .is_some_and(|wanted| *wanted != container.name)
            {
                continue;
            }
            let terminated = container.state.as_ref().and_then(|state| state.terminated.as_ref());
            let Some(code) = terminated.map(|end| end.exit_code).filter(|code| *code != 0) else {
                continue;
            };
            if codes.values.contains(&code) == (codes.operator == "In") {
                return Some(format!(
                    "Container {} for pod {namespace}/{name} failed with exit code {code} matching {action} rule at index {at}",
                    container.name
                ));
            }
        }
        return None;
    }
    for pattern in rule.on_pod_conditions.iter().flatten() {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        if api::condition::is(status.conditions.as_deref(), &pattern.type_, wanted) {
            return Some(format!(
                "Pod {namespace}/{name} has condition {} matching {action} rule at index {at}",
                pattern.type_
            ));
        }
    }
    None
}

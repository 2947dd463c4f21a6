//! Counts pods that ended, each exactly once.
//!
//! A pod of a Job carries a finalizer. When it ended, its UID is written into the Job's status (`uncounted`); then the
//! finalizer is taken off; when that is seen, the UID becomes one more in a counter. At every moment the sum is right,
//! whatever is restarted in between. Pods with a completion index that succeed are counted by their index instead.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::names::well_known::{JOB_COMPLETION_INDEX, JOB_TRACKING};
use api::pod;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, PodFailurePolicyRule, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::indexes;

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

fn is_tracked(pod: &Pod) -> bool {
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

pub(super) fn tally(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>], now: Timestamp) -> Tally {
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
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let deleting = pod::is_deleting(pod);
        let has_succeeded = pod::phase(pod) == "Succeeded";
        let has_failed = pod::phase(pod) == "Failed" || (deleting && !has_succeeded && !waits_for_the_end(spec));
        if deleting && !pod::is_terminal(pod) {
            tally.terminating += 1;
        } else if pod::is_active(pod) {
            tally.active.push(pod.clone());
            tally.ready += usize::from(pod::is_ready(pod));
        }
        if has_succeeded {
            last_success = last_success.max(Some(end(pod, now)));
        }
        if has_failed {
            ended.push(end(pod, now));
        }
        if !is_tracked(pod) {
            continue;
        }
        if has_succeeded {
            match index(pod).filter(|_| is_indexed(spec)) {
                Some(index) if index < completions => drop(tally.completed.insert(index)),
                // An index that the Job has not: it ended for nothing.
                Some(_) => {}
                None if is_indexed(spec) => {}
                None if succeeded.contains(&uid) => {}
                None => succeeded.push(uid),
            }
            tally.free.push(pod.clone());
        } else if has_failed {
            if !failed.contains(&uid) {
                match judge(spec, pod) {
                    Verdict::Count => failed.push(uid),
                    Verdict::Ignore => {}
                    Verdict::Fatal(why) => {
                        tally.fatal.get_or_insert(why);
                        failed.push(uid);
                    }
                }
            }
            tally.free.push(pod.clone());
        }
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

/// When a pod ended.
fn end(pod: &Pod, now: Timestamp) -> Timestamp {
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

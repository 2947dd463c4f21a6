//! What a Deployment says about itself. Upstream: deployment/progress.go and sync.go (1.36).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::sets::{actual, available, limits, replicas};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
pub(super) const DONE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub(super) fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

pub(super) fn progressing(status: &DeploymentStatus) -> Option<&DeploymentCondition> {
    condition(status, PROGRESSING)
}

pub(super) fn has_deadline(spec: &DeploymentSpec) -> bool {
    spec.progress_deadline_seconds
        .is_some_and(|seconds| seconds != i32::MAX)
}

fn make(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Puts a condition in, unless one of the same status and reason is there: its times would tell nothing new.
pub(super) fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(old) = condition(status, &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove(status, &new.type_.clone());
    status.conditions.get_or_insert_default().push(new);
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// Marks a pause or its end, so that the time of the pause does not count as lack of progress.
pub(super) fn note_pause(status: &mut DeploymentStatus, spec: &DeploymentSpec, now: Timestamp) {
    if !has_deadline(spec) {
        return;
    }
    let reason = progressing(status).and_then(|condition| condition.reason.clone());
    // A rollout that has timed out stays so.
    if reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let marked = reason.as_deref() == Some("DeploymentPaused");
    let paused = spec.paused == Some(true);
    if paused && !marked {
        set(
            status,
            make(
                PROGRESSING,
                "Unknown",
                "DeploymentPaused",
                "Deployment is paused".to_owned(),
                now,
            ),
        );
    } else if !paused && marked {
        set(
            status,
            make(
                PROGRESSING,
                "Unknown",
                "DeploymentResumed",
                "Deployment is resumed".to_owned(),
                now,
            ),
        );
    }
}

pub(super) fn note_new_set(status: &mut DeploymentStatus, name: &str, created: bool, now: Timestamp) {
    let (reason, text) = if created {
        ("NewReplicaSetCreated", format!("Created new replica set {name:?}"))
    } else {
        ("FoundNewReplicaSet", format!("Found new replica set {name:?}"))
    };
    set(status, make(PROGRESSING, "True", reason, text, now));
}

pub(super) fn failed_create(status: &mut DeploymentStatus, deployment: &Deployment, text: String, now: Timestamp) {
    if deployment.spec.as_ref().is_some_and(has_deadline) {
        set(status, make(PROGRESSING, "False", "ReplicaSetCreateError", text, now));
    }
}

/// The counts and the Available condition; the other conditions stay.
pub(super) fn count(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    before: &DeploymentStatus,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| sets.iter().map(|set| of(set)).sum::<i32>();
    let available = sum(&available);
    let of_status = |set: &ReplicaSet, field: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>| {
        set.status.as_ref().and_then(field).unwrap_or(0)
    };
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(&actual)).filter(|n| *n != 0),
        updated_replicas: Some(new.map_or(0, actual)).filter(|n| *n != 0),
        ready_replicas: Some(sum(&|set| of_status(set, |status| status.ready_replicas))).filter(|n| *n != 0),
        available_replicas: Some(available).filter(|n| *n != 0),
        unavailable_replicas: Some((sum(&replicas) - available).max(0)).filter(|n| *n != 0),
        terminating_replicas: Some(sum(&|set| of_status(set, |status| status.terminating_replicas))),
        collision_count: before.collision_count,
        conditions: before.conditions.clone(),
    };
    let wanted = spec.replicas.unwrap_or(1);
    let condition = if available >= wanted - limits(spec).unavailable {
        let text = "Deployment has minimum availability.".to_owned();
        make(AVAILABLE, "True", "MinimumReplicasAvailable", text, now)
    } else {
        let text = "Deployment does not have minimum availability.".to_owned();
        make(AVAILABLE, "False", "MinimumReplicasUnavailable", text, now)
    };
    set(&mut status, condition);
    status
}

/// Whether everything that was asked for is there.
pub(super) fn is_complete(deployment: &Deployment, spec: &DeploymentSpec, status: &DeploymentStatus) -> bool {
    let wanted = spec.replicas.unwrap_or(1);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

/// Says how the rollout goes.
pub(super) fn progress(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    before: &DeploymentStatus,
    status: &mut DeploymentStatus,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    if !has_deadline(spec) {
        remove(status, PROGRESSING);
    } else {
        let current = progressing(before).cloned();
        let was_done = current
            .as_ref()
            .is_some_and(|condition| condition.reason.as_deref() == Some(DONE));
        if !(status.replicas == status.updated_replicas && was_done) {
            let name = deployment.metadata.name.as_deref().unwrap_or_default();
            let subject = match new.and_then(|set| set.metadata.name.as_deref()) {
                Some(set) => format!("ReplicaSet {set:?}"),
                None => format!("Deployment {name:?}"),
            };
            if is_complete(deployment, spec, status) {
                set(
                    status,
                    make(
                        PROGRESSING,
                        "True",
                        DONE,
                        format!("{subject} has successfully progressed."),
                        now,
                    ),
                );
            } else if has_progressed(before, status) {
                let text = format!("{subject} is progressing.");
                let mut condition = make(PROGRESSING, "True", "ReplicaSetUpdated", text, now);
                // The time of the last progress has to move, also when the reason stays.
                if let Some(current) = current.filter(|current| current.status == "True") {
                    condition.last_transition_time = current.last_transition_time;
                }
                remove(status, PROGRESSING);
                set(status, condition);
            } else if time_left(spec, status, now).is_some_and(|left| left.is_none()) {
                set(
                    status,
                    make(
                        PROGRESSING,
                        "False",
                        TIMED_OUT,
                        format!("{subject} has timed out progressing."),
                        now,
                    ),
                );
            }
        }
    }
    let failures = |set: &&ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == FAILURE).cloned()
    };
    // A failure of the new set tells more than one of an old set.
    match new.iter().chain(sets).find_map(failures) {
        Some(failure) => {
            let (reason, text) = (failure.reason.unwrap_or_default(), failure.message.unwrap_or_default());
            set(status, make(FAILURE, &failure.status, &reason, text, now));
        }
        None => remove(status, FAILURE),
    }
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let old = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(after.updated_replicas) > n(before.updated_replicas)
        || old(after) < old(before)
        || n(after.ready_replicas) > n(before.ready_replicas)
        || n(after.available_replicas) > n(before.available_replicas)
}

/// How long the rollout may still go without progress: nothing where no time runs, `Some(None)` when it is over.
pub(super) fn time_left(spec: &DeploymentSpec, status: &DeploymentStatus, now: Timestamp) -> Option<Option<Duration>> {
    let deadline = spec.progress_deadline_seconds.filter(|_| has_deadline(spec))?;
    let condition = progressing(status)?;
    match condition.reason.as_deref() {
        Some(DONE) => return None,
        Some(TIMED_OUT) => return Some(None),
        _ => {}
    }
    let since = condition.last_update_time.as_ref()?.0;
    let left = i128::from(deadline) * 1_000_000_000 - (now.as_nanosecond() - since.as_nanosecond());
    Some(
        u64::try_from(left)
            .ok()
            .filter(|left| *left > 0)
            .map(Duration::from_nanos),
    )
}

/// When to look for the end of that time: never after it was noticed.
pub(super) fn look_again(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    if spec.paused == Some(true) || is_complete(deployment, spec, status) {
        return None;
    }
    let left = time_left(spec, status, now)??;
    // Stamps have whole seconds.
    Some(left + Duration::from_secs(1))
}

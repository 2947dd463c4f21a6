//! How many pods a budget can spare. Pure. Follows pkg/controller/disruption (1.36).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::int_or_string::{Round, scaled};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A pod whose eviction was allowed and that is still there after this time was not evicted.
pub(super) const DELETION_TIMEOUT: Duration = Duration::from_secs(120);

const ALLOWED: &str = "DisruptionAllowed";
const TARGET: &str = "DisruptionTarget";

/// What the owners of the pods want, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    pub(super) replicas: i32,
    /// Pods that nobody owns.
    pub(super) unmanaged: usize,
}

/// Whether a budget is a share of what the owners want, so that those have to be asked.
pub(super) fn asks_owners(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    spec.is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

/// How many pods there should be, and how many of them have to be healthy.
pub(super) fn desired(budget: &PodDisruptionBudget, pods: usize, wanted: Wanted) -> Result<(i32, i32), String> {
    let count = i32::try_from(pods).unwrap_or(i32::MAX);
    let spec = budget.spec.as_ref();
    let share = |value: &IntOrString| scaled(value, wanted.replicas, Round::Up).map_err(|error| error.to_string());
    match spec.map(|spec| (&spec.max_unavailable, &spec.min_available)) {
        Some((Some(spare), _)) => Ok((wanted.replicas, (wanted.replicas - share(spare)?).max(0))),
        Some((None, Some(IntOrString::Int(least)))) => Ok((count, *least)),
        Some((None, Some(least))) => Ok((wanted.replicas, share(least)?)),
        Some((None, None)) | None => Ok((count, 0)),
    }
}

/// Pods whose eviction was allowed and that are not gone yet.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Disrupted {
    pub(super) pods: BTreeMap<String, Time>,
    /// When the first of them has had its time.
    pub(super) recheck: Option<Duration>,
    /// Those that have had it.
    pub(super) overdue: Vec<Arc<Pod>>,
}

fn left(since: Timestamp, now: Timestamp) -> Option<Duration> {
    let passed = now.duration_since(since);
    let passed = Duration::try_from(passed).unwrap_or(Duration::ZERO);
    DELETION_TIMEOUT.checked_sub(passed).filter(|left| !left.is_zero())
}

pub(super) fn disrupted(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], now: Timestamp) -> Disrupted {
    let mut disrupted = Disrupted::default();
    let status = budget.status.as_ref();
    let Some(allowed) = status.and_then(|status| status.disrupted_pods.as_ref()) else {
        return disrupted;
    };
    for pod in pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(since) = allowed.get(name).filter(|_| !api::pod::is_deleting(pod)) else {
            continue;
        };
        match left(since.0, now) {
            Some(left) => {
                disrupted.pods.insert(name.to_owned(), since.clone());
                disrupted.recheck = Some(disrupted.recheck.map_or(left, |first| first.min(left)));
            }
            None => disrupted.overdue.push(pod.clone()),
        }
    }
    disrupted
}

pub(super) fn healthy(pods: &[Arc<Pod>], disrupted: &Disrupted) -> i32 {
    let counts = |pod: &&Arc<Pod>| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        !api::pod::is_deleting(pod) && !disrupted.pods.contains_key(name) && api::pod::is_ready(pod)
    };
    i32::try_from(pods.iter().filter(counts).count()).unwrap_or(i32::MAX)
}

/// The status after a count.
pub(super) fn status(
    budget: &PodDisruptionBudget,
    (expected, desired): (i32, i32),
    healthy: i32,
    disrupted: Disrupted,
    now: &Time,
) -> PodDisruptionBudgetStatus {
    let spare = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let (status, reason) = if spare > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let generation = budget.metadata.generation;
    PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(spare),
        disrupted_pods: (!disrupted.pods.is_empty()).then_some(disrupted.pods),
        observed_generation: generation,
        conditions: Some(conditions(budget, status, reason, "", now)),
    }
}

/// The status where nothing could be counted: nothing may be disrupted.
pub(super) fn failed(budget: &PodDisruptionBudget, why: &str, now: &Time) -> PodDisruptionBudgetStatus {
    let before = budget.status.clone().unwrap_or_default();
    PodDisruptionBudgetStatus {
        disruptions_allowed: Some(0),
        conditions: Some(conditions(budget, "False", "SyncFailed", why, now)),
        ..before
    }
}

fn conditions(budget: &PodDisruptionBudget, status: &str, reason: &str, message: &str, now: &Time) -> Vec<Condition> {
    let before = budget.status.as_ref().and_then(|status| status.conditions.clone());
    let mut conditions = before.unwrap_or_default();
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: budget.metadata.generation,
        last_transition_time: now.clone(),
    };
    api::condition::set_generic(&mut conditions, condition);
    conditions
}

/// What becomes of a pod that was said to be about to go.
#[derive(Debug, PartialEq)]
pub(super) enum Stale {
    No,
    In(Duration),
    /// It did not go: the condition is taken back.
    Now(PodCondition),
}

pub(super) fn stale(pod: &Pod, now: Timestamp) -> Stale {
    if api::pod::is_deleting(pod) || api::pod::is_terminal(pod) {
        return Stale::No;
    }
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    let Some(target) = api::condition::find(conditions, TARGET) else {
        return Stale::No;
    };
    // A kubelet may take its time.
    if target.status != "True" || target.reason.as_deref() == Some("TerminationByKubelet") {
        return Stale::No;
    }
    let since = target.last_transition_time.as_ref().map_or(now, |time| time.0);
    match left(since, now) {
        Some(left) => Stale::In(left),
        None => Stale::Now(PodCondition {
            type_: TARGET.to_owned(),
            status: "False".to_owned(),
            ..PodCondition::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"generation": 3}, "spec": spec, "status": status})).unwrap()
    }

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let pod = json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn shares_are_of_what_owners_want_and_numbers_of_pods_that_are_there() {
        let wanted = Wanted {
            replicas: 7,
            unmanaged: 0,
        };
        let of = |spec: Value| desired(&budget(spec, json!({})), 5, wanted);
        assert_eq!(of(json!({"minAvailable": 2})), Ok((5, 2)));
        assert_eq!(of(json!({"minAvailable": "50%"})), Ok((7, 4)));
        assert_eq!(of(json!({"maxUnavailable": 1})), Ok((7, 6)));
        assert_eq!(of(json!({"maxUnavailable": "30%"})), Ok((7, 4)));
        assert_eq!(of(json!({"maxUnavailable": 9})), Ok((7, 0)));
        assert!(of(json!({"maxUnavailable": "many"})).is_err());
    }

    #[test]
    fn what_is_allowed_is_what_is_healthy_beyond_what_must_be() {
        let now = Time("2026-01-01T00:00:00Z".parse().unwrap());
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        let budget = budget(
            json!({"minAvailable": 1}),
            json!({"disruptedPods": {
            "b": "2025-12-31T23:59:00Z", "c": "2025-12-31T23:00:00Z", "gone": "2025-12-31T23:59:59Z"}}),
        );
        let disrupted = disrupted(&budget, &pods, now.0);
        assert_eq!(disrupted.pods.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(disrupted.recheck, Some(Duration::from_secs(60)));
        assert_eq!(disrupted.overdue.len(), 1);
        let healthy = healthy(&pods, &disrupted);
        assert_eq!(healthy, 1);
        let status = status(&budget, (3, 1), healthy, disrupted, &now);
        assert_eq!(
            (status.disruptions_allowed, status.observed_generation),
            (Some(0), Some(3))
        );
        assert_eq!(status.conditions.unwrap()[0].reason, "InsufficientPods");
        let free = super::status(&budget, (3, 1), 3, Disrupted::default(), &now);
        assert_eq!((free.disruptions_allowed, free.disrupted_pods), (Some(2), None));
        assert_eq!(
            super::status(&budget, (0, 0), 3, Disrupted::default(), &now).disruptions_allowed,
            Some(0)
        );
        let failed = failed(&budget, "no idea", &now);
        assert_eq!(failed.conditions.unwrap()[0].reason, "SyncFailed");
    }

    #[test]
    fn a_pod_that_was_to_go_and_stayed_is_said_to_stay() {
        let now: Timestamp = "2026-01-01T00:05:00Z".parse().unwrap();
        let at = |time: &str, reason: &str| {
            let target = json!({"type": TARGET, "status": "True", "reason": reason, "lastTransitionTime": time});
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [target]}})).unwrap();
            stale(&pod, now)
        };
        assert!(matches!(
            at("2026-01-01T00:00:00Z", "EvictionByEvictionAPI"),
            Stale::Now(_)
        ));
        assert_eq!(at("2026-01-01T00:00:00Z", "TerminationByKubelet"), Stale::No);
        assert_eq!(at("2026-01-01T00:04:00Z", "x"), Stale::In(Duration::from_secs(60)));
    }
}

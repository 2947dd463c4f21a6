//! Defaults of what runs pods: apps, batch and autoscaling.

use serde_json::{Value, json};

use super::core::labels_from_template;
use super::{Rules, Tree, has, is_empty, items, made, put, put_pointer, text};

pub(super) const RULES: Rules = &[
    ("apps/v1.Deployment", deployment),
    ("apps/v1.DaemonSet", daemon_set),
    ("apps/v1.StatefulSet", stateful_set),
    ("apps/v1.ReplicaSet", |s| put(made(s, "spec"), "replicas", 1)),
    ("batch/v1.Job", job),
    ("batch/v1.CronJob", cron_job),
    ("batch/v1.PodFailurePolicyOnPodConditionsPattern", |s| {
        put(s, "status", "True")
    }),
    ("autoscaling/v1.HorizontalPodAutoscaler", autoscaler_v1),
    ("autoscaling/v2.HorizontalPodAutoscaler", autoscaler),
];

/// Sets the numbers of a rolling update where that is the strategy.
fn rolling(holder: &mut Tree, name: &str, numbers: &[(&str, Value)]) {
    let strategy = made(holder, name);
    put(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let update = made(strategy, "rollingUpdate");
        for (name, value) in numbers {
            put_pointer(update, name, value.clone());
        }
    }
}

fn deployment(object: &mut Tree) {
    let spec = made(object, "spec");
    put(spec, "replicas", 1);
    rolling(
        spec,
        "strategy",
        &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))],
    );
    put(spec, "revisionHistoryLimit", 10);
    put(spec, "progressDeadlineSeconds", 600);
}

fn daemon_set(object: &mut Tree) {
    let spec = made(object, "spec");
    rolling(
        spec,
        "updateStrategy",
        &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))],
    );
    put(spec, "revisionHistoryLimit", 10);
}

fn stateful_set(object: &mut Tree) {
    let spec = made(object, "spec");
    put(spec, "podManagementPolicy", "OrderedReady");
    rolling(spec, "updateStrategy", &[("partition", json!(0))]);
    let retention = made(spec, "persistentVolumeClaimRetentionPolicy");
    put(retention, "whenDeleted", "Retain");
    put(retention, "whenScaled", "Retain");
    put(spec, "replicas", 1);
    put(spec, "revisionHistoryLimit", 10);
    for claim in items(spec, "volumeClaimTemplates") {
        claim.insert("apiVersion".into(), "v1".into());
        claim.insert("kind".into(), "PersistentVolumeClaim".into());
    }
}

fn job(object: &mut Tree) {
    /// With a limit for each index there is none for the whole.
    const NO_LIMIT: i32 = i32::MAX;
    labels_from_template(object, false);
    let spec = made(object, "spec");
    if !has(spec, "completions") && !has(spec, "parallelism") {
        put(spec, "completions", 1);
    }
    put(spec, "parallelism", 1);
    let limit = if has(spec, "backoffLimitPerIndex") { NO_LIMIT } else { 6 };
    put(spec, "backoffLimit", limit);
    put_pointer(spec, "completionMode", "NonIndexed");
    put(spec, "suspend", false);
    let replacement = if has(spec, "podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    put_pointer(spec, "podReplacementPolicy", replacement);
    put(spec, "manualSelector", false);
}

fn cron_job(object: &mut Tree) {
    let spec = made(object, "spec");
    put(spec, "concurrencyPolicy", "Allow");
    put(spec, "suspend", false);
    put(spec, "successfulJobsHistoryLimit", 3);
    put(spec, "failedJobsHistoryLimit", 1);
}

/// What an autoscaler without a metric aims at.
const CPU_PERCENT: i32 = 80;

fn autoscaler_v1(object: &mut Tree) {
    const OTHER_METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
    let annotated = object
        .get("metadata")
        .and_then(|m| m.get("annotations"))
        .is_some_and(|a| a.get(OTHER_METRICS).is_some());
    let spec = made(object, "spec");
    put(spec, "minReplicas", 1);
    if !annotated {
        put(spec, "targetCPUUtilizationPercentage", CPU_PERCENT);
    }
}

fn autoscaler(object: &mut Tree) {
    let spec = made(object, "spec");
    put(spec, "minReplicas", 1);
    if is_empty(spec, "metrics") {
        let cpu = json!([{"type": "Resource", "resource":
            {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_PERCENT}}}]);
        spec.insert("metrics".into(), cpu);
    }
    if !has(spec, "behavior") {
        return;
    }
    let behavior = made(spec, "behavior");
    let up = made(behavior, "scaleUp");
    put(up, "stabilizationWindowSeconds", 0);
    put_pointer(up, "selectPolicy", "Max");
    if is_empty(up, "policies") {
        let policies = json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]);
        up.insert("policies".into(), policies);
    }
    let down = made(behavior, "scaleDown");
    put_pointer(down, "selectPolicy", "Max");
    if is_empty(down, "policies") {
        down.insert(
            "policies".into(),
            json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
        );
    }
}

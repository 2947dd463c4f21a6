//! Pods and their templates.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{NONE, age, containers, get, labels, name, or, since};
use crate::object::Object;
use crate::strategy::field::Field;

pub(in super::super) fn cells(pod: &Object, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match &summary.last_restart {
        Some(when) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, since(&when.to_string(), now))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = get(pod, "status.podIPs");
    let ip = ip.items().next().map_or("", |first| {
        first.get("ip").value().and_then(Value::as_str).unwrap_or("")
    });
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        or(ip, NONE).into(),
        or(get(pod, "spec.nodeName").str(), NONE).into(),
        or(get(pod, "status.nominatedNodeName").str(), NONE).into(),
        readiness_gates(pod).into(),
    ]
}

pub(in super::super) fn template(object: &Object, _now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(&get(object, "template.spec.containers"));
    vec![
        name(object),
        names,
        images,
        labels(get(object, "template.metadata.labels").map()).into(),
    ]
}

struct Summary {
    ready: i64,
    total: i64,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// One line about a pod: the most telling reason among its phase, its containers and its deletion.
fn summarize(pod: &Object) -> Summary {
    let status = get(pod, "status");
    let phase = status.get("phase").str();
    let mut reason = or(status.get("reason").str(), phase).to_owned();
    let condition = |kind: &str| {
        status
            .get("conditions")
            .items()
            .find(|c| c.get("type").str() == kind)
            .map(|c| {
                (
                    c.get("status").value().and_then(Value::as_str).unwrap_or(""),
                    c.get("reason").value().and_then(Value::as_str).unwrap_or(""),
                )
            })
    };
    if condition("PodScheduled").is_some_and(|(_, why)| why == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }

    let init = get(pod, "spec.initContainers");
    let sidecars: BTreeMap<&str, bool> = init
        .items()
        .map(|c| (c.get("name").str(), c.get("restartPolicy").str() == "Always"))
        .collect();
    let is_sidecar = |container: &Field| sidecars.get(container.get("name").str()) == Some(&true);
    let total = get(pod, "spec.containers").len()
        + init
            .items()
            .filter(|c| c.get("restartPolicy").str() == "Always")
            .count();

    let (mut ready, mut restarts, mut sidecar_restarts) = (0, 0, 0);
    let (mut last, mut sidecar_last) = (None, None);
    let mut initializing = false;
    for (index, container) in status.get("initContainerStatuses").items().enumerate() {
        let count = container.get("restartCount").number();
        let ended = last_termination(&container);
        restarts += count;
        last = last.max(ended);
        if is_sidecar(&container) {
            sidecar_restarts += count;
            sidecar_last = sidecar_last.max(ended);
        }
        let (terminated, waiting) = (container.get("state.terminated"), container.get("state.waiting"));
        if terminated.present() && terminated.get("exitCode").number() == 0 {
            continue;
        }
        if is_sidecar(&container) && container.get("started").is_true() {
            ready += i64::from(container.get("ready").is_true());
            continue;
        }
        let waits_for = waiting.get("reason").str();
        reason = if terminated.present() {
            format!("Init:{}", ended_by(&terminated))
        } else if !waits_for.is_empty() && waits_for != "PodInitializing" {
            format!("Init:{waits_for}")
        } else {
            format!("Init:{index}/{}", init.len())
        };
        initializing = true;
        break;
    }

    if !initializing || condition("Initialized").is_some_and(|(value, _)| value == "True") {
        (restarts, last) = (sidecar_restarts, sidecar_last);
        let mut running = false;
        let statuses = status.get("containerStatuses");
        let all: Vec<Field> = statuses.items().collect();
        // From the last to the first: the first container's word counts most.
        for container in all.iter().rev() {
            restarts += container.get("restartCount").number();
            last = last.max(last_termination(container));
            let (terminated, waiting) = (container.get("state.terminated"), container.get("state.waiting.reason"));
            if !waiting.str().is_empty() {
                reason = waiting.str().into();
            } else if terminated.present() {
                reason = ended_by(&terminated);
            } else if container.get("ready").is_true() && container.get("state.running").present() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            let is_ready = condition("Ready").is_some_and(|(value, _)| value == "True");
            reason = if is_ready { "Running" } else { "NotReady" }.into();
        }
    }

    if pod.is_deleting() {
        if status.get("reason").str() == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    Summary {
        ready,
        total: total as i64,
        reason,
        restarts,
        last_restart: last,
    }
}

fn last_termination(container: &Field) -> Option<Timestamp> {
    container.get("lastState.terminated.finishedAt").str().parse().ok()
}

fn ended_by(terminated: &Field) -> String {
    match (terminated.get("reason").str(), terminated.get("signal").number()) {
        ("", 0) => format!("ExitCode:{}", terminated.get("exitCode").number()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

fn readiness_gates(pod: &Object) -> String {
    let gates = get(pod, "spec.readinessGates");
    if gates.is_empty() {
        return NONE.into();
    }
    let conditions = get(pod, "status.conditions");
    let met = gates
        .items()
        .filter(|gate| {
            let wanted = gate.get("conditionType").str();
            conditions
                .items()
                .find(|c| c.get("type").str() == wanted)
                .is_some_and(|c| c.get("status").str() == "True")
        })
        .count();
    format!("{met}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{now, object};
    use super::*;

    /// READY, STATUS, RESTARTS of a pod.
    #[track_caller]
    fn check(pod: Value, want: [&str; 3]) {
        let cells = cells(&object(pod), now());
        assert_eq!(cells[1..4], want.map(Value::from));
    }
    fn pod(status: Value) -> Value {
        json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": status})
    }

    #[test]
    fn a_pod_shows_its_most_telling_reason() {
        check(pod(json!({"phase": "Pending"})), ["0/2", "Pending", "0"]);
        check(
            pod(json!({"phase": "Failed", "reason": "Evicted"})),
            ["0/2", "Evicted", "0"],
        );
        let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
        let crashed = json!({"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2024-05-01T10:02:30Z"}}});
        check(
            pod(json!({"phase": "Running", "containerStatuses": [running, crashed]})),
            ["1/2", "CrashLoopBackOff", "3 (2m30s ago)"],
        );
        let done = json!({"restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let ready = json!([{"type": "Ready", "status": "True"}]);
        check(
            pod(json!({"phase": "Running", "conditions": ready, "containerStatuses": [done, running]})),
            ["1/2", "Running", "0"],
        );
        check(
            pod(json!({"phase": "Running", "containerStatuses": [done, running]})),
            ["1/2", "NotReady", "0"],
        );
        let killed = json!({"restartCount": 0, "state": {"terminated": {"exitCode": 137, "signal": 9}}});
        check(
            pod(json!({"phase": "Failed", "containerStatuses": [killed]})),
            ["0/2", "Signal:9", "0"],
        );
        check(
            pod(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]})),
            ["0/2", "SchedulingGated", "0"],
        );
    }
    #[test]
    fn a_deleted_pod_is_terminating_until_it_ended() {
        let with = |phase: &str| json!({"metadata": {"deletionTimestamp": "2024-05-01T10:04:00Z"}, "status": {"phase": phase}});
        check(with("Running"), ["0/0", "Terminating", "0"]);
        check(with("Succeeded"), ["0/0", "Succeeded", "0"]);
    }
    #[test]
    fn init_containers_come_first() {
        let pod = |statuses: Value| {
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]},
                "status": {"phase": "Pending", "initContainerStatuses": statuses}})
        };
        check(
            pod(json!([{"name": "i", "state": {"running": {}}}])),
            ["0/2", "Init:0/2", "0"],
        );
        check(
            pod(json!([{"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}])),
            ["0/2", "Init:Error", "2"],
        );
        check(
            pod(json!([
                {"name": "i", "state": {"terminated": {"exitCode": 0}}},
                {"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}},
            ])),
            ["1/2", "Pending", "1"],
        );
    }
    #[test]
    fn wide_columns_say_where_a_pod_is() {
        let pod = json!({"spec": {"nodeName": "n", "readinessGates": [{"conditionType": "g"}]},
            "status": {"podIPs": [{"ip": "10.1.1.1"}], "conditions": [{"type": "g", "status": "True"}]}});
        let cells = cells(&object(pod), now());
        assert_eq!(cells[4..], ["5m", "10.1.1.1", "n", "<none>", "1/1"].map(Value::from));
    }
}

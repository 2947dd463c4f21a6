//! What runs pods: apps, batch, replication controllers, and their scaler.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    NONE, UNSET, age, containers, count, get, human_duration, int_or_string, labels, name, selector, selector_or_none,
    since,
};
use crate::object::Object;
use crate::strategy::field::Field;

const CONTAINERS: &str = "spec.template.spec.containers";

/// `of/all`.
fn fraction(object: &Object, of: &str, all: &str) -> Value {
    format!("{}/{}", get(object, of).number(), get(object, all).number()).into()
}

pub(in super::super) fn deployment(object: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(&get(object, CONTAINERS));
    vec![
        name(object),
        fraction(object, "status.readyReplicas", "spec.replicas"),
        count(object, "status.updatedReplicas"),
        count(object, "status.availableReplicas"),
        age(object, now),
        names,
        images,
        selector(&get(object, "spec.selector")).into(),
    ]
}

fn replicas(object: &Object, now: Timestamp, selector: String) -> Vec<Value> {
    let [names, images] = containers(&get(object, CONTAINERS));
    vec![
        name(object),
        count(object, "spec.replicas"),
        count(object, "status.replicas"),
        count(object, "status.readyReplicas"),
        age(object, now),
        names,
        images,
        selector.into(),
    ]
}

pub(in super::super) fn replica_set(object: &Object, now: Timestamp) -> Vec<Value> {
    replicas(object, now, selector_or_none(&get(object, "spec.selector")))
}

pub(in super::super) fn replication_controller(object: &Object, now: Timestamp) -> Vec<Value> {
    replicas(object, now, labels(get(object, "spec.selector").map()))
}

pub(in super::super) fn daemon_set(object: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(&get(object, CONTAINERS));
    vec![
        name(object),
        count(object, "status.desiredNumberScheduled"),
        count(object, "status.currentNumberScheduled"),
        count(object, "status.numberReady"),
        count(object, "status.updatedNumberScheduled"),
        count(object, "status.numberAvailable"),
        labels(get(object, "spec.template.spec.nodeSelector").map()).into(),
        age(object, now),
        names,
        images,
        selector_or_none(&get(object, "spec.selector")).into(),
    ]
}

pub(in super::super) fn stateful_set(object: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(&get(object, CONTAINERS));
    vec![
        name(object),
        fraction(object, "status.readyReplicas", "spec.replicas"),
        age(object, now),
        names,
        images,
    ]
}

pub(in super::super) fn controller_revision(object: &Object, now: Timestamp) -> Vec<Value> {
    let owners = get(object, "metadata.ownerReferences");
    let controller = owners
        .items()
        .find(|owner| owner.get("controller").is_true())
        .map(|owner| {
            let kind = owner.get("kind").str().to_lowercase();
            let name = owner.get("name").str();
            match owner.get("apiVersion").str().split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{name}"),
                None => format!("{kind}/{name}"),
            }
        });
    vec![
        name(object),
        controller.unwrap_or_else(|| NONE.into()).into(),
        count(object, "revision"),
        age(object, now),
    ]
}

pub(in super::super) fn job(object: &Object, now: Timestamp) -> Vec<Value> {
    let succeeded = get(object, "status.succeeded").number();
    let completions = match (
        get(object, "spec.completions").int(),
        get(object, "spec.parallelism").number(),
    ) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let time = |name: &str| get(object, name).str().parse::<Timestamp>().ok();
    let duration = match (time("status.startTime"), time("status.completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => human_duration(end.unwrap_or(now).duration_since(start).as_millis()),
    };
    let conditions = get(object, "status.conditions");
    let is = |kind: &str| {
        conditions
            .items()
            .any(|c| c.get("type").str() == kind && c.get("status").str() == "True")
    };
    let state = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if object.is_deleting() {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
            .into_iter()
            .find(|kind| is(kind))
            .unwrap_or("Running")
    };
    let [names, images] = containers(&get(object, CONTAINERS));
    vec![
        name(object),
        state.into(),
        completions.into(),
        duration.into(),
        age(object, now),
        names,
        images,
        selector_or_none(&get(object, "spec.selector")).into(),
    ]
}

pub(in super::super) fn cron_job(object: &Object, now: Timestamp) -> Vec<Value> {
    let last = get(object, "status.lastScheduleTime");
    let suspend = match get(object, "spec.suspend").bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => UNSET,
    };
    let [names, images] = containers(&get(object, "spec.jobTemplate.spec.template.spec.containers"));
    vec![
        name(object),
        get(object, "spec.schedule").str().into(),
        super::or(get(object, "spec.timeZone").str(), NONE).into(),
        suspend.into(),
        json!(get(object, "status.active").len()),
        if last.present() {
            since(last.str(), now)
        } else {
            NONE.into()
        }
        .into(),
        age(object, now),
        names,
        images,
        selector_or_none(&get(object, "spec.jobTemplate.spec.selector")).into(),
    ]
}

pub(in super::super) fn disruption_budget(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        int_or_string(&get(object, "spec.minAvailable"), "N/A"),
        int_or_string(&get(object, "spec.maxUnavailable"), "N/A"),
        count(object, "status.disruptionsAllowed"),
        age(object, now),
    ]
}

pub(in super::super) fn autoscaler(object: &Object, now: Timestamp) -> Vec<Value> {
    let target = get(object, "spec.scaleTargetRef");
    let min = get(object, "spec.minReplicas")
        .int()
        .map_or_else(|| UNSET.to_owned(), |n| n.to_string());
    vec![
        name(object),
        format!("{}/{}", target.get("kind").str(), target.get("name").str()).into(),
        autoscaler_metrics(object).into(),
        min.into(),
        count(object, "spec.maxReplicas"),
        count(object, "status.currentReplicas"),
        age(object, now),
    ]
}

/// `cpu: 10%/80%, memory: 1Gi/2Gi`: each metric's current and wanted value, the first two of them.
fn autoscaler_metrics(object: &Object) -> String {
    let (specs, statuses) = (get(object, "spec.metrics"), get(object, "status.currentMetrics"));
    if specs.is_empty() {
        return "<none>".into();
    }
    let list: Vec<String> = specs
        .items()
        .enumerate()
        .map(|(index, spec)| {
            let current = statuses.items().nth(index).and_then(|status| status.value());
            metric(&spec, &Field::at(current, ""))
        })
        .collect();
    if list.len() > 2 {
        format!("{} + {} more...", list[..2].join(", "), list.len() - 2)
    } else {
        list.join(", ")
    }
}

fn metric(spec: &Field, status: &Field) -> String {
    let unknown = |text: &str| super::or(text, "<unknown>").to_owned();
    // The field that holds a metric is its type with a small first letter.
    let (place, resource) = match spec.get("type").str() {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".into(),
    };
    let (spec, status) = (spec.get(place), status.get(place));
    let (target, current) = (spec.get("target"), status.get("current"));
    if resource {
        let name = spec.get("name").str();
        let value = target.get("averageValue").str();
        if !value.is_empty() {
            return format!("{name}: {}/{value}", unknown(current.get("averageValue").str()));
        }
        let now = current.get("averageUtilization").int().map(|n| format!("{n}%"));
        let wanted = target
            .get("averageUtilization")
            .int()
            .map_or_else(|| "<auto>".into(), |n| format!("{n}%"));
        return format!("{name}: {}/{wanted}", now.unwrap_or_else(|| "<unknown>".into()));
    }
    let average = target.get("averageValue").str();
    if place == "pods" {
        return format!("{}/{average}", unknown(current.get("averageValue").str()));
    }
    if average.is_empty() {
        format!("{}/{}", unknown(current.get("value").str()), target.get("value").str())
    } else {
        format!("{}/{average} (avg)", unknown(current.get("averageValue").str()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn workloads_show_their_counts() {
        let template = json!({"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j"}],
            "nodeSelector": {"d": "ssd"}}});
        let spec = json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template});
        check(
            deployment,
            json!({"spec": spec, "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}}),
            json!(["x", "1/3", 2, 1, "5m", "a,b", "i:1,j", "a=b"]),
        );
        check(
            replica_set,
            json!({"spec": spec, "status": {"replicas": 3, "readyReplicas": 1}}),
            json!(["x", 3, 3, 1, "5m", "a,b", "i:1,j", "a=b"]),
        );
        check(
            daemon_set,
            json!({"spec": spec, "status": {"desiredNumberScheduled": 2, "numberReady": 1}}),
            json!(["x", 2, 0, 1, 0, 0, "d=ssd", "5m", "a,b", "i:1,j", "a=b"]),
        );
        check(
            stateful_set,
            json!({"spec": spec}),
            json!(["x", "0/3", "5m", "a,b", "i:1,j"]),
        );
    }
    #[test]
    fn a_job_shows_how_far_it_is() {
        check(
            job,
            json!({"spec": {"completions": 2}, "status": {"succeeded": 1, "startTime": "2024-05-01T10:01:00Z"}}),
            json!(["x", "Running", "1/2", "4m", "5m", "", "", "<none>"]),
        );
        check(
            job,
            json!({"spec": {"parallelism": 3}, "status": {"startTime": "2024-05-01T10:01:00Z",
                "completionTime": "2024-05-01T10:01:09Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
            json!(["x", "Complete", "0/1 of 3", "9s", "5m", "", "", "<none>"]),
        );
    }
    #[test]
    fn a_cron_job_shows_its_schedule() {
        check(
            cron_job,
            json!({"spec": {"schedule": "* * * * *", "suspend": false}, "status": {"active": [{}],
                "lastScheduleTime": "2024-05-01T10:04:00Z"}}),
            json!(["x", "* * * * *", "<none>", "False", 1, "60s", "5m", "", "", "<none>"]),
        );
    }
    #[test]
    fn an_autoscaler_shows_each_metric() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}});
        let pods = json!({"type": "Pods", "pods": {"target": {"averageValue": "10"}}});
        check(
            autoscaler,
            json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 5, "metrics": [cpu, pods]},
                "status": {"currentReplicas": 2, "currentMetrics": [{"resource": {"current": {"averageUtilization": 7}}}]}}),
            json!(["x", "Deployment/d", "cpu: 7%/80%, <unknown>/10", "<unset>", 5, 2, "5m"]),
        );
    }
    #[test]
    fn a_revision_names_its_controller() {
        check(
            controller_revision,
            json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "w", "controller": true}]},
                "revision": 4}),
            json!(["x", "statefulset.apps/w", 4, "5m"]),
        );
    }
}

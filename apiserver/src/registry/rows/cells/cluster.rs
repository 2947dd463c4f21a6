//! Everything else: namespaces, configuration, accounts, roles, quotas, events, classes, admission, flow control.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{NONE, age, count, get, human_duration, name, or, since};
use crate::object::Object;

pub(in super::super) fn namespace(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), get(object, "status.phase").str().into(), age(object, now)]
}

pub(in super::super) fn config_map(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(get(object, "data").len() + get(object, "binaryData").len()),
        age(object, now),
    ]
}

pub(in super::super) fn secret(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        get(object, "type").str().into(),
        json!(get(object, "data").len()),
        age(object, now),
    ]
}

pub(in super::super) fn quota(object: &Object, now: Timestamp) -> Vec<Value> {
    let (hard, used) = (get(object, "status.hard"), get(object, "status.used"));
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, most) in hard.entries() {
        let text = format!("{resource}: {}/{}", or(used.key(resource).str(), "0"), most.str());
        if resource.starts_with("limits.") {
            &mut limits
        } else {
            &mut requests
        }
        .push(text);
    }
    vec![
        name(object),
        requests.join(", ").into(),
        limits.join(", ").into(),
        age(object, now),
    ]
}

pub(in super::super) fn event(object: &Object, now: Timestamp) -> Vec<Value> {
    let time = |path: &'static str| get(object, path).str();
    let first = since(or(time("firstTimestamp"), time("eventTime")), now);
    let series = get(object, "series");
    let (last, times) = if series.present() {
        (
            since(series.get("lastObservedTime").str(), now),
            series.get("count").number(),
        )
    } else {
        let last = time("lastTimestamp");
        let last = if last.is_empty() {
            first.clone()
        } else {
            since(last, now)
        };
        (last, get(object, "count").number().max(1))
    };
    let about = get(object, "involvedObject");
    let kind = about.get("kind").str().to_lowercase();
    let target = match about.get("name").str() {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = or(
        get(object, "source.component").str(),
        get(object, "reportingComponent").str(),
    );
    let instance = or(get(object, "source.host").str(), get(object, "reportingInstance").str());
    let source = if instance.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {instance}")
    };
    vec![
        last.into(),
        get(object, "type").str().into(),
        get(object, "reason").str().into(),
        target.into(),
        about.get("fieldPath").str().into(),
        source.into(),
        get(object, "message").str().trim().into(),
        first.into(),
        json!(times),
        name(object),
    ]
}

pub(in super::super) fn role_binding(object: &Object, now: Timestamp) -> Vec<Value> {
    let role = get(object, "roleRef");
    let subjects = get(object, "subjects");
    let of = |kind: &str| -> Value {
        let list: Vec<String> = subjects
            .items()
            .filter(|s| s.get("kind").str() == kind)
            .map(|s| match (kind, s.get("namespace").str()) {
                ("ServiceAccount", namespace) => format!("{namespace}/{}", s.get("name").str()),
                _ => s.get("name").str().into(),
            })
            .collect();
        list.join(", ").into()
    };
    vec![
        name(object),
        format!("{}/{}", role.get("kind").str(), role.get("name").str()).into(),
        age(object, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

pub(in super::super) fn priority_class(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        count(object, "value"),
        get(object, "globalDefault").is_true().into(),
        age(object, now),
        get(object, "preemptionPolicy").str().into(),
    ]
}

pub(in super::super) fn signing_request(object: &Object, now: Timestamp) -> Vec<Value> {
    let conditions = get(object, "status.conditions");
    let has = |kind: &str| conditions.items().any(|c| c.get("type").str() == kind);
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !get(object, "status.certificate").is_zero() {
        state.push_str(",Issued");
    }
    let asked = get(object, "spec.expirationSeconds").int();
    vec![
        name(object),
        age(object, now),
        or(get(object, "spec.signerName").str(), NONE).into(),
        get(object, "spec.username").str().into(),
        asked
            .map_or_else(|| NONE.to_owned(), |seconds| human_duration(i128::from(seconds) * 1000))
            .into(),
        state.into(),
    ]
}

pub(in super::super) fn flow_schema(object: &Object, now: Timestamp) -> Vec<Value> {
    let conditions = get(object, "status.conditions");
    let dangling = conditions
        .items()
        .find(|c| c.get("type").str() == "Dangling")
        .map_or_else(|| "?".to_owned(), |c| c.get("status").str().to_owned());
    vec![
        name(object),
        get(object, "spec.priorityLevelConfiguration.name").str().into(),
        count(object, "spec.matchingPrecedence"),
        or(get(object, "spec.distinguisherMethod.type").str(), NONE).into(),
        age(object, now),
        dangling.into(),
    ]
}

pub(in super::super) fn priority_level(object: &Object, now: Timestamp) -> Vec<Value> {
    let spec = get(object, "spec");
    let shares = match (
        spec.get("limited.nominalConcurrencyShares").int(),
        spec.get("exempt.nominalConcurrencyShares").int(),
    ) {
        (Some(n), _) | (None, Some(n)) => json!(n),
        _ => NONE.into(),
    };
    let queuing = spec.get("limited.limitResponse.queuing");
    let of = |what: &str| queuing.get(what).int().map_or_else(|| NONE.into(), Value::from);
    vec![
        name(object),
        spec.get("type").str().into(),
        shares,
        of("queues"),
        of("handSize"),
        of("queueLengthLimit"),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn an_event_says_when_and_about_what() {
        check(
            event,
            json!({"type": "Normal", "reason": "Pulled", "message": " m\n", "involvedObject": {"kind": "Pod", "name": "p"},
                "source": {"component": "kubelet", "host": "n"}, "count": 4,
                "firstTimestamp": "2024-05-01T10:03:00Z", "lastTimestamp": "2024-05-01T10:04:50Z"}),
            json!(["10s", "Normal", "Pulled", "pod/p", "", "kubelet, n", "m", "2m", 4, "x"]),
        );
        check(
            event,
            json!({"eventTime": "2024-05-01T10:04:30.123456Z", "reportingComponent": "c", "involvedObject": {}}),
            json!(["29s", "", "", "", "", "c", "", "29s", 1, "x"]),
        );
    }
    #[test]
    fn a_binding_shows_its_subjects_by_kind() {
        check(
            role_binding,
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "User", "name": "v"},
                {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]}),
            json!(["x", "Role/r", "5m", "u, v", "", "n/s"]),
        );
    }
    #[test]
    fn a_quota_splits_requests_and_limits() {
        check(
            quota,
            json!({"status": {"hard": {"limits.cpu": "2", "pods": "5"}, "used": {"pods": "1"}}}),
            json!(["x", "pods: 1/5", "limits.cpu: 0/2", "5m"]),
        );
    }
}

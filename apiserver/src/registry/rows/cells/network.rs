//! networking.k8s.io.

use jiff::Timestamp;
use serde_json::Value;

use super::{NONE, age, first_of, get, name, or, selector_or_none};
use crate::object::Object;

pub(in super::super) fn ingress(object: &Object, now: Timestamp) -> Vec<Value> {
    let spec = get(object, "spec");
    let hosts: Vec<String> = spec
        .get("rules")
        .items()
        .map(|rule| rule.get("host").str().to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    vec![
        name(object),
        or(spec.get("ingressClassName").str(), NONE).into(),
        or(&first_of(&hosts, 3), "*").into(),
        super::service::ingress(object).join(",").into(),
        if spec.get("tls").is_empty() { "80" } else { "80, 443" }.into(),
        age(object, now),
    ]
}

pub(in super::super) fn ingress_class(object: &Object, now: Timestamp) -> Vec<Value> {
    let parameters = get(object, "spec.parameters");
    let text = if parameters.present() {
        let group = parameters.get("apiGroup").str();
        let dot = if group.is_empty() { "" } else { "." };
        format!(
            "{}{dot}{group}/{}",
            parameters.get("kind").str(),
            parameters.get("name").str()
        )
    } else {
        NONE.into()
    };
    vec![
        name(object),
        get(object, "spec.controller").str().into(),
        text.into(),
        age(object, now),
    ]
}

pub(in super::super) fn policy(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        selector_or_none(&get(object, "spec.podSelector")).into(),
        age(object, now),
    ]
}

pub(in super::super) fn service_cidr(object: &Object, now: Timestamp) -> Vec<Value> {
    let cidrs: Vec<&str> = get(object, "spec.cidrs").strings().collect();
    vec![name(object), cidrs.join(",").into(), age(object, now)]
}

pub(in super::super) fn ip_address(object: &Object, _now: Timestamp) -> Vec<Value> {
    let parent = get(object, "spec.parentRef");
    let text = if parent.present() {
        let mut steps = vec![parent.get("resource").str().to_owned()];
        if !parent.get("group").str().is_empty() {
            steps[0] = format!("{}.{}", steps[0], parent.get("group").str());
        }
        if !parent.get("namespace").str().is_empty() {
            steps.push(parent.get("namespace").str().into());
        }
        steps.push(parent.get("name").str().into());
        steps.join("/")
    } else {
        NONE.into()
    };
    vec![name(object), text.into()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;
    use super::*;

    #[test]
    fn networking_kinds_show_what_they_point_to() {
        check(
            ingress,
            json!({"spec": {"rules": [{"host": "a"}, {}], "tls": [{}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}),
            json!(["x", "<none>", "a", "1.1.1.1", "80, 443", "5m"]),
        );
        check(
            ingress,
            json!({"spec": {}}),
            json!(["x", "<none>", "*", "", "80", "5m"]),
        );
        check(
            ingress_class,
            json!({"spec": {"controller": "a.b/c", "parameters": {"kind": "K", "apiGroup": "g", "name": "n"}}}),
            json!(["x", "a.b/c", "K.g/n", "5m"]),
        );
        check(
            ip_address,
            json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}}}),
            json!(["x", "services/default/kubernetes"]),
        );
    }
}

//! Nodes and their classes and leases.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{NONE, UNKNOWN, age, get, name, or};
use crate::object::Object;

pub(in super::super) fn cells(node: &Object, now: Timestamp) -> Vec<Value> {
    let status = get(node, "status");
    let ready = status
        .get("conditions")
        .items()
        .filter(|c| c.get("type").str() == "Ready")
        .last()
        .map(|c| c.get("status").str() == "True");
    let mut state = match ready {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if get(node, "spec.unschedulable").is_true() {
        state.push_str(",SchedulingDisabled");
    }
    let info = |what: &str| or(status.get("nodeInfo").get(what).str(), UNKNOWN).to_owned();
    vec![
        name(node),
        state.into(),
        roles(node).into(),
        age(node, now),
        status.get("nodeInfo.kubeletVersion").str().into(),
        address(node, "InternalIP").into(),
        address(node, "ExternalIP").into(),
        info("osImage").into(),
        info("kernelVersion").into(),
        info("containerRuntimeVersion").into(),
    ]
}

fn roles(node: &Object) -> String {
    let labels = get(node, "metadata.labels");
    let roles: BTreeSet<&str> = labels
        .entries()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => Some(value.str()),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() {
        NONE.into()
    } else {
        roles.into_iter().collect::<Vec<_>>().join(",")
    }
}

fn address(node: &Object, kind: &str) -> String {
    let addresses = get(node, "status.addresses");
    let found = addresses
        .items()
        .find(|a| a.get("type").str() == kind)
        .map(|a| a.get("address").str().to_owned());
    found.unwrap_or_else(|| NONE.into())
}

pub(in super::super) fn lease(lease: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(lease),
        get(lease, "spec.holderIdentity").str().into(),
        age(lease, now),
    ]
}

pub(in super::super) fn runtime_class(class: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(class), get(class, "handler").str().into(), age(class, now)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;
    use super::*;

    #[test]
    fn a_node_shows_readiness_and_roles() {
        check(
            cells,
            json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}},
                "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                    "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "10.0.0.1"}],
                    "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian"}}}),
            json!([
                "x",
                "NotReady,SchedulingDisabled",
                "edge,worker",
                "5m",
                "v1.36.0",
                "10.0.0.1",
                "<none>",
                "Debian",
                "<unknown>",
                "<unknown>"
            ]),
        );
        check(
            cells,
            json!({}),
            json!([
                "x",
                "Unknown",
                "<none>",
                "5m",
                "",
                "<none>",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ]),
        );
    }
}

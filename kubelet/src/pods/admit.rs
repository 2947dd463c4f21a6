//! Whether this node can take a pod that was assigned to it: the scheduler may have been wrong, or bypassed. Pure.

use std::collections::BTreeMap;

use api::{pod as facts, quantity::Quantity};
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec};

use crate::node::eviction::{self, Pressures, plan::Pressure};

/// The reason of a pod that wants other labels.
pub const AFFINITY: &str = "NodeAffinity";

/// What the node offers.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    pub allocatable: BTreeMap<String, Quantity>,
    pub labels: BTreeMap<String, String>,
    pub name: String,
    /// Sysctls that pods may set here beyond the safe ones.
    pub unsafe_sysctls: Vec<String>,
    /// What it is short of.
    pub pressures: Pressures,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

fn rejected(reason: &str, message: String) -> Option<Rejection> {
    Some(Rejection {
        reason: reason.to_owned(),
        message: format!("Pod was rejected: {message}"),
    })
}

/// `others` are the pods that run or will run here, without this one.
pub fn admit(pod: &Pod, others: &[&Pod], offer: &Offer) -> Option<Rejection> {
    let spec = pod.spec.as_ref()?;
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return rejected(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS".to_owned(),
        );
    }
    if let Some(why) = unwelcome(pod, &offer.pressures) {
        return rejected("Evicted", why);
    }
    if let Some(why) = forbidden_sysctl(spec, &offer.unsafe_sysctls) {
        return rejected("SysctlForbidden", why);
    }
    if !matches_labels(pod, offer) {
        let why = "node(s) didn't match Pod's node affinity/selector";
        return rejected(AFFINITY, format!("Predicate NodeAffinity failed: {why}"));
    }
    let ports = facts::host_ports(spec);
    let taken = others
        .iter()
        .filter_map(|o| o.spec.as_ref())
        .flat_map(facts::host_ports);
    if taken.into_iter().any(|t| ports.iter().any(|p| p.conflicts(&t))) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return rejected("NodePorts", format!("Predicate NodePorts failed: {why}"));
    }
    let short = shortage(spec, others, offer)?;
    rejected(&short.reason, short.message)
}

/// A node that evicts takes nothing new: under memory pressure alone it still takes what asked for memory, and what
/// tolerates the pressure (pkg/kubelet/eviction/eviction_manager.go, 1.36).
fn unwelcome(pod: &Pod, pressures: &Pressures) -> Option<String> {
    if pressures.is_empty() || eviction::is_critical(pod) {
        return None;
    }
    if pressures.iter().all(|p| *p == Pressure::Memory) {
        let class = facts::qos(pod.spec.as_ref()?).ok()?;
        let tolerations = pod
            .spec
            .as_ref()
            .and_then(|s| s.tolerations.as_deref())
            .unwrap_or_default();
        let tolerated = tolerations.iter().any(|t| {
            let effect = t.effect.as_deref().unwrap_or_default();
            let key = t.key.as_deref().unwrap_or_default();
            let all = key.is_empty() && t.operator.as_deref() == Some("Exists");
            (all || key == api::names::well_known::TAINT_MEMORY_PRESSURE) && matches!(effect, "" | "NoSchedule")
        });
        if class != facts::Qos::BestEffort || tolerated {
            return None;
        }
    }
    let named: Vec<&str> = pressures.iter().map(|p| p.condition()).collect();
    Some(format!("The node had condition: [{}]. ", named.join(" ")))
}

/// What the node has too little of for a pod, beside `others`.
pub fn shortage(spec: &PodSpec, others: &[&Pod], offer: &Offer) -> Option<Rejection> {
    let room = |name: &str, wanted: i64, used: i64, capacity: i64| {
        (wanted > 0 && used + wanted > capacity).then(|| Rejection {
            reason: format!("OutOf{name}"),
            message: format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            ),
        })
    };
    if let Some(most) = offer.allocatable.get("pods")
        && let Some(full) = room("pods", 1, others.len() as i64, most.as_i64())
    {
        return Some(full);
    }
    // A pod whose quantities do not parse was not validated by any API server; it asks for nothing that could be counted.
    let wanted = facts::requests(spec).unwrap_or_default();
    for (name, amount) in &wanted {
        let number = |q: &Quantity| if name == "cpu" { q.as_milli() } else { q.as_i64() };
        let Some(capacity) = offer.allocatable.get(name) else {
            // Extended resources that the node does not have are refused, storage that it does not count is not.
            if name.contains('/') && !amount.is_zero() {
                return room(name, number(amount), 0, 0);
            }
            continue;
        };
        let used = others
            .iter()
            .filter_map(|o| facts::requests(o.spec.as_ref()?).ok()?.get(name).map(number))
            .sum();
        if let Some(full) = room(name, number(amount), used, number(capacity)) {
            return Some(full);
        }
    }
    None
}

/// Those of a pod's own namespaces that cannot harm others.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn forbidden_sysctl(spec: &PodSpec, allowed: &[String]) -> Option<String> {
    let wanted = spec.security_context.as_ref()?.sysctls.as_ref()?;
    wanted.iter().find_map(|sysctl| {
        let name = sysctl.name.replace('/', ".");
        let listed = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *pattern,
        };
        if !SAFE_SYSCTLS.contains(&name.as_str()) && !allowed.iter().any(listed) {
            return Some(format!("forbidden sysctl: \"{}\" not allowlisted", sysctl.name));
        }
        // With a namespace of the node's the setting would be the node's too.
        let network = name.starts_with("net.");
        if network && spec.host_network == Some(true) {
            return Some(format!(
                "forbidden sysctl: \"{}\" not allowed with host net enabled",
                sysctl.name
            ));
        }
        if !network && spec.host_ipc == Some(true) {
            return Some(format!(
                "forbidden sysctl: \"{}\" not allowed with host ipc enabled",
                sysctl.name
            ));
        }
        None
    })
}

fn matches_labels(pod: &Pod, offer: &Offer) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| offer.labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|s| s.node_selector_terms.iter().any(|term| matches_term(term, offer)))
}

fn matches_term(term: &NodeSelectorTerm, offer: &Offer) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term without requirements selects nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions
            .iter()
            .all(|r| matches(r, offer.labels.get(&r.key).map(String::as_str)))
        && fields
            .iter()
            .all(|r| matches(r, (r.key == "metadata.name").then_some(offer.name.as_str())))
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(have, want)| have > want),
        "Lt" => numbers().is_some_and(|(have, want)| have < want),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] =
            json!([{"name": "c", "resources": spec["resources"].take(), "ports": spec["ports"].take()}]);
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn offer() -> Offer {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        Offer {
            allocatable: BTreeMap::from([
                ("cpu".to_owned(), quantity("2")),
                ("memory".to_owned(), quantity("1Gi")),
                ("pods".to_owned(), quantity("2")),
            ]),
            labels: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
            name: "n1".to_owned(),
            unsafe_sysctls: vec!["net.core.*".to_owned()],
            pressures: Pressures::new(),
        }
    }

    #[track_caller]
    fn check(spec: serde_json::Value, others: &[&Pod], want: Option<&str>) {
        let got = admit(&pod(spec), others, &offer()).map(|r| r.reason);
        assert_eq!(got.as_deref(), want);
    }

    #[test]
    fn a_pod_that_fits_is_taken_and_one_that_does_not_is_named_for_what_is_short() {
        let busy = pod(json!({"resources": {"requests": {"cpu": "1500m"}}}));
        check(json!({"resources": {"requests": {"cpu": "500m"}}}), &[&busy], None);
        check(
            json!({"resources": {"requests": {"cpu": "501m"}}}),
            &[&busy],
            Some("OutOfcpu"),
        );
        check(
            json!({"resources": {"requests": {"memory": "2Gi"}}}),
            &[],
            Some("OutOfmemory"),
        );
        check(json!({}), &[&busy, &busy], Some("OutOfpods"));
        check(
            json!({"resources": {"requests": {"example.com/gpu": "1"}}}),
            &[],
            Some("OutOfexample.com/gpu"),
        );
    }

    #[test]
    fn labels_and_ports_are_respected() {
        check(json!({"nodeSelector": {"disk": "ssd"}}), &[], None);
        check(json!({"nodeSelector": {"disk": "hdd"}}), &[], Some("NodeAffinity"));
        let port = json!({"ports": [{"containerPort": 80, "hostPort": 8080}]});
        check(port.clone(), &[&pod(port)], Some("NodePorts"));
    }

    #[test]
    fn unsafe_sysctls_and_other_systems_are_refused() {
        let set = |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        check(set("kernel.shm_rmid_forced"), &[], None);
        check(set("net/ipv4/tcp_syncookies"), &[], None);
        check(set("net.core.somaxconn"), &[], None);
        check(set("kernel.msgmax"), &[], Some("SysctlForbidden"));
        let mut host = set("net.ipv4.tcp_syncookies");
        host["hostNetwork"] = json!(true);
        check(host, &[], Some("SysctlForbidden"));
        check(json!({"os": {"name": "windows"}}), &[], Some("PodOSNotSupported"));
        let refused = admit(&pod(set("kernel.msgmax")), &[], &offer()).unwrap();
        assert_eq!(
            refused.message,
            "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted"
        );
    }

    #[test]
    fn the_message_has_the_numbers() {
        let full = admit(&pod(json!({"resources": {"requests": {"cpu": "3"}}})), &[], &offer()).unwrap();
        let want = "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000";
        assert_eq!(full.message, want);
    }
}

//! What a Service has and needs of addresses, read from and written to its tree. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::cidr::Cidr;
use crate::admission::items;
use crate::object::Object;

const NONE: &str = "None";

/// What a Service holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<u16>,
    all: bool,
}

impl Held {
    pub(super) fn of(service: &Object) -> Held {
        let mut held = Held::default();
        if needs_cluster_ip(service) {
            held.addresses = cluster_ips(service).iter().filter_map(|ip| ip.parse().ok()).collect();
        }
        let mut add = |port: i64| {
            if let Ok(port) = u16::try_from(port)
                && port != 0
                && !held.ports.contains(&port)
            {
                held.ports.push(port);
            }
        };
        if needs_node_ports(service) {
            ports(service).iter().for_each(|port| add(port.node_port));
        }
        if needs_health_check_port(service) {
            add(integer(service.at(&["spec", "healthCheckNodePort"])));
        }
        held
    }
    /// Stands for not knowing: nothing is left of what it is taken from.
    pub(super) fn everything() -> Held {
        Held {
            all: true,
            ..Held::default()
        }
    }
    pub(super) fn without(mut self, other: &Held) -> Held {
        self.addresses.retain(|a| !other.all && !other.addresses.contains(a));
        self.ports.retain(|p| !other.all && !other.ports.contains(p));
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn is(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Family::V4)
    }
    fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
    fn word(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
    fn other(self) -> Family {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }
}

/// One of the Service's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) port: i64,
    /// Zero: none.
    pub(super) node_port: i64,
}

fn integer(value: Option<&Value>) -> i64 {
    value.and_then(Value::as_i64).unwrap_or(0)
}

fn kind(service: &Object) -> &str {
    match service.str_at(&["spec", "type"]) {
        "" => "ClusterIP",
        kind => kind,
    }
}

pub(super) fn needs_cluster_ip(service: &Object) -> bool {
    matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer") && !is_headless(service)
}
pub(super) fn needs_node_ports(service: &Object) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}
pub(super) fn needs_health_check_port(service: &Object) -> bool {
    kind(service) == "LoadBalancer" && service.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}
/// A load balancer may do without.
pub(super) fn allocates_node_ports(service: &Object) -> bool {
    kind(service) == "NodePort" || service.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false))
}

fn is_headless(service: &Object) -> bool {
    service.str_at(&["spec", "clusterIP"]) == NONE || cluster_ips(service).first().is_some_and(|ip| ip == NONE)
}

pub(super) fn cluster_ips(service: &Object) -> Vec<String> {
    let list: Vec<String> = items(service.at(&["spec", "clusterIPs"]))
        .filter_map(|ip| ip.as_str().map(str::to_owned))
        .collect();
    match service.str_at(&["spec", "clusterIP"]) {
        ip if list.is_empty() && !ip.is_empty() => vec![ip.to_owned()],
        _ => list,
    }
}

pub(super) fn set_cluster_ips(service: &mut Object, addresses: &[String]) {
    if addresses.is_empty() {
        return;
    }
    let spec = service.entry("spec");
    spec.insert("clusterIP".into(), addresses[0].as_str().into());
    spec.insert("clusterIPs".into(), json!(addresses));
}

pub(super) fn families(service: &Object) -> Vec<Family> {
    items(service.at(&["spec", "ipFamilies"]))
        .filter_map(|word| match word.as_str()? {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        })
        .collect()
}

pub(super) fn ports(service: &Object) -> Vec<Port> {
    items(service.at(&["spec", "ports"]))
        .map(|port| Port {
            name: port["name"].as_str().unwrap_or_default().to_owned(),
            port: integer(port.get("port")),
            node_port: integer(port.get("nodePort")),
        })
        .collect()
}

pub(super) fn set_node_ports(service: &mut Object, ports: &[Port]) {
    let list = service.entry("spec").get_mut("ports").and_then(Value::as_array_mut);
    for (slot, port) in list.into_iter().flatten().zip(ports) {
        if port.node_port != 0 {
            slot["nodePort"] = port.node_port.into();
        }
    }
}

/// Fills in what follows from the rest: the list of cluster IPs from the one, families and their policy from the
/// addresses and the cluster; on an update what the client left out and the old Service has.
pub(super) fn normalize(new: &mut Object, old: Option<&Object>, ranges: &[Cidr]) {
    if let Some(old) = old {
        follow_the_one(new, old);
        keep(new, old);
    }
    match kind(new) {
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        // An external name has no addresses; those it had are dropped with its old type.
        _ => {
            if old.is_some_and(|old| kind(old) != kind(new)) {
                let spec = new.entry("spec");
                for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                    spec.remove(field);
                }
            }
            return;
        }
    }
    if !needs_node_ports(new) && old.is_some_and(needs_node_ports) {
        drop_node_ports(new, old);
    }
    if !needs_health_check_port(new) && old.is_some_and(needs_health_check_port) {
        new.entry("spec").remove("healthCheckNodePort");
    }
    let one = new.str_at(&["spec", "clusterIP"]).to_owned();
    let list = cluster_ips(new);
    let spec = new.entry("spec");
    if !one.is_empty() && items(spec.get("clusterIPs")).next().is_none() {
        spec.insert("clusterIPs".into(), json!([one]));
    } else if one.is_empty()
        && let Some(first) = list.first().filter(|_| old.is_none())
    {
        spec.insert("clusterIP".into(), first.as_str().into());
    }
    set_families(new, ranges);
}

/// Node ports that the Service had only because of its type go with it, as upstream's dropTypeDependentFields.
fn drop_node_ports(new: &mut Object, old: Option<&Object>) {
    let had: Vec<i64> = old.map(ports).unwrap_or_default().iter().map(|p| p.node_port).collect();
    let list = new.entry("spec").get_mut("ports").and_then(Value::as_array_mut);
    for port in list.into_iter().flatten() {
        if had.contains(&integer(port.get("nodePort")))
            && let Some(port) = port.as_object_mut()
        {
            port.remove("nodePort");
        }
    }
}

/// As normalizeClusterIPs (1.36): who changes the one address and leaves the list as it is means the list too.
fn follow_the_one(new: &mut Object, old: &Object) {
    let one = new.str_at(&["spec", "clusterIP"]).to_owned();
    let list = |service: &Object| service.at(&["spec", "clusterIPs"]).cloned();
    if one == old.str_at(&["spec", "clusterIP"]) || list(new) != list(old) {
        return;
    }
    let spec = new.entry("spec");
    if one.is_empty() {
        spec.remove("clusterIPs");
    } else {
        spec.insert("clusterIPs".into(), json!([one]));
    }
}

/// As patchAllocatedValues (1.36).
fn keep(new: &mut Object, old: &Object) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        let had = old.str_at(&["spec", "clusterIP"]).to_owned();
        let list = cluster_ips(old);
        let spec = new.entry("spec");
        if spec
            .get("clusterIP")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty()
        {
            spec.insert("clusterIP".into(), had.as_str().into());
        }
        if items(spec.get("clusterIPs")).next().is_none() && spec["clusterIP"] == had.as_str() {
            spec.insert("clusterIPs".into(), json!(list));
        }
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if kind(old) != "ExternalName"
            && new.at(&["spec", field]).is_none()
            && let Some(value) = old.at(&["spec", field])
        {
            new.entry("spec").insert(field.into(), value.clone());
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        let had = ports(old);
        let mut list = ports(new);
        let mut used: Vec<i64> = had
            .iter()
            .map(|port| port.node_port)
            .filter(|port| list.iter().any(|other| other.node_port == *port))
            .collect();
        let by_name: HashMap<&str, i64> = had.iter().map(|port| (port.name.as_str(), port.node_port)).collect();
        for port in list.iter_mut().filter(|port| port.node_port == 0) {
            if let Some(before) = by_name.get(port.name.as_str())
                && !used.contains(before)
            {
                port.node_port = *before;
                used.push(*before);
            }
        }
        set_node_ports(new, &list);
    }
    if needs_health_check_port(old)
        && needs_health_check_port(new)
        && integer(new.at(&["spec", "healthCheckNodePort"])) == 0
        && let Some(port) = old.at(&["spec", "healthCheckNodePort"])
    {
        new.entry("spec").insert("healthCheckNodePort".into(), port.clone());
    }
}

/// As initIPFamilyFields (1.36).
fn set_families(service: &mut Object, ranges: &[Cidr]) {
    let Some(primary) = ranges.first().map(|range| Family::of(range.network)) else {
        return;
    };
    let addresses = cluster_ips(service);
    let mut families = families(service);
    let said = service.str_at(&["spec", "ipFamilyPolicy"]).to_owned();
    let headless_without_selector = is_headless(service)
        && service
            .at(&["spec", "selector"])
            .and_then(Value::as_object)
            .is_none_or(serde_json::Map::is_empty);
    let policy = match said.as_str() {
        "" if addresses.len() > 1 || families.len() > 1 || headless_without_selector => "RequireDualStack",
        "" => "SingleStack",
        said => said,
    };
    // The families of addresses that are named are those of the addresses.
    for (at, address) in addresses.iter().enumerate() {
        if at >= families.len()
            && let Ok(address) = address.parse()
        {
            families.push(Family::of(address));
        }
    }
    if families.is_empty() {
        families.push(primary);
    }
    let dual = match policy {
        "RequireDualStack" => true,
        // Without a second range there is nothing to prefer.
        "PreferDualStack" => ranges.len() > 1 || headless_without_selector,
        _ => false,
    };
    if dual && families.len() == 1 {
        families.push(families[0].other());
    }
    // A dual-stack Service in a single-stack cluster is refused by validation, unless nothing is allocated for it.
    let list: Vec<&str> = families.iter().map(|family| family.word()).collect();
    let spec = service.entry("spec");
    spec.insert("ipFamilyPolicy".into(), policy.into());
    spec.insert("ipFamilies".into(), json!(list));
}

//! Services and EndpointSlices as the packets see them: which addresses lead to which endpoints.
//!
//! Pure: objects come in, ports with their eligible endpoints go out. Which rules that makes is not known here.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use api::names::well_known;
use k8s_openapi::api::core::v1::{Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};

use crate::cidr::Cidr;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// Where a connection can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: Ipv4Addr,
    pub port: u16,
}

/// From which endpoints one is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reach {
    /// From all of the cluster.
    All,
    /// From those of this node.
    Near,
}

/// One port of a Service with what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The cluster IP; unspecified for a port of the node that a pod asked for.
    pub address: Ipv4Addr,
    pub protocol: u8,
    pub port: u16,
    pub node_port: Option<u16>,
    /// Further addresses that lead here: external IPs.
    pub externals: Vec<Ipv4Addr>,
    /// Addresses of load balancers that lead here; `sources` may restrict who uses them.
    pub balancers: Vec<Ipv4Addr>,
    pub sources: Vec<Cidr>,
    pub internal: Reach,
    pub external: Reach,
    /// Seconds for which a client stays with its endpoint.
    pub sticky: Option<u32>,
    /// Sorted, without duplicates.
    pub all: Vec<Endpoint>,
    /// Those of this node; only filled where a policy asks for them.
    pub near: Vec<Endpoint>,
    /// Addresses of endpoints on this node, which may be connected to themselves.
    pub here: Vec<Ipv4Addr>,
}

/// What a load balancer's health check of this node is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub port: u16,
    pub near: usize,
}

/// Whether this proxy is responsible for the Service.
pub fn is_ours(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let labelled = |name| labels.is_some_and(|l| l.contains_key(name));
    let Some(spec) = &service.spec else { return false };
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or("");
    !labelled(well_known::SERVICE_PROXY_NAME)
        && !labelled(well_known::HEADLESS)
        && spec.type_.as_deref() != Some("ExternalName")
        && !matches!(cluster_ip, "" | "None")
}

fn protocol(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(TCP),
        "UDP" => Some(UDP),
        "SCTP" => Some(SCTP),
        _ => None,
    }
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|p| *p != 0)
}

fn cluster_ip(spec: &ServiceSpec) -> Option<Ipv4Addr> {
    let several = spec.cluster_ips.iter().flatten();
    several.chain(spec.cluster_ip.iter()).find_map(|ip| ip.parse().ok())
}

/// The ports of a Service with their endpoints, as seen from `node`.
pub fn ports<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice> + Clone,
    node: &str,
) -> Vec<ServicePort> {
    if !is_ours(service) {
        return Vec::new();
    }
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(address) = cluster_ip(spec) else {
        return Vec::new();
    };
    let near = |policy: Option<&str>| {
        if policy == Some("Local") {
            Reach::Near
        } else {
            Reach::All
        }
    };
    let addresses = |all: Option<&Vec<String>>| -> Vec<Ipv4Addr> {
        let mut all: Vec<_> = all.into_iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
        all.sort();
        all.dedup();
        all
    };
    let externals = addresses(spec.external_ips.as_ref());
    let mut balancers = balancers(service);
    balancers.retain(|ip| !externals.contains(ip));
    let sources: Vec<Cidr> = match spec.type_.as_deref() {
        Some("LoadBalancer") => spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter_map(|range| range.parse().ok())
            .collect(),
        _ => Vec::new(),
    };
    let sticky = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        config
            .and_then(|c| c.timeout_seconds)
            .and_then(|s| u32::try_from(s).ok())
            .unwrap_or(10_800)
    });
    let internal = near(spec.internal_traffic_policy.as_deref());
    // The field may be left over from another type.
    let outward = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) || !externals.is_empty();
    let external = if outward {
        near(spec.external_traffic_policy.as_deref())
    } else {
        Reach::All
    };

    let mut ports = Vec::new();
    for wanted in spec.ports.iter().flatten() {
        let (Some(protocol), Some(number)) = (protocol(wanted.protocol.as_deref()), port(wanted.port)) else {
            continue;
        };
        let name = wanted.name.as_deref().unwrap_or("");
        let found = endpoints(slices.clone(), name, protocol, node);
        let uses_near = internal == Reach::Near || external == Reach::Near;
        ports.push(ServicePort {
            address,
            protocol,
            port: number,
            node_port: wanted.node_port.and_then(port),
            externals: externals.clone(),
            balancers: balancers.clone(),
            sources: sources.clone(),
            internal,
            external,
            sticky,
            all: eligible(found.iter()),
            near: if uses_near {
                eligible(found.iter().filter(|(_, state)| state.here))
            } else {
                Vec::new()
            },
            here: {
                let mut here: Vec<_> = found.iter().filter(|(_, s)| s.here).map(|(e, _)| e.address).collect();
                here.dedup();
                here
            },
        });
    }
    ports
}

fn balancers(service: &Service) -> Vec<Ipv4Addr> {
    if service.spec.as_ref().and_then(|s| s.type_.as_deref()) != Some("LoadBalancer") {
        return Vec::new();
    }
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = status.and_then(|l| l.ingress.as_deref()).unwrap_or_default();
    // A balancer in mode Proxy wants to see the packets itself.
    let direct = ingress.iter().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    let mut all: Vec<_> = direct.filter_map(|i| i.ip.as_deref()?.parse().ok()).collect();
    all.sort();
    all.dedup();
    all
}

#[derive(Debug, Clone, Copy)]
struct State {
    ready: bool,
    serving: bool,
    terminating: bool,
    here: bool,
}

impl State {
    fn of(endpoint: &SliceEndpoint, node: &str) -> Self {
        let conditions = endpoint.conditions.as_ref();
        // Absent means yes: only a controller that knows better writes it.
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        Self {
            ready,
            serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
            here: endpoint.node_name.as_deref() == Some(node),
        }
    }
}

fn endpoints<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    name: &str,
    wanted: u8,
    node: &str,
) -> BTreeMap<Endpoint, State> {
    let mut found = BTreeMap::new();
    for slice in slices {
        if slice.address_type != "IPv4" {
            continue;
        }
        let mut ports = slice.ports.iter().flatten();
        let matching =
            ports.find(|p| p.name.as_deref().unwrap_or("") == name && protocol(p.protocol.as_deref()) == Some(wanted));
        let Some(port) = matching.and_then(|p| p.port).and_then(port) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else {
                continue;
            };
            let state = State::of(endpoint, node);
            // While slices are rearranged an endpoint may be in two: the better word counts.
            let entry = found.entry(Endpoint { address, port }).or_insert(state);
            if state.ready && !entry.ready {
                *entry = state;
            }
        }
    }
    found
}

/// The ready ones; where there are none, those that end but still serve: refusing would help nobody.
fn eligible<'a>(found: impl Iterator<Item = (&'a Endpoint, &'a State)> + Clone) -> Vec<Endpoint> {
    let ready: Vec<_> = found.clone().filter(|(_, s)| s.ready).map(|(e, _)| *e).collect();
    if !ready.is_empty() {
        return ready;
    }
    found
        .filter(|(_, s)| s.serving && s.terminating)
        .map(|(e, _)| *e)
        .collect()
}

/// The health check that a load balancer makes of this node for the Service.
pub fn check(service: &Service, ports: &[ServicePort]) -> Option<Check> {
    let spec = service.spec.as_ref()?;
    let wanted =
        spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local");
    let port = spec.health_check_node_port.and_then(port).filter(|_| wanted)?;
    Some(Check {
        port,
        near: ports.iter().map(|p| p.near.len()).max().unwrap_or(0),
    })
}

/// Ports of the node that a running pod of this node asked for, as services with one endpoint.
pub fn host_ports(pod: &Pod) -> Vec<ServicePort> {
    let (Some(spec), false, false) = (&pod.spec, api::pod::is_terminal(pod), api::pod::is_host_network(pod)) else {
        return Vec::new();
    };
    let ip = pod
        .status
        .as_ref()
        .and_then(|s| s.pod_ip.as_deref())
        .and_then(|ip| ip.parse::<Ipv4Addr>().ok());
    let Some(ip) = ip else { return Vec::new() };
    api::pod::host_ports(spec)
        .into_iter()
        .filter_map(|wanted| {
            let address: Option<Ipv4Addr> = if wanted.ip.is_empty() {
                None
            } else {
                Some(wanted.ip.parse().ok()?)
            };
            let endpoint = Endpoint {
                address: ip,
                port: wanted.container_port,
            };
            Some(ServicePort {
                address: address.filter(|a| !a.is_unspecified()).unwrap_or(Ipv4Addr::UNSPECIFIED),
                protocol: protocol(Some(&wanted.protocol))?,
                port: wanted.port,
                node_port: None,
                externals: Vec::new(),
                balancers: Vec::new(),
                sources: Vec::new(),
                internal: Reach::All,
                external: Reach::All,
                sticky: None,
                all: vec![endpoint],
                near: Vec::new(),
                here: vec![ip],
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;

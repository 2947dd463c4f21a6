//! Facts of a pod: what it asks for, how it is doing, which ports of the host it wants.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodCondition, PodSpec, ResourceRequirements};

use crate::condition;
use crate::names::well_known;
use crate::quantity::{self, Quantity};

/// Amounts by resource name.
pub type Resources = BTreeMap<String, Quantity>;

type Wire = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

/// Quality of service: who is killed first when memory runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Qos {
    /// Asks for nothing.
    BestEffort,
    /// Asks for something.
    Burstable,
    /// Every container has equal requests and limits of CPU and memory.
    Guaranteed,
}

impl Qos {
    /// As the status spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        }
    }
}

fn parse(amounts: Option<&Wire>) -> Result<Resources, quantity::Error> {
    amounts
        .into_iter()
        .flatten()
        .map(|(name, text)| Ok((name.clone(), Quantity::parse(&text.0)?)))
        .collect()
}

fn add(to: &mut Resources, amounts: &Resources) {
    for (name, amount) in amounts {
        *to.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(to: &mut Resources, amounts: &Resources) {
    for (name, amount) in amounts {
        let have = to.entry(name.clone()).or_default();
        if *amount > *have {
            *have = *amount;
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Requests,
    Limits,
}

impl Side {
    fn of(self, resources: Option<&ResourceRequirements>) -> Result<Resources, quantity::Error> {
        let resources = resources.map(|r| match self {
            Self::Requests => (r.requests.as_ref(), r.limits.as_ref()),
            Self::Limits => (r.limits.as_ref(), None),
        });
        let Some((own, fallback)) = resources else {
            return Ok(Resources::new());
        };
        // A limit without a request is the request too; the API server writes that down, static pods do not.
        let mut amounts = parse(fallback)?;
        amounts.extend(parse(own)?);
        Ok(amounts)
    }
}

/// Whether an init container keeps running beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Containers that run side by side are summed; an init container needs its own amount plus that of the sidecars started before it.
fn total(spec: &PodSpec, side: Side) -> Result<Resources, quantity::Error> {
    let mut sum = Resources::new();
    for container in &spec.containers {
        add(&mut sum, &side.of(container.resources.as_ref())?);
    }
    let mut sidecars = Resources::new();
    let mut peak = Resources::new();
    for container in spec.init_containers.iter().flatten() {
        let amounts = side.of(container.resources.as_ref())?;
        if is_sidecar(container) {
            add(&mut sum, &amounts);
            add(&mut sidecars, &amounts);
            raise(&mut peak, &sidecars);
        } else {
            let mut together = sidecars.clone();
            add(&mut together, &amounts);
            raise(&mut peak, &together);
        }
    }
    raise(&mut sum, &peak);
    // Resources of the pod as a whole stand above the sum of its containers, for what they name.
    let whole = side.of(spec.resources.as_ref())?;
    sum.extend(whole);
    if let Some(overhead) = &spec.overhead {
        let overhead = parse(Some(overhead))?;
        match side {
            Side::Requests => add(&mut sum, &overhead),
            // No limit means no limit; overhead does not make one.
            Side::Limits => {
                for (name, amount) in overhead {
                    if let Some(have) = sum.get_mut(&name).filter(|q| !q.is_zero()) {
                        *have += amount;
                    }
                }
            }
        }
    }
    Ok(sum)
}

/// What a node must have for the pod: the scheduler's and the kubelet's number.
pub fn requests(spec: &PodSpec) -> Result<Resources, quantity::Error> {
    total(spec, Side::Requests)
}

/// What the pod may use at most, for what it names.
pub fn limits(spec: &PodSpec) -> Result<Resources, quantity::Error> {
    total(spec, Side::Limits)
}

/// The pod's quality of service.
pub fn qos(spec: &PodSpec) -> Result<Qos, quantity::Error> {
    let counted = |amounts: Option<&Wire>| -> Result<Resources, quantity::Error> {
        let mut all = parse(amounts)?;
        all.retain(|name, amount| matches!(name.as_str(), "cpu" | "memory") && *amount > Quantity::ZERO);
        Ok(all)
    };
    let whole = spec
        .resources
        .as_ref()
        .filter(|r| r.requests.is_some() || r.limits.is_some());
    let parts: Vec<Option<&ResourceRequirements>> = match whole {
        Some(whole) => vec![Some(whole)],
        None => spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .map(|c| c.resources.as_ref())
            .collect(),
    };
    let (mut any, mut all) = (false, true);
    for resources in parts {
        let limits = counted(resources.and_then(|r| r.limits.as_ref()))?;
        let mut requests = limits.clone();
        requests.extend(counted(resources.and_then(|r| r.requests.as_ref()))?);
        any |= !requests.is_empty() || !limits.is_empty();
        all &= limits.len() == 2 && requests == limits;
    }
    Ok(match (any, all) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    })
}

fn conditions(pod: &Pod) -> Option<&[PodCondition]> {
    pod.status.as_ref()?.conditions.as_deref()
}

/// Whether the pod says that it is ready to serve.
pub fn is_ready(pod: &Pod) -> bool {
    condition::is(conditions(pod), "Ready", "True")
}

/// Whether the pod has been ready for this many seconds at the time `now` (seconds since 1970).
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: i64) -> bool {
    let Some(ready) = condition::find(conditions(pod), "Ready").filter(|c| c.status == "True") else {
        return false;
    };
    let since = ready.last_transition_time.as_ref().map(|t| t.0.as_second());
    min_ready_seconds <= 0 || since.is_some_and(|s| s + i64::from(min_ready_seconds) <= now)
}

/// The pod's phase; empty before anybody wrote one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Whether the pod has ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether somebody asked for the pod's deletion.
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod counts as one of its controller's: not ended, not being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_deleting(pod)
}

/// The node that the pod is bound to.
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// Whether the object mirrors a pod that a kubelet has from a file.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key(well_known::CONFIG_MIRROR))
}

/// Whether the pod uses the node's own network.
pub fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true))
}

/// A port of the node that a pod wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The node's address, empty for all.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The node's port.
    pub port: u16,
    /// The container's port.
    pub container_port: u16,
}

impl HostPort {
    /// Whether two pods with these ports cannot share a node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let wild = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (wild(&self.ip) || wild(&other.ip) || self.ip == other.ip)
    }
}

/// The ports of the node that the pod's containers want, sidecars included.
pub fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let wanted = |port: &ContainerPort| {
        let host = port.host_port.filter(|p| *p > 0).and_then(|p| u16::try_from(p).ok())?;
        Some(HostPort {
            ip: port.host_ip.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: host,
            container_port: u16::try_from(port.container_port).ok()?,
        })
    };
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(wanted)
        .collect()
}

/// The number of a container's port with this name.
pub fn named_port(spec: &PodSpec, name: &str, protocol: &str) -> Option<i32> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .find(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|p| p.container_port)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn shown(resources: Resources) -> String {
        resources
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn requests_cover_the_worst_moment() {
        let pod = spec(json!({
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}}},
                {"name": "b", "resources": {"limits": {"cpu": "200m"}}},
            ],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "1"}}},
            ],
            "overhead": {"cpu": "10m", "memory": "1Mi"},
        }));
        assert_eq!(shown(requests(&pod).unwrap()), "cpu=1060m memory=1025Mi");
        assert_eq!(shown(limits(&pod).unwrap()), "cpu=210m");
        assert!(
            requests(&spec(
                json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "x"}}}]})
            ))
            .is_err()
        );
    }

    #[test]
    fn pod_level_resources_stand_above_containers() {
        let pod = spec(json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m", "x/y": "1"}}}],
            "resources": {"requests": {"cpu": "2"}},
        }));
        assert_eq!(shown(requests(&pod).unwrap()), "cpu=2 x/y=1");
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        for (resources, want) in [
            (json!([{}]), Qos::BestEffort),
            (json!([{"requests": {"example.com/gpu": "1"}}]), Qos::BestEffort),
            (json!([{"requests": {"cpu": "0"}}]), Qos::BestEffort),
            (json!([{"requests": {"cpu": "1"}}]), Qos::Burstable),
            (json!([{"limits": {"cpu": "1"}}]), Qos::Burstable),
            (json!([{"limits": {"cpu": "1", "memory": "1Gi"}}]), Qos::Guaranteed),
            (json!([full]), Qos::Guaranteed),
            (json!([full, {}]), Qos::Burstable),
            (
                json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1m"}}]),
                Qos::Burstable,
            ),
        ] {
            let containers: Vec<_> = resources
                .as_array()
                .unwrap()
                .iter()
                .map(|r| json!({"name": "c", "resources": r}))
                .collect();
            assert_eq!(
                qos(&spec(json!({"containers": containers}))).unwrap(),
                want,
                "{resources}"
            );
        }
    }

    #[test]
    fn ready_and_available() {
        let pod: Pod = serde_json::from_value(json!({"status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:01:40Z"}]}}))
        .unwrap();
        assert!(is_ready(&pod) && is_active(&pod) && !is_terminal(&pod));
        assert!(is_available(&pod, 0, 0) && is_available(&pod, 10, 110) && !is_available(&pod, 10, 109));
        assert!(!is_ready(&Pod::default()));
    }

    #[test]
    fn host_ports_conflict_by_address_protocol_and_port() {
        let port = |ip: &str, protocol: &str, port| HostPort {
            ip: ip.into(),
            protocol: protocol.into(),
            port,
            container_port: 80,
        };
        assert!(port("", "TCP", 80).conflicts(&port("10.0.0.1", "TCP", 80)));
        assert!(!port("10.0.0.2", "TCP", 80).conflicts(&port("10.0.0.1", "TCP", 80)));
        assert!(!port("", "UDP", 80).conflicts(&port("", "TCP", 80)));
        let pod = spec(json!({
            "containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080, "name": "http"}, {"containerPort": 81}]}],
            "initContainers": [{"name": "i", "ports": [{"containerPort": 1, "hostPort": 1}]}],
        }));
        assert_eq!(host_ports(&pod), [port("", "TCP", 8080)]);
        assert_eq!(named_port(&pod, "http", "TCP"), Some(80));
        assert_eq!(named_port(&pod, "http", "UDP"), None);
    }
}

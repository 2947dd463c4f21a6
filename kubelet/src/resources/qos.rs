//! CPU and memory quantities as shares, quotas, bytes and OOM scores. Pure.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use api::pod::Qos;

use crate::runtime::LinuxResources;

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// In microseconds.
pub const PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1_000;

pub fn qos(pod: &Pod) -> Qos {
    // A quantity that does not parse cannot have passed the API's validation; the weakest class is the safe reading.
    pod.spec
        .as_ref()
        .and_then(|spec| api::pod::qos(spec).ok())
        .unwrap_or(Qos::BestEffort)
}

pub fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

pub fn quota(milli_cpu: i64) -> i64 {
    (milli_cpu * PERIOD / 1000).max(MIN_QUOTA)
}

/// cgroup v2's weight (1..=10000) for v1's shares (2..=262144): the curve that runtimes use since 2025 keeps 1024 shares at 100.
pub fn weight(shares: i64) -> i64 {
    let l = (shares.clamp(MIN_SHARES, MAX_SHARES) as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as i64
}

pub fn milli(quantity: Option<&Quantity>) -> Option<i64> {
    api::quantity::Quantity::parse(&quantity?.0).ok().map(|q| q.as_milli())
}

pub fn whole(quantity: Option<&Quantity>) -> Option<i64> {
    api::quantity::Quantity::parse(&quantity?.0).ok().map(|q| q.as_i64())
}

fn request<'a>(resources: Option<&'a ResourceRequirements>, name: &str) -> Option<&'a Quantity> {
    resources?.requests.as_ref()?.get(name)
}

fn limit<'a>(resources: Option<&'a ResourceRequirements>, name: &str) -> Option<&'a Quantity> {
    resources?.limits.as_ref()?.get(name)
}

/// What one container gets. `node_memory` in bytes is for the OOM score.
pub fn container(pod: &Pod, container: &Container, node_memory: i64) -> LinuxResources {
    let resources = container.resources.as_ref();
    let cpu_limit = milli(limit(resources, "cpu")).filter(|&m| m > 0);
    // Without a request the limit stands in for it, as the API server's defaulting does too.
    let cpu_request = milli(request(resources, "cpu")).or(cpu_limit).unwrap_or(0);
    LinuxResources {
        cpu_period: PERIOD,
        cpu_quota: cpu_limit.map_or(0, quota),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: whole(limit(resources, "memory")).unwrap_or(0),
        oom_score_adj: oom_score(pod, container, node_memory),
        ..LinuxResources::default()
    }
}

/// What a runtime class says that the pod costs besides its containers.
pub fn overhead(overhead: &std::collections::BTreeMap<String, Quantity>) -> LinuxResources {
    let milli = milli(overhead.get("cpu")).unwrap_or(0);
    LinuxResources {
        cpu_period: PERIOD,
        cpu_quota: if milli > 0 { quota(milli) } else { 0 },
        cpu_shares: shares(milli),
        memory_limit_in_bytes: whole(overhead.get("memory")).unwrap_or(0),
        ..LinuxResources::default()
    }
}

/// Upstream's GetContainerOOMScoreAdjust: the less a burstable container asked for, the sooner it is killed.
pub fn oom_score(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    let critical = pod
        .spec
        .as_ref()
        .and_then(|s| s.priority)
        .is_some_and(|p| p >= 2_000_000_000);
    if critical {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let asked = whole(request(container.resources.as_ref(), "memory")).unwrap_or(0);
            let score = if node_memory > 0 {
                1000 - 1000 * asked / node_memory
            } else {
                999
            };
            if score < 3 { 3 } else { score.min(999) }
        }
    }
}

/// What a whole pod gets in its own cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PodResources {
    pub cpu_shares: i64,
    /// None: no limit.
    pub cpu_quota: Option<i64>,
    pub memory: Option<i64>,
}

pub fn pod(pod: &Pod) -> PodResources {
    let Some(spec) = pod.spec.as_ref() else {
        return PodResources::default();
    };
    let total = |all: Result<api::pod::Resources, api::quantity::Error>, name: &str, milli: bool| {
        let all = all.ok()?;
        let quantity = all.get(name)?;
        Some(if milli { quantity.as_milli() } else { quantity.as_i64() })
    };
    // A pod is limited only when each of its containers is.
    let every = |name: &str| {
        let inits = spec.init_containers.iter().flatten();
        spec.containers
            .iter()
            .chain(inits)
            .all(|c| limit(c.resources.as_ref(), name).is_some())
    };
    let whole_pod = |name: &str| {
        spec.resources
            .as_ref()
            .and_then(|r| r.limits.as_ref())
            .is_some_and(|l| l.contains_key(name))
    };
    let limited = |name: &str| every(name) || whole_pod(name);
    let cpu = total(api::pod::requests(spec), "cpu", true).unwrap_or(0);
    PodResources {
        cpu_shares: if qos(pod) == Qos::BestEffort {
            MIN_SHARES
        } else {
            shares(cpu)
        },
        cpu_quota: limited("cpu")
            .then(|| total(api::pod::limits(spec), "cpu", true).map(quota))
            .flatten(),
        memory: limited("memory")
            .then(|| total(api::pod::limits(spec), "memory", false))
            .flatten(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod_of(resources: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "resources": resources}]}
        }))
        .unwrap()
    }

    #[test]
    fn shares_and_quota_follow_milli_cpus() {
        assert_eq!(shares(0), 2);
        assert_eq!(shares(100), 102);
        assert_eq!(shares(1000), 1024);
        assert_eq!(quota(500), 50_000);
        assert_eq!(quota(1), 1_000);
    }

    #[test]
    fn weights_keep_the_ends_and_the_middle_of_shares() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 100);
        assert_eq!(weight(262_144), 10_000);
    }

    #[test]
    fn oom_scores_follow_the_class() {
        let check = |resources, want| {
            let pod = pod_of(resources);
            assert_eq!(
                oom_score(&pod, &pod.spec.as_ref().unwrap().containers[0], 8 << 30),
                want
            );
        };
        check(json!({}), 1000);
        check(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}),
            -997,
        );
        check(json!({"requests": {"memory": "4Gi"}}), 500);
        check(json!({"requests": {"cpu": "1"}}), 999);
    }

    #[test]
    fn a_pod_is_limited_only_when_each_container_is() {
        let mut pod_spec = pod_of(json!({"limits": {"cpu": "500m", "memory": "64Mi"}}));
        assert_eq!(pod(&pod_spec).memory, Some(64 << 20));
        assert_eq!(pod(&pod_spec).cpu_quota, Some(50_000));
        let other = pod_of(json!({})).spec.unwrap().containers.remove(0);
        pod_spec.spec.as_mut().unwrap().containers.push(other);
        assert_eq!(pod(&pod_spec).memory, None);
        assert_eq!(pod(&pod_spec).cpu_quota, None);
    }
}

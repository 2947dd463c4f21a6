//! One reading of everything that counts by itself: the node, each pod with its containers, their networks.

use std::{collections::HashMap, fs, sync::Arc};

use api::pod::Qos;
use daemon::informer::Entry;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    pods::shared::Shared,
    resources::{
        qos,
        usage::{Memory, Usage},
    },
    runtime::{self, Container, ContainerState, ContainerStats, FilesystemUsage, label},
};

#[derive(Debug, Clone, Default)]
pub struct Sample {
    pub at: Timestamp,
    pub node: Usage,
    /// All pods together.
    pub pods_total: Usage,
    pub network: Vec<Interface>,
    /// In the order of namespaces and names.
    pub pods: Vec<PodSample>,
}

#[derive(Debug, Clone, Default)]
pub struct PodSample {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub started: Option<Timestamp>,
    pub usage: Usage,
    /// In the order of their names.
    pub containers: Vec<ContainerSample>,
    /// None where it has the node's network.
    pub network: Option<Vec<Interface>>,
}

#[derive(Debug, Clone, Default)]
pub struct ContainerSample {
    pub name: String,
    pub id: String,
    pub image: String,
    pub attempt: u32,
    pub started: Timestamp,
    pub usage: Usage,
    pub layer: Option<FilesystemUsage>,
}

/// A line of /proc/net/dev.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    pub name: String,
    pub received: u64,
    pub receive_errors: u64,
    pub sent: u64,
    pub send_errors: u64,
}

impl Sample {
    pub fn pod(&self, uid: &str) -> Option<&PodSample> {
        self.pods.iter().find(|p| p.uid == uid)
    }
}

impl PodSample {
    pub fn container(&self, id: &str) -> Option<&ContainerSample> {
        self.containers.iter().find(|c| c.id == id)
    }
}

pub async fn take(shared: &Shared) -> Result<Sample, runtime::Error> {
    let containers = shared.runtime.containers(None).await?;
    let stats = shared.runtime.stats().await?;
    Ok(made(shared, containers, stats))
}

fn made(shared: &Shared, containers: Vec<Container>, stats: Vec<ContainerStats>) -> Sample {
    let stats: HashMap<String, ContainerStats> = stats
        .into_iter()
        .filter_map(|s| Some((s.attributes.as_ref()?.id.clone(), s)))
        .collect();
    let mut by_pod: HashMap<String, Vec<Container>> = HashMap::new();
    for container in containers {
        if container.state == ContainerState::Running as i32
            && let Some(uid) = container.labels.get(label::POD_UID)
        {
            by_pod.entry(uid.clone()).or_default().push(container);
        }
    }
    let cgroups = &shared.cgroups;
    let mut pods: Vec<PodSample> = Vec::new();
    for entry in shared.entries() {
        let Some(running) = by_pod.remove(&*entry.uid) else {
            continue;
        };
        if let Ok(pod) = entry.typed() {
            pods.push(pod_sample(shared, &entry, &pod, running, &stats));
        }
    }
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Sample {
        at: Timestamp::now(),
        node: cgroups.node_usage(),
        pods_total: cgroups.pods_usage(),
        network: interfaces(&fs::read_to_string("/proc/net/dev").unwrap_or_default()),
        pods,
    }
}

fn pod_sample(
    shared: &Shared,
    entry: &Arc<Entry<Pod>>,
    pod: &Pod,
    running: Vec<Container>,
    stats: &HashMap<String, ContainerStats>,
) -> PodSample {
    let class = qos::qos(pod);
    let mut containers: Vec<ContainerSample> = running
        .into_iter()
        .map(|container| container_sample(shared, &entry.uid, class, container, stats))
        .collect();
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    let own = shared.cgroups.pod_usage(&entry.uid, class);
    let host = pod.spec.as_ref().is_some_and(crate::pods::translate::host_network);
    let network = || {
        let pid = shared.cgroups.pod_process(&entry.uid, class)?;
        Some(interfaces(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?))
    };
    PodSample {
        namespace: entry.namespace.to_string(),
        name: entry.name.to_string(),
        uid: entry.uid.to_string(),
        started: pod.status.as_ref().and_then(|s| Some(s.start_time.as_ref()?.0)),
        usage: own.unwrap_or_else(|| total(&containers)),
        containers,
        network: if host { None } else { network() },
    }
}

fn container_sample(
    shared: &Shared,
    uid: &str,
    class: Qos,
    container: Container,
    stats: &HashMap<String, ContainerStats>,
) -> ContainerSample {
    let told = stats.get(&container.id);
    // The cgroup says more, and at a time that we know.
    let own = shared.cgroups.container_usage(uid, class, &container.id);
    let metadata = container.metadata.unwrap_or_default();
    ContainerSample {
        name: metadata.name,
        attempt: metadata.attempt,
        image: container.image.map(|i| i.image).unwrap_or_default(),
        started: stamp(container.created_at),
        usage: own.or_else(|| told.map(of_runtime)).unwrap_or_default(),
        layer: told.and_then(|s| s.writable_layer.clone()),
        id: container.id,
    }
}

fn stamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default()
}

fn of_runtime(stats: &ContainerStats) -> Usage {
    let cpu = stats.cpu.as_ref();
    Usage {
        at: cpu.map_or_else(Timestamp::now, |c| stamp(c.timestamp)),
        cpu: cpu.and_then(|c| Some(c.usage_core_nano_seconds.as_ref()?.value)),
        memory: stats.memory.as_ref().map(|m| {
            let value = |v: &Option<runtime::UInt64Value>| v.as_ref().map_or(0, |v| v.value);
            Memory {
                used: value(&m.usage_bytes).max(value(&m.working_set_bytes)),
                working_set: value(&m.working_set_bytes),
                rss: value(&m.rss_bytes),
                faults: value(&m.page_faults),
                major_faults: value(&m.major_page_faults),
                limit: None,
                swap: None,
            }
        }),
        processes: None,
    }
}

/// Of a pod without a cgroup of its own.
fn total(containers: &[ContainerSample]) -> Usage {
    let mut total = Usage {
        at: Timestamp::now(),
        ..Usage::default()
    };
    for usage in containers.iter().map(|c| c.usage) {
        total.at = total.at.min(usage.at);
        total.cpu = total.cpu.map_or(usage.cpu, |sum| Some(sum + usage.cpu.unwrap_or(0)));
        if let Some(more) = usage.memory {
            let sum = total.memory.get_or_insert_default();
            sum.used += more.used;
            sum.working_set += more.working_set;
            sum.rss += more.rss;
            sum.faults += more.faults;
            sum.major_faults += more.major_faults;
        }
    }
    total
}

/// Without loopback and what a tunnel leaves in every namespace.
fn interfaces(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let name = name.trim();
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let uninteresting = name == "lo"
            || ["tunl", "sit", "ip6", "gre", "ip_vti"]
                .iter()
                .any(|p| name.starts_with(p));
        (!uninteresting && numbers.len() >= 11).then(|| Interface {
            name: name.to_owned(),
            received: numbers[0],
            receive_errors: numbers[2],
            sent: numbers[8],
            send_errors: numbers[10],
        })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_from_the_kernels_table() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:  100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0\n  \
             eth0: 1234 10 3 0 0 0 0 0 999 9 4 0 0 0 0 0\n";
        let eth0 = Interface {
            name: "eth0".into(),
            received: 1234,
            receive_errors: 3,
            sent: 999,
            send_errors: 4,
        };
        assert_eq!(interfaces(text), [eth0]);
    }

    #[test]
    fn a_pod_without_a_cgroup_is_the_sum_of_its_containers() {
        let one = |cpu, working_set| ContainerSample {
            usage: Usage {
                cpu: Some(cpu),
                memory: Some(Memory {
                    working_set,
                    ..Memory::default()
                }),
                ..Usage::default()
            },
            ..ContainerSample::default()
        };
        let sum = total(&[one(1, 10), one(2, 20)]);
        assert_eq!((sum.cpu, sum.memory.map(|m| m.working_set)), (Some(3), Some(30)));
    }
}

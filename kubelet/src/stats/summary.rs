//! `/stats/summary`: upstream's stats/v1alpha1 Summary of two readings and of the file systems.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use serde_json::{Value, json};

use super::{
    Pair,
    disk::{self, Room, Taken},
    sample::{ContainerSample, Interface, PodSample},
};
use crate::{
    pods::shared::Shared,
    resources::usage::Usage,
    runtime::{FilesystemUsage, ImageFsInfo},
};

/// What the document says of disks, gathered apart because it reads directories.
#[derive(Debug, Default)]
pub struct Disks {
    node: Option<Room>,
    images: Option<(Room, Taken)>,
    containers: Option<(Room, Taken)>,
    /// By UID.
    pods: HashMap<String, PodDisks>,
}

#[derive(Debug, Default)]
pub struct PodDisks {
    /// By container name.
    pub logs: HashMap<String, Taken>,
    pub volumes: Vec<VolumeDisk>,
    /// The pod's own files outside of containers and volumes: `/etc/hosts` and the like.
    pub others: Taken,
}

#[derive(Debug)]
pub struct VolumeDisk {
    pub name: String,
    pub room: Option<Room>,
    pub taken: Taken,
    pub claim: Option<String>,
    /// Whether its files lie on the node's disk and are the pod's to answer for.
    pub ephemeral: bool,
}

/// Which directories belong to a pod; found under the lock-free lists, read elsewhere.
#[derive(Debug)]
pub struct PodDirs {
    uid: String,
    logs: PathBuf,
    containers: BTreeSet<String>,
    dir: PathBuf,
    volumes: Vec<(String, PathBuf, Option<String>, bool)>,
}

impl PodDirs {
    pub fn uid(&self) -> &str {
        &self.uid
    }
}

pub fn dirs(shared: &Shared, pod: &Pod) -> Option<PodDirs> {
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref()?);
    let (namespace, name) = (meta.namespace.as_deref()?, meta.name.as_deref()?);
    let uid = meta.uid.clone()?;
    let dir = shared.config.pod_dir(&uid);
    let names = spec.containers.iter().map(|c| c.name.clone());
    let inits = spec.init_containers.iter().flatten().map(|c| c.name.clone());
    let volume = |v: &Volume| {
        let (plugin, ephemeral) = if let Some(empty) = &v.empty_dir {
            (
                "kubernetes.io~empty-dir",
                empty.medium.as_deref().unwrap_or_default().is_empty(),
            )
        } else if v.config_map.is_some() {
            ("kubernetes.io~configmap", true)
        } else if v.secret.is_some() {
            ("kubernetes.io~secret", false)
        } else if v.projected.is_some() {
            ("kubernetes.io~projected", false)
        } else if v.downward_api.is_some() {
            ("kubernetes.io~downward-api", true)
        } else {
            return None;
        };
        Some((
            v.name.clone(),
            dir.join("volumes").join(plugin).join(&v.name),
            None,
            ephemeral,
        ))
    };
    Some(PodDirs {
        logs: shared.config.pod_logs(namespace, name, &uid),
        containers: names.chain(inits).collect(),
        volumes: spec.volumes.iter().flatten().filter_map(volume).collect(),
        dir,
        uid,
    })
}

pub fn pod_disks(dirs: &PodDirs) -> PodDisks {
    let logs = dirs.containers.iter();
    let volumes = dirs.volumes.iter();
    PodDisks {
        logs: logs
            .map(|name| (name.clone(), disk::taken(&dirs.logs.join(name))))
            .collect(),
        volumes: volumes
            .filter(|(_, path, ..)| path.exists())
            .map(|(name, path, claim, ephemeral)| VolumeDisk {
                name: name.clone(),
                room: disk::room(path),
                taken: disk::taken(path),
                claim: claim.clone(),
                ephemeral: *ephemeral,
            })
            .collect(),
        others: disk::taken(&dirs.dir.join("etc-hosts")),
    }
}

/// Reads directories: for a thread that may block.
pub fn disks(root: &Path, images: &ImageFsInfo, pods: &[PodDirs]) -> Disks {
    let of = |list: &[FilesystemUsage]| {
        let first = list.first()?;
        let room = disk::room(Path::new(&first.fs_id.as_ref()?.mountpoint))?;
        Some((room, layer(first)))
    };
    Disks {
        node: disk::room(root),
        images: of(&images.image_filesystems),
        containers: of(&images.container_filesystems).or_else(|| of(&images.image_filesystems)),
        pods: pods.iter().map(|d| (d.uid.clone(), pod_disks(d))).collect(),
    }
}

fn layer(usage: &FilesystemUsage) -> Taken {
    Taken {
        bytes: usage.used_bytes.as_ref().map_or(0, |v| v.value),
        inodes: usage.inodes_used.as_ref().map_or(0, |v| v.value),
    }
}

/// `disks` is `None` where only CPU and memory were asked for.
pub fn summary(node: &str, memory: u64, started: Timestamp, pair: &Pair, disks: Option<&Disks>) -> Value {
    let now = &pair.now;
    let mut shown = json!({"nodeName": node, "startTime": second(started)});
    usage(&mut shown, &pair.before.node, &now.node, Some(memory));
    let mut system = json!({"name": "pods", "startTime": second(started)});
    usage(&mut system, &pair.before.pods_total, &now.pods_total, Some(memory));
    shown["systemContainers"] = json!([system]);
    if let Some(disks) = disks {
        shown["network"] = network(now.at, &now.network, &primary());
        shown["fs"] = disk::shown(now.at, disks.node, None);
        let image = disks
            .images
            .map(|(room, taken)| disk::shown(now.at, Some(room), Some(taken)));
        let container = disks
            .containers
            .map(|(room, taken)| disk::shown(now.at, Some(room), Some(taken)));
        shown["runtime"] = json!({"imageFs": image, "containerFs": container});
        shown["rlimit"] = rlimit(now.at);
    }
    let pods: Vec<Value> = now.pods.iter().map(|p| pod(p, pair, disks)).collect();
    json!({"node": shown, "pods": pods})
}

fn pod(pod: &PodSample, pair: &Pair, disks: Option<&Disks>) -> Value {
    let before = pair.before.pod(&pod.uid);
    let room = disks.and_then(|d| d.node);
    let own = disks.and_then(|d| d.pods.get(&pod.uid));
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|c| container(c, before.and_then(|b| b.container(&c.id)), disks, own))
        .collect();
    let mut shown = json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": pod.started.map(second),
        "containers": containers,
    });
    let none = Usage::default();
    usage(&mut shown, before.map_or(&none, |b| &b.usage), &pod.usage, None);
    if let Some(own) = own {
        if let Some(interfaces) = &pod.network {
            shown["network"] = network(pair.now.at, interfaces, "eth0");
        }
        let volumes: Vec<Value> = own
            .volumes
            .iter()
            .map(|v| {
                let mut value = disk::shown(pair.now.at, v.room, Some(v.taken));
                value["name"] = v.name.as_str().into();
                if let Some(claim) = &v.claim {
                    value["pvcRef"] = json!({"name": claim, "namespace": pod.namespace});
                }
                value
            })
            .collect();
        if !volumes.is_empty() {
            shown["volume"] = volumes.into();
        }
        shown["ephemeral-storage"] = disk::shown(pair.now.at, room, Some(ephemeral(pod, own)));
        if let Some(count) = pod.usage.processes {
            shown["process_stats"] = json!({"process_count": count});
        }
    }
    shown
}

/// What a pod has on the node's disk: written layers, logs and the volumes that live there.
pub fn ephemeral(pod: &PodSample, own: &PodDisks) -> Taken {
    let mut sum = own.others;
    for taken in own.logs.values() {
        sum += *taken;
    }
    for volume in own.volumes.iter().filter(|v| v.ephemeral) {
        sum += volume.taken;
    }
    for written in pod.containers.iter().filter_map(|c| c.layer.as_ref()) {
        sum += layer(written);
    }
    sum
}

fn container(
    container: &ContainerSample,
    before: Option<&ContainerSample>,
    disks: Option<&Disks>,
    own: Option<&PodDisks>,
) -> Value {
    let mut shown = json!({"name": container.name, "startTime": second(container.started)});
    let none = Usage::default();
    let limit = container.usage.memory.and_then(|m| m.limit);
    usage(&mut shown, before.map_or(&none, |b| &b.usage), &container.usage, limit);
    if let Some(disks) = disks {
        let at = container.usage.at;
        shown["rootfs"] = disk::shown(at, disks.containers.map(|c| c.0), container.layer.as_ref().map(layer));
        let logs = own
            .and_then(|o| o.logs.get(&container.name))
            .copied()
            .unwrap_or_default();
        shown["logs"] = disk::shown(at, disks.node, Some(logs));
    }
    shown
}

/// `of` is what is there at most, so that what is left can be told.
fn usage(shown: &mut Value, before: &Usage, now: &Usage, of: Option<u64>) {
    let time = now.at.to_string();
    if let Some(sum) = now.cpu {
        let mut cpu = json!({"time": time, "usageCoreNanoSeconds": sum});
        if let Some(rate) = rate(before, now) {
            cpu["usageNanoCores"] = rate.into();
        }
        shown["cpu"] = cpu;
    }
    if let Some(memory) = now.memory {
        let mut value = json!({
            "time": time,
            "usageBytes": memory.used,
            "workingSetBytes": memory.working_set,
            "rssBytes": memory.rss,
            "pageFaults": memory.faults,
            "majorPageFaults": memory.major_faults,
        });
        if let Some(of) = of {
            value["availableBytes"] = of.saturating_sub(memory.working_set).into();
        }
        shown["memory"] = value;
        if let Some(swap) = memory.swap {
            shown["swap"] = json!({"time": time, "swapUsageBytes": swap});
        }
    }
}

/// Nanoseconds of CPU in a second.
pub fn rate(before: &Usage, now: &Usage) -> Option<u64> {
    let used = now.cpu?.checked_sub(before.cpu?)?;
    let span = now.at.duration_since(before.at).as_nanos();
    if span <= 0 {
        return None;
    }
    u64::try_from(i128::from(used) * 1_000_000_000 / span).ok()
}

fn network(at: Timestamp, interfaces: &[Interface], primary: &str) -> Value {
    let one = |i: &Interface| {
        json!({
            "name": i.name, "rxBytes": i.received, "rxErrors": i.receive_errors,
            "txBytes": i.sent, "txErrors": i.send_errors,
        })
    };
    let first = interfaces.iter().find(|i| i.name == primary).or(interfaces.first());
    let mut value = first.map_or_else(|| json!({"name": ""}), one);
    value["time"] = at.to_string().into();
    value["interfaces"] = interfaces.iter().map(one).collect();
    value
}

/// The interface of the default route.
fn primary() -> String {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let default = routes.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        (words.next()? == "00000000").then(|| name.to_owned())
    });
    default.unwrap_or_default()
}

fn rlimit(at: Timestamp) -> Value {
    let processes = processes();
    json!({"time": at.to_string(), "maxpid": processes.map(|p| p.0), "curproc": processes.map(|p| p.1)})
}

/// How many processes there may be and are: threads count, as the kernel counts them.
pub fn processes() -> Option<(i64, i64)> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
    let limits = [
        number("/proc/sys/kernel/pid_max"),
        number("/proc/sys/kernel/threads-max"),
    ];
    let most = limits.into_iter().flatten().min()?;
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let now = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some((most, now))
}

fn second(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{resources::usage::Memory, runtime::UInt64Value, stats::Sample};

    fn used(at: i64, cpu: u64) -> Usage {
        Usage {
            at: Timestamp::from_second(at).unwrap(),
            cpu: Some(cpu),
            memory: Some(Memory {
                used: 900,
                working_set: 700,
                rss: 500,
                ..Memory::default()
            }),
            processes: Some(2),
        }
    }

    fn sample(at: i64, cpu: u64) -> Arc<Sample> {
        let container = ContainerSample {
            name: "c".into(),
            id: "id".into(),
            usage: used(at, cpu),
            layer: Some(FilesystemUsage {
                used_bytes: Some(UInt64Value { value: 4096 }),
                ..FilesystemUsage::default()
            }),
            ..ContainerSample::default()
        };
        Arc::new(Sample {
            at: Timestamp::from_second(at).unwrap(),
            node: used(at, cpu * 2),
            pods: vec![PodSample {
                namespace: "ns".into(),
                name: "p".into(),
                uid: "u".into(),
                usage: used(at, cpu),
                containers: vec![container],
                ..PodSample::default()
            }],
            ..Sample::default()
        })
    }

    #[test]
    fn rates_are_what_lies_between_two_readings() {
        let pair = Pair {
            before: sample(10, 1_000_000_000),
            now: sample(12, 1_500_000_000),
        };
        let shown = summary("n", 1000, Timestamp::UNIX_EPOCH, &pair, None);
        assert_eq!(shown["node"]["cpu"]["usageNanoCores"], 500_000_000);
        assert_eq!(shown["node"]["memory"]["availableBytes"], 300);
        let pod = &shown["pods"][0];
        assert_eq!(pod["podRef"], json!({"name": "p", "namespace": "ns", "uid": "u"}));
        assert_eq!(pod["cpu"]["usageNanoCores"], 250_000_000);
        assert_eq!(pod["containers"][0]["cpu"]["usageCoreNanoSeconds"], 1_500_000_000);
        assert_eq!(pod["containers"][0]["cpu"]["time"], "1970-01-01T00:00:12Z");
        assert_eq!(pod["ephemeral-storage"], Value::Null);
    }

    #[test]
    fn a_counter_that_began_anew_has_no_rate() {
        assert_eq!(rate(&used(10, 500), &used(12, 100)), None);
        assert_eq!(rate(&used(10, 500), &used(10, 600)), None);
    }

    #[test]
    fn a_pods_disk_is_layers_logs_and_volumes_of_the_node() {
        let one = Taken { bytes: 100, inodes: 1 };
        let volume = |name: &str, ephemeral| VolumeDisk {
            name: name.into(),
            room: None,
            taken: one,
            claim: None,
            ephemeral,
        };
        let own = PodDisks {
            logs: HashMap::from([("c".to_owned(), one)]),
            volumes: vec![volume("disk", true), volume("memory", false)],
            others: Taken::default(),
        };
        let sample = sample(1, 1);
        assert_eq!(ephemeral(&sample.pods[0], &own), Taken { bytes: 4296, inodes: 2 });
    }
}

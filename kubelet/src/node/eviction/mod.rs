//! Keeps the node from running out of memory, disk and processes: unused images go first, then pods, one at a time.
//! What there is comes in from /proc, cgroups and file systems; what goes out are pressures, and words to pods' workers.
//! Holds: nothing is evicted while there is enough, and pods that the cluster itself needs are never evicted.

pub mod plan;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use daemon::events::EventType;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::plan::{Candidate, Level, Levels, Pressure, Signal, State, Threshold};
use super::{facts, garbage::Images};
use crate::{
    pods::shared::{Eviction, Shared},
    runtime,
    stats::{sample, summary},
};

/// On the list of what wakes by itself: a few reads of /proc and of file systems.
const LOOK: Duration = Duration::from_secs(10);
/// While something is short, its end is looked for.
const SOON: Duration = Duration::from_secs(2);
/// Priorities from here on are the system's own.
const CRITICAL: i32 = 2_000_000_000;

pub type Pressures = BTreeSet<Pressure>;

/// How many pods were evicted, by signal.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    fn add(&self, signal: Signal) {
        let mut counts = self.0.lock().expect("no holder of this lock panics");
        *counts.entry(signal.name()).or_default() += 1;
    }

    pub fn shown(&self) -> Vec<(String, u64)> {
        let counts = self.0.lock().expect("no holder of this lock panics");
        counts.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()
    }
}

pub async fn run(
    shared: Arc<Shared>,
    thresholds: Vec<Threshold>,
    pressures: watch::Sender<Pressures>,
    stop: CancellationToken,
) {
    let config = shared.config.clone();
    let mut manager = Manager {
        thresholds,
        images: Images::new(config.sandbox_image.clone(), config.image_gc.clone()),
        image_root: None,
        state: State::default(),
        shared,
    };
    let mut node = manager.shared.node.clone();
    tokio::select! {
        biased;
        () = stop.cancelled() => return,
        // Its memory is the measure.
        known = node.wait_for(|n| n.known) => if known.is_err() { return },
    }
    loop {
        let short = manager.look(&pressures).await;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(if short { SOON } else { LOOK }) => {}
        }
    }
}

struct Manager {
    shared: Arc<Shared>,
    thresholds: Vec<Threshold>,
    images: Images,
    /// Where the runtime keeps images; asked once.
    image_root: Option<PathBuf>,
    state: State,
}

impl Manager {
    /// Whether something is short.
    async fn look(&mut self, pressures: &watch::Sender<Pressures>) -> bool {
        let levels = self.levels().await;
        if let Some(level) = levels.get(&Signal::ImageFs) {
            self.images.look(&self.shared, *level).await;
        }
        let transition = self.shared.config.eviction.transition;
        let look = self.state.look(&self.thresholds, &levels, Instant::now(), transition);
        pressures.send_if_modified(|told| {
            let new = *told != look.pressures;
            if new {
                told.clone_from(&look.pressures);
            }
            new
        });
        let Some(at) = look.act else { return false };
        let threshold = self.thresholds[at];
        if let Err(error) = self.act(&threshold, &levels).await {
            tracing::warn!(signal = threshold.signal.name(), %error, "nothing could be evicted");
        }
        true
    }

    async fn levels(&mut self) -> Levels {
        let shared = &self.shared;
        let mut levels = Levels::new();
        let capacity = shared.node.borrow().memory;
        let used = shared.cgroups.node_usage().memory.map(|m| m.working_set);
        // What the kernel could give, and no more than the node's own limit leaves.
        let left = used.and_then(|u| i64::try_from(u).ok()).map(|u| capacity - u);
        if let Some(available) = [facts::memory_available(), left].into_iter().flatten().min() {
            levels.insert(Signal::Memory, Level { available, capacity });
        }
        let mut disk = |bytes: Signal, inodes: Signal, path: &std::path::Path| {
            if let Some((capacity, available, all, free)) = facts::disk(path) {
                levels.insert(bytes, Level { available, capacity });
                // File systems that make inodes as they need them say that they have none.
                if all > 0 {
                    let (available, capacity) = (free, all);
                    levels.insert(inodes, Level { available, capacity });
                }
            }
        };
        disk(Signal::NodeFs, Signal::NodeInodes, &shared.config.root_dir);
        if self.image_root.is_none() {
            let told = shared.runtime.image_fs().await.ok();
            let first = told.and_then(|fs| fs.image_filesystems.into_iter().next());
            self.image_root = first.and_then(|f| Some(f.fs_id?.mountpoint.into()));
        }
        if let Some(root) = &self.image_root {
            disk(Signal::ImageFs, Signal::ImageInodes, root);
        }
        if let Some((most, now)) = summary::processes() {
            levels.insert(
                Signal::Pids,
                Level {
                    available: most - now,
                    capacity: most,
                },
            );
        }
        levels
    }

    async fn act(&mut self, threshold: &Threshold, levels: &Levels) -> Result<(), runtime::Error> {
        let signal = threshold.signal;
        let about = node_reference(&self.shared.config.node_name);
        let text = format!("Attempting to reclaim {}", signal.resource());
        self.shared
            .recorder
            .publish(&about, EventType::Warning, "EvictionThresholdMet", text);
        if signal.pressure() == Pressure::Disk && self.images.free_all(&self.shared).await > 0 {
            let again = self.levels().await;
            if again.get(&signal).is_some_and(|level| !threshold.is_met(*level, true)) {
                return Ok(());
            }
        }
        let Some(level) = levels.get(&signal).copied() else {
            return Ok(());
        };
        let mut candidates = candidates(&self.shared, signal).await?;
        plan::rank(signal, &mut candidates);
        let Some(first) = candidates.first() else {
            tracing::warn!(signal = signal.name(), "no pod may be evicted");
            return Ok(());
        };
        let message = plan::message(threshold, level, first);
        tracing::info!(uid = first.uid, message, "a pod is evicted");
        if let Some(inbox) = self.shared.post.inbox(&first.uid) {
            self.shared.evictions.add(signal);
            let most = self.shared.config.eviction.max_grace;
            let grace = threshold.grace.map_or(Some(Duration::ZERO), |_| most);
            inbox.put(|news| news.evict = Some(Eviction { message, grace }));
        }
        Ok(())
    }
}

pub fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        // As upstream's kubelet does: it knows no other.
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// Whether the cluster itself needs the pod.
pub fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|s| s.priority);
    // What a file on this node asks for is the machine's owner's wish, not the API's.
    let annotations = pod.metadata.annotations.as_ref();
    let source = annotations.and_then(|a| a.get("kubernetes.io/config.source"));
    let is_static = source.is_some_and(|source| source != "api");
    is_static || api::pod::is_mirror(pod) || priority.is_some_and(|p| p >= CRITICAL)
}

async fn candidates(shared: &Shared, signal: Signal) -> Result<Vec<Candidate>, runtime::Error> {
    let sample = sample::take(shared).await?;
    let pods: Vec<(String, Arc<Pod>)> = shared
        .pods
        .list()
        .into_iter()
        .filter_map(|e| Some((e.uid.to_string(), e.typed().ok()?)))
        .filter(|(_, pod)| {
            !is_critical(pod) && !api::pod::is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
        })
        .collect();
    let disks: HashMap<String, summary::PodDisks> = if signal.pressure() == Pressure::Disk {
        let dirs: Vec<_> = pods.iter().filter_map(|(_, pod)| summary::dirs(shared, pod)).collect();
        let read = move || {
            dirs.iter()
                .map(|d| (d.uid().to_owned(), summary::pod_disks(d)))
                .collect()
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| runtime::Error::Unavailable(error.to_string()))?
    } else {
        HashMap::new()
    };
    let none = sample::PodSample::default();
    let candidate = |(uid, pod): (String, Arc<Pod>)| {
        let spec = pod.spec.clone().unwrap_or_default();
        let used = sample.pod(&uid).unwrap_or(&none);
        let requests = api::pod::requests(&spec).unwrap_or_default();
        let asked = |resource: &str| requests.get(resource).map_or(0, |q| q.as_i64());
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let memory = |usage: &crate::resources::usage::Usage| usage.memory.map_or(0, |m| number(m.working_set));
        let (usage, request) = match signal {
            Signal::Memory => (memory(&used.usage), asked("memory")),
            Signal::Pids => (used.usage.processes.map_or(0, number), 0),
            Signal::NodeFs | Signal::ImageFs => {
                let taken = disks.get(&uid).map(|own| summary::ephemeral(used, own));
                (taken.map_or(0, |t| number(t.bytes)), asked("ephemeral-storage"))
            }
            Signal::NodeInodes | Signal::ImageInodes => {
                let taken = disks.get(&uid).map(|own| summary::ephemeral(used, own));
                (taken.map_or(0, |t| number(t.inodes)), 0)
            }
        };
        let of_container = |c: &sample::ContainerSample| {
            let definition = spec.containers.iter().find(|d| d.name == c.name);
            let own = definition.and_then(|d| d.resources.as_ref()?.requests.as_ref()?.get("memory"));
            (
                c.name.clone(),
                memory(&c.usage),
                crate::resources::qos::whole(own).unwrap_or(0),
            )
        };
        let containers = used.containers.iter().filter(|_| signal == Signal::Memory);
        Candidate {
            priority: spec.priority.unwrap_or(0),
            usage,
            request,
            containers: containers.map(of_container).collect(),
            uid,
        }
    };
    Ok(pods.into_iter().map(candidate).collect())
}

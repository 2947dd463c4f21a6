//! What all pods of the node share, and who is told of what.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use daemon::{
    Recorder,
    events::{EventType, reference},
    informer::{Entry, Lister},
};
use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::sync::{Notify, broadcast, watch};

use super::{admit::Offer, images::Images, probes::Probes, resize::Allocations, statics, statics::Statics};
use crate::{
    config::Config,
    node::eviction::Tally,
    resources::{cgroups::Cgroups, qos},
    runtime::Runtime,
    stats::Meter,
    volumes::Volumes,
};

/// What the node knows of itself and pods are made of.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    pub host_ips: Vec<String>,
    pub offer: Offer,
    pub milli_cpu: i64,
    pub memory: i64,
    /// Scheme of container identifiers: `containerd`.
    pub runtime_name: String,
    /// Negative OOM scores may not be set here.
    pub unprivileged_oom: bool,
    pub ready: bool,
    /// Filled in at least once.
    pub known: bool,
}

pub struct Shared {
    pub config: Arc<Config>,
    pub runtime: Arc<dyn Runtime>,
    pub client: kube::Client,
    pub recorder: Recorder,
    pub pods: Lister<Pod>,
    pub services: Lister<Service>,
    pub volumes: Volumes,
    pub images: Images,
    pub probes: Probes,
    pub cgroups: Cgroups,
    pub node: watch::Receiver<NodeFacts>,
    pub post: Post,
    pub allocations: Allocations,
    pub statics: Statics,
    pub meter: Meter,
    pub evictions: Tally,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("node", &self.config.node_name)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub fn event(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &str, message: &str) {
        let mut about = reference(pod);
        about.field_path = container.map(|name| format!("{}{{{name}}}", field(pod, name)));
        let kind = if warning { EventType::Warning } else { EventType::Normal };
        self.recorder.publish(&about, kind, reason, message);
    }

    /// The pods that run here: those of the API, and instead of mirrors what they mirror.
    pub fn entries(&self) -> Vec<Arc<Entry<Pod>>> {
        let mut all = self.pods.list();
        all.retain(|e| statics::mirrored(e).is_none());
        all.extend(self.statics.wanted().into_values());
        all
    }

    pub fn entry(&self, namespace: &str, name: &str) -> Option<Arc<Entry<Pod>>> {
        self.statics
            .get(namespace, name)
            .or_else(|| self.pods.get(namespace, name))
    }

    /// Where the API is told of a static pod; none while it has no mirror there.
    pub fn mirror(&self, pod: &Pod) -> Option<Arc<Entry<Pod>>> {
        let (meta, uid) = (&pod.metadata, pod.metadata.uid.clone());
        let entry = self.pods.get(meta.namespace.as_deref()?, meta.name.as_deref()?)?;
        let deleting = entry.deleting;
        (statics::mirrored(&entry) == uid && !deleting).then_some(entry)
    }

    /// The pods of this node as they were granted, without those that have ended and this one.
    pub fn others(&self, uid: &str) -> Vec<Pod> {
        let entries = self.entries().into_iter().filter(|e| *e.uid != *uid);
        let pods = entries.filter_map(|e| Some((e.uid.clone(), e.typed().ok()?)));
        pods.filter(|(_, pod)| !api::pod::is_terminal(pod))
            .map(|(uid, pod)| match self.allocations.get(&uid) {
                Some(allocation) => allocation.apply(&pod),
                None => Pod::clone(&pod),
            })
            .collect()
    }

    /// There may be room for those who wait for it.
    pub fn room(&self) {
        for uid in self.allocations.deferred() {
            self.post.look(&uid);
        }
    }

    /// Gives the burstable class as a whole its weight.
    pub fn weigh(&self) {
        if !self.config.cgroups_per_qos {
            return;
        }
        let pods = self
            .others("")
            .into_iter()
            .filter(|p| qos::qos(p) == api::pod::Qos::Burstable);
        let total = pods
            .filter_map(|p| {
                api::pod::requests(p.spec.as_ref()?)
                    .ok()?
                    .get("cpu")
                    .map(|q| q.as_milli())
            })
            .sum();
        if let Err(error) = self.cgroups.weigh_burstable(total) {
            tracing::warn!(error = daemon::chain(&error), "the burstable class has a wrong weight");
        }
    }
}

/// Where in the pod a container of this name is defined.
pub fn field(pod: &Pod, container: &str) -> &'static str {
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == container)) {
        "spec.initContainers"
    } else if spec.is_some_and(|s| s.ephemeral_containers.iter().flatten().any(|c| c.name == container)) {
        "spec.ephemeralContainers"
    } else {
        "spec.containers"
    }
}

/// Where mail for pods is left: by UID, and by the identifiers of their containers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Post {
    inner: Arc<Mutex<Boxes>>,
    exits: Exits,
}

/// Ends of containers for those who follow one. 64 at once; who falls behind looks for itself.
#[derive(Debug, Clone)]
struct Exits(broadcast::Sender<String>);

impl Default for Exits {
    fn default() -> Self {
        Exits(broadcast::channel(64).0)
    }
}

#[derive(Debug, Default)]
struct Boxes {
    by_pod: HashMap<String, Arc<Inbox>>,
    by_container: HashMap<String, String>,
    /// Containers that ended before their worker had said that they are its pod's.
    unclaimed: VecDeque<String>,
}

/// More than may end between a start and the look that follows it; what is forgotten is found by the slow relist.
const UNCLAIMED: usize = 256;

/// News for one pod's worker. Each kind is kept as the latest, so nothing piles up.
#[derive(Debug, Default)]
pub struct Inbox {
    news: Mutex<News>,
    notify: Notify,
    version: watch::Sender<()>,
}

#[derive(Debug, Default)]
pub struct News {
    pub entry: Option<Arc<Entry<Pod>>>,
    /// The API has no such pod any more.
    pub gone: bool,
    /// Containers whose process is said to have ended.
    pub exited: Vec<String>,
    /// Look again for another reason: probes, a gap in the events.
    pub look: bool,
    /// The node cannot keep the pod.
    pub evict: Option<Eviction>,
    /// Something that a volume shows has changed.
    pub volumes: bool,
}

/// Why a pod has to go, and how long it may take at most: no bound is its own grace period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    pub message: String,
    pub grace: Option<Duration>,
}

impl Inbox {
    pub fn put(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news.lock().expect("no holder of this lock panics"));
        self.version.send_replace(());
        self.notify.notify_one();
    }

    pub fn take(&self) -> News {
        std::mem::take(&mut *self.news.lock().expect("no holder of this lock panics"))
    }

    pub async fn arrived(&self) {
        self.notify.notified().await;
    }

    /// Looks at the news without taking them.
    pub fn peek<T>(&self, look: impl FnOnce(&News) -> T) -> T {
        look(&self.news.lock().expect("no holder of this lock panics"))
    }

    /// Changes with every put, for waiting on news that are to stay for `take`.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.version.subscribe()
    }
}

impl Post {
    pub fn open(&self, uid: &str) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox::default());
        self.lock().by_pod.insert(uid.to_owned(), inbox.clone());
        inbox
    }

    pub fn close(&self, uid: &str) {
        let mut boxes = self.lock();
        boxes.by_pod.remove(uid);
        boxes.by_container.retain(|_, pod| pod != uid);
    }

    pub fn inbox(&self, uid: &str) -> Option<Arc<Inbox>> {
        self.lock().by_pod.get(uid).cloned()
    }

    /// These containers and sandboxes are the pod's, and no others.
    pub fn owns<'a>(&self, uid: &str, ids: impl Iterator<Item = &'a str>) {
        let mut boxes = self.lock();
        boxes.by_container.retain(|_, pod| pod != uid);
        boxes.by_container.extend(ids.map(|id| (id.to_owned(), uid.to_owned())));
        let Boxes {
            by_pod,
            by_container,
            unclaimed,
        } = &mut *boxes;
        let owner = |id: &String| by_container.get(id).is_some_and(|pod| pod == uid);
        let (claimed, left) = std::mem::take(unclaimed).into_iter().partition(owner);
        *unclaimed = left;
        if let (false, Some(inbox)) = (claimed.is_empty(), by_pod.get(uid)) {
            inbox.put(|news| news.exited.extend::<VecDeque<String>>(claimed));
        }
    }

    pub fn look(&self, uid: &str) {
        if let Some(inbox) = self.inbox(uid) {
            inbox.put(|news| news.look = true);
        }
    }

    pub fn volumes(&self, uid: &str) {
        if let Some(inbox) = self.inbox(uid) {
            inbox.put(|news| news.volumes = true);
        }
    }

    pub fn look_all(&self) {
        for inbox in self.lock().by_pod.values() {
            inbox.put(|news| news.look = true);
        }
    }

    /// Identifiers of containers that end from now on.
    pub fn exits(&self) -> broadcast::Receiver<String> {
        self.exits.0.subscribe()
    }

    pub fn container(&self, id: &str, exited: bool) {
        if exited {
            // Nobody follows: nobody is told.
            drop(self.exits.0.send(id.to_owned()));
        }
        let inbox = {
            let mut boxes = self.lock();
            let known = boxes
                .by_container
                .get(id)
                .and_then(|uid| boxes.by_pod.get(uid))
                .cloned();
            if known.is_none() && exited {
                if boxes.unclaimed.len() == UNCLAIMED {
                    boxes.unclaimed.pop_front();
                }
                boxes.unclaimed.push_back(id.to_owned());
            }
            known
        };
        if let Some(inbox) = inbox {
            inbox.put(|news| {
                if exited {
                    news.exited.push(id.to_owned())
                } else {
                    news.look = true
                }
            });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Boxes> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

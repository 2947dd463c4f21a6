//! Changes of objects become changes of the queue and the cluster, and wake what they could help. The only file that
//! knows informers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use api::selector::Labels;
use daemon::informer::{Change, Entry, Informers, Kind, Lister, Options};
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1 as policy;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::error;

use crate::cluster::{Budget, Changed, Cluster};
use crate::config::Config;
use crate::cycle;
use crate::memo::Memo;
use crate::metrics::Metrics;
use crate::pod::{LabelMap, Pod, Shape, Shares, selector};
use crate::queue::Queue;
use crate::rules::{Event, Profile};
use crate::volumes::Listed;

/// What the scheduler knows, under one short-held lock.
#[derive(Debug, Default)]
pub struct State {
    pub cluster: Cluster,
    pub queue: Queue,
    pub memo: Memo,
    shares: Shares,
}

/// The state that watches feed and decisions change.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    /// Something may be there to decide.
    pub news: Notify,
    pub profiles: Vec<Arc<Profile>>,
    pub metrics: Metrics,
}

/// Something happened that could help a pod that waits.
#[derive(Debug)]
pub enum News {
    Node(Arc<str>),
    Freed(Arc<str>, Arc<Pod>),
    Placed(Arc<Pod>),
    Namespace,
    /// An object of this kind changed, for rules about other objects.
    Other(&'static str),
}

impl Shared {
    pub fn new(config: &Config) -> Self {
        let state = State {
            queue: Queue::new(config.rests),
            ..State::default()
        };
        Shared {
            state: Mutex::new(state),
            news: Notify::new(),
            profiles: config.profiles.clone(),
            metrics: Metrics::new(&config.metrics),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    pub fn profile(&self, pod: &Pod) -> Option<&Arc<Profile>> {
        let mut profiles = self.profiles.iter();
        profiles.find(|profile| profile.name == pod.shape.scheduler)
    }

    fn pod(&self, object: &core::Pod) {
        let Some(mut pod) = Pod::parse(object) else { return };
        let mut state = self.lock();
        state.shares.share(&mut pod);
        let pod = Arc::new(pod);
        match pod.node.clone() {
            // What has ended takes nothing of its node any more.
            Some(_) if api::pod::is_terminal(object) => self.pod_gone(&mut state, &pod.uid),
            Some(node) => self.pod_placed(&mut state, pod, &node),
            None => self.pod_waits(&mut state, pod),
        }
        drop(state);
        self.news.notify_one();
    }

    fn pod_placed(&self, state: &mut State, pod: Arc<Pod>, node: &Arc<str>) {
        state.queue.remove(&pod.uid);
        state.cluster.denominate(&pod.uid);
        let before = state.cluster.placed(&pod.uid).cloned();
        if let Some(before) = &before {
            let same_place = !before.assumed && state.cluster.slot(node) == Some(before.slot);
            let old = &before.pod;
            let same_pod = old.same_demand(&pod)
                && (old.deleting, old.preempted, old.started) == (pod.deleting, pod.preempted, pod.started);
            if same_place && same_pod {
                return;
            }
        }
        state.cluster.place(pod.clone(), node, false);
        let seen = before.filter(|before| !before.assumed);
        let relabelled = seen.as_ref().is_some_and(|before| before.pod.labels != pod.labels);
        let leaving = seen.as_ref().is_some_and(|before| !before.pod.deleting && pod.deleting);
        let smaller = seen
            .as_ref()
            .is_some_and(|before| before.pod.shape.requests != pod.shape.requests);
        if seen.is_none() || relabelled {
            self.wake(state, &News::Placed(pod.clone()));
        }
        if let Some(before) = seen.filter(|_| relabelled || leaving || smaller) {
            self.wake(state, &News::Freed(node.clone(), before.pod));
        }
    }

    fn pod_waits(&self, state: &mut State, pod: Arc<Pod>) {
        let Some(profile) = self.profile(&pod) else {
            state.queue.remove(&pod.uid);
            return;
        };
        if pod.deleting {
            self.pod_gone(state, &pod.uid);
        } else if !state.cluster.has(&pod.uid) {
            // A pod in the cluster is assumed: its binding is under way.
            let first = state.queue.history(&pod.uid).is_none();
            if let (true, Some(node)) = (first, &pod.nominated) {
                // Another scheduler, or this one before a restart, has begun to make room.
                state.cluster.nominate(pod.clone(), node);
            }
            let gated = pod.gated && profile.gates;
            state.queue.add(pod, gated, Instant::now());
        }
    }

    /// What the pod took is free: whoever it was in the way of may come.
    pub fn pod_gone(&self, state: &mut State, uid: &str) {
        state.queue.remove(uid);
        let nominated = state.cluster.denominate(uid);
        if let Some(gone) = state.cluster.displace(uid) {
            let node = state.cluster.slots()[gone.slot].name.clone();
            self.wake(state, &News::Freed(node, gone.pod));
        } else if let Some(node) = nominated {
            self.wake(state, &News::Node(node));
        }
    }

    fn node(&self, object: &core::Node) {
        let mut state = self.lock();
        let changed = state.cluster.set_node(object);
        if let (Changed::Something, Some(name)) = (changed, object.metadata.name.as_deref()) {
            self.wake(&mut state, &News::Node(name.into()));
        }
        drop(state);
        self.news.notify_one();
    }

    /// Wakes the parked pods that this could help.
    pub fn wake(&self, state: &mut State, news: &News) {
        let State { cluster, queue, .. } = state;
        if !queue.has_parked() {
            return;
        }
        let (event, node) = match news {
            News::Node(name) => match cluster.node(name) {
                Some(node) => (Event::Node(node), Some(node)),
                None => return,
            },
            News::Freed(name, pod) => match cluster.node(name) {
                Some(node) => (Event::Freed(node, pod), Some(node)),
                None => return,
            },
            News::Placed(pod) => (Event::Placed(pod), None),
            News::Namespace => (Event::Namespace, None),
            News::Other(kind) => (Event::Other(kind), None),
        };
        // Replicas are alike: whether they fit the node is found out once.
        let mut fits: HashMap<*const Shape, bool> = HashMap::new();
        queue.wake_where(Instant::now(), |pod, by| {
            let Some(profile) = self.profile(pod) else { return false };
            let here = node.is_some_and(|node| {
                *fits
                    .entry(Arc::as_ptr(&pod.shape))
                    .or_insert_with(|| cycle::fits_node(pod, node, cluster, profile))
            });
            let beyond = cycle::beyond(by, profile);
            // A rule that looks beyond the node must be changed by the event, where it is one of those that refused.
            if beyond == 0 {
                here
            } else {
                (here && by != beyond) || cycle::helps_beyond(pod, by, event, cluster, profile)
            }
        });
    }

    fn change(&self, news: Option<News>, change: impl FnOnce(&mut Cluster) -> Changed) {
        let mut state = self.lock();
        if change(&mut state.cluster) == Changed::Something
            && let Some(news) = news
        {
            self.wake(&mut state, &news);
            drop(state);
            self.news.notify_one();
        }
    }
}

/// Has claims and volumes watched: a pod that waits for one comes again when something changed there.
pub fn storage(shared: &Arc<Shared>, informers: &Informers) -> Listed {
    let feed = shared.clone();
    let listed = Listed::new(informers, move || {
        let mut state = feed.lock();
        feed.wake(&mut state, &News::Other("PersistentVolumeClaim"));
        drop(state);
        feed.news.notify_one();
    });
    shared.lock().cluster.storage = Some(Arc::new(listed.clone()));
    listed
}

/// The part of an object that says which pods it is about.
#[derive(Debug, Default, Deserialize)]
struct Selecting<S> {
    spec: Option<SelectingSpec<S>>,
}

#[derive(Debug, Deserialize)]
struct SelectingSpec<S> {
    selector: Option<S>,
}

fn view<K, T: serde::de::DeserializeOwned + Default>(entry: &Entry<K>) -> T {
    match entry.view() {
        Ok(view) => view,
        Err(error) => {
            error!(object = %entry.key(), %error, "an object does not decode");
            T::default()
        }
    }
}

/// Starts feeding.
pub fn start(shared: &Arc<Shared>, informers: &Informers) {
    // What is there before nodes and pods are heard of need not be looked at again for them.
    namespaces(shared, informers);
    budgets(shared, informers);
    let feed = shared.clone();
    let services: Lister<core::Service> = informers.of(Options::default());
    services.on_change(move |change| {
        let (entry, selector) = match change {
            Change::Applied { new, .. } => {
                let view: Selecting<LabelMap> = view(new);
                (new, view.spec.and_then(|spec| spec.selector))
            }
            Change::Deleted { old } => (old, None),
        };
        feed.change(None, |cluster| {
            cluster.around.set_service(&entry.namespace, &entry.name, selector);
            Changed::Nothing
        });
    });
    owners::<apps::ReplicaSet>(shared, informers, "ReplicaSet");
    owners::<apps::StatefulSet>(shared, informers, "StatefulSet");
    let feed = shared.clone();
    let controllers: Lister<core::ReplicationController> = informers.of(Options::default());
    controllers.on_change(move |change| {
        let (entry, selector) = match change {
            Change::Applied { new, .. } => {
                let view: Selecting<LabelMap> = view(new);
                (new, view.spec.and_then(|spec| spec.selector).map(Labels::equal))
            }
            Change::Deleted { old } => (old, None),
        };
        feed.change(None, |cluster| {
            let kind = "ReplicationController";
            cluster.around.set_owner(kind, &entry.namespace, &entry.name, selector);
            Changed::Nothing
        });
    });
    nodes(shared, informers);
    pods(shared, informers);
}

fn owners<K: Kind>(shared: &Arc<Shared>, informers: &Informers, kind: &'static str) {
    let feed = shared.clone();
    let owners: Lister<K> = informers.of(Options::default());
    owners.on_change(move |change| {
        let (entry, labels) = match change {
            Change::Applied { new, .. } => {
                let view: Selecting<_> = view(new);
                (new, Some(selector(view.spec.and_then(|spec| spec.selector).as_ref())))
            }
            Change::Deleted { old } => (old, None),
        };
        feed.change(None, |cluster| {
            cluster.around.set_owner(kind, &entry.namespace, &entry.name, labels);
            Changed::Nothing
        });
    });
}

fn namespaces(shared: &Arc<Shared>, informers: &Informers) {
    let feed = shared.clone();
    let namespaces: Lister<core::Namespace> = informers.of(Options::default());
    namespaces.on_change(move |change| {
        let (entry, labels) = match change {
            Change::Applied { new, .. } => {
                let labels = new.labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
                (new, Some(labels.collect()))
            }
            Change::Deleted { old } => (old, None),
        };
        feed.change(Some(News::Namespace), |cluster| {
            cluster.set_namespace(&entry.name, labels)
        });
    });
}

fn budgets(shared: &Arc<Shared>, informers: &Informers) {
    let feed = shared.clone();
    let budgets: Lister<policy::PodDisruptionBudget> = informers.of(Options::default());
    budgets.on_change(move |change| {
        let (entry, budget) = match change {
            Change::Applied { new, .. } => {
                let budget: policy::PodDisruptionBudget = view(new);
                let status = budget.status.unwrap_or_default();
                let budget = Budget {
                    selector: selector(budget.spec.and_then(|spec| spec.selector).as_ref()),
                    allowed: status.disruptions_allowed.map_or(0, i64::from),
                    disrupted: status
                        .disrupted_pods
                        .into_iter()
                        .flatten()
                        .map(|(name, _)| name)
                        .collect(),
                };
                (new, Some(budget))
            }
            Change::Deleted { old } => (old, None),
        };
        feed.change(None, |cluster| {
            cluster.around.set_budget(&entry.namespace, &entry.name, budget);
            Changed::Nothing
        });
    });
}

fn nodes(shared: &Arc<Shared>, informers: &Informers) {
    let feed = shared.clone();
    let nodes: Lister<core::Node> = informers.of(Options::default());
    nodes.on_change(move |change| match change {
        Change::Applied { new, .. } => match new.typed() {
            Ok(node) => feed.node(&node),
            Err(error) => error!(node = %new.name, %error, "a node does not decode"),
        },
        Change::Deleted { old } => feed.lock().cluster.remove_node(&old.name),
    });
}

fn pods(shared: &Arc<Shared>, informers: &Informers) {
    let feed = shared.clone();
    let pods: Lister<core::Pod> = informers.of(Options {
        // What has ended takes nothing and is never placed.
        fields: "status.phase!=Succeeded,status.phase!=Failed".into(),
        ..Options::default()
    });
    pods.on_change(move |change| match change {
        Change::Applied { new, .. } => match new.typed() {
            Ok(pod) => feed.pod(&pod),
            Err(error) => error!(namespace = %new.namespace, pod = %new.name, %error, "a pod does not decode"),
        },
        Change::Deleted { old } => {
            let mut state = feed.lock();
            feed.pod_gone(&mut state, &old.uid);
            drop(state);
            feed.news.notify_one();
        }
    });
}

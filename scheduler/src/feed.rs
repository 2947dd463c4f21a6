//! Changes of pods and nodes become changes of the queue and the cluster. The only file that knows informers.

use std::sync::{Arc, Mutex, MutexGuard};

use daemon::informer::{Change, Informers, Lister, Options};
use k8s_openapi::api::core::v1 as core;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::error;

use crate::cluster::Cluster;
use crate::cycle;
use crate::pod::Pod;
use crate::queue::Queue;
use crate::rules::Rules;
use crate::volumes::Listed;

/// What the scheduler knows, under one short-held lock.
#[derive(Debug, Default)]
pub struct State {
    pub cluster: Cluster,
    pub queue: Queue,
}

/// The state that watches feed and decisions change.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    /// Something may be there to decide.
    pub news: Notify,
    rules: Rules,
    scheduler_name: String,
}

impl Shared {
    pub fn new(rules: Rules, scheduler_name: String) -> Self {
        Shared {
            state: Mutex::default(),
            news: Notify::new(),
            rules,
            scheduler_name,
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    fn pod(&self, object: &core::Pod) {
        let Some(pod) = Pod::parse(object) else { return };
        let pod = Arc::new(pod);
        let mut state = self.lock();
        match pod.node.clone() {
            // What has ended takes nothing of its node any more.
            Some(_) if api::pod::is_terminal(object) => self.pod_gone(&mut state, &pod.uid),
            Some(node) => {
                state.queue.remove(&pod.uid);
                state.cluster.place(pod, node, false);
            }
            None if pod.gated || pod.deleting || pod.scheduler != self.scheduler_name => state.queue.remove(&pod.uid),
            // An assumption means that its binding is under way.
            None if state.cluster.has(&pod.uid) => {}
            None => state.queue.add(pod),
        }
        drop(state);
        self.news.notify_one();
    }

    /// What the pod took is free: whoever would fit there now may come.
    pub fn pod_gone(&self, state: &mut State, uid: &str) {
        state.queue.remove(uid);
        if let Some(node) = state.cluster.displace(uid) {
            self.wake(state, &node);
        }
    }

    fn node(&self, object: &core::Node) {
        let mut state = self.lock();
        state.cluster.set_node(object);
        if let Some(name) = object.metadata.name.as_deref() {
            self.wake(&mut state, name);
        }
        drop(state);
        self.news.notify_one();
    }

    /// Wakes the parked pods that this node would do for now.
    pub fn wake(&self, state: &mut State, node: &str) {
        let State { cluster, queue } = state;
        let Some(node) = cluster.node(node) else { return };
        queue.wake_where(Instant::now(), |pod| cycle::fits(pod, node, cluster, &self.rules));
    }
}

/// Has claims and volumes watched: a pod that waits for one comes again when something changed there.
pub fn storage(shared: &Arc<Shared>, informers: &Informers) -> Listed {
    let feed = shared.clone();
    let listed = Listed::new(informers, move || {
        feed.lock()
            .queue
            .wake_where(Instant::now(), |pod| !pod.claims.is_empty());
        feed.news.notify_one();
    });
    shared.lock().cluster.storage = Some(Arc::new(listed.clone()));
    listed
}

/// Starts feeding. Returns what is watched, so that the caller can wait for it.
pub fn start(shared: &Arc<Shared>, informers: &Informers) -> (Lister<core::Pod>, Lister<core::Node>) {
    let pods = informers.of::<core::Pod>(Options {
        // What has ended takes nothing and is never placed.
        fields: "status.phase!=Succeeded,status.phase!=Failed".into(),
        ..Options::default()
    });
    let nodes = informers.of::<core::Node>(Options::default());
    let feed = shared.clone();
    nodes.on_change(move |change| match change {
        Change::Applied { new, .. } => match new.typed() {
            Ok(node) => feed.node(&node),
            Err(error) => error!(node = %new.name, %error, "a node does not decode"),
        },
        Change::Deleted { old } => feed.lock().cluster.remove_node(&old.name),
    });
    let feed = shared.clone();
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
    (pods, nodes)
}

//! What a controller is given: the shared listers, a client under its own name, and a voice for events.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

pub use daemon::clock::now as instant;
use daemon::informer::{Change, Kind, Lister, Options};
use daemon::{Informers, Next, Queue, Recorder};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio_util::sync::CancellationToken;

use crate::{Config, Error};

/// One controller's surroundings. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Shared by all controllers, under the process's identity.
    pub informers: Informers,
    /// Writes under the controller's own service account.
    pub client: kube::Client,
    pub recorder: Recorder,
    pub config: Arc<Config>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context")
    }
}

/// An object's name, as queues carry it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Key {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    pub fn of<K>(entry: &daemon::Entry<K>) -> Self {
        Key {
            namespace: entry.namespace.clone(),
            name: entry.name.clone(),
        }
    }
}

impl Context {
    /// The lister of all objects of a kind.
    pub fn all<K: Kind>(&self) -> Lister<K> {
        self.informers.of(Options::default())
    }

    /// Works on a queue until `stop`.
    pub async fn work<F, Fut>(self, queue: Queue<Key>, stop: CancellationToken, reconcile: F) -> Result<(), Error>
    where
        F: Fn(Key) -> Fut,
        Fut: Future<Output = Result<Next, Error>> + Send + 'static,
    {
        let Ok(()) = daemon::work(queue, self.config.workers, stop, reconcile).await;
        Ok(())
    }
}

/// Puts every object of a lister on a queue whenever it changes.
pub fn enqueue_each<K: Kind>(lister: &Lister<K>, queue: &Queue<Key>) {
    let queue = queue.clone();
    lister.on_change(move |change| match change {
        Change::Applied { new, .. } => queue.add(Key::of(new)),
        Change::Deleted { old } => queue.add(Key::of(old)),
    });
}

/// Puts the owner of a changed object on a queue: its controller, before and after, if that is of `kind`. Objects
/// without a controller are given to `orphan`, which may know who wants them.
pub fn enqueue_owner<K: Kind>(
    lister: &Lister<K>,
    kind: &'static str,
    queue: &Queue<Key>,
    orphan: impl Fn(&daemon::Entry<K>) + Send + Sync + 'static,
) {
    let queue = queue.clone();
    let owner = move |entry: &daemon::Entry<K>| {
        if let Some(owner) = entry.owner().filter(|owner| &*owner.kind == kind) {
            queue.add(Key {
                namespace: entry.namespace.clone(),
                name: owner.name.clone(),
            });
        }
    };
    lister.on_change(move |change| match change {
        Change::Applied { old, new } => {
            if let Some(old) = old.filter(|old| old.owner() != new.owner()) {
                owner(old);
            }
            match new.owner() {
                Some(_) => owner(new),
                // Only what could be adopted is offered, and only when that may have changed.
                None if !new.deleting && old.is_none_or(|old| old.labels != new.labels || old.owner().is_some()) => {
                    orphan(new);
                }
                None => {}
            }
        }
        Change::Deleted { old } => owner(old),
    });
}

/// The time of day, for stamps that go into objects.
pub fn now() -> Time {
    Time(instant())
}

//! ConfigMaps and Secrets that volumes of this node's pods show, each watched by itself: a node may see no others.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use daemon::informer::{Informers, Lister, Options};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    ConfigMap,
    Secret,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    namespace: String,
    name: String,
}

/// Watched objects by who uses them. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    watched: Mutex<HashMap<Key, Watched>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    changed: Box<dyn Fn(&str) + Send + Sync>,
}

struct Watched {
    users: HashSet<String>,
    lister: Seen,
    stop: CancellationToken,
}

#[derive(Clone)]
enum Seen {
    ConfigMap(Lister<ConfigMap>),
    Secret(Lister<Secret>),
}

/// The API did not answer in time; an object that is not there is not an error here.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("failed to sync {0} cache: timed out waiting for the condition")]
    Slow(&'static str),
    #[error("{0}")]
    Decode(String),
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Objects")
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

impl Objects {
    /// `changed` is told the UID of each pod that uses an object that changed.
    pub fn new(client: kube::Client, stop: CancellationToken, changed: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let inner = Inner {
            client,
            watched: Mutex::default(),
            tasks: TaskTracker::new(),
            stop,
            changed: Box::new(changed),
        };
        Objects { inner: Arc::new(inner) }
    }

    pub async fn config_map(&self, namespace: &str, name: &str, pod: &str) -> Result<Option<Arc<ConfigMap>>, Error> {
        let Seen::ConfigMap(lister) = self.watch(Kind::ConfigMap, namespace, name, pod) else {
            unreachable!("a key of one kind holds a lister of that kind")
        };
        tokio::time::timeout(PATIENCE, lister.synced())
            .await
            .map_err(|_| Error::Slow("configmap"))?;
        let entry = lister.get(namespace, name);
        entry
            .map(|e| e.typed())
            .transpose()
            .map_err(|e| Error::Decode(daemon::chain(&e)))
    }

    pub async fn secret(&self, namespace: &str, name: &str, pod: &str) -> Result<Option<Arc<Secret>>, Error> {
        let Seen::Secret(lister) = self.watch(Kind::Secret, namespace, name, pod) else {
            unreachable!("a key of one kind holds a lister of that kind")
        };
        tokio::time::timeout(PATIENCE, lister.synced())
            .await
            .map_err(|_| Error::Slow("secret"))?;
        let entry = lister.get(namespace, name);
        entry
            .map(|e| e.typed())
            .transpose()
            .map_err(|e| Error::Decode(daemon::chain(&e)))
    }

    /// The pod uses nothing any more; objects without users are no longer watched.
    pub fn release(&self, pod: &str) {
        let mut watched = self.lock();
        watched.retain(|_, w| {
            w.users.remove(pod);
            if w.users.is_empty() {
                w.stop.cancel();
            }
            !w.users.is_empty()
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Watched>> {
        self.inner.watched.lock().expect("no holder of this lock panics")
    }

    fn watch(&self, kind: Kind, namespace: &str, name: &str, pod: &str) -> Seen {
        let key = Key {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let mut watched = self.lock();
        if let Some(known) = watched.get_mut(&key) {
            known.users.insert(pod.to_owned());
            return known.lister.clone();
        }
        let informers = Informers::new(self.inner.client.clone());
        let options = Options {
            namespace: Some(namespace.to_owned()),
            labels: String::new(),
            fields: format!("metadata.name={name}"),
        };
        let tell = {
            let (inner, key) = (Arc::downgrade(&self.inner), key.clone());
            move || {
                if let Some(inner) = inner.upgrade() {
                    inner.tell(&key);
                }
            }
        };
        let lister = match kind {
            Kind::ConfigMap => {
                let lister = informers.of::<ConfigMap>(options);
                lister.on_change(move |_| tell());
                Seen::ConfigMap(lister)
            }
            Kind::Secret => {
                let lister = informers.of::<Secret>(options);
                lister.on_change(move |_| tell());
                Seen::Secret(lister)
            }
        };
        let stop = self.inner.stop.child_token();
        let ends = stop.clone();
        self.inner.tasks.spawn(async move {
            if let Err(error) = informers.run(ends).await {
                tracing::error!(error = daemon::chain(&error), "watch of one object ended");
            }
        });
        watched.insert(
            key,
            Watched {
                users: HashSet::from([pod.to_owned()]),
                lister: lister.clone(),
                stop,
            },
        );
        lister
    }
}

impl Inner {
    fn tell(&self, key: &Key) {
        let users: Vec<String> = {
            let watched = self.watched.lock().expect("no holder of this lock panics");
            watched
                .get(key)
                .map(|w| w.users.iter().cloned().collect())
                .unwrap_or_default()
        };
        for user in users {
            (self.changed)(&user);
        }
    }
}

//! Shared informers: a watch per kind comes in as bytes, an index of entries with extracted facts goes out, and the
//! changes to it.
//! Nothing here knows what a kind means or writes to the API, and nothing typed is kept: a typed object is decoded when
//! somebody looks. With the API server in the same process the bytes are those of its cache.
//! At all times a lister shows a state that the server had, and its handlers have been told of exactly that state.

mod entry;
mod facts;
mod feed;
mod frames;
mod store;

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use entry::{DecodeError, Entry};
pub use facts::{Facts, Labels, Owner};
pub use store::{Census, Change, Lister, Told};

use store::{Shared, Sink};

/// A resource as its path names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Empty for the core group.
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub plural: Cow<'static, str>,
    pub kind: Cow<'static, str>,
}

/// A type that an informer can be asked for: every top-level type of k8s-openapi is one. A part may have a smaller type
/// of its own, which decodes faster.
pub trait Kind: DeserializeOwned + Send + Sync + 'static {
    fn resource() -> Resource;
}

impl<K> Kind for K
where
    K: k8s_openapi::Resource + DeserializeOwned + Send + Sync + 'static,
{
    fn resource() -> Resource {
        Resource {
            group: K::GROUP.into(),
            version: K::VERSION.into(),
            plural: K::URL_PATH_SEGMENT.into(),
            kind: K::KIND.into(),
        }
    }
}

/// The kind of entries whose type nobody knows.
struct Untyped;

/// Which objects of a kind an informer holds. The default is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Options {
    pub namespace: Option<String>,
    pub labels: String,
    pub fields: String,
}

/// The watches of one part: whoever asks for the same kind and options shares one.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    cells: Mutex<HashMap<Key, Cell>>,
    /// Wakes `run` for a cell that was asked for while it runs. One slot: the cells themselves are in `cells`.
    wake: mpsc::Sender<()>,
    woken: Mutex<Option<mpsc::Receiver<()>>>,
}

type Key = (Resource, Options, TypeId);

struct Cell {
    /// An `Arc<Shared<K>>`.
    shared: Arc<dyn Any + Send + Sync>,
    sink: Arc<dyn Sink>,
    started: bool,
    stop: CancellationToken,
}

/// Final: the informers cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("these informers are already running")]
    Running,
    #[error("a watch panicked")]
    Panic(#[source] tokio::task::JoinError),
}

impl fmt::Debug for Informers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = self.inner.cells.lock().expect("no holder of this lock panics");
        f.debug_set()
            .entries(cells.keys().map(|(resource, ..)| resource.to_string()))
            .finish()
    }
}

impl Informers {
    pub fn new(client: kube::Client) -> Self {
        let (wake, woken) = mpsc::channel(1);
        Informers {
            inner: Arc::new(Inner {
                client,
                cells: Mutex::default(),
                wake,
                woken: Mutex::new(Some(woken)),
            }),
        }
    }

    /// The lister of a kind; its watch starts with [`Informers::run`], or at once if that is running.
    pub fn of<K: Kind>(&self, options: Options) -> Lister<K> {
        self.cell(K::resource(), options, true)
    }

    /// The facts of all objects of a resource: through the lister of all of it where somebody has one, else through
    /// one that keeps facts alone, no bytes.
    pub fn census(&self, resource: &Resource) -> Census {
        let everything = Options::default();
        let known = {
            let cells = self.inner.cells.lock().expect("no holder of this lock panics");
            let mut all = cells
                .iter()
                .filter(|((have, options, _), _)| have == resource && *options == everything);
            all.next().map(|(_, cell)| cell.sink.clone())
        };
        Census::new(known.unwrap_or_else(|| {
            let lister: Lister<Untyped> = self.cell(resource.clone(), everything, false);
            lister.sink()
        }))
    }

    /// Ends the watch of a resource that is served no more. Its listers stay as they were last.
    pub fn end(&self, resource: &Resource) {
        let mut cells = self.inner.cells.lock().expect("no holder of this lock panics");
        cells.retain(|(have, ..), cell| {
            if have == resource {
                cell.stop.cancel();
            }
            have != resource
        });
    }

    fn cell<K: Send + Sync + 'static>(&self, resource: Resource, options: Options, keep: bool) -> Lister<K> {
        let key = (resource.clone(), options.clone(), TypeId::of::<K>());
        let mut cells = self.inner.cells.lock().expect("no holder of this lock panics");
        let cell = cells.entry(key).or_insert_with(|| {
            let shared = Arc::new(Shared::<K>::new(resource, options, keep));
            Cell {
                shared: shared.clone(),
                sink: shared,
                started: false,
                stop: CancellationToken::new(),
            }
        });
        let shared = cell.shared.clone().downcast();
        drop(cells);
        // A full slot means that `run` is about to look anyway.
        let _ = self.inner.wake.try_send(());
        Lister::new(shared.expect("the key holds the type"))
    }

    /// Runs the watches until `stop`. It fails only when they cannot go on; a server that is away is waited for.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let woken = self.inner.woken.lock().expect("no holder of this lock panics").take();
        let mut woken = woken.ok_or(Error::Running)?;
        let mut watches = JoinSet::new();
        let outcome = loop {
            self.start(&mut watches, &stop);
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                Some(ended) = watches.join_next(), if !watches.is_empty() => {
                    if let Err(panic) = ended {
                        break Err(Error::Panic(panic));
                    }
                }
                Some(()) = woken.recv() => {}
            }
        };
        watches.shutdown().await;
        // Another run may take over, from where the listers are.
        for cell in self
            .inner
            .cells
            .lock()
            .expect("no holder of this lock panics")
            .values_mut()
        {
            cell.started = false;
        }
        *self.inner.woken.lock().expect("no holder of this lock panics") = Some(woken);
        outcome
    }

    fn start(&self, watches: &mut JoinSet<()>, stop: &CancellationToken) {
        let mut cells = self.inner.cells.lock().expect("no holder of this lock panics");
        for cell in cells.values_mut().filter(|cell| !cell.started) {
            cell.started = true;
            let (client, sink) = (self.inner.client.clone(), cell.sink.clone());
            let (stop, own) = (stop.clone(), cell.stop.clone());
            watches.spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = own.cancelled() => {}
                    () = feed::feed(client, sink) => {}
                }
            });
        }
    }

    /// Waits until everything that was asked for so far shows the server's state.
    pub async fn synced(&self) {
        let sinks: Vec<_> = {
            let cells = self.inner.cells.lock().expect("no holder of this lock panics");
            cells.values().map(|cell| cell.sink.synced()).collect()
        };
        for mut synced in sinks {
            // An ended watch has nothing to wait for.
            let _ = synced.wait_for(|synced| *synced).await;
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.plural)?;
        if self.group.is_empty() {
            Ok(())
        } else {
            write!(f, ".{}", self.group)
        }
    }
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path of the collection.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let Resource {
            group, version, plural, ..
        } = self;
        let base = if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        };
        match namespace {
            Some(namespace) => format!("{base}/namespaces/{namespace}/{plural}"),
            None => format!("{base}/{plural}"),
        }
    }
}

#[cfg(test)]
mod tests;

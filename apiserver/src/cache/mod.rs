//! Current state and recent history of every resource, fed by the store's watch.
//! Comes in: the store's changes. Goes out: items, lists, watchers, as shared bytes. Nothing here writes to the store or
//! knows HTTP, and only `feed` changes what is here.
//! Invariant: the newest event in the window and the newest snapshot carry the same revision.
//!
//! ```text
//! store.watch ─► feed ─► index  (current items)  ─► Snapshot ─► lists, gets
//!                    └─► window (recent changes) ─► Watcher  ─► watches
//! ```

use std::sync::Arc;

use bytes::Bytes;

use crate::object::Object;
use crate::store::{Key, Revision, Store};

/// Finished bytes with a gap where the resourceVersion goes, so that a DELETED event or a selector exit carries another
/// revision without a copy.
#[derive(Debug, Clone)]
pub struct Splice {
    pub head: Bytes,
    pub tail: Bytes,
}

impl Splice {
    /// Finished bytes that hold no resourceVersion (or a fixed one).
    pub fn whole(bytes: Bytes) -> Self {
        unimplemented!("{bytes:?}")
    }
    /// Finds the gap in the JSON of one object: the first place inside its `metadata`. A resourceVersion that is there
    /// is cut out. `None` where there is no JSON object with non-empty metadata.
    pub fn find(json: Bytes) -> Option<Self> {
        unimplemented!("{json:?}")
    }
    /// Appends the object with its resourceVersion.
    pub fn write_to(&self, revision: Revision, out: &mut Vec<u8>) {
        unimplemented!("{revision} {out:?}")
    }
    /// The same as three pieces to be sent one after the other; only the middle one is made.
    pub fn chunks(&self, revision: Revision) -> [Bytes; 3] {
        unimplemented!("{revision}")
    }
    /// Bytes that `write_to` appends.
    pub fn len(&self, revision: Revision) -> usize {
        unimplemented!("{revision}")
    }
}

/// What selectors and indexes ask of an object, extracted once when it is fed.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// Sorted by key.
    pub labels: Box<[(Arc<str>, Arc<str>)]>,
    /// Values of the row's selectable fields, in the row's order (`metadata.name` and `.namespace` apart).
    pub fields: Box<[Arc<str>]>,
}

/// Which objects a list or watch is about. `fields` may name `metadata.name`, `metadata.namespace` and the spec's fields;
/// a field that is none of them matches nothing, so refuse it before.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub namespace: Option<Arc<str>>,
    pub name: Option<Arc<str>>,
    pub labels: api::selector::Labels,
    pub fields: api::selector::Fields,
}

/// What a watcher is told. `Deleted` is also said of an object that left the filter, `Added` of one that entered it.
#[derive(Debug, Clone)]
pub enum Event {
    Added(Arc<Item>),
    Modified(Arc<Item>),
    /// The last state that matched, sent with revision `at`.
    Deleted {
        item: Arc<Item>,
        at: Revision,
    },
}

/// One object as the cache keeps it: the stored bytes, the facts, and renderings made on demand.
#[derive(Debug)]
pub struct Item {
    pub facts: Facts,
    pub key: Key,
    pub revision: Revision,
    json: Splice,
}

impl Item {
    /// The storage version as JSON: slices of the stored bytes.
    pub fn json(&self) -> &Splice {
        &self.json
    }
    /// As a JSON tree, with its resourceVersion.
    pub fn object(&self) -> Object {
        unimplemented!()
    }
    pub fn label(&self, key: &str) -> Option<&str> {
        unimplemented!("{key}")
    }
    /// Another form of this object (a Table row, protobuf, another version): made once and remembered while hot. `form`
    /// tells forms apart for the whole process, schema generation included.
    pub fn rendering(self: &Arc<Self>, form: u64, make: impl FnOnce(&Item) -> Splice) -> Splice {
        unimplemented!("{form} {:?}", make(self))
    }
}

/// Why a read cannot be answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// 410: history up to `oldest` is gone. A watch says it too when it fell behind.
    #[error("too old resource version: {asked} ({oldest})")]
    Expired { asked: Revision, oldest: Revision },
    /// 504 with the cause ResourceVersionTooLarge: not seen within three seconds.
    #[error("Too large resource version: {asked}, current: {current}")]
    TooLarge { asked: Revision, current: Revision },
    /// The resource was taken away.
    #[error("the resource is gone")]
    Closed,
    /// 503: the store did not answer.
    #[error("the store did not answer")]
    Unavailable(#[source] Arc<crate::store::Error>),
}

/// What the cache must know of a row.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Ends in a slash: `/registry/pods/`. No other cache's prefix starts with it.
    pub prefix: Arc<str>,
    /// Keys are `prefix namespace/name`; otherwise `prefix name`.
    pub namespaced: bool,
    pub fields: Vec<Field>,
}

/// A selectable field beside `metadata.name` and `metadata.namespace`.
#[derive(Debug, Clone)]
pub struct Field {
    /// `spec.nodeName`.
    pub name: Arc<str>,
    /// The way through the JSON tree; a missing value is "", true and false are words, numbers as they are spelled.
    pub path: Vec<Arc<str>>,
}

/// All caches over one store, with the one task that feeds them.
#[derive(Debug)]
pub struct Caches {}

impl Caches {
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        unimplemented!("{store:?}")
    }
    /// A cache for one more row: at once before `run`, filled from the store after.
    pub async fn add(&self, spec: Spec) -> Result<Arc<Cache>, Error> {
        unimplemented!("{spec:?}")
    }
    /// Takes a row's cache away; its watches end with [`Error::Closed`].
    pub async fn remove(&self, prefix: &str) {
        unimplemented!("{prefix}")
    }
    /// Feeds all caches until `stop`: the initial list, then the store's watch, and compaction of the store's history and
    /// of ours every five minutes in which something was written.
    pub async fn run(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) -> Result<(), Error> {
        unimplemented!("{stop:?}")
    }
    /// When the initial list is in.
    pub async fn loaded(&self) {
        unimplemented!()
    }
}

/// One resource.
#[derive(Debug)]
pub struct Cache {}

impl Cache {
    pub fn spec(&self) -> &Spec {
        unimplemented!()
    }
    /// Where the object lives in the store.
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        unimplemented!("{namespace} {name}")
    }
    /// The newest revision that this cache has seen everything up to.
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }
    /// Waits until the cache has seen everything that the store had when this was called.
    pub async fn fresh(&self) -> Result<Revision, Error> {
        unimplemented!()
    }
    /// Waits until the cache has seen `revision`, three seconds at most.
    pub async fn at_least(&self, revision: Revision) -> Result<(), Error> {
        unimplemented!("{revision}")
    }
    /// As the cache has it now.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Item>> {
        unimplemented!("{namespace} {name}")
    }
    /// Everything as of now; O(1).
    pub fn snapshot(&self) -> Snapshot {
        unimplemented!()
    }
    /// Everything exactly as of `revision`: for continue tokens and `resourceVersionMatch=Exact`.
    pub fn at(&self, revision: Revision) -> Result<Snapshot, Error> {
        unimplemented!("{revision}")
    }
    /// One page of `snapshot` in key order. A snapshot with more is kept for the continue token (until compaction).
    pub fn page(&self, snapshot: &Snapshot, filter: &Filter, after: Option<&str>, limit: usize) -> Page {
        unimplemented!("{snapshot:?} {filter:?} {after:?} {limit}")
    }
    /// Changes after `after`.
    pub fn watch(self: &Arc<Self>, filter: Filter, after: Revision) -> Result<Watcher, Error> {
        unimplemented!("{filter:?} {after}")
    }
    /// What there is (at the returned revision, in key order), and what comes after it.
    pub fn list_and_watch(self: &Arc<Self>, filter: Filter) -> (Vec<Arc<Item>>, Revision, Watcher) {
        unimplemented!("{filter:?}")
    }
    /// For those inside this server who follow a resource: all of it, then every change; never ends and never expires.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        unimplemented!()
    }
    /// Ends every watch with `Expired`: the way objects are rendered has changed.
    pub fn expire_watches(&self) {
        unimplemented!()
    }
}

/// All objects of a resource at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {}

impl Snapshot {
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }
    pub fn len(&self) -> usize {
        unimplemented!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Item>> {
        unimplemented!("{namespace} {name}")
    }
    /// What the filter selects, in key order.
    pub fn list(&self, filter: &Filter) -> Vec<Arc<Item>> {
        unimplemented!("{filter:?}")
    }
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Page {
    pub items: Vec<Arc<Item>>,
    /// The key to continue after, where there is more. It is the last item's, without the spec's prefix.
    pub next: Option<String>,
    /// How many come after this page; known only where the filter has no selectors.
    pub remaining: Option<usize>,
}

/// A place in the recent history of a resource, and a filter.
#[derive(Debug)]
pub struct Watcher {}

impl Watcher {
    /// The next events, one or more, in order. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        unimplemented!()
    }
    pub fn poll_next(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<Vec<Event>, Error>> {
        unimplemented!("{cx:?}")
    }
    /// For a bookmark: every event up to here has been returned by `next`.
    pub fn progress(&self) -> Revision {
        unimplemented!()
    }
}

/// What a subscriber is told.
#[derive(Debug, Clone)]
pub enum Delta {
    /// Forget what you know: this is everything. Always the first.
    Reset(Vec<Arc<Item>>),
    Changes(Vec<Event>),
}

#[derive(Debug)]
pub struct Subscription {}

impl Subscription {
    /// Waits for the initial list at first, then for changes. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Delta {
        unimplemented!()
    }
}

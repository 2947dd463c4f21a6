//! Current state and recent history of every resource, fed by the store's watch.
//! Comes in: the store's changes. Goes out: items, lists, watchers, as shared bytes. Nothing here writes to the store or
//! knows HTTP, and only `feed` changes what is here.
//! Invariant: the newest event in the window and the newest snapshot carry the same revision.
//!
//! ```text
//! store.watch ─► feed ─► index  (current items)  ─► Snapshot ─► lists, gets
//!                    └─► window (recent changes) ─► Watcher  ─► watches
//! ```

mod feed;
mod index;
mod item;
mod progress;
mod scan;
mod select;
mod splice;
mod subscribe;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod watcher;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use index::Index;
use progress::Progress;
use select::Matcher;
use watcher::{Waiters, lock};
use window::{Record, Window};

pub use feed::Caches;
pub use index::Snapshot;
pub use item::{Facts, Item};
pub use splice::Splice;
pub use subscribe::{Delta, Subscription};
pub use watcher::Watcher;

use crate::store::{Key, Revision};

/// Which objects a list or watch is about. `fields` may name `metadata.name`, `metadata.namespace` and the spec's fields;
/// a term about any other field matches nothing, so refuse it before.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// `None` and the empty one are all.
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
    /// At most 32.
    pub fields: Vec<Field>,
}

/// A selectable field beside `metadata.name` and `metadata.namespace`.
#[derive(Debug, Clone)]
pub struct Field {
    /// `spec.nodeName`.
    pub name: Arc<str>,
    /// The way through the JSON tree, array indexes as decimals; true and false are words, numbers as they are spelled.
    pub path: Vec<Arc<str>>,
    /// Where to look when `path` leads to nothing or to the empty string. May be empty.
    pub otherwise: Vec<Arc<str>>,
    /// What it is when there is nothing: "", mostly.
    pub missing: Arc<str>,
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Page {
    pub items: Vec<Arc<Item>>,
    /// The key to continue after, where there is more: the last item's, without the spec's prefix.
    pub next: Option<String>,
    /// How many come after this page; known only where the filter has no selectors.
    pub remaining: Option<usize>,
}

/// Snapshots that continue tokens point to, at most; older ones are rebuilt from the window while that reaches.
const MOST_KEPT: usize = 64;

/// One resource.
#[derive(Debug)]
pub struct Cache {
    spec: Arc<Spec>,
    progress: Arc<Progress>,
    state: RwLock<State>,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    window: Window,
    /// The newest change, or where the initial list stood.
    last: Revision,
    /// Where the initial list stood: it holds every change up to there.
    loaded: Revision,
    /// What continue tokens point to, oldest first.
    kept: VecDeque<Snapshot>,
    closed: bool,
}

/// What the feeder says. An item that could not be read is taken for none.
#[derive(Debug)]
struct Changed {
    key: Key,
    revision: Revision,
    new: Option<Arc<Item>>,
}

impl Spec {
    /// Where the object lives in the store.
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        let mut key = self.prefix_of(Some(namespace));
        key.push_str(name);
        key.into()
    }

    /// What the keys of a namespace start with; of all, where there is none.
    fn prefix_of(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.namespaced && !namespace.is_empty() => format!("{}{namespace}/", self.prefix),
            _ => String::from(&*self.prefix),
        }
    }

    fn parts<'a>(&self, key: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = key.strip_prefix(&*self.prefix)?;
        let (namespace, name) = match self.namespaced {
            true => rest.split_once('/')?,
            false => ("", rest),
        };
        (!name.is_empty()).then_some((namespace, name))
    }
}

impl Cache {
    fn new(spec: Spec, progress: Arc<Progress>) -> Self {
        Cache {
            spec: Arc::new(spec),
            progress,
            state: RwLock::default(),
            waiters: Mutex::default(),
        }
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where the object lives in the store.
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        self.spec.key(namespace, name)
    }

    /// The newest revision that this cache has seen everything up to.
    pub fn revision(&self) -> Revision {
        self.revision_of(&self.read())
    }

    /// Waits until the cache has seen everything that the store had when this was called.
    pub async fn fresh(&self) -> Result<Revision, Error> {
        self.progress.fresh().await
    }

    /// Waits until the cache has seen `revision` (0: until it was filled at all), three seconds at most.
    pub async fn at_least(&self, revision: Revision) -> Result<(), Error> {
        self.progress.at_least(revision).await
    }

    /// As the cache has it now.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Item>> {
        let mut key = self.spec.prefix_of(Some(namespace));
        key.push_str(name);
        self.read().index.get(&key).cloned()
    }

    /// Everything as of now; O(1).
    pub fn snapshot(&self) -> Snapshot {
        let state = self.read();
        self.snapshot_of(&state, self.revision_of(&state))
    }

    /// Everything exactly as of `revision`: for continue tokens and `resourceVersionMatch=Exact`.
    pub fn at(&self, revision: Revision) -> Result<Snapshot, Error> {
        let state = self.read();
        let current = self.revision_of(&state);
        if revision > current {
            return Err(Error::TooLarge {
                asked: revision,
                current,
            });
        }
        if revision >= state.last {
            return Ok(self.snapshot_of(&state, revision));
        }
        if let Some(kept) = state.kept.iter().find(|s| s.revision == revision) {
            return Ok(kept.clone());
        }
        if revision < state.window.floor() {
            return Err(Error::Expired {
                asked: revision,
                oldest: state.window.floor(),
            });
        }
        let mut undone = BTreeMap::new();
        for record in state.window.from(state.window.after(revision)).rev() {
            let item = record.old.as_ref().or(record.new.as_ref());
            let key = &item.expect("a record has an old or a new item").key;
            undone.insert(key, record.old.clone());
        }
        Ok(Snapshot {
            index: state.index.undo(undone.into_iter()),
            spec: self.spec.clone(),
            revision,
        })
    }

    /// One page of `snapshot` in key order, after `after` (a former page's `next`); 0 is no limit. A snapshot with more
    /// is kept for the continue token until compaction.
    pub fn page(&self, snapshot: &Snapshot, filter: &Filter, after: Option<&str>, limit: usize) -> Page {
        let page = snapshot.page(filter, after, limit);
        if page.next.is_some() {
            let mut state = self.write();
            let known = state.kept.iter().any(|s| s.revision == snapshot.revision);
            if !known && snapshot.revision >= state.window.floor() {
                if state.kept.len() == MOST_KEPT {
                    state.kept.pop_front();
                }
                state.kept.push_back(snapshot.clone());
            }
        }
        page
    }

    /// What the filter selects now, in key order, and the revision of that.
    pub fn list(&self, filter: &Filter) -> (Vec<Arc<Item>>, Revision) {
        let snapshot = self.indexed(filter);
        (snapshot.list(filter), snapshot.revision)
    }

    /// The current snapshot; with the secondary index that `filter` would profit from, made now if it is missing.
    pub fn indexed(&self, filter: &Filter) -> Snapshot {
        let matcher = Matcher::new(filter, &self.spec);
        self.with_index(&matcher, |state| self.snapshot_of(state, self.revision_of(state)))
    }

    fn with_index<T>(&self, matcher: &Matcher, read: impl Fn(&State) -> T) -> T {
        {
            let state = self.read();
            if !state.index.lacks(matcher) {
                return read(&state);
            }
        }
        let mut state = self.write();
        state.index.add_for(matcher);
        read(&state)
    }

    /// Changes after `after`.
    pub fn watch(self: &Arc<Self>, filter: Filter, after: Revision) -> Result<Watcher, Error> {
        let matcher = Matcher::new(&filter, &self.spec);
        let state = self.read();
        if state.closed {
            return Err(Error::Closed);
        }
        if after < state.window.floor() {
            return Err(Error::Expired {
                asked: after,
                oldest: state.window.floor(),
            });
        }
        let cursor = state.window.after(after);
        Ok(Watcher::new(self.clone(), matcher, after, cursor, after))
    }

    /// What there is (at the returned revision, in key order), and what comes after it.
    pub fn list_and_watch(self: &Arc<Self>, filter: Filter) -> (Vec<Arc<Item>>, Revision, Watcher) {
        let matcher = Matcher::new(&filter, &self.spec);
        // Both from under one lock: there is no hole between the list and the watch.
        let (snapshot, cursor) = self.with_index(&matcher, |state| {
            let snapshot = self.snapshot_of(state, self.revision_of(state));
            (snapshot, state.window.end())
        });
        let revision = snapshot.revision;
        let watcher = Watcher::new(self.clone(), matcher, revision, cursor, revision);
        (snapshot.list(&filter), revision, watcher)
    }

    /// For those inside this server who follow a resource: all of it, then every change; never ends and never expires.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        Subscription::new(self.clone())
    }

    /// Ends every watch with `Expired`: the way objects are rendered has changed.
    pub fn expire_watches(&self) {
        self.change(|state| {
            let floor = self.revision_of(state);
            state.window.reset(floor);
            state.kept.clear();
        });
    }

    /// Replaces everything; whoever watched must list again.
    fn load(&self, items: Vec<Arc<Item>>, revision: Revision) {
        let mut index = Index::default();
        for item in items {
            index.set(&item.key.clone(), Some(item));
        }
        self.change(|state| {
            state.index = index;
            state.window.reset(revision);
            state.last = revision;
            state.loaded = revision;
            state.kept.clear();
        });
    }

    /// Changes in order.
    fn apply(&self, changes: Vec<Changed>) {
        let wake = {
            let mut state = self.write();
            let cursor = state.window.end();
            for Changed { key, revision, new } in changes {
                if revision <= state.loaded {
                    continue;
                }
                state.last = revision;
                let old = state.index.set(&key, new.clone());
                if old.is_some() || new.is_some() {
                    state.window.push(Record { revision, old, new });
                }
            }
            lock(&self.waiters).mark(&state.window, cursor)
        };
        wake.into_iter().for_each(std::task::Waker::wake);
    }

    fn compact(&self, revision: Revision) {
        let mut state = self.write();
        state.window.compact(revision);
        state.kept.retain(|s| s.revision >= revision);
    }

    fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// A change after which everybody has to look.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut wake = Vec::new();
        {
            let mut state = self.write();
            change(&mut state);
            lock(&self.waiters).mark_all(0, &mut wake);
        }
        wake.into_iter().for_each(std::task::Waker::wake);
    }

    fn snapshot_of(&self, state: &State, revision: Revision) -> Snapshot {
        Snapshot {
            index: state.index.clone(),
            spec: self.spec.clone(),
            revision,
        }
    }

    /// Of this resource nothing changed between its newest change and where the feeder stands. The feeder advances after
    /// it applied, so under the state's lock the larger of the two is exact.
    fn revision_of(&self, state: &State) -> Revision {
        state.last.max(self.progress.seen())
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("nothing panics while it holds this lock")
    }
    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("nothing panics while it holds this lock")
    }
}

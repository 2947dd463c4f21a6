//! The entries of one watch, their indexes, and who is told of changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;
use tracing::warn;

use super::entry::{Body, Entry};
use super::facts::{Facts, extract};
use super::{Options, Resource};

/// Reads what an informer holds. Cheap to clone.
pub struct Lister<K> {
    shared: Arc<Shared<K>>,
}

/// What happened to one object.
#[derive(Debug)]
pub enum Change<'a, K> {
    Applied {
        old: Option<&'a Arc<Entry<K>>>,
        new: &'a Arc<Entry<K>>,
    },
    /// The object in its last state.
    Deleted { old: &'a Arc<Entry<K>> },
}

/// What happened to one object, for those who do not know its type.
#[derive(Debug)]
pub enum Told<'a> {
    Applied {
        old: Option<&'a Facts>,
        new: &'a Facts,
    },
    Deleted {
        old: &'a Facts,
    },
    /// Everything that exists has been told.
    Synced,
}

/// Reads the facts of a resource, whatever type others read it as.
#[derive(Clone)]
pub struct Census {
    sink: Arc<dyn Sink>,
}

impl fmt::Debug for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Census({})", self.sink.resource())
    }
}

impl Census {
    pub(super) fn new(sink: Arc<dyn Sink>) -> Self {
        Census { sink }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Facts> {
        self.sink.facts(namespace, name)
    }

    /// Tells `f` of every object, now and from now on. Same contract as [`Lister::on_change`].
    pub fn tell(&self, f: impl Fn(Told<'_>) + Send + Sync + 'static) {
        self.sink.tell(Box::new(f));
    }

    /// Waits until the census shows the server's state.
    pub async fn synced(&self) {
        // An ended watch has nothing to wait for.
        let _ = self.sink.synced().wait_for(|synced| *synced).await;
    }
}

type Handler<K> = Box<dyn Fn(Change<'_, K>) + Send + Sync>;
type Teller = Box<dyn Fn(Told<'_>) + Send + Sync>;
type Place = (Arc<str>, Arc<str>);
type Entries<K> = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Entry<K>>>>;

pub(super) struct Shared<K> {
    resource: Resource,
    options: Options,
    /// Whether entries keep their bytes.
    keep: bool,
    data: RwLock<Data<K>>,
    /// Held while a change is made and told, so that a handler that is added sees each change exactly once.
    handlers: Mutex<Handlers<K>>,
    synced: watch::Sender<bool>,
    /// Everything up to here has been applied.
    reached: AtomicU64,
}

struct Handlers<K> {
    change: Vec<Handler<K>>,
    tell: Vec<Teller>,
}

struct Data<K> {
    entries: Entries<K>,
    indexes: HashMap<&'static str, Index<K>>,
    /// Strings that many objects share.
    words: HashSet<Arc<str>>,
    /// At this size those words that nobody uses any more are dropped.
    sweep_at: usize,
    /// While the initial events of another list come in: what it has shown so far. What it has not shown at its end
    /// was deleted while nobody watched.
    relist: Option<BTreeSet<Place>>,
}

type Keys<K> = Box<dyn Fn(&Entry<K>) -> Vec<String> + Send + Sync>;

struct Index<K> {
    keys: Keys<K>,
    map: HashMap<String, BTreeMap<Place, Arc<Entry<K>>>>,
}

/// Where a watch puts what it reads.
pub(super) trait Sink: Send + Sync {
    fn resource(&self) -> &Resource;
    fn options(&self) -> &Options;
    /// An object as it is now; returns its revision.
    fn apply(&self, body: Body) -> Result<u64, serde_json::Error>;
    /// An object in its last state; returns the revision of its end.
    fn delete(&self, body: Body) -> Result<u64, serde_json::Error>;
    /// What follows is a whole list.
    fn begin(&self);
    /// The list is complete, as of this revision.
    fn complete(&self, revision: u64);
    /// Everything up to a revision has been applied.
    fn reached(&self, revision: u64);
    fn synced(&self) -> watch::Receiver<bool>;
    fn tell(&self, told: Teller);
    fn facts(&self, namespace: &str, name: &str) -> Option<Facts>;
}

impl<K> Clone for Lister<K> {
    fn clone(&self) -> Self {
        Lister {
            shared: self.shared.clone(),
        }
    }
}

impl<K> fmt::Debug for Lister<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lister({})", self.shared.resource)
    }
}

impl<K: Send + Sync + 'static> Lister<K> {
    pub(super) fn new(shared: Arc<Shared<K>>) -> Self {
        Lister { shared }
    }

    pub(super) fn sink(self) -> Arc<dyn Sink> {
        self.shared
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry<K>>> {
        self.shared.read().entries.get(namespace)?.get(name).cloned()
    }

    /// All entries, by namespace and name.
    pub fn list(&self) -> Vec<Arc<Entry<K>>> {
        let data = self.shared.read();
        data.entries.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// The entries of a namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<Entry<K>>> {
        let data = self.shared.read();
        let inside = data.entries.get(namespace);
        inside
            .map(|inside| inside.values().cloned().collect())
            .unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.shared.read().entries.values().map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index, unless there is one of that name. `keys` is called under the store's lock: it must not use the
    /// lister.
    pub fn index(&self, name: &'static str, keys: impl Fn(&Entry<K>) -> Vec<String> + Send + Sync + 'static) {
        self.shared.write().add_index(name, Box::new(keys));
    }

    /// The entries under a key of an index. `owner` (the controller's UID) is always there.
    pub fn by(&self, index: &'static str, key: &str) -> Vec<Arc<Entry<K>>> {
        let data = self.shared.read();
        let index = data.indexes.get(index).expect("an index is added before it is asked");
        let found = index.map.get(key);
        found.map(|found| found.values().cloned().collect()).unwrap_or_default()
    }

    /// Has `f` called for all that is present, then for each change, in order, by the watch itself: put a key on a
    /// queue and do no work there. It may read listers but not add handlers.
    pub fn on_change(&self, f: impl Fn(Change<'_, K>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers();
        for entry in self.list() {
            f(Change::Applied { old: None, new: &entry });
        }
        handlers.change.push(Box::new(f));
    }

    /// Waits until the lister shows the server's state.
    pub async fn synced(&self) {
        // The sender lives in `shared`, which this lister holds.
        let _ = self.shared.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// The revision up to which the lister shows everything that happened. Whoever writes and reads here should not
    /// act on what it reads before its own write is in it.
    pub fn revision(&self) -> u64 {
        self.shared.reached.load(Ordering::Acquire)
    }

    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }
}

impl<K: Send + Sync + 'static> Shared<K> {
    pub(super) fn new(resource: Resource, options: Options, keep: bool) -> Self {
        let mut data = Data {
            entries: BTreeMap::new(),
            indexes: HashMap::new(),
            words: HashSet::new(),
            sweep_at: 64,
            relist: None,
        };
        let owner = |entry: &Entry<K>| entry.owner().map(|owner| owner.uid.to_string()).into_iter().collect();
        data.add_index("owner", Box::new(owner));
        Shared {
            resource,
            options,
            keep,
            data: RwLock::new(data),
            handlers: Mutex::new(Handlers {
                change: Vec::new(),
                tell: Vec::new(),
            }),
            synced: watch::Sender::new(false),
            reached: AtomicU64::new(0),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Data<K>> {
        self.data.read().expect("no holder of this lock panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Data<K>> {
        self.data.write().expect("no holder of this lock panics")
    }

    fn handlers(&self) -> MutexGuard<'_, Handlers<K>> {
        self.handlers.lock().expect("handlers do not panic")
    }

    fn entry(&self, mut body: Body) -> Result<Arc<Entry<K>>, serde_json::Error> {
        let mut scratch = Vec::new();
        let whole: &[u8] = if body.tail.is_empty() {
            &body.head
        } else {
            // The revision is only asked for where the middle is already settled; here it is still the bytes.
            body.write(0, &mut scratch);
            &scratch
        };
        let mut data = self.write();
        let facts = extract(whole, |word| data.intern(word))?;
        drop(data);
        body.settle(facts.revision);
        let body = if self.keep { body } else { Body::default() };
        Ok(Arc::new(Entry::new(facts, body)))
    }

    fn remove(&self, handlers: &Handlers<K>, entry: &Arc<Entry<K>>) {
        let old = self.write().remove(&entry.namespace, &entry.name);
        if old.is_some() {
            handlers.deleted(entry);
        }
    }
}

impl<K: Send + Sync + 'static> Sink for Shared<K> {
    fn resource(&self) -> &Resource {
        &self.resource
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn apply(&self, body: Body) -> Result<u64, serde_json::Error> {
        let new = self.entry(body)?;
        let revision = new.revision;
        let handlers = self.handlers();
        let old = {
            let mut data = self.write();
            if let Some(relist) = &mut data.relist {
                relist.insert((new.namespace.clone(), new.name.clone()));
            }
            let same = data.get(&new.namespace, &new.name);
            // A list repeats what is known.
            if same.is_some_and(|old| old.revision == revision && old.uid == new.uid) {
                return Ok(revision);
            }
            if data.relist.is_none() {
                // Before the handlers: who is woken by one must find the revision in place.
                self.reached.fetch_max(revision, Ordering::AcqRel);
            }
            data.insert(new.clone())
        };
        match &old {
            // The object was deleted and made again while nobody watched.
            Some(old) if old.uid != new.uid => {
                handlers.deleted(old);
                handlers.applied(None, &new);
            }
            old => handlers.applied(old.as_ref(), &new),
        }
        Ok(revision)
    }

    fn delete(&self, body: Body) -> Result<u64, serde_json::Error> {
        let last = self.entry(body)?;
        let handlers = self.handlers();
        self.reached.fetch_max(last.revision, Ordering::AcqRel);
        self.remove(&handlers, &last);
        Ok(last.revision)
    }

    fn begin(&self) {
        self.write().relist = Some(BTreeSet::new());
    }

    fn complete(&self, revision: u64) {
        let handlers = self.handlers();
        self.reached.store(revision, Ordering::Release);
        let gone: Vec<_> = {
            let mut data = self.write();
            let seen = data.relist.take().unwrap_or_default();
            let entries = data.entries.values().flat_map(BTreeMap::values);
            entries
                .filter(|entry| !seen.contains(&(entry.namespace.clone(), entry.name.clone())))
                .cloned()
                .collect()
        };
        for entry in &gone {
            self.remove(&handlers, entry);
        }
        if !self.synced.send_replace(true) {
            handlers.tell.iter().for_each(|tell| tell(Told::Synced));
        }
    }

    fn reached(&self, revision: u64) {
        self.reached.fetch_max(revision, Ordering::AcqRel);
    }

    fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    fn facts(&self, namespace: &str, name: &str) -> Option<Facts> {
        self.read().get(namespace, name).map(|entry| entry.facts().clone())
    }

    fn tell(&self, told: Teller) {
        let mut handlers = self.handlers();
        let present: Vec<_> = self
            .read()
            .entries
            .values()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect();
        for entry in present {
            told(Told::Applied {
                old: None,
                new: entry.facts(),
            });
        }
        if *self.synced.borrow() {
            told(Told::Synced);
        }
        handlers.tell.push(told);
    }
}

impl<K> Handlers<K> {
    fn applied(&self, old: Option<&Arc<Entry<K>>>, new: &Arc<Entry<K>>) {
        for handler in &self.change {
            handler(Change::Applied { old, new });
        }
        for tell in &self.tell {
            tell(Told::Applied {
                old: old.map(|old| old.facts()),
                new: new.facts(),
            });
        }
    }

    fn deleted(&self, old: &Arc<Entry<K>>) {
        for handler in &self.change {
            handler(Change::Deleted { old });
        }
        for tell in &self.tell {
            tell(Told::Deleted { old: old.facts() });
        }
    }
}

impl<K> Data<K> {
    fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Entry<K>>> {
        self.entries.get(namespace)?.get(name)
    }

    fn insert(&mut self, entry: Arc<Entry<K>>) -> Option<Arc<Entry<K>>> {
        let inside = self.entries.entry(entry.namespace.clone()).or_default();
        let old = inside.insert(entry.name.clone(), entry.clone());
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(old);
            }
            index.insert(&entry);
        }
        old
    }

    fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<Entry<K>>> {
        let inside = self.entries.get_mut(namespace)?;
        let old = inside.remove(name)?;
        if inside.is_empty() {
            self.entries.remove(namespace);
        }
        for index in self.indexes.values_mut() {
            index.remove(&old);
        }
        Some(old)
    }

    fn add_index(&mut self, name: &'static str, keys: Keys<K>) {
        if self.indexes.contains_key(name) {
            return;
        }
        let mut index = Index {
            keys,
            map: HashMap::new(),
        };
        for entry in self.entries.values().flat_map(BTreeMap::values) {
            index.insert(entry);
        }
        self.indexes.insert(name, index);
    }

    fn intern(&mut self, word: &str) -> Arc<str> {
        if let Some(have) = self.words.get(word) {
            return have.clone();
        }
        if self.words.len() >= self.sweep_at {
            self.words.retain(|word| Arc::strong_count(word) > 1);
            self.sweep_at = self.words.len() * 2 + 64;
        }
        let word: Arc<str> = word.into();
        self.words.insert(word.clone());
        word
    }
}

impl<K> Index<K> {
    fn insert(&mut self, entry: &Arc<Entry<K>>) {
        for key in (self.keys)(entry) {
            let place = (entry.namespace.clone(), entry.name.clone());
            self.map.entry(key).or_default().insert(place, entry.clone());
        }
    }

    fn remove(&mut self, entry: &Arc<Entry<K>>) {
        let place = (entry.namespace.clone(), entry.name.clone());
        for key in (self.keys)(entry) {
            let Some(under) = self.map.get_mut(&key) else {
                warn!(key, "an index function answered differently for the same entry");
                continue;
            };
            under.remove(&place);
            if under.is_empty() {
                self.map.remove(&key);
            }
        }
    }
}

//! From the store's watch into the caches: the only place that changes them.
//! One task and one watch feed all caches, so an empty cache costs its struct and nothing else.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::item::Interner;
use super::progress::Progress;
use super::{Cache, Changed, Error, Item, Spec};
use crate::store::{self, Change, Entry, Page, Revision, Store};

/// All that this server keeps in the store.
const ROOT: &str = "/registry/";
/// History is kept for one to two of these; upstream compacts as often.
const COMPACTION: Duration = Duration::from_secs(300);

/// All caches over one store, with the one task that feeds them.
#[derive(Debug)]
pub struct Caches {
    progress: Arc<Progress>,
    /// By prefix. Read with each change, written when a row comes or goes.
    rows: RwLock<BTreeMap<Arc<str>, Arc<Cache>>>,
    /// How often history is forgotten; `None`: that of the store is somebody else's to forget.
    compaction: Mutex<Option<Duration>>,
    /// Held while caches are changed, so that one that is added is filled at the revision where the feeder stands.
    feeding: tokio::sync::Mutex<Interner>,
}

impl Caches {
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Caches {
            progress: Progress::new(store),
            rows: RwLock::default(),
            compaction: Mutex::new(Some(COMPACTION)),
            feeding: tokio::sync::Mutex::default(),
        })
    }

    /// Forgets history so often and not every five minutes. Told before [`Caches::run`].
    pub fn compact_every(&self, interval: Option<Duration>) {
        *self.compaction.lock().unwrap_or_else(PoisonError::into_inner) = interval;
    }

    /// A cache for one more row: at once before `run`, filled from the store after.
    pub async fn add(&self, spec: Spec) -> Result<Arc<Cache>, Error> {
        let mut interner = self.feeding.lock().await;
        let prefix = spec.prefix.clone();
        let cache = Arc::new(Cache::new(spec, self.progress.clone()));
        if self.progress.seen().0 > 0 {
            let listing = self.progress.store.list(&prefix, Page::default()).await;
            let listing = listing.map_err(|error| Error::Unavailable(Arc::new(error)))?;
            // This may be ahead of the feeder; the cache leaves out what it has already.
            cache.load(self.items(&cache, listing.entries, &mut interner), listing.revision);
        }
        let before = self.write_rows().insert(prefix, cache.clone());
        if let Some(before) = before {
            before.close();
        }
        Ok(cache)
    }

    /// Takes a row's cache away; its watches end with [`Error::Closed`].
    pub async fn remove(&self, prefix: &str) {
        let _feeding = self.feeding.lock().await;
        if let Some(cache) = self.write_rows().remove(prefix) {
            cache.close();
        }
    }

    /// When the initial list is in.
    pub async fn loaded(&self) {
        self.progress.loaded().await;
    }

    /// Feeds all caches until `stop`: the initial list, then the store's watch, and compaction of the store's history and
    /// of ours every five minutes in which something was written. What is not fed any more is not fresh any more: a
    /// caller that starts this again after an error loses nothing.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Result<(), Error> {
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            error = self.feed() => Err(error),
        }
    }

    /// Dropping this between two awaits is safe: a batch is applied without one.
    async fn feed(&self) -> Error {
        loop {
            let error = match self.load().await {
                Ok(from) => self.follow(from).await,
                Err(error) => error,
            };
            match error {
                // We were behind the store's history: start over. Watchers are told that theirs is gone too.
                store::Error::Compacted(_) => tracing::warn!("the store's history went by; listing again"),
                other => return Error::Unavailable(Arc::new(other)),
            }
        }
    }

    async fn load(&self) -> Result<Revision, store::Error> {
        let mut interner = self.feeding.lock().await;
        let listing = self.progress.store.list(ROOT, Page::default()).await?;
        let mut by_row: BTreeMap<Arc<str>, (Arc<Cache>, Vec<Entry>)> = self
            .read_rows()
            .iter()
            .map(|(prefix, cache)| (prefix.clone(), (cache.clone(), Vec::new())))
            .collect();
        for entry in listing.entries {
            let row = by_row.range_mut::<str, _>((Bound::Unbounded, Bound::Included(&*entry.key)));
            if let Some((prefix, (_, entries))) = row.last()
                && entry.key.starts_with(&**prefix)
            {
                entries.push(entry);
            }
        }
        for (cache, entries) in by_row.into_values() {
            cache.load(self.items(&cache, entries, &mut interner), listing.revision);
        }
        self.progress.advance(listing.revision);
        Ok(listing.revision)
    }

    async fn follow(&self, from: Revision) -> store::Error {
        let mut watch = self.progress.store.watch(ROOT, from);
        let every = *self.compaction.lock().unwrap_or_else(PoisonError::into_inner);
        let mut compaction = Compaction::new(every.unwrap_or(COMPACTION));
        loop {
            let batch = tokio::select! {
                biased;
                batch = watch.next() => batch,
                () = compaction.due() => {
                    if let Some(revision) = compaction.tick(self.progress.seen()) {
                        self.compact(revision).await;
                    }
                    continue;
                }
            };
            match batch {
                None => return store::Error::Unavailable("the store's watch ended".into()),
                Some(Err(error)) => return error,
                Some(Ok(batch)) => {
                    // Until the progress is told: a row that is added finds either nothing of a batch or all of it.
                    let mut interner = self.feeding.lock().await;
                    if !batch.changes.is_empty() {
                        compaction.written();
                        self.apply(batch.changes, &mut interner);
                    }
                    self.progress.advance(batch.revision);
                }
            }
        }
    }

    fn apply(&self, changes: Vec<Change>, interner: &mut Interner) {
        let mut by_row: Vec<(Arc<Cache>, Vec<Changed>)> = Vec::new();
        for change in changes {
            let known = by_row
                .iter()
                .rposition(|(cache, _)| change.key().starts_with(&*cache.spec().prefix));
            let at = match known {
                Some(at) => at,
                None => match self.row_of(change.key()) {
                    Some(cache) => {
                        by_row.push((cache, Vec::new()));
                        by_row.len() - 1
                    }
                    None => continue,
                },
            };
            let (cache, changes) = &mut by_row[at];
            match change {
                Change::Put { entry, .. } => {
                    let (key, revision) = (entry.key.clone(), entry.revision);
                    let new = self.item(cache, entry, interner);
                    changes.push(Changed { key, revision, new });
                }
                Change::Delete { previous, revision } => changes.push(Changed {
                    key: previous.key,
                    revision,
                    new: None,
                }),
            }
        }
        for (cache, changes) in by_row {
            cache.apply(changes);
        }
    }

    pub(super) async fn compact(&self, revision: Revision) {
        let rows: Vec<Arc<Cache>> = self.read_rows().values().cloned().collect();
        for cache in rows {
            cache.compact(revision);
        }
        self.progress.hot.clear();
        if self.compaction.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return;
        }
        if let Err(error) = self.progress.store.compact(revision).await {
            // Another server may have compacted further, and the next round comes.
            tracing::debug!(%error, %revision, "compaction failed");
        }
    }

    fn row_of(&self, key: &str) -> Option<Arc<Cache>> {
        let rows = self.read_rows();
        let (prefix, cache) = rows
            .range::<str, _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()?;
        key.starts_with(&**prefix).then(|| cache.clone())
    }

    fn items(&self, cache: &Cache, entries: Vec<Entry>, interner: &mut Interner) -> Vec<Arc<Item>> {
        entries
            .into_iter()
            .filter_map(|entry| self.item(cache, entry, interner))
            .collect()
    }

    /// `None` for what cannot be served: such an entry is there for writers, but no reader sees it.
    fn item(&self, cache: &Cache, entry: Entry, interner: &mut Interner) -> Option<Arc<Item>> {
        let Entry {
            key, value, revision, ..
        } = entry;
        let item = Item::read(
            cache.spec(),
            key.clone(),
            &value,
            revision,
            interner,
            &self.progress.hot,
        );
        if item.is_none() {
            tracing::error!(%key, %revision, "a stored value is no object of its resource");
        }
        item.map(Arc::new)
    }

    fn read_rows(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Arc<str>, Arc<Cache>>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write_rows(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Arc<str>, Arc<Cache>>> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When to forget: history is dropped up to where it stood one period ago, as long as there is any.
#[derive(Debug)]
struct Compaction {
    every: Duration,
    next: Option<Instant>,
    mark: Option<Revision>,
    /// Something was written after the mark. Revisions alone do not tell: compaction itself may take one.
    written: bool,
}

impl Compaction {
    fn new(every: Duration) -> Self {
        Compaction {
            every,
            next: None,
            mark: None,
            written: false,
        }
    }

    fn written(&mut self) {
        self.written = true;
        self.next.get_or_insert_with(|| Instant::now() + self.every);
    }

    async fn due(&self) {
        match self.next {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn tick(&mut self, now: Revision) -> Option<Revision> {
        let compact = self.mark.take();
        let more = std::mem::take(&mut self.written);
        self.mark = more.then_some(now);
        self.next = more.then(|| Instant::now() + self.every);
        compact
    }
}

//! The state machine that the embedded and the memory store share.
//! Comes in: planned writes. Goes out: entries, lists, changes. It knows no disk, no clock and no task: the time is an
//! argument. Holds at all times: `history` has every change after `compacted`, so that any revision from there on can be
//! rebuilt by undoing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use super::tree::Tree;
use super::{Batch, Change, Entry, Error, Expect, Key, Listing, Page, Revision};

/// How much history is kept when nobody compacts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub changes: usize,
    /// Counts the values that only history holds.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            changes: 64 << 10,
            bytes: 32 << 20,
        }
    }
}

/// One value as the map holds it; the key is the map's.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) value: Bytes,
    pub(super) revision: Revision,
    pub(super) created: Revision,
    /// When it is to be deleted, in the owner's milliseconds; 0 is never.
    pub(super) expires: u64,
}

impl Stored {
    fn entry(&self, key: &Key) -> Entry {
        Entry {
            key: key.clone(),
            value: self.value.clone(),
            revision: self.revision,
            created: self.created,
        }
    }
}

/// A write that was found right and is not applied yet.
#[derive(Debug, Clone)]
pub(super) struct Effect {
    pub(super) key: Key,
    pub(super) revision: Revision,
    /// `None` deletes.
    pub(super) now: Option<Stored>,
}

/// Writes on their way: each is checked against the state and those planned before it. Dropping a plan undoes it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) effects: Vec<Effect>,
    pending: HashMap<Key, Option<Stored>>,
    revision: Revision,
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    entries: Tree<Key, Stored>,
    revision: Revision,
    compacted: Revision,
    history: VecDeque<Change>,
    history_bytes: usize,
    expiries: BTreeSet<(u64, Key)>,
    limits: Limits,
}

impl Plan {
    pub(super) fn new(state: &State) -> Self {
        Plan {
            effects: Vec::new(),
            pending: HashMap::new(),
            revision: state.revision,
        }
    }

    /// The revision after all that is planned.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn put(
        &mut self,
        state: &State,
        key: &Key,
        value: &Bytes,
        expect: Expect,
        expires: u64,
    ) -> Result<Revision, Error> {
        let (key, current) = self.look_up(state, key);
        match (expect, &current) {
            (Expect::Absent, None) => {}
            (Expect::At(revision), Some(stored)) if stored.revision == revision => {}
            _ => return Err(conflict(&key, current)),
        }
        let revision = Revision(self.revision.0 + 1);
        let now = Stored {
            // A copy, because the caller's buffer may be larger than what it holds.
            value: Bytes::copy_from_slice(value),
            revision,
            created: current.map_or(revision, |c| c.created),
            expires,
        };
        self.add(key, Some(now));
        Ok(revision)
    }

    pub(super) fn delete(&mut self, state: &State, key: &Key, at: Revision) -> Result<Revision, Error> {
        let (key, current) = self.look_up(state, key);
        match &current {
            Some(stored) if stored.revision == at => {
                self.add(key, None);
                Ok(self.revision)
            }
            _ => Err(conflict(&key, current)),
        }
    }

    /// Deletes what is due at `now`, at most `limit` entries.
    pub(super) fn expire(&mut self, state: &State, now: u64, limit: usize) {
        for (_, key) in state.expiries.iter().take_while(|(at, _)| *at <= now).take(limit) {
            let (key, current) = self.look_up(state, key);
            // It may have been written again by this same plan.
            if current.is_some_and(|c| c.expires != 0 && c.expires <= now) {
                self.add(key, None);
            }
        }
    }

    fn look_up(&self, state: &State, key: &Key) -> (Key, Option<Stored>) {
        if let Some((key, pending)) = self.pending.get_key_value(key) {
            return (key.clone(), pending.clone());
        }
        match state.entries.get_entry(&**key) {
            Some((key, stored)) => (key.clone(), Some(stored.clone())),
            None => (key.clone(), None),
        }
    }

    fn add(&mut self, key: Key, now: Option<Stored>) {
        self.revision.0 += 1;
        self.pending.insert(key.clone(), now.clone());
        self.effects.push(Effect {
            key,
            revision: self.revision,
            now,
        });
    }
}

impl State {
    /// Nothing yet. The first revision is 1, as etcd's is: 0 means "any" to clients.
    pub(super) fn new(limits: Limits) -> Self {
        State {
            entries: Tree::default(),
            revision: Revision(1),
            compacted: Revision(1),
            history: VecDeque::new(),
            history_bytes: 0,
            expiries: BTreeSet::new(),
            limits,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn snapshot(&self) -> Tree<Key, Stored> {
        self.entries.clone()
    }

    pub(super) fn stored(&self, key: &str) -> Option<&Stored> {
        self.entries.get(key)
    }

    /// The time of the next expiry.
    pub(super) fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Takes in what was stored before this process, without history.
    pub(super) fn restore(&mut self, key: Key, now: Option<Stored>) {
        if let Some(stored) = &now
            && stored.expires != 0
        {
            self.expiries.insert((stored.expires, key.clone()));
        }
        let previous = match now {
            Some(stored) => self.entries.insert(key.clone(), stored),
            None => self.entries.remove(&*key),
        };
        if let Some(previous) = previous
            && previous.expires != 0
            && self.entries.get(&*key).is_none_or(|s| s.expires != previous.expires)
        {
            self.expiries.remove(&(previous.expires, key));
        }
    }

    /// After the last `restore`: where revisions go on. Older ones answer `Compacted`.
    pub(super) fn start_at(&mut self, revision: Revision) {
        self.revision = revision;
        self.compacted = revision;
    }

    pub(super) fn apply(&mut self, effects: impl IntoIterator<Item = Effect>) {
        for Effect { key, revision, now } in effects {
            self.revision = revision;
            let entry = now.as_ref().map(|stored| stored.entry(&key));
            let previous = self.entries.get(&*key).map(|stored| stored.entry(&key));
            self.restore(key, now);
            let change = match (entry, previous) {
                (Some(entry), previous) => Change::Put { entry, previous },
                (None, Some(previous)) => Change::Delete { previous, revision },
                (None, None) => unreachable!("a plan deletes only what is there"),
            };
            self.history_bytes += held_by(&change);
            self.history.push_back(change);
        }
        while self.history.len() > self.limits.changes || self.history_bytes > self.limits.bytes {
            self.forget_oldest();
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        let (key, stored) = self.entries.get_entry(key)?;
        Some(stored.entry(key))
    }

    pub(super) fn list(&self, prefix: &str, page: &Page) -> Result<Listing, Error> {
        let at = page.at.unwrap_or(self.revision);
        if at > self.revision {
            return Err(Error::Future {
                asked: at,
                current: self.revision,
            });
        }
        if at < self.compacted {
            return Err(Error::Compacted(self.compacted));
        }
        if at == self.revision {
            return Ok(list(&self.entries, at, prefix, page));
        }
        let mut listing = Filling::new(at, page);
        let start = start(prefix, page);
        let current = under(&self.entries, start, prefix);
        // What was there instead, for each key written since.
        let mut undone: BTreeMap<&str, Option<&Entry>> = BTreeMap::new();
        for change in self.history.iter().rev().take_while(|c| c.revision() > at) {
            let key = &**change.key();
            let in_range = match start {
                Bound::Excluded(after) => key > after,
                _ => true,
            };
            if in_range && key.starts_with(prefix) {
                undone.insert(key, previous(change));
            }
        }
        let mut undone = undone.into_iter().peekable();
        for entry in current {
            while let Some((_, old)) = undone.next_if(|(key, _)| **key < *entry.key) {
                if let Some(old) = old
                    && !listing.take(old.clone())
                {
                    return Ok(listing.done());
                }
            }
            let kept = match undone.next_if(|(key, _)| **key == *entry.key) {
                Some((_, old)) => old.cloned(),
                None => Some(entry),
            };
            if let Some(kept) = kept
                && !listing.take(kept)
            {
                return Ok(listing.done());
            }
        }
        for (_, old) in undone {
            if let Some(old) = old
                && !listing.take(old.clone())
            {
                break;
            }
        }
        Ok(listing.done())
    }

    /// Up to `limit` changes after `after`, of those under `prefix`. `None`: nothing new.
    pub(super) fn changes(&self, prefix: &str, after: Revision, limit: usize) -> Result<Option<Batch>, Error> {
        if after < self.compacted {
            return Err(Error::Compacted(self.compacted));
        }
        if after >= self.revision {
            return Ok(None);
        }
        let start = self.history.partition_point(|c| c.revision() <= after);
        let end = self.history.len().min(start + limit);
        let changes = self
            .history
            .range(start..end)
            .filter(|c| c.key().starts_with(prefix))
            .cloned()
            .collect();
        let revision = match end == self.history.len() {
            true => self.revision,
            false => self.history[end - 1].revision(),
        };
        Ok(Some(Batch { changes, revision }))
    }

    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), Error> {
        if revision > self.revision {
            return Err(Error::Future {
                asked: revision,
                current: self.revision,
            });
        }
        while self.history.front().is_some_and(|c| c.revision() <= revision) {
            self.forget_oldest();
        }
        // A burst must not pin its peak.
        if self.history.capacity() > 1024 && self.history.capacity() / 4 > self.history.len() {
            self.history.shrink_to(self.history.len() * 2);
        }
        self.compacted = self.compacted.max(revision);
        Ok(())
    }

    fn forget_oldest(&mut self) {
        if let Some(change) = self.history.pop_front() {
            self.history_bytes -= held_by(&change);
            self.compacted = change.revision();
        }
    }
}

/// A list of what `entries` hold, which is the state at `at`.
pub(super) fn list(entries: &Tree<Key, Stored>, at: Revision, prefix: &str, page: &Page) -> Listing {
    let mut listing = Filling::new(at, page);
    for entry in under(entries, start(prefix, page), prefix) {
        if !listing.take(entry) {
            break;
        }
    }
    listing.done()
}

fn start<'a>(prefix: &'a str, page: &'a Page) -> Bound<&'a str> {
    match &page.after {
        Some(after) if **after >= *prefix => Bound::Excluded(&**after),
        _ => Bound::Included(prefix),
    }
}

fn under<'a>(
    entries: &'a Tree<Key, Stored>,
    start: Bound<&'a str>,
    prefix: &'a str,
) -> impl Iterator<Item = Entry> + 'a {
    entries
        .range(start)
        .take_while(move |(key, _)| key.starts_with(prefix))
        .map(|(key, stored)| stored.entry(key))
}

/// A list until it is long enough.
struct Filling {
    listing: Listing,
    limit: usize,
}

impl Filling {
    fn new(at: Revision, page: &Page) -> Self {
        Filling {
            listing: Listing {
                entries: Vec::new(),
                revision: at,
                more: false,
            },
            limit: if page.limit == 0 { usize::MAX } else { page.limit },
        }
    }

    /// False: there is no room for this one.
    fn take(&mut self, entry: Entry) -> bool {
        self.listing.more = self.listing.entries.len() == self.limit;
        if !self.listing.more {
            self.listing.entries.push(entry);
        }
        !self.listing.more
    }

    fn done(self) -> Listing {
        self.listing
    }
}

fn conflict(key: &Key, current: Option<Stored>) -> Error {
    Error::Conflict {
        current: current.map(|stored| Box::new(stored.entry(key))),
    }
}

fn previous(change: &Change) -> Option<&Entry> {
    match change {
        Change::Put { previous, .. } => previous.as_ref(),
        Change::Delete { previous, .. } => Some(previous),
    }
}

/// Bytes that nothing but this change keeps alive.
fn held_by(change: &Change) -> usize {
    previous(change).map_or(0, |entry| entry.value.len())
}

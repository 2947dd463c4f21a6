//! A revisioned map with history: what Kubernetes needs of etcd and no more.
//! Knows keys and bytes; knows no kind. There is no unconditional put: a write without an expectation cannot be expressed.
//! Holds at all times: revisions only grow, a reader or watcher never sees a write that is not yet durable (or, for
//! [`Durability::Lazy`], accepted), and a watch delivers every later change exactly once, in order, or says `Compacted`.

pub mod embedded;
pub mod etcd;
mod memory;
mod shared;
mod state;
#[cfg(test)]
mod suite;
pub mod transfer;
pub(crate) mod tree;

use std::sync::Arc;

pub use embedded::Embedded;
pub use etcd::Etcd;
pub use memory::Memory;
pub use state::Limits;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// A point in the store's one global order of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an object lives, as upstream spells it: `/registry/pods/default/web-0`.
pub type Key = Arc<str>;

/// One stored value. `value` holds the object in its storage version without `metadata.resourceVersion`.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    /// When it was last written.
    pub revision: Revision,
    /// When it was created.
    pub created: Revision,
}

/// What must be there for a put to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Absent,
    At(Revision),
}

/// When a write may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After it is on disk.
    Durable,
    /// At once; it reaches the disk with the next durable write or within seconds. Only node Leases and Events.
    Lazy,
}

/// How a put is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub durability: Durability,
    /// The store deletes the entry so long after this put, unless it is put again. Only Events use it.
    pub time_to_live: Option<std::time::Duration>,
}

impl Options {
    pub const DURABLE: Options = Options {
        durability: Durability::Durable,
        time_to_live: None,
    };
}

impl From<Durability> for Options {
    fn from(durability: Durability) -> Self {
        Options {
            durability,
            time_to_live: None,
        }
    }
}

/// One change. `previous` is the entry that a put replaced or a delete removed.
#[derive(Debug, Clone)]
pub enum Change {
    Put { entry: Entry, previous: Option<Entry> },
    Delete { previous: Entry, revision: Revision },
}

impl Change {
    pub fn key(&self) -> &Key {
        match self {
            Change::Put { entry, .. } => &entry.key,
            Change::Delete { previous, .. } => &previous.key,
        }
    }
    pub fn revision(&self) -> Revision {
        match self {
            Change::Put { entry, .. } => entry.revision,
            Change::Delete { revision, .. } => *revision,
        }
    }
}

/// What a watch says: the next changes, and up to where nothing is missing. Without changes it is progress alone.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub changes: Vec<Change>,
    pub revision: Revision,
}

/// A list at one revision, in key order.
#[derive(Debug, Clone)]
pub struct Listing {
    pub entries: Vec<Entry>,
    pub revision: Revision,
    pub more: bool,
}

/// A part of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Start after this key.
    pub after: Option<Key>,
    /// At most so many entries; 0 is all.
    pub limit: usize,
    /// At this revision; `None` is now.
    pub at: Option<Revision>,
}

/// What a store can answer instead. All but `Conflict`, `Compacted` and `TooLarge` may be retried as they are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The expectation did not hold; the entry that is there instead, if any.
    #[error("the entry is not as expected")]
    Conflict { current: Option<Box<Entry>> },
    #[error("history up to revision {0} is gone")]
    Compacted(Revision),
    #[error("revision {asked} is ahead of {current}")]
    Future { asked: Revision, current: Revision },
    #[error("the store is out of space")]
    Full(#[source] std::io::Error),
    #[error("the value is larger than the store takes")]
    TooLarge,
    #[error("the store did not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The store's contract. Every implementation passes `store::suite`.
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, Error>>;
    /// All entries whose key starts with `prefix`, which ends in `/`.
    fn list(&self, prefix: &str, page: Page) -> BoxFuture<'_, Result<Listing, Error>>;
    fn put(&self, key: &Key, value: Bytes, expect: Expect, options: Options) -> BoxFuture<'_, Result<Revision, Error>>;
    fn delete(&self, key: &Key, at: Revision) -> BoxFuture<'_, Result<Revision, Error>>;
    /// Changes after `after` under `prefix`, in revision order, for ever. `Err` ends the stream.
    fn watch(&self, prefix: &str, after: Revision) -> BoxStream<'static, Result<Batch, Error>>;
    /// The newest revision that a reader can see.
    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>>;
    /// Forgets history up to and including `revision`; current entries stay.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>>;
}

//! Current state and recent history of one resource, fed by the store's watch.
//! Comes in: the store's changes. Goes out: items, lists, watchers, as shared bytes. Nothing here writes to the store or
//! knows HTTP, and only `feed` changes what is here.
//! Invariant: the newest event in the window and the newest snapshot carry the same revision.

use std::sync::Arc;

use bytes::Bytes;

use crate::store::Revision;

/// Finished bytes with a gap where the resourceVersion goes, so that a DELETED event or a selector exit carries another
/// revision without a copy: on the wire it is `head`, the decimal revision, `tail`.
#[derive(Debug, Clone)]
pub struct Splice {
    pub head: Bytes,
    pub tail: Bytes,
}

/// What selectors and indexes ask of an object, extracted once when it is fed.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// Sorted by key.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Values of the row's selectable fields, in the row's order (`metadata.name` and `.namespace` apart).
    pub fields: Vec<Arc<str>>,
}

/// Which objects a list or watch is about.
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
    Bookmark(Revision),
}

/// One object as the cache keeps it: the stored bytes, the facts, and renderings made on demand.
#[derive(Debug)]
pub struct Item {
    pub facts: Facts,
    pub revision: Revision,
    json: Splice,
}

impl Item {
    /// The storage version as JSON: slices of the stored bytes.
    pub fn json(&self) -> &Splice {
        &self.json
    }
}

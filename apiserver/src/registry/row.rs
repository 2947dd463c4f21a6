//! A row: what the generic code must know about a group-resource. Constants are columns here; behaviour is the
//! [`Strategy`]. `Arc<str>` and not `&'static str`, because a CustomResourceDefinition makes a row at run time.

use std::sync::Arc;

use serde_json::Value;

use crate::object::Object;
use crate::store::Durability;
use crate::strategy::Strategy;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A group-resource with its served versions.
#[derive(Debug)]
pub struct Resource {
    /// Empty for the core group.
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// `pods`.
    pub plural: Arc<str>,
    /// `pod`.
    pub singular: Arc<str>,
    pub short: Vec<Arc<str>>,
    /// `all`, `api-extensions` …
    pub categories: Vec<Arc<str>>,
    pub scope: Scope,
    /// In order of preference.
    pub versions: Vec<Arc<str>>,
    /// Index into `versions` of the one that is stored.
    pub storage: usize,
    pub verbs: &'static [&'static str],
    pub subresources: Vec<Subresource>,
    pub columns: Columns,
    /// Field selectors it answers beside `metadata.name` and `metadata.namespace`, with the way to each value.
    pub fields: Vec<SelectableField>,
    /// Under `/registry/`, upstream's word: `pods`, `minions`, `services/specs`.
    pub prefix: Arc<str>,
    pub durability: Durability,
    /// Entries vanish so long after they were last written (Events).
    pub time_to_live: Option<std::time::Duration>,
    /// PUT to a name that does not exist creates it (Leases, Nodes …: upstream's AllowCreateOnUpdate).
    pub create_on_update: bool,
    /// PUT without a resourceVersion overwrites.
    pub unconditional_update: bool,
    /// A delete answers with the deleted object and not with a Status (upstream's ReturnDeletedObject).
    pub returns_deleted: bool,
    /// To and from what is stored, where a version differs from the storage version or the store is another row's.
    pub convert: Option<Convert>,
    pub strategy: Arc<dyn Strategy>,
}

/// Both set apiVersion and kind too.
#[derive(Debug, Clone, Copy)]
pub struct Convert {
    /// From a served version (read it from the object) to what is stored.
    pub to_storage: fn(&mut Object),
    /// From what is stored to the served version.
    pub from_storage: fn(&mut Object, version: &str),
}

/// A field that a selector may name.
#[derive(Debug, Clone)]
pub struct SelectableField {
    /// `spec.nodeName`.
    pub name: Arc<str>,
    /// The way through the JSON tree; a missing value is "", true and false are words.
    pub path: Vec<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subresource {
    Status,
    Scale,
    Binding,
    Eviction,
    EphemeralContainers,
    Resize,
    Log,
    Exec,
    Attach,
    PortForward,
    Proxy,
    Token,
    Approval,
    Finalize,
}

/// What `kubectl get` prints.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    pub columns: Vec<Column>,
    /// One cell for each column, in order. The time is now, for ages.
    pub cells: Option<fn(&Object, jiff::Timestamp) -> Vec<Value>>,
}

#[derive(Debug, Clone)]
pub struct Column {
    pub name: Arc<str>,
    /// `string`, `integer`, `date` …
    pub kind: Arc<str>,
    pub format: Arc<str>,
    pub description: Arc<str>,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

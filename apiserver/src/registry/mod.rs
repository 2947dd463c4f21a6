//! The generic resource: every verb written once, over any row of the table.
//! Comes in: an object or a name, who asks, and what the cluster says of it as a [`write::Gate`]. Goes out: stored bytes.
//! It knows no HTTP and no admission. A write is one fixed order and one compare-and-swap loop; reads come from the cache.

pub mod fields;
pub mod patch;
pub mod read;
pub mod remove;
pub mod row;
pub mod rows;
pub mod stored;
pub mod subresource;
pub mod write;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use crate::cache::{self, Cache, Caches};
use crate::object::Object;
use crate::schema;
use crate::status::Status;
use crate::store::{self, Store};

use row::Resource;

/// Every row with its cache, over one store.
#[derive(Debug)]
pub struct Registry {
    store: Arc<dyn Store>,
    caches: Arc<Caches>,
    table: RwLock<Arc<Table>>,
}

/// All rows at one moment, in discovery order.
#[derive(Debug, Default)]
pub struct Table {
    pub rows: Vec<Arc<Row>>,
    index: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Row>>>,
    /// Grows whenever a row comes or goes: what is generated from the table is remade then.
    pub generation: u64,
}

/// One group-resource and its cache. Rows that share a store share the cache; kinds that are never stored have none.
#[derive(Debug)]
pub struct Row {
    resource: Resource,
    cache: Option<Arc<Cache>>,
    /// The type of the stored form, where the schema knows it.
    stored_type: Option<schema::TypeRef>,
}

impl Deref for Row {
    type Target = Resource;
    fn deref(&self) -> &Resource {
        &self.resource
    }
}

impl Row {
    fn new(resource: Resource, cache: Option<Arc<Cache>>) -> Self {
        let (group, version) = resource.stored_as.split_once('/').unwrap_or(("", &resource.stored_as));
        let stored_type = schema::type_of(group, version, &resource.kind);
        Row {
            resource,
            cache,
            stored_type,
        }
    }
    /// The cache of a stored kind; 405 for one that is never stored.
    pub fn cache(&self) -> Result<&Arc<Cache>, Status> {
        self.cache
            .as_ref()
            .ok_or_else(|| Status::method_not_allowed(self.about(), "this verb"))
    }
    /// The stored entry as a tree, with its resourceVersion.
    pub fn decode(&self, entry: &store::Entry) -> Result<Object, Status> {
        Object::from_stored(&entry.value, entry.revision).map_err(|error| {
            tracing::error!(key = %entry.key, %error, "a stored entry is no object");
            Status::internal("the stored object cannot be read")
        })
    }
    /// All defaults, of the type and of the kind.
    pub fn default(&self, object: &mut Object) {
        if let Some(ty) = self.stored_type {
            schema::default(ty, &mut object.0);
        }
        self.strategy.default(object);
    }
    /// As it is stored, in its canonical form: what strategies and admission left empty goes.
    pub fn encode(&self, object: &mut Object) -> Bytes {
        self.normalise(object);
        object.to_stored()
    }
    /// The canonical form of the stored type.
    pub fn normalise(&self, object: &mut Object) {
        if let Some(ty) = self.stored_type {
            schema::normalise(ty, &mut object.0);
        }
    }
    /// The selector in the cache's words: rows that share a store may name the same field differently.
    pub fn cache_fields(&self, fields: &api::selector::Fields) -> Result<api::selector::Fields, Status> {
        let known = &self.cache()?.spec().fields;
        let mut fields = fields.clone();
        for term in &mut fields.terms {
            let at = self.fields.iter().position(|field| *field.name == *term.field);
            if let Some(field) = at.and_then(|at| known.get(at)) {
                term.field = field.name.to_string();
            }
        }
        Ok(fields)
    }
}

impl Registry {
    /// Rows must be unique by group and plural, and a cache is made for each prefix.
    pub async fn new(rows: Vec<Resource>, store: Arc<dyn Store>) -> Result<Arc<Self>, cache::Error> {
        let caches = Caches::new(store.clone());
        let registry = Registry {
            store,
            caches,
            table: RwLock::default(),
        };
        for row in rows {
            registry.add(row).await?;
        }
        Ok(Arc::new(registry))
    }

    /// Serves one more row. A row that is there already is replaced.
    pub async fn add(&self, resource: Resource) -> Result<(), cache::Error> {
        let prefix = format!("/registry/{}/", resource.prefix);
        let shared = self
            .table()
            .rows
            .iter()
            .filter(|row| row.prefix == resource.prefix)
            .find_map(|row| row.cache.clone());
        let cache = match shared {
            _ if !resource.is_stored() => None,
            Some(cache) => Some(cache),
            None => {
                let spec = cache::Spec {
                    prefix: prefix.into(),
                    namespaced: resource.namespaced(),
                    fields: resource
                        .fields
                        .iter()
                        .map(|field| cache::Field {
                            name: field.name.clone(),
                            path: field.path.clone(),
                            otherwise: field.otherwise.clone(),
                            missing: field.missing.clone(),
                        })
                        .collect(),
                };
                Some(self.caches.add(spec).await?)
            }
        };
        let row = Arc::new(Row::new(resource, cache));
        self.change(|rows| {
            match rows
                .iter_mut()
                .find(|have| have.group == row.group && have.plural == row.plural)
            {
                Some(have) => *have = row,
                None => rows.push(row),
            }
        });
        Ok(())
    }

    /// Stops serving a row; its watches end.
    pub async fn remove(&self, group: &str, plural: &str) {
        let Some(row) = self.table().find(group, plural) else {
            return;
        };
        self.change(|rows| rows.retain(|have| !Arc::ptr_eq(have, &row)));
        let still_used = self.table().rows.iter().any(|other| other.prefix == row.prefix);
        if let (Some(cache), false) = (&row.cache, still_used) {
            self.caches.remove(&cache.spec().prefix).await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Row>>)) {
        let mut table = self.table.write().expect("nothing panics while holding the table");
        let mut rows = table.rows.clone();
        change(&mut rows);
        let mut index: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Row>>> = HashMap::new();
        for row in &rows {
            index
                .entry(row.group.clone())
                .or_default()
                .insert(row.plural.clone(), row.clone());
        }
        *table = Arc::new(Table {
            rows,
            index,
            generation: table.generation + 1,
        });
    }

    pub fn table(&self) -> Arc<Table> {
        self.table
            .read()
            .expect("nothing panics while holding the table")
            .clone()
    }
    /// The row of a resource in a version that it serves.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Row>> {
        let row = self.table().find(group, plural)?;
        row.versions.iter().any(|v| **v == *version).then_some(row)
    }
    /// The cache of a stored resource, for rooms that follow it (admission, authorization).
    pub fn cache(&self, group: &str, plural: &str) -> Option<Arc<Cache>> {
        self.table().find(group, plural)?.cache.clone()
    }
    pub fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}

impl Table {
    pub fn find(&self, group: &str, plural: &str) -> Option<Arc<Row>> {
        self.index.get(group)?.get(plural).cloned()
    }
}

/// What the store refused, in the client's words. Expectations that did not hold are the callers' to judge.
pub(crate) fn from_store(error: store::Error) -> Status {
    match error {
        store::Error::Compacted(revision) => Status::expired(format!(
            "The resourceVersion for the provided list is too old: history up to {revision} is gone"
        )),
        store::Error::Full(source) => {
            tracing::error!(error = %source, "the store is out of space");
            Status::unavailable("the store is out of space")
        }
        store::Error::TooLarge => Status::too_large("etcdserver: request is too large"),
        store::Error::Unavailable(source) => {
            tracing::error!(error = %source, "the store did not answer");
            Status::unavailable("the store did not answer")
        }
        error @ (store::Error::Conflict { .. } | store::Error::Future { .. }) => {
            tracing::error!(%error, "the store refused what was checked before");
            Status::internal("the store refused the request")
        }
    }
}

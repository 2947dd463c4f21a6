//! What rules look up in the cluster.

use std::sync::Arc;

use crate::cache::{Cache, Filter, Item};
use crate::object::Object;
use crate::registry::Registry;
use crate::status::Status;

/// One resource as its cache shows it. A kind that is not served has no objects.
#[derive(Debug, Clone)]
pub(super) struct Source {
    cache: Option<Arc<Cache>>,
}

impl Source {
    pub(super) fn new(registry: &Registry, group: &str, plural: &str) -> Source {
        Source {
            cache: registry.cache(group, plural),
        }
    }
    pub(super) fn cache(&self) -> Option<&Arc<Cache>> {
        self.cache.as_ref()
    }

    /// The object; one that is not there was not there when this was asked, however far behind the cache is.
    pub(super) async fn get(&self, namespace: &str, name: &str) -> Result<Option<Object>, Status> {
        Ok(self.item(namespace, name).await?.map(|item| item.object()))
    }
    pub(super) async fn item(&self, namespace: &str, name: &str) -> Result<Option<Arc<Item>>, Status> {
        let Some(cache) = &self.cache else { return Ok(None) };
        if let Some(item) = cache.get(namespace, name) {
            return Ok(Some(item));
        }
        self.fresh().await?;
        Ok(cache.get(namespace, name))
    }

    /// Everything in a namespace; empty: everywhere.
    pub(super) fn list(&self, namespace: &str) -> Vec<Arc<Item>> {
        let filter = Filter {
            namespace: (!namespace.is_empty()).then(|| namespace.into()),
            ..Filter::default()
        };
        match &self.cache {
            Some(cache) => cache.snapshot().list(&filter),
            None => Vec::new(),
        }
    }

    /// Waits until the cache shows what the store holds now.
    pub(super) async fn fresh(&self) -> Result<(), Status> {
        if let Some(cache) = &self.cache {
            cache.fresh().await.map_err(|error| {
                tracing::warn!(error = %error, "a cache did not come up to date");
                Status::unavailable("the server cannot see the current state of the cluster")
            })?;
        }
        Ok(())
    }
}

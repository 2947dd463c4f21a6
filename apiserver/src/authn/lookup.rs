//! What tokens are bound to, looked up in the caches.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::service_account::{Bound, Live, Lookup};
use crate::cache::Cache;
use crate::registry::Registry;

#[derive(Debug)]
pub struct Lookups {
    accounts: Option<Arc<Cache>>,
    pods: Option<Arc<Cache>>,
    secrets: Option<Arc<Cache>>,
    nodes: Option<Arc<Cache>>,
}

impl Lookups {
    pub fn new(registry: &Registry) -> Lookups {
        let cache = |plural| registry.cache("", plural);
        Lookups {
            accounts: cache("serviceaccounts"),
            pods: cache("pods"),
            secrets: cache("secrets"),
            nodes: cache("nodes"),
        }
    }

    /// The object's UID, and since when it is being deleted.
    pub async fn live(&self, kind: Bound, namespace: &str, name: &str) -> Option<Live> {
        let cache = match kind {
            Bound::ServiceAccount => &self.accounts,
            Bound::Pod => &self.pods,
            Bound::Secret => &self.secrets,
            Bound::Node => &self.nodes,
        };
        let cache = cache.as_ref()?;
        let item = match cache.get(namespace, name) {
            Some(item) => item,
            None => {
                // It may have been made a moment ago: only what the store does not have is not there.
                if let Err(error) = cache.fresh().await {
                    tracing::warn!(error = %error, "a cache did not come up to date");
                }
                cache.get(namespace, name)?
            }
        };
        let deleted = item.object();
        let deleted = deleted.str_at(&["metadata", "deletionTimestamp"]);
        Some(Live {
            uid: item.facts.uid.to_string(),
            deleted: deleted.parse().ok(),
        })
    }
}

impl Lookup for Lookups {
    fn find<'a>(&'a self, kind: Bound, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Option<Live>> {
        Box::pin(self.live(kind, namespace, name))
    }
}

//! The Kubernetes API over a store.
//!
//! ```text
//!   write   client ─► http ─► authn ─► authz ─► admission ─► registry(strategy) ─► store
//!   read    client ◄─ http/watch, http/list ◄─────────────── cache ◄───────────── store.watch
//! ```
//!
//! Each folder is a room; a room uses only the rooms to its right in
//! `assemble · config · server · bootstrap · http · authn · admission · authz · registry · strategy · schema · cache ·
//! store · object · identity · status` (`tests/tidy.rs` enforces it). No writer touches the cache; only the store's watch does.

pub mod admission;
pub mod assemble;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cache;
pub mod config;
pub mod http;
pub mod identity;
pub mod object;
pub mod registry;
pub mod schema;
pub mod server;
pub mod status;
pub mod store;
pub mod strategy;

pub use assemble::{Server, run};
pub use config::{Config, Flags};

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// What a server is put together from. The registry comes first (see [`registry::Registry::new`]): the chains of
/// admission and authorization read its caches.
#[derive(Debug)]
pub struct Parts {
    pub registry: Arc<registry::Registry>,
    pub authn: authn::Authn,
    pub authz: authz::Chain,
    pub admission: admission::Chain,
    /// Signs service account tokens; without it TokenRequest is refused.
    pub issuer: Option<authn::service_account::Issuer>,
    /// The way to the kubelets; without it logs, exec and the like are refused.
    pub kubelet: Option<http::KubeletAccess>,
    pub checks: http::Checks,
    /// For everything that does not last by nature.
    pub request_timeout: Duration,
}

impl Parts {
    /// A server that admits all that its chains let through, with upstream's limits.
    pub fn new(
        registry: Arc<registry::Registry>,
        authn: authn::Authn,
        authz: authz::Chain,
        admission: admission::Chain,
    ) -> Self {
        Parts {
            registry,
            authn,
            authz,
            admission,
            issuer: None,
            kubelet: None,
            checks: http::Checks::default(),
            request_timeout: Duration::from_secs(60),
        }
    }
}

/// A server without a listener.
#[derive(Debug, Clone)]
pub struct ApiServer {
    api: Arc<http::Api>,
}

/// Puts the rooms together. Nothing runs until [`ApiServer::run`] does.
pub fn build(parts: Parts) -> ApiServer {
    ApiServer {
        api: Arc::new(http::Api::new(parts)),
    }
}

impl ApiServer {
    /// Every path and verb. Each request needs its connection's [`identity::Peer`] as an extension.
    pub fn router(&self) -> axum::Router {
        http::router(self.api.clone())
    }
    pub fn registry(&self) -> &Arc<registry::Registry> {
        &self.api.registry
    }
    pub fn checks(&self) -> &http::Checks {
        &self.api.checks
    }
    /// What happens without a request: the caches follow the store, and its history is compacted.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), cache::Error> {
        self.api.registry.caches().clone().run(stop).await
    }
}

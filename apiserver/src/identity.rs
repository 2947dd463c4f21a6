//! Who asks: the words that authentication, authorization, admission and audit share.

use std::collections::BTreeMap;
use std::sync::Arc;

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Whether the caller is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What a connection says of its other end, before any request is read. Set once per connection as a request
/// extension by whoever accepted it; nothing a client sends can change it.
#[derive(Debug, Clone)]
pub enum Peer {
    /// An in-memory connection that this process opened with a fixed identity.
    Internal(Arc<User>),
    /// A TLS connection; `certificates` is the DER chain the client presented and that verified against the client
    /// CA (leaf first), empty when it presented none.
    Tls {
        certificates: Arc<[Vec<u8>]>,
        address: std::net::SocketAddr,
    },
}

//! Who asks: the words that authentication, authorization, admission and audit share.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Everybody who was authenticated is in it.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Who asks without credentials, where that is allowed.
pub const ANONYMOUS: &str = "system:anonymous";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// May do everything: no authorizer is asked.
pub const MASTERS: &str = "system:masters";
pub const NODES: &str = "system:nodes";
pub const NODE_PREFIX: &str = "system:node:";
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The API server itself.
pub const APISERVER: &str = "system:apiserver";

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user with groups and nothing else; `system:authenticated` is added.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> User {
        let mut user = User {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..User::default()
        };
        user.add_group(AUTHENTICATED);
        user
    }
    pub fn anonymous() -> User {
        User {
            name: ANONYMOUS.into(),
            groups: vec![UNAUTHENTICATED.into()],
            ..User::default()
        }
    }
    /// The API server's own loopback identity.
    pub fn apiserver() -> User {
        User::new(APISERVER, &[MASTERS])
    }
    pub fn service_account(namespace: &str, name: &str) -> User {
        User::new(
            format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            &[SERVICE_ACCOUNTS, &format!("{SERVICE_ACCOUNTS}:{namespace}")],
        )
    }
    pub fn node(name: &str) -> User {
        User::new(format!("{NODE_PREFIX}{name}"), &[NODES])
    }

    /// Whether the caller is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
    pub fn add_group(&mut self, group: &str) {
        if !self.in_group(group) {
            self.groups.push(group.into());
        }
    }
    /// The node that this user is: `system:node:NAME` in `system:nodes`, as upstream's NodeIdentifier has it.
    pub fn as_node(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_PREFIX)?;
        self.in_group(NODES).then_some(name)
    }
    /// Namespace and name of the service account that this user is.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        let (namespace, name) = self.name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
    }
}

/// What a verified client certificate says. Read once per connection, not per request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    pub user: User,
    /// A connection can outlive its certificate.
    pub expires: jiff::Timestamp,
}

/// What a connection says of its other end, before any request is read. Set once per connection as a request
/// extension by whoever accepted it; nothing a client sends can change it.
#[derive(Debug, Clone)]
pub enum Peer {
    /// An in-memory connection that this process opened with a fixed identity.
    Internal(Arc<User>),
    Tls {
        certificate: Certificate,
        address: std::net::SocketAddr,
    },
}

/// The client certificate of a TLS connection.
#[derive(Debug, Clone)]
pub enum Certificate {
    None,
    /// Chains to an authority that we know, or to both.
    Verified {
        /// Whom the client CA says that this is.
        client: Option<Arc<Certified>>,
        /// The common name, where the front proxies' CA signed: requests then may carry the user in headers.
        front_proxy: Option<Arc<str>>,
    },
    /// Was presented and does not verify: 401 unless the request has a token.
    Refused,
}

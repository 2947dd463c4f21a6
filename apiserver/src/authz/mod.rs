//! May they? Comes in: who, and the verb on what. Goes out: a decision with its reason. Asks nobody over the network.

use futures::future::BoxFuture;

use crate::identity::User;

/// What is asked for, as `authorization.k8s.io` describes it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub user: &'a User,
    /// `get`, `list`, `create` …; for a path that is no resource the lower-case HTTP method.
    pub verb: &'a str,
    pub target: Target<'a>,
}

#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    Resource {
        group: &'a str,
        version: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
    },
    Path(&'a str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    /// Nobody allowed it; the reason may be empty.
    NoOpinion(String),
    Deny(String),
}

/// One authorizer of the chain (Node, RBAC).
pub trait Authorizer: Send + Sync + std::fmt::Debug {
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Decision>;
}

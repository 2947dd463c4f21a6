//! The reconcilers: each watches a few kinds and writes what is missing between what is asked for and what is there.
//! They meet through the API alone: no controller calls another, and none keeps state that a restart would lose.
//! Each file has the same three parts: `plan` decides from what was observed and touches nothing, `reconcile` reads
//! listers, plans and performs, and the tests ask the plan.

pub mod certificates;
pub mod cleanup;
pub mod config;
pub mod context;
pub mod guard;
pub mod identity;
pub mod network;
pub mod nodes;
pub mod pods;
pub mod policy;
pub mod runner;
pub mod table;
pub mod volumes;
pub mod workloads;

pub use config::Config;
pub use runner::run;

/// Why a reconciliation failed. All are retried with growing pauses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API refused")]
    Api(#[from] kube::Error),
    #[error("a cached object cannot be read")]
    Decode(#[from] daemon::informer::DecodeError),
    #[error("a selector cannot be read")]
    Selector(#[from] api::selector::Error),
    #[error("{0}")]
    Plan(String),
}

/// Whether the API said that there is no such object.
pub(crate) fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API said that the object is there already, or has changed since it was read.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Whether the API refused because the namespace is being deleted: nothing to do, and no failure.
pub(crate) fn is_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

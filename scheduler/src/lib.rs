//! Binds pods to nodes.
//!
//! ```text
//!   watch ─► feed ─► queue + cluster ─► cycle(rules, preempt) ─► bind ─► (API) ─► watch
//! ```
//!
//! `cluster` is what is true now, kept up to date by each change and by each decision at once; `queue` says which pod is
//! next and what would wake a pod that fits nowhere; `cycle` decides and is pure; `preempt` looks for room; `bind` is the
//! only writer. Every node is looked at for every pod; `memo` keeps what was found out for pods of the same shape.
//!
//! # Adding a rule
//!
//! A rule is a [`rules::Plugin`] in a file of its own under `rules/`, a line in [`rules::Profile::default`] and a row in
//! `config/profile.rs`. Upstream's points map to it so:
//!
//! | upstream | here |
//! |---|---|
//! | PreFilter that refuses the pod | `admit` |
//! | PreFilter + Filter | `filter`: prepare, return the check of one node |
//! | PreScore + Score + NormalizeScore | `score` and `normalize` |
//! | EventsToRegister + QueueingHintFn | `helps`; objects beside pods and nodes send `News::Other("Kind")` from `feed` |
//! | Reserve, PreBind | `volumes`: what is chosen for a pod's claims is promised under the lock, and written before the binding |

pub mod bind;
pub mod cluster;
pub mod config;
pub mod cycle;
pub mod feed;
pub mod memo;
pub mod metrics;
pub mod pod;
pub mod preempt;
pub mod queue;
pub mod rules;
pub mod volumes;

mod run;

pub use config::Config;
pub use run::{Error, run};

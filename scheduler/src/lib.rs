//! Binds pods to nodes.
//!
//! ```text
//!   watch ─► feed ─► queue + cluster ─► cycle(rules) ─► bind ─► (API) ─► watch
//! ```
//!
//! `cluster` is what is true now, kept up to date by each change and by each decision at once; `queue` says which pod is
//! next and what would wake a pod that fits nowhere; `cycle` decides and is pure; `bind` is the only writer.
//! Every node is looked at for every pod: a full scan costs about a microsecond a node.

pub mod bind;
pub mod cluster;
pub mod config;
pub mod cycle;
pub mod feed;
pub mod pod;
pub mod queue;
pub mod rules;
pub mod volumes;

mod run;

pub use config::Config;
pub use run::{Error, run};

//! Words of the Kubernetes API as pure functions: strings and typed objects come in, facts about them go out.
//! No I/O, no clock, no tokio; whoever needs "now" passes it in.
//! Every text that a user may read is the one that a Kubernetes API server would write.

#![warn(missing_docs)]

pub mod backoff;
pub mod condition;
pub mod cron;
pub mod int_or_string;
pub mod names;
pub mod node;
pub mod owner;
pub mod pod;
pub mod quantity;
pub mod selector;
pub mod usage;
pub mod volume;

pub use quantity::Quantity;

//! Words of the Kubernetes API as pure functions. No I/O, no clock, no tokio.

pub mod selector;

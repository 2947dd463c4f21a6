//! For tests: a whole API server on a memory store inside the test, with every authorization on, nodes that behave as
//! kubelets would, builders of objects, and waiting that is told of changes.
//! Everything runs on the test's one thread, so a test may pause the clock: hours of back-off and grace take
//! milliseconds, and nothing here sleeps to see whether something has happened.

pub mod build;
pub mod cluster;
pub mod node;

pub use build::{deployment, job, namespace, node as node_object, pod, service};
pub use cluster::Cluster;
pub use node::FakeNode;

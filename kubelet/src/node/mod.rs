//! The node as the API knows it: facts of the machine and the runtime come in; the Node object, its Lease and the pod network's
//! configuration go out.
//! Nothing here knows pods.
//! Invariant: only this room writes the Node's status, and it writes when something changed or the heartbeat is due.

pub mod certificate;
pub mod cni;
pub mod eviction;
pub mod facts;
pub mod garbage;
pub mod lease;
pub mod report;

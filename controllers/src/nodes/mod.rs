//! Nodes: their part of the pod network, and what follows when one falls silent.
//! Leases and conditions come in, taints and conditions go out; a node that comes back undoes them.
//! A pod is moved only because of a taint that it does not tolerate.

pub mod eviction;
pub mod ipam;
pub mod lifecycle;
pub mod ttl;

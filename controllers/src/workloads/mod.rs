//! Controllers whose objects end in pods: what is asked for comes in, pods and sets of pods go out.
//! They know nothing of nodes: where a pod runs is the scheduler's affair, and whether it is well the kubelet's.
//! A pod belongs to at most one of them, by its controller reference.

pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod job;
pub mod replicaset;
mod revisions;
pub mod statefulset;

//! The container runtime below the node: its programs are found or fetched, its containerd is a process of its own that
//! outlives Coracle. An existing containerd or Docker of the machine is never touched: ours has its own directories.

pub(crate) mod containerd;
pub(crate) mod programs;

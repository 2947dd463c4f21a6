//! Requests and limits of pods become what the kernel understands: cgroup directories and the numbers in them.
//! Nothing here talks to the API or the runtime, and nothing remembers what was written: the cgroup tree is the memory.
//! Invariant: only directories under our own root are made or removed.

pub mod cgroups;
pub mod qos;
pub mod usage;

//! What every process of the cluster does: keys and certificates, flags, tasks, clients, informers.

pub mod pki;

//! coordination.k8s.io.

use super::super::row::Resource;
use super::{cells, namespaced};
use crate::strategy::node::Leases;

pub(super) fn rows() -> Vec<Resource> {
    vec![
        namespaced("coordination.k8s.io", "v1", "Lease", "leases")
            .create_on_update()
            .conditional_update()
            // Heartbeats of nodes may be lost with the power; election Leases share this row and may not.
            .lazy_in("kube-node-lease")
            .columns("Name, Holder, Age", cells::node::lease)
            .strategy(Leases),
    ]
}

//! discovery.k8s.io.

use super::super::row::Resource;
use super::{cells, namespaced};
use crate::strategy::service::Slices;

pub(super) fn rows() -> Vec<Resource> {
    vec![
        namespaced("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
            .columns("Name, AddressType, Ports, Endpoints, Age", cells::service::slice)
            .strategy(Slices),
    ]
}

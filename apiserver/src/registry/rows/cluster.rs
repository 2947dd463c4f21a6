//! What the cluster runs by: certificates, runtime classes, flow control.

use super::super::row::{Resource, Subresource::*};
use super::{READ, cells, cluster};
use crate::strategy::certificates::Requests;
use crate::strategy::flowcontrol::{Levels, Schemas};
use crate::strategy::format;
use crate::strategy::node::RuntimeClasses;

const FLOW: &str = "flowcontrol.apiserver.k8s.io";

pub(super) fn certificates() -> Vec<Resource> {
    vec![
        cluster(
            "certificates.k8s.io",
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
        )
        .short("csr")
        .subresources(&[Approval, Status])
        .names(format::path_segment_name)
        .fields("spec.signerName")
        .columns(
            "Name, Age, SignerName, Requestor, RequestedDuration, Condition",
            cells::cluster::signing_request,
        )
        .strategy(Requests),
    ]
}

pub(super) fn extensions() -> Vec<Resource> {
    vec![
        cluster(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        )
        .short("crd crds")
        .category("api-extensions")
        .verbs(READ),
    ]
}

pub(super) fn node() -> Vec<Resource> {
    vec![
        cluster("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses")
            .create_on_update()
            .conditional_update()
            .columns("Name, Handler, Age", cells::node::runtime_class)
            .strategy(RuntimeClasses),
    ]
}

pub(super) fn flow_control() -> Vec<Resource> {
    vec![
        cluster(FLOW, "v1", "FlowSchema", "flowschemas")
            .status()
            .columns(
                "Name, PriorityLevel, MatchingPrecedence, DistinguisherMethod, Age, MissingPL",
                cells::cluster::flow_schema,
            )
            .strategy(Schemas),
        cluster(FLOW, "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
            .status()
            .columns(
                "Name, Type, NominalConcurrencyShares, Queues, HandSize, QueueLengthLimit, Age",
                cells::cluster::priority_level,
            )
            .strategy(Levels),
    ]
}

//! apps.

use super::super::row::{Resource, Subresource::*};
use super::{cells, namespaced};
use crate::strategy::{format, workload};

const GROUP: &str = "apps";
const V1: &str = "v1";

pub(super) fn rows() -> Vec<Resource> {
    vec![
        namespaced(GROUP, V1, "ControllerRevision", "controllerrevisions")
            .columns("Name, Controller, Revision, Age", cells::workload::controller_revision)
            .strategy(workload::ControllerRevisions),
        namespaced(GROUP, V1, "DaemonSet", "daemonsets")
            .short("ds")
            .all()
            .status()
            .columns(
                "Name, Desired:integer, Current:integer, Ready:integer, Up-to-date:integer, Available:integer, \
                 Node Selector, Age, Containers*, Images*, Selector*",
                cells::workload::daemon_set,
            )
            .strategy(workload::DaemonSets),
        namespaced(GROUP, V1, "Deployment", "deployments")
            .short("deploy")
            .all()
            .subresources(&[Scale, Status])
            .columns(
                "Name, Ready, Up-to-date, Available, Age, Containers*, Images*, Selector*",
                cells::workload::deployment,
            )
            .strategy(workload::Deployments),
        namespaced(GROUP, V1, "ReplicaSet", "replicasets")
            .short("rs")
            .all()
            .subresources(&[Scale, Status])
            .fields("status.replicas=0")
            .columns(
                "Name, Desired:integer, Current:integer, Ready:integer, Age, Containers*, Images*, Selector*",
                cells::workload::replica_set,
            )
            .strategy(workload::ReplicaSets),
        namespaced(GROUP, V1, "StatefulSet", "statefulsets")
            .short("sts")
            .all()
            .subresources(&[Scale, Status])
            .columns("Name, Ready, Age, Containers*, Images*", cells::workload::stateful_set)
            .names(format::label_name)
            .strategy(workload::StatefulSets),
    ]
}

//! The core group.

use super::super::row::{Resource, Subresource::*};
use super::{CREATE, cells, cluster, namespaced};
use crate::strategy::{config, format, namespace, node, pod, quota, service, volume, workload};

const V1: &str = "v1";

pub(super) fn rows() -> Vec<Resource> {
    vec![
        namespaced("", V1, "Binding", "bindings")
            .verbs(CREATE)
            .strategy(pod::Bindings),
        namespaced("", V1, "ConfigMap", "configmaps")
            .short("cm")
            .columns("Name, Data, Age", cells::cluster::config_map)
            .strategy(config::ConfigMaps),
        namespaced("", V1, "Endpoints", "endpoints")
            .short("ep")
            .prefix("services/endpoints")
            .create_on_update()
            .columns("Name, Endpoints, Age", cells::service::endpoints)
            .strategy(service::Endpoints),
        super::events::core(),
        namespaced("", V1, "LimitRange", "limitranges")
            .short("limits")
            .create_on_update()
            .strategy(quota::LimitRanges),
        cluster("", V1, "Namespace", "namespaces")
            .short("ns")
            .verbs(&["create", "delete", "get", "list", "patch", "update", "watch"])
            .subresources(&[Finalize, Status])
            .names(format::label_name)
            .fields("status.phase")
            .columns("Name, Status, Age", cells::cluster::namespace)
            .strategy(namespace::Namespaces),
        cluster("", V1, "Node", "nodes")
            .short("no")
            .prefix("minions")
            .subresources(&[Proxy, Status])
            .fields("spec.unschedulable=false")
            .columns(
                "Name, Status, Roles, Age, Version, Internal-IP*, External-IP*, OS-Image*, Kernel-Version*, \
                 Container-Runtime*",
                cells::node::cells,
            )
            .strategy(node::Nodes),
        namespaced("", V1, "PersistentVolumeClaim", "persistentvolumeclaims")
            .returns_deleted()
            .short("pvc")
            .status()
            .columns(
                "Name, Status, Volume, Capacity, Access Modes, StorageClass, VolumeAttributesClass, Age, VolumeMode*",
                cells::volume::claim,
            )
            .strategy(volume::Claims),
        cluster("", V1, "PersistentVolume", "persistentvolumes")
            .returns_deleted()
            .short("pv")
            .status()
            .columns(
                "Name, Capacity, Access Modes, Reclaim Policy, Status, Claim, StorageClass, VolumeAttributesClass, \
                 Reason, Age, VolumeMode*",
                cells::volume::volume,
            )
            .strategy(volume::Volumes),
        namespaced("", V1, "Pod", "pods")
            .returns_deleted()
            .short("po")
            .all()
            .subresources(&[
                Attach,
                Binding,
                EphemeralContainers,
                Eviction,
                Exec,
                Log,
                PortForward,
                Proxy,
                Resize,
                Status,
            ])
            .fields(
                "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork=false \
                 status.phase status.podIP status.nominatedNodeName",
            )
            .columns(
                "Name, Ready, Status, Restarts, Age, IP*, Node*, Nominated Node*, Readiness Gates*",
                cells::pod::cells,
            )
            .strategy(pod::Pods),
        namespaced("", V1, "PodTemplate", "podtemplates")
            .returns_deleted()
            .columns("Name, Containers, Images, Pod Labels", cells::pod::template)
            .strategy(pod::PodTemplates),
        namespaced("", V1, "ReplicationController", "replicationcontrollers")
            .short("rc")
            .all()
            .prefix("controllers")
            .subresources(&[Scale, Status])
            .fields("status.replicas=0")
            .columns(
                "Name, Desired:integer, Current:integer, Ready:integer, Age, Containers*, Images*, Selector*",
                cells::workload::replication_controller,
            )
            .strategy(workload::ReplicationControllers),
        namespaced("", V1, "ResourceQuota", "resourcequotas")
            .returns_deleted()
            .short("quota")
            .status()
            .columns("Name, Request, Limit, Age", cells::cluster::quota)
            .strategy(quota::Quotas),
        namespaced("", V1, "Secret", "secrets")
            .fields("type")
            .columns("Name, Type, Data, Age", cells::cluster::secret)
            .strategy(config::Secrets),
        namespaced("", V1, "ServiceAccount", "serviceaccounts")
            .returns_deleted()
            .short("sa")
            .subresources(&[Token])
            .columns("Name, Age", cells::name_and_age)
            .strategy(config::ServiceAccounts),
        namespaced("", V1, "Service", "services")
            .returns_deleted()
            .short("svc")
            .all()
            .prefix("services/specs")
            .subresources(&[Proxy, Status])
            .create_on_update()
            .names(format::dns_1035_name)
            .fields("spec.clusterIP spec.type")
            .columns(
                "Name, Type, Cluster-IP, External-IP, Port(s), Age, Selector*",
                cells::service::cells,
            )
            .strategy(service::Services),
    ]
}

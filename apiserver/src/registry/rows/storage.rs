//! storage.k8s.io.

use super::super::row::Resource;
use super::{cells, cluster, namespaced};
use crate::strategy::volume::{Attachments, AttributesClasses, Capacities, Drivers, StorageClasses, StorageNodes};

const GROUP: &str = "storage.k8s.io";
const V1: &str = "v1";

pub(super) fn rows() -> Vec<Resource> {
    vec![
        cluster(GROUP, V1, "CSIDriver", "csidrivers")
            .conditional_update()
            .columns(
                "Name, AttachRequired:boolean, PodInfoOnMount:boolean, StorageCapacity:boolean, TokenRequests, \
                 RequiresRepublish:boolean, Modes, Age",
                cells::volume::csi_driver,
            )
            .strategy(Drivers),
        cluster(GROUP, V1, "CSINode", "csinodes")
            .conditional_update()
            .columns("Name, Drivers:integer, Age", cells::volume::csi_node)
            .strategy(StorageNodes),
        namespaced(GROUP, V1, "CSIStorageCapacity", "csistoragecapacities")
            .conditional_update()
            .strategy(Capacities),
        cluster(GROUP, V1, "StorageClass", "storageclasses")
            .short("sc")
            .columns(
                "Name, Provisioner, ReclaimPolicy, VolumeBindingMode, AllowVolumeExpansion, Age",
                cells::volume::storage_class,
            )
            .strategy(StorageClasses),
        cluster(GROUP, V1, "VolumeAttachment", "volumeattachments")
            .status()
            .conditional_update()
            .columns(
                "Name, Attacher:string/name, PV, Node, Attached:boolean, Age",
                cells::volume::attachment,
            )
            .strategy(Attachments),
        cluster(GROUP, V1, "VolumeAttributesClass", "volumeattributesclasses")
            .short("vac")
            .columns("Name, DriverName, Age", cells::volume::attributes_class)
            .strategy(AttributesClasses),
    ]
}

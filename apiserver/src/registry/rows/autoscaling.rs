//! autoscaling.

use super::super::row::{Convert, Resource};
use super::{cells, namespaced};
use crate::strategy::autoscaling::{Autoscalers, from_v2, to_v2};

pub(super) fn rows() -> Vec<Resource> {
    vec![
        namespaced(
            "autoscaling",
            "v2 v1",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
        )
        .short("hpa")
        .all()
        .status()
        .convert(Convert {
            to_storage: to_v2,
            from_storage: from_v2,
        })
        .columns(
            "Name, Reference, Targets, MinPods, MaxPods, Replicas, Age",
            cells::workload::autoscaler,
        )
        .strategy(Autoscalers),
    ]
}

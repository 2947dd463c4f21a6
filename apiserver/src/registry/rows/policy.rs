//! policy and scheduling.k8s.io.

use super::super::row::Resource;
use super::{cells, cluster, namespaced};
use crate::strategy::format;
use crate::strategy::policy::{DisruptionBudgets, PriorityClasses};

pub(super) fn rows() -> Vec<Resource> {
    vec![
        namespaced("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .short("pdb")
            .status()
            .conditional_update()
            // Upstream has never looked at these names more closely than a URL does.
            .names(format::path_segment_name)
            .columns(
                "Name, Min Available, Max Unavailable, Allowed Disruptions:integer, Age",
                cells::workload::disruption_budget,
            )
            .strategy(DisruptionBudgets),
    ]
}

pub(super) fn scheduling() -> Vec<Resource> {
    vec![
        cluster("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
            .short("pc")
            .columns(
                "Name, Value:integer, Global-Default:boolean, Age, PreemptionPolicy",
                cells::cluster::priority_class,
            )
            .strategy(PriorityClasses),
    ]
}

use k8s_openapi::api::core::v1::Taint;

use super::{Check, Filter};
use crate::cluster::Cluster;
use crate::pod::Pod;

/// A cordoned node takes only pods that tolerate the taint of being so.
#[derive(Debug)]
pub(super) struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }
    fn prepare<'a>(&self, pod: &'a Pod, _: &'a Cluster) -> Option<Check<'a>> {
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        if api::node::is_tolerated(&pod.tolerations, &taint) {
            return None;
        }
        Some(Box::new(|node| {
            node.unschedulable.then_some("node(s) were unschedulable".into())
        }))
    }
}

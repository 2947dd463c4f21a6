use k8s_openapi::api::core::v1::Taint;

use super::{Check, Plugin, Reach, Refusal};
use crate::cluster::Cluster;
use crate::pod::Pod;

/// A cordoned node takes only pods that tolerate the taint of being so.
#[derive(Debug)]
pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }
    fn reach(&self) -> Reach {
        Reach::Node
    }
    fn filter<'a>(&'a self, pod: &'a Pod, _: &'a Cluster) -> Option<Check<'a>> {
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        if api::node::is_tolerated(&pod.shape.tolerations, &taint) {
            return None;
        }
        Some(Box::new(|node| {
            (node.facts.unschedulable).then(|| Refusal::for_good("node(s) were unschedulable"))
        }))
    }
}

use super::{Check, Plugin, Reach, Refusal};
use crate::cluster::Cluster;
use crate::pod::Pod;

/// A port of the node goes to one pod.
#[derive(Debug)]
pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }
    fn reach(&self) -> Reach {
        Reach::Node
    }
    fn filter<'a>(&'a self, pod: &'a Pod, _: &'a Cluster) -> Option<Check<'a>> {
        if pod.shape.ports.is_empty() {
            return None;
        }
        Some(Box::new(|node| {
            let mut wanted = pod.shape.ports.iter();
            wanted
                .any(|wanted| node.ports.iter().any(|have| have.conflicts(wanted)))
                .then(|| Refusal::now("node(s) didn't have free ports for the requested pod ports"))
        }))
    }
}

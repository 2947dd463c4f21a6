use super::{Check, Filter};
use crate::cluster::Cluster;
use crate::pod::Pod;

/// A port of the node goes to one pod.
#[derive(Debug)]
pub(super) struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }
    fn prepare<'a>(&self, pod: &'a Pod, _: &'a Cluster) -> Option<Check<'a>> {
        if pod.ports.is_empty() {
            return None;
        }
        Some(Box::new(|node| {
            let taken = pod
                .ports
                .iter()
                .any(|wanted| node.ports.iter().any(|have| have.conflicts(wanted)));
            taken.then_some("node(s) didn't have free ports for the requested pod ports".into())
        }))
    }
}

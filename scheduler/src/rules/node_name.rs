use super::{Check, Plugin, Reach, Refusal};
use crate::cluster::Cluster;
use crate::pod::Pod;

/// A pod that names its node goes there. Such a pod is bound from its birth, so this holds for simulations only.
#[derive(Debug)]
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }
    fn reach(&self) -> Reach {
        Reach::Node
    }
    fn filter<'a>(&'a self, pod: &'a Pod, _: &'a Cluster) -> Option<Check<'a>> {
        let wanted = pod.node.as_ref()?;
        Some(Box::new(move |node| {
            (node.name != *wanted).then(|| Refusal::for_good("node(s) didn't match the requested node name"))
        }))
    }
}

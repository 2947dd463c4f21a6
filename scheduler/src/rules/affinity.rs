use super::{Check, Filter, Normalize, Rating, Score};
use crate::cluster::Cluster;
use crate::pod::Pod;

/// `nodeSelector` and node affinity.
#[derive(Debug)]
pub(super) struct NodeAffinity;

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
    fn prepare<'a>(&self, pod: &'a Pod, _: &'a Cluster) -> Option<Check<'a>> {
        if pod.node_selector.is_empty() && pod.required.is_none() {
            return None;
        }
        Some(Box::new(|node| {
            let selected = pod
                .node_selector
                .iter()
                .all(|(key, value)| node.labels.get(key) == Some(value));
            let required = pod
                .required
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term.matches(&node.name, &node.labels)));
            (!selected || !required).then_some("node(s) didn't match Pod's node affinity/selector".into())
        }))
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
    fn prepare<'a>(&self, pod: &'a Pod, _: &'a Cluster) -> Option<Rating<'a>> {
        if pod.preferred.is_empty() {
            return None;
        }
        Some(Box::new(|node| {
            let matching = pod
                .preferred
                .iter()
                .filter(|(_, term)| term.matches(&node.name, &node.labels));
            matching.map(|(weight, _)| weight).sum()
        }))
    }
    fn normalize(&self) -> Normalize {
        Normalize::Share
    }
}

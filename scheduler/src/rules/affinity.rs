use std::collections::BTreeSet;

use super::{Check, Normalize, Plugin, Rating, Reach, Refusal};
use crate::cluster::Cluster;
use crate::pod::{NodeTerm, Pod};

/// `nodeSelector` and node affinity.
#[derive(Debug, Default)]
pub struct NodeAffinity {
    /// Demanded of every pod of the profile besides its own (NodeAffinityArgs.addedAffinity).
    pub added: Option<Vec<NodeTerm>>,
    pub added_preferred: Vec<(i64, NodeTerm)>,
}

/// The nodes that the pod names one by one, where all of its terms do (what DaemonSets write).
fn named(pod: &Pod) -> Option<BTreeSet<&str>> {
    let terms = pod.shape.required.as_ref()?;
    let mut all = BTreeSet::new();
    for term in terms {
        all.extend(term.names()?);
    }
    Some(all)
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
    fn reach(&self) -> Reach {
        Reach::Node
    }
    fn admit(&self, pod: &Pod, _: &Cluster) -> Result<(), Refusal> {
        match named(pod) {
            Some(names) if names.is_empty() => Err(Refusal::for_good("pod affinity terms conflict")),
            _ => Ok(()),
        }
    }
    fn filter<'a>(&'a self, pod: &'a Pod, _: &'a Cluster) -> Option<Check<'a>> {
        let shape = &*pod.shape;
        if shape.node_selector.is_empty() && shape.required.is_none() && self.added.is_none() {
            return None;
        }
        let named = named(pod);
        Some(Box::new(move |node| {
            if named.as_ref().is_some_and(|names| !names.contains(&*node.name)) {
                return Some(Refusal::for_good("node(s) didn't satisfy plugin(s) [NodeAffinity]"));
            }
            let labels = &node.facts.labels;
            let added = self
                .added
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term.matches(&node.name, labels)));
            if !added {
                return Some(Refusal::for_good(
                    "node(s) didn't match scheduler-enforced node affinity",
                ));
            }
            (!shape.allows(&node.name, labels))
                .then(|| Refusal::for_good("node(s) didn't match Pod's node affinity/selector"))
        }))
    }
    fn score<'a>(&'a self, pod: &'a Pod, _: &'a Cluster, _: &[usize]) -> Option<Rating<'a>> {
        if pod.shape.preferred.is_empty() && self.added_preferred.is_empty() {
            return None;
        }
        Some(Box::new(|_, node| {
            let matching = (pod.shape.preferred.iter())
                .chain(&self.added_preferred)
                .filter(|(_, term)| term.matches(&node.name, &node.facts.labels));
            Some(matching.map(|(weight, _)| weight).sum())
        }))
    }
    fn normalize(&self) -> Normalize {
        Normalize::Share
    }
}

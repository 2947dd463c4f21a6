//! The rules of placement, in the shape of upstream's framework: a filter says whether a node will do, a score says how
//! well. Each is prepared once for a pod (upstream's PreFilter and PreScore) and then asked of every node. Pure.

mod affinity;
mod images;
mod node_name;
mod ports;
mod resources;
mod taints;
mod unschedulable;

use std::borrow::Cow;

use crate::cluster::{Cluster, Node};
use crate::pod::Pod;
use crate::volumes::{VolumeBinding, VolumeRestrictions};

/// Why a node will not do, as the pod's condition tells it.
pub type Reason = Cow<'static, str>;

/// Asked of one node: nothing where it will do, else why not.
pub type Check<'a> = Box<dyn Fn(&Node) -> Option<Reason> + 'a>;

/// Asked of one node that will do: how well, before normalization.
pub type Rating<'a> = Box<dyn Fn(&Node) -> i64 + 'a>;

/// Says whether a node will do.
pub trait Filter: Send + Sync + std::fmt::Debug {
    fn name(&self) -> &'static str;
    /// Why the pod fits nowhere, whatever the nodes are; asked before any of them is looked at.
    fn refuse(&self, _pod: &Pod, _cluster: &Cluster) -> Option<String> {
        None
    }
    /// `None` when the pod demands nothing that this rule is about.
    fn prepare<'a>(&self, pod: &'a Pod, cluster: &'a Cluster) -> Option<Check<'a>>;
}

/// Says how well a node will do, in 0..=100 after normalization.
pub trait Score: Send + Sync + std::fmt::Debug {
    fn name(&self) -> &'static str;
    fn prepare<'a>(&self, pod: &'a Pod, cluster: &'a Cluster) -> Option<Rating<'a>>;
    fn normalize(&self) -> Normalize {
        Normalize::No
    }
}

/// How ratings become 0..=100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalize {
    /// They already are.
    No,
    /// The best gets 100, the rest their share of it.
    Share,
    /// The worst gets 0 (all get 100 where every rating is 0).
    Reverse,
}

pub const MAX_SCORE: i64 = 100;

/// The rules that are on, and the weight of each score.
#[derive(Debug)]
pub struct Rules {
    pub filters: Vec<Box<dyn Filter>>,
    pub scores: Vec<(i64, Box<dyn Score>)>,
}

impl Default for Rules {
    /// Upstream's default plug-ins, order and weights (pkg/scheduler/apis/config/v1/default_plugins.go, 1.36).
    fn default() -> Self {
        Rules {
            filters: vec![
                Box::new(unschedulable::NodeUnschedulable),
                Box::new(node_name::NodeName),
                Box::new(taints::TaintToleration),
                Box::new(affinity::NodeAffinity),
                Box::new(ports::NodePorts),
                Box::new(resources::Fit),
                Box::new(VolumeRestrictions),
                Box::new(VolumeBinding),
            ],
            scores: vec![
                (3, Box::new(taints::TaintToleration)),
                (2, Box::new(affinity::NodeAffinity)),
                (1, Box::new(resources::LeastAllocated)),
                (1, Box::new(resources::BalancedAllocation)),
                (1, Box::new(images::ImageLocality)),
            ],
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

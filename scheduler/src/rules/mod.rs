//! The rules of placement, in the shape of upstream's framework: one `Plugin` says whether a node will do, how well, and
//! what could help a pod that it refused. A pod and the cluster come in, answers
//! go out.
//! Nothing here writes or waits.
//! Each rule is prepared once for a pod (upstream's PreFilter and PreScore) and then asked of every node. A rule with
//! `Reach::Node` answers from the node and the pod's shape alone, so its answer is kept for all pods of the shape until
//! that node changes.

mod affinity;
mod images;
mod neighbours;
mod node_name;
mod normalize;
mod ports;
mod resources;
mod spread;
mod taints;
mod unschedulable;

use std::borrow::Cow;
use std::sync::Arc;

use crate::cluster::{Cluster, Node, Subject};
use crate::pod::Pod;
use crate::volumes::{VolumeBinding, VolumeRestrictions};

pub use affinity::NodeAffinity;
pub use images::ImageLocality;
pub use neighbours::InterPodAffinity;
pub use node_name::NodeName;
pub use normalize::Normalize;
pub use ports::NodePorts;
pub use resources::{BalancedAllocation, Fit, Strategy};
pub use spread::{Defaults, PodTopologySpread};
pub use taints::TaintToleration;
pub use unschedulable::NodeUnschedulable;

/// Why a node will not do, as the pod's condition tells it.
pub type Reason = Cow<'static, str>;

/// The node will not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reasons: Vec<Reason>,
    /// No pod that goes away could change it, so preemption is no help there (upstream's UnschedulableAndUnresolvable).
    pub for_good: bool,
}

impl Refusal {
    /// Other pods are in the way.
    pub fn now(reason: impl Into<Reason>) -> Self {
        Refusal {
            reasons: vec![reason.into()],
            for_good: false,
        }
    }

    /// It is the node that will not do.
    pub fn for_good(reason: impl Into<Reason>) -> Self {
        Refusal {
            reasons: vec![reason.into()],
            for_good: true,
        }
    }
}

/// Asked of one node: nothing where it will do.
pub type Check<'a> = Box<dyn Fn(&Node) -> Option<Refusal> + 'a>;

/// Asked of one node that will do: how well, before normalization. `None` leaves the node at 0 points.
pub type Rating<'a> = Box<dyn Fn(usize, &Node) -> Option<i64> + 'a>;

/// What a rule's answer about a node depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The pod's shape and that node.
    Node,
    /// Anything: other nodes, other objects, the pod's labels.
    Cluster,
}

/// Something happened that might help a pod.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A node came or changed.
    Node(&'a Node),
    /// A pod left this node, or room is no more kept for it there.
    Freed(&'a Node, &'a Pod),
    /// A pod got a place, or one that has a place got other labels.
    Placed(&'a Pod),
    /// Labels of a namespace changed.
    Namespace,
    /// An object of this kind came or changed; for rules about objects beside pods and nodes.
    Other(&'static str),
}

/// A counter that a rule reads: pods of a subject, by the domains of these labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub subject: Subject,
    pub keys: Vec<Box<str>>,
}

/// One rule, under upstream's name. Every method but the first two has a default: a rule implements the points at which
/// it has something to say.
pub trait Plugin: Send + Sync + std::fmt::Debug {
    fn name(&self) -> &'static str;

    fn reach(&self) -> Reach;

    /// The counters that the other methods will read for this pod.
    fn needs(&self, _pod: &Pod, _cluster: &Cluster) -> Vec<Need> {
        Vec::new()
    }

    /// Whether the pod can have a place at all. A refusal is told of all nodes.
    fn admit(&self, _pod: &Pod, _cluster: &Cluster) -> Result<(), Refusal> {
        Ok(())
    }

    /// `None` when the pod demands nothing that this rule is about.
    fn filter<'a>(&'a self, _pod: &'a Pod, _cluster: &'a Cluster) -> Option<Check<'a>> {
        None
    }

    /// `None` when all nodes are equally good. `feasible` are the nodes that will be asked about; a rule with
    /// `Reach::Node` is given none and must not look.
    fn score<'a>(&'a self, _pod: &'a Pod, _cluster: &'a Cluster, _feasible: &[usize]) -> Option<Rating<'a>> {
        None
    }

    fn normalize(&self) -> Normalize {
        Normalize::No
    }

    /// Whether what happened could change this rule's refusal of the pod. Rules with `Reach::Node` are not asked: they are
    /// tried on the node in question.
    fn helps(&self, _pod: &Pod, _event: Event<'_>, _cluster: &Cluster) -> bool {
        true
    }
}

pub const MAX_SCORE: i64 = 100;

/// The rules that are on for pods of one scheduler name.
#[derive(Debug)]
pub struct Profile {
    pub name: Box<str>,
    pub filters: Vec<Arc<dyn Plugin>>,
    /// With the weight of each.
    pub scores: Vec<(i64, Arc<dyn Plugin>)>,
    /// Whether pods with scheduling gates wait.
    pub gates: bool,
    /// Make room by preemption, and look at how many nodes for it.
    pub preemption: Option<Candidates>,
}

/// How many nodes preemption looks at (DefaultPreemptionArgs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidates {
    pub percentage: usize,
    pub absolute: usize,
}

impl Default for Candidates {
    fn default() -> Self {
        Candidates {
            percentage: 10,
            absolute: 100,
        }
    }
}

impl Default for Profile {
    /// Upstream's default plug-ins, order and weights (pkg/scheduler/apis/config/v1/default_plugins.go, 1.36).
    fn default() -> Self {
        let taints = Arc::new(TaintToleration);
        let nodes = Arc::new(NodeAffinity::default());
        let fit = Arc::new(Fit::default());
        let spread = Arc::new(PodTopologySpread::default());
        let neighbours = Arc::new(InterPodAffinity::default());
        Profile {
            name: "default-scheduler".into(),
            filters: vec![
                Arc::new(NodeUnschedulable),
                Arc::new(NodeName),
                taints.clone(),
                nodes.clone(),
                Arc::new(NodePorts),
                fit.clone(),
                Arc::new(VolumeRestrictions),
                Arc::new(VolumeBinding),
                spread.clone(),
                neighbours.clone(),
            ],
            scores: vec![
                (3, taints),
                (2, nodes),
                (1, fit),
                (2, spread),
                (2, neighbours),
                (1, Arc::new(BalancedAllocation::default())),
                (1, Arc::new(ImageLocality)),
            ],
            gates: true,
            preemption: Some(Candidates::default()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

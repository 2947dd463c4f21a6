//! A pod as scheduling sees it: an object of the API comes in, is parsed once, and goes out as facts and a shape.
//! Nothing here knows of nodes or of other pods.
//! Pods of one shape share it in memory, so that what was found out for one holds for all, and 5,000 replicas cost one.

mod amounts;
mod share;
mod terms;

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use api::pod::HostPort;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

use crate::volumes::Use;

pub use amounts::Amounts;
pub use share::Shares;
pub use terms::{Neighbours, NodeTerm, Spread, Term, Whom, selector};

/// What upstream assumes of a container that asks for nothing, so that scores tell idle pods apart
/// (pkg/scheduler/util/pod_resources.go, 1.36).
const ASSUMED_MILLI_CPU: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 << 20;

/// The reason of a DisruptionTarget condition that a scheduler wrote.
pub const PREEMPTED: &str = "PreemptionByScheduler";

pub type LabelMap = BTreeMap<String, String>;

/// What decides where a pod may go, apart from who it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub scheduler: Box<str>,
    pub priority: i32,
    /// `preemptionPolicy: Never`.
    pub peaceful: bool,
    pub requests: Amounts,
    /// Requests with upstream's assumptions for containers that name none; only scores use it.
    pub assumed: Amounts,
    pub node_selector: LabelMap,
    /// Any one of these must match; `None` is no demand.
    pub required: Option<Vec<NodeTerm>>,
    pub preferred: Vec<(i64, NodeTerm)>,
    pub tolerations: Vec<core::Toleration>,
    pub ports: Vec<HostPort>,
    pub images: Vec<String>,
    pub neighbours: Neighbours,
    pub spread: Vec<Spread>,
}

/// The object that manages a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    pub kind: Box<str>,
    pub name: Box<str>,
}

/// A pod, with everything that rules ask of it.
#[derive(Debug, Clone)]
pub struct Pod {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    pub created: Timestamp,
    /// When its kubelet began with it.
    pub started: Option<Timestamp>,
    pub labels: Arc<LabelMap>,
    pub owner: Option<Arc<Owner>>,
    pub shape: Arc<Shape>,
    pub claims: Box<[Use]>,
    /// Where it is, once bound.
    pub node: Option<Arc<str>>,
    /// Where room is being made for it.
    pub nominated: Option<Arc<str>>,
    /// Held back by `spec.schedulingGates`.
    pub gated: bool,
    pub deleting: bool,
    /// It is going because a scheduler wanted its place.
    pub preempted: bool,
    /// The message of its PodScheduled condition, so that the same one is not written twice.
    pub told: Option<Box<str>>,
}

impl Pod {
    /// `None` for an object without a name, which the API never serves.
    pub fn parse(pod: &core::Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let status = pod.status.as_ref();
        let meta = &pod.metadata;
        let conditions = status.and_then(|s| s.conditions.as_deref());
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let labels = meta.labels.clone().unwrap_or_default();
        let named = |name: &Option<String>| name.as_deref().filter(|name| !name.is_empty()).map(Into::into);
        Some(Pod {
            namespace: namespace.into(),
            name: meta.name.as_deref()?.into(),
            uid: meta.uid.as_deref()?.into(),
            created: meta
                .creation_timestamp
                .as_ref()
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            started: status.and_then(|s| s.start_time.as_ref()).map(|time| time.0),
            owner: api::owner::controller_of(meta).map(|owner| {
                Arc::new(Owner {
                    kind: owner.kind.as_str().into(),
                    name: owner.name.as_str().into(),
                })
            }),
            shape: Arc::new(Shape::new(spec, namespace, &labels)?),
            labels: Arc::new(labels),
            claims: api::volume::claims(pod)
                .into_iter()
                .map(|(claim, own)| Use { claim, own })
                .collect(),
            node: named(&spec.node_name),
            nominated: status.and_then(|s| named(&s.nominated_node_name)),
            gated: spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()),
            deleting: api::pod::is_deleting(pod),
            preempted: api::condition::find(conditions, "DisruptionTarget")
                .is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some(PREEMPTED)),
            told: api::condition::find(conditions, "PodScheduled")
                .filter(|condition| condition.status == "False")
                .and_then(|condition| condition.message.as_deref().map(Into::into)),
        })
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether nothing that decides a placement differs.
    pub fn same_demand(&self, other: &Pod) -> bool {
        (Arc::ptr_eq(&self.shape, &other.shape) || self.shape == other.shape)
            && self.labels == other.labels
            && self.claims == other.claims
            && self.gated == other.gated
    }
}

impl Shape {
    fn new(spec: &core::PodSpec, namespace: &str, labels: &LabelMap) -> Option<Self> {
        let requests = api::pod::requests(spec).ok()?;
        let requests = Amounts::from_list(requests.iter().map(|(name, quantity)| (name.as_str(), *quantity)));
        let affinity = spec.affinity.as_ref();
        let nodes = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
        Some(Shape {
            scheduler: spec.scheduler_name.as_deref().unwrap_or("default-scheduler").into(),
            priority: spec.priority.unwrap_or(0),
            peaceful: spec.preemption_policy.as_deref() == Some("Never"),
            assumed: assumed(spec, &requests),
            requests,
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            required: nodes
                .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
                .map(|required| required.node_selector_terms.iter().map(NodeTerm::new).collect()),
            preferred: nodes
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(|term| (i64::from(term.weight), NodeTerm::new(&term.preference)))
                .collect(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            ports: api::pod::host_ports(spec),
            images: spec
                .init_containers
                .iter()
                .flatten()
                .chain(&spec.containers)
                .filter_map(|c| c.image.clone())
                .collect(),
            neighbours: Neighbours::new(affinity, namespace, labels),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|constraint| Spread::new(constraint, labels))
                .collect(),
        })
    }

    /// Whether it asks for no CPU and no memory.
    pub fn is_best_effort(&self) -> bool {
        self.requests.cpu == 0 && self.requests.memory == 0
    }

    /// Whether its `nodeSelector` and required node affinity allow the node.
    pub fn allows(&self, name: &str, labels: &LabelMap) -> bool {
        self.node_selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .required
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }

    /// Equal shapes have equal fingerprints; the rest is for comparison to tell.
    fn fingerprint(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        self.priority.hash(&mut hasher);
        self.requests.hash(&mut hasher);
        self.node_selector.hash(&mut hasher);
        self.images.hash(&mut hasher);
        self.ports.hash(&mut hasher);
        self.neighbours.near.hash(&mut hasher);
        self.neighbours.far.hash(&mut hasher);
        self.tolerations.len().hash(&mut hasher);
        hasher.finish()
    }
}

fn assumed(spec: &core::PodSpec, requests: &Amounts) -> Amounts {
    let mut amounts = Amounts {
        cpu: requests.cpu,
        memory: requests.memory,
        ..Amounts::default()
    };
    for container in &spec.containers {
        let asks = |name: &str| {
            let resources = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            resources.is_some_and(|requests| requests.contains_key(name))
        };
        amounts.cpu += if asks("cpu") { 0 } else { ASSUMED_MILLI_CPU };
        amounts.memory += if asks("memory") { 0 } else { ASSUMED_MEMORY };
    }
    amounts
}

//! A pod as scheduling sees it: parsed once, when it comes in.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::node::NodeTerm;
use api::pod::HostPort;
use api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

use crate::volumes::Use;

/// What upstream assumes of a container that asks for nothing, so that scores tell idle pods apart
/// (pkg/scheduler/util/pod_resources.go, 1.36).
const ASSUMED_MILLI_CPU: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 << 20;

/// Amounts of resources: CPU in thousandths, the rest in their own unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    pub other: BTreeMap<String, i64>,
}

impl Amounts {
    /// Upstream's reading of a resource list: CPU in millis, the rest rounded up to whole units.
    pub fn from_list<'a>(list: impl IntoIterator<Item = (&'a str, Quantity)>) -> Self {
        let mut amounts = Amounts::default();
        for (name, quantity) in list {
            match name {
                "cpu" => amounts.cpu = quantity.as_milli(),
                "memory" => amounts.memory = quantity.as_i64(),
                "ephemeral-storage" => amounts.ephemeral = quantity.as_i64(),
                "pods" => {}
                other => {
                    amounts.other.insert(other.to_owned(), quantity.as_i64());
                }
            }
        }
        amounts
    }
    pub fn add(&mut self, more: &Amounts) {
        self.change(more, 1);
    }
    pub fn subtract(&mut self, less: &Amounts) {
        self.change(less, -1);
    }
    fn change(&mut self, by: &Amounts, sign: i64) {
        self.cpu += sign * by.cpu;
        self.memory += sign * by.memory;
        self.ephemeral += sign * by.ephemeral;
        for (name, amount) in &by.other {
            let have = self.other.entry(name.clone()).or_default();
            *have += sign * amount;
        }
        self.other.retain(|_, amount| *amount != 0);
    }
}

/// A pod, with everything that rules ask of it.
#[derive(Debug, Clone)]
pub struct Pod {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    pub priority: i32,
    pub created: Timestamp,
    /// Where it is, once bound.
    pub node: Option<Arc<str>>,
    /// Held back by `spec.schedulingGates`.
    pub gated: bool,
    pub deleting: bool,
    pub scheduler: String,
    pub requests: Amounts,
    /// Requests with upstream's assumptions for containers that name none; only scores use it.
    pub assumed: Amounts,
    pub node_selector: BTreeMap<String, String>,
    /// Any one of these must match; `None` is no demand.
    pub required: Option<Vec<NodeTerm>>,
    pub preferred: Vec<(i64, NodeTerm)>,
    pub tolerations: Vec<core::Toleration>,
    pub ports: Vec<HostPort>,
    pub images: Vec<String>,
    pub claims: Vec<Use>,
    /// The message of its PodScheduled condition, so that the same one is not written twice.
    pub told: Option<String>,
}

impl Pod {
    /// `None` for an object without a name, which the API never serves.
    pub fn parse(pod: &core::Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let requests = api::pod::requests(spec).ok()?;
        let requests = Amounts::from_list(requests.iter().map(|(name, quantity)| (name.as_str(), *quantity)));
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        Some(Pod {
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: pod.metadata.name.as_deref()?.into(),
            uid: pod.metadata.uid.as_deref()?.into(),
            priority: spec.priority.unwrap_or(0),
            created: pod
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            node: spec
                .node_name
                .as_deref()
                .filter(|name| !name.is_empty())
                .map(Into::into),
            gated: spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()),
            deleting: api::pod::is_deleting(pod),
            scheduler: spec
                .scheduler_name
                .clone()
                .unwrap_or_else(|| "default-scheduler".into()),
            assumed: assumed(spec, &requests),
            requests,
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            required: affinity
                .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
                .map(|required| required.node_selector_terms.iter().map(NodeTerm::new).collect()),
            preferred: affinity
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(|term| (i64::from(term.weight), NodeTerm::new(&term.preference)))
                .collect(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            ports: api::pod::host_ports(spec),
            images: spec.containers.iter().filter_map(|c| c.image.clone()).collect(),
            claims: api::volume::claims(pod)
                .into_iter()
                .map(|(claim, own)| Use { claim, own })
                .collect(),
            told: api::condition::find(
                pod.status.as_ref().and_then(|s| s.conditions.as_deref()),
                "PodScheduled",
            )
            .filter(|condition| condition.status == "False")
            .and_then(|condition| condition.message.clone()),
        })
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it asks for no CPU and no memory.
    pub fn is_best_effort(&self) -> bool {
        self.requests.cpu == 0 && self.requests.memory == 0
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

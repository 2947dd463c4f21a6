//! A node and what is taken of it.

use std::collections::HashMap;
use std::sync::Arc;

use api::pod::HostPort;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1 as core;

use crate::pod::{Amounts, LabelMap, Pod};

/// What a node's object says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    pub labels: LabelMap,
    pub taints: Vec<core::Taint>,
    pub unschedulable: bool,
    pub allocatable: Amounts,
    pub max_pods: i64,
    /// Sizes in bytes, by every name of the image.
    pub images: HashMap<String, i64>,
}

impl Facts {
    pub(super) fn parse(object: &core::Node) -> Self {
        let spec = object.spec.as_ref();
        let status = object.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let quantities = || {
            // A node's own numbers are checked by the API; one that does not parse counts as absent.
            allocatable
                .into_iter()
                .flatten()
                .filter_map(|(k, q)| Some((k.as_str(), q.0.parse::<Quantity>().ok()?)))
        };
        Facts {
            labels: object.metadata.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|s| s.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
            allocatable: Amounts::from_list(quantities()),
            max_pods: quantities().find(|(k, _)| *k == "pods").map_or(0, |(_, q)| q.as_i64()),
            images: status
                .and_then(|s| s.images.as_ref())
                .into_iter()
                .flatten()
                .flat_map(|image| {
                    let size = image.size_bytes.unwrap_or(0);
                    image.names.iter().flatten().map(move |name| (name.clone(), size))
                })
                .collect(),
        }
    }
}

/// A node, and its pods.
#[derive(Debug, Default)]
pub struct Node {
    pub name: Arc<str>,
    pub facts: Facts,
    /// The node's object is there; pods may be heard of first.
    pub known: bool,
    pub taken: Amounts,
    pub assumed: Amounts,
    pub pods: Vec<Arc<Pod>>,
    pub ports: Vec<HostPort>,
    /// The cluster's clock at its last change.
    pub changed: u64,
}

impl Node {
    pub(super) fn named(name: Arc<str>) -> Self {
        Node {
            name,
            ..Node::default()
        }
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.facts.labels.get(key).map(String::as_str)
    }

    pub(super) fn add(&mut self, pod: Arc<Pod>) {
        self.taken.add(&pod.shape.requests);
        self.assumed.add(&pod.shape.assumed);
        self.ports.extend(pod.shape.ports.iter().cloned());
        self.pods.push(pod);
    }

    pub(super) fn remove(&mut self, pod: &Pod) {
        let Some(at) = self.pods.iter().position(|have| have.uid == pod.uid) else {
            return;
        };
        self.pods.swap_remove(at);
        self.taken.subtract(&pod.shape.requests);
        self.assumed.subtract(&pod.shape.assumed);
        for port in &pod.shape.ports {
            if let Some(at) = self.ports.iter().position(|have| have == port) {
                self.ports.swap_remove(at);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn summary(&self) -> String {
        let mut pods: Vec<&str> = self.pods.iter().map(|pod| &*pod.uid).collect();
        pods.sort_unstable();
        let mut ports: Vec<String> = self.ports.iter().map(|port| format!("{port:?}")).collect();
        ports.sort_unstable();
        format!(
            "{} known {} {:?} taken {:?} assumed {:?} {pods:?} {ports:?}",
            self.name, self.known, self.facts.labels, self.taken, self.assumed
        )
    }
}

//! What is true now: nodes, what their pods take of them, and pods assumed to be where their binding will put them.
//! No I/O. Only `feed` and the decisions of `cycle` change it; a sum is never rebuilt, each change adds or subtracts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::pod::HostPort;
use k8s_openapi::api::core::v1 as core;

use crate::pod::{Amounts, Pod};
use crate::volumes::{Promises, Source};

/// A node and what is taken of it.
#[derive(Debug, Default)]
pub struct Node {
    pub name: Arc<str>,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<core::Taint>,
    pub unschedulable: bool,
    pub allocatable: Amounts,
    pub max_pods: i64,
    /// Sizes in bytes, by every name of the image.
    pub images: HashMap<String, i64>,
    /// The node's object is there; pods may be heard of first.
    pub known: bool,
    pub taken: Amounts,
    pub assumed: Amounts,
    pub pods: i64,
    pub ports: Vec<HostPort>,
}

/// Nodes in a fixed order, and every pod that has a place.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Vec<Node>,
    places: HashMap<Arc<str>, usize>,
    /// By UID: the pod and whether its place is only assumed.
    pods: HashMap<Arc<str>, (Arc<Pod>, Arc<str>, bool)>,
    /// What there is of claims and volumes; nothing where nobody watches them.
    pub storage: Option<Arc<dyn Source>>,
    pub promises: Promises,
}

impl Cluster {
    /// The nodes that exist.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> + Clone {
        self.nodes.iter()
    }

    /// Nodes whose object is there.
    pub fn known(&self) -> usize {
        self.nodes.iter().filter(|node| node.known).count()
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.places.get(name).map(|place| &self.nodes[*place])
    }

    fn node_mut(&mut self, name: &Arc<str>) -> &mut Node {
        let place = *self.places.entry(name.clone()).or_insert_with(|| {
            self.nodes.push(Node {
                name: name.clone(),
                ..Node::default()
            });
            self.nodes.len() - 1
        });
        &mut self.nodes[place]
    }

    /// A node appeared or changed.
    pub fn set_node(&mut self, object: &core::Node) {
        let Some(name) = object.metadata.name.as_deref() else {
            return;
        };
        let spec = object.spec.as_ref();
        let status = object.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let quantities = || {
            // A node's own numbers are checked by the API; one that does not parse counts as absent.
            allocatable
                .into_iter()
                .flatten()
                .filter_map(|(k, q)| Some((k.as_str(), q.0.parse().ok()?)))
        };
        let node = self.node_mut(&name.into());
        node.known = true;
        node.labels = object.metadata.labels.clone().unwrap_or_default();
        node.taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        node.unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or(false);
        node.allocatable = Amounts::from_list(quantities());
        node.max_pods = quantities()
            .find(|(k, _)| *k == "pods")
            .map_or(0, |(_, q): (_, api::quantity::Quantity)| q.as_i64());
        node.images = status
            .and_then(|s| s.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| {
                image
                    .names
                    .iter()
                    .flatten()
                    .map(|name| (name.clone(), image.size_bytes.unwrap_or(0)))
            })
            .collect();
    }

    /// A node's object is gone. Its pods still count for what they are until they go too.
    pub fn remove_node(&mut self, name: &str) {
        let Some(&place) = self.places.get(name) else { return };
        let node = &mut self.nodes[place];
        if node.pods > 0 {
            node.known = false;
            return;
        }
        self.drop_place(place);
    }

    fn drop_place(&mut self, place: usize) {
        let gone = self.nodes.swap_remove(place);
        self.places.remove(&gone.name);
        if let Some(moved) = self.nodes.get(place) {
            self.places.insert(moved.name.clone(), place);
        }
    }

    /// A pod has a place: for certain, or assumed until its binding is seen.
    pub fn place(&mut self, pod: Arc<Pod>, node: Arc<str>, assumed: bool) {
        self.displace(&pod.uid);
        let slot = self.node_mut(&node);
        slot.taken.add(&pod.requests);
        slot.assumed.add(&pod.assumed);
        slot.pods += 1;
        slot.ports.extend(pod.ports.iter().cloned());
        self.pods.insert(pod.uid.clone(), (pod, node, assumed));
    }

    /// A pod has no place any more. Returns where it was.
    pub fn displace(&mut self, uid: &str) -> Option<Arc<str>> {
        let (pod, node, _) = self.pods.remove(uid)?;
        let place = *self.places.get(&node).expect("a node with pods is kept");
        let slot = &mut self.nodes[place];
        slot.taken.subtract(&pod.requests);
        slot.assumed.subtract(&pod.assumed);
        slot.pods -= 1;
        for port in &pod.ports {
            if let Some(at) = slot.ports.iter().position(|have| have == port) {
                slot.ports.swap_remove(at);
            }
        }
        if !slot.known && slot.pods == 0 {
            self.drop_place(place);
        }
        Some(node)
    }

    /// Takes an assumption back, unless the binding was seen meanwhile.
    pub fn forget(&mut self, uid: &str) -> Option<Arc<str>> {
        let (_, _, assumed) = self.pods.get(uid)?;
        if *assumed { self.displace(uid) } else { None }
    }

    /// Every pod that has a place.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(|(pod, ..)| &**pod)
    }

    pub fn storage(&self) -> Option<&dyn Source> {
        self.storage.as_deref()
    }

    /// Whether the pod has a place, assumed or certain.
    pub fn has(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::{node, pod};

    #[test]
    fn what_a_pod_takes_is_given_back_exactly() {
        let mut cluster = Cluster::default();
        cluster.set_node(&node("n", "2", "1Gi"));
        let pod = Arc::new(pod("a").cpu("500m").memory("64Mi").port(80).build());
        cluster.place(pod.clone(), "n".into(), true);
        assert_eq!(cluster.node("n").unwrap().taken.cpu, 500);
        // Seen for certain: counted once.
        cluster.place(pod.clone(), "n".into(), false);
        assert_eq!(cluster.node("n").unwrap().pods, 1);
        assert_eq!(cluster.forget(&pod.uid), None);
        assert_eq!(cluster.displace(&pod.uid).as_deref(), Some("n"));
        let n = cluster.node("n").unwrap();
        assert_eq!((n.taken.clone(), n.pods, n.ports.len()), (Amounts::default(), 0, 0));
    }

    #[test]
    fn a_node_that_is_gone_stays_while_its_pods_do() {
        let mut cluster = Cluster::default();
        cluster.set_node(&node("n", "2", "1Gi"));
        cluster.set_node(&node("m", "2", "1Gi"));
        let pod = Arc::new(pod("a").build());
        cluster.place(pod.clone(), "n".into(), false);
        cluster.remove_node("n");
        assert_eq!(cluster.known(), 1);
        cluster.displace(&pod.uid);
        assert!(cluster.node("n").is_none());
        assert!(cluster.node("m").is_some());
    }
}

//! What is true now: nodes, what their pods take of them, and pods assumed to be where their binding will put them.
//! No I/O. Only `feed` and the decisions of `cycle` change it, and a trial (`cycle` and `preempt` place and displace to
//! see what would be) is taken back before they return.
//! At all times every sum and counter equals what counting from scratch would give (see the tests).

mod counts;
mod node;
mod surroundings;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

pub use counts::{Counts, Role, Subject};
pub use node::{Facts, Node};
pub use surroundings::{Budget, Surroundings};

use crate::pod::{LabelMap, Pod};
use crate::volumes::{Promises, Source};

/// A pod that has a place.
#[derive(Debug, Clone)]
pub struct Placed {
    pub pod: Arc<Pod>,
    pub slot: usize,
    /// Its binding was not seen yet.
    pub assumed: bool,
}

/// Nodes in fixed slots, every pod that has a place, and pods for which room is being made.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Vec<Node>,
    slots: HashMap<Arc<str>, usize>,
    /// Slots without a node.
    vacant: Vec<usize>,
    known: usize,
    pods: HashMap<Arc<str>, Placed>,
    /// By node: pods that wait for room to be made there.
    nominated: HashMap<Arc<str>, Vec<Arc<Pod>>>,
    /// How many nodes have an image.
    images: HashMap<String, usize>,
    counts: Counts,
    pub around: Surroundings,
    /// What there is of claims and volumes; nothing where nobody watches them.
    pub storage: Option<Arc<dyn Source>>,
    pub promises: Promises,
    /// Counts changes of nodes and their pods; a node remembers the last one of its own.
    clock: u64,
    /// The last change of what nodes there are and which images they have.
    structure: u64,
}

/// What a node's object changed for scheduling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Nothing,
    Something,
}

impl Cluster {
    /// The nodes that exist, with their slots.
    pub fn nodes(&self) -> impl Iterator<Item = (usize, &Node)> + Clone {
        self.nodes.iter().enumerate().filter(|(_, node)| node.known)
    }

    /// All slots, also those that are vacant.
    pub fn slots(&self) -> &[Node] {
        &self.nodes
    }

    /// How many nodes exist.
    pub fn known(&self) -> usize {
        self.known
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.slot(name).map(|slot| &self.nodes[slot])
    }

    pub fn slot(&self, name: &str) -> Option<usize> {
        self.slots.get(name).copied()
    }

    pub fn structure(&self) -> u64 {
        self.structure
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many nodes have an image.
    pub fn having(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }

    pub fn placed(&self, uid: &str) -> Option<&Placed> {
        self.pods.get(uid)
    }

    /// Every pod that has a place.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(|placed| &*placed.pod)
    }

    pub fn storage(&self) -> Option<&dyn Source> {
        self.storage.as_deref()
    }

    /// How many pods have a place.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    fn slot_of(&mut self, name: &Arc<str>) -> usize {
        if let Some(slot) = self.slots.get(name) {
            return *slot;
        }
        let node = Node::named(name.clone());
        let slot = if let Some(slot) = self.vacant.pop() {
            self.nodes[slot] = node;
            slot
        } else {
            self.nodes.push(node);
            self.nodes.len() - 1
        };
        self.slots.insert(name.clone(), slot);
        slot
    }

    fn touch(&mut self, slot: usize) {
        self.clock += 1;
        self.nodes[slot].changed = self.clock;
    }

    /// A node appeared or changed.
    pub fn set_node(&mut self, object: &core::Node) -> Changed {
        let Some(name) = object.metadata.name.as_deref() else {
            return Changed::Nothing;
        };
        let facts = Facts::parse(object);
        let slot = self.slot_of(&name.into());
        let node = &mut self.nodes[slot];
        if node.known && node.facts == facts {
            return Changed::Nothing;
        }
        let was_known = std::mem::replace(&mut node.known, true);
        let old = std::mem::replace(&mut node.facts, facts);
        let images_differ = !was_known || old.images != node.facts.images;
        if was_known {
            uncount(&mut self.images, &old.images);
        } else {
            self.known += 1;
        }
        for image in node.facts.images.keys() {
            *self.images.entry(image.clone()).or_default() += 1;
        }
        self.counts.relabel(slot, &old.labels, &node.facts.labels);
        self.touch(slot);
        if images_differ {
            self.structure = self.clock;
        }
        Changed::Something
    }

    /// A node's object is gone. Its pods still count for what they are until they go too.
    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.slot(name) else { return };
        let node = &mut self.nodes[slot];
        if !std::mem::replace(&mut node.known, false) {
            return;
        }
        let old = std::mem::take(&mut node.facts);
        self.known -= 1;
        uncount(&mut self.images, &old.images);
        self.counts.relabel(slot, &old.labels, &LabelMap::new());
        self.touch(slot);
        self.structure = self.clock;
        self.vacate(slot);
    }

    fn vacate(&mut self, slot: usize) {
        let node = &self.nodes[slot];
        if !node.known && node.pods.is_empty() && self.slots.remove(&node.name).is_some() {
            self.vacant.push(slot);
        }
    }

    /// A pod has a place: for certain, or assumed until its binding is seen.
    pub fn place(&mut self, pod: Arc<Pod>, node: &Arc<str>, assumed: bool) {
        self.displace(&pod.uid);
        let slot = self.slot_of(node);
        self.nodes[slot].add(pod.clone());
        self.touch(slot);
        let labels = &self.nodes[slot].facts.labels;
        self.counts.add(&pod, slot, labels, &self.around, 1);
        self.pods.insert(pod.uid.clone(), Placed { pod, slot, assumed });
    }

    /// A pod has no place any more.
    pub fn displace(&mut self, uid: &str) -> Option<Placed> {
        let placed = self.pods.remove(uid)?;
        let slot = placed.slot;
        self.nodes[slot].remove(&placed.pod);
        self.touch(slot);
        let labels = &self.nodes[slot].facts.labels;
        self.counts.add(&placed.pod, slot, labels, &self.around, -1);
        self.vacate(slot);
        Some(placed)
    }

    /// Takes an assumption back, unless the binding was seen meanwhile. Returns the node.
    pub fn forget(&mut self, uid: &str) -> Option<Arc<str>> {
        let placed = self.pods.get(uid).filter(|placed| placed.assumed)?;
        let name = self.nodes[placed.slot].name.clone();
        self.displace(uid);
        Some(name)
    }

    /// Whether the pod has a place, assumed or certain.
    pub fn has(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// Room is being made for the pod on this node. It counts for pods that are no more important.
    pub fn nominate(&mut self, pod: Arc<Pod>, node: &Arc<str>) {
        self.denominate(&pod.uid);
        self.nominated.entry(node.clone()).or_default().push(pod);
    }

    /// No room is being made for the pod any more. Returns the node where it was.
    pub fn denominate(&mut self, uid: &str) -> Option<Arc<str>> {
        let (node, pods) = self
            .nominated
            .iter_mut()
            .find(|(_, pods)| pods.iter().any(|pod| &*pod.uid == uid))?;
        let node = node.clone();
        pods.retain(|pod| &*pod.uid != uid);
        if pods.is_empty() {
            self.nominated.remove(&node);
        }
        Some(node)
    }

    /// The node where room is being made for the pod.
    pub fn nomination(&self, uid: &str) -> Option<&Arc<str>> {
        let mut nodes = self.nominated.iter();
        nodes
            .find(|(_, pods)| pods.iter().any(|pod| &*pod.uid == uid))
            .map(|(node, _)| node)
    }

    /// Nodes where room is being made, and for whom.
    pub fn nominations(&self) -> &HashMap<Arc<str>, Vec<Arc<Pod>>> {
        &self.nominated
    }

    /// Has these pods counted from now on, by the domains of these labels of nodes.
    pub fn count<'a>(&mut self, subject: Subject, keys: impl IntoIterator<Item = &'a str>) {
        self.counts.ensure(subject, keys, &self.nodes, &self.around);
    }

    /// The labels of a namespace changed.
    pub fn set_namespace(&mut self, name: &str, labels: Option<LabelMap>) -> Changed {
        if self.around.namespace(name) == labels.as_ref() {
            return Changed::Nothing;
        }
        self.around.set_namespace(name, labels);
        // Who asks next has them counted anew.
        self.counts.forget_by_namespace_labels();
        Changed::Something
    }

    /// The same, counted from scratch: what the incremental one must always equal.
    #[cfg(test)]
    pub(crate) fn recounted(&self) -> Self {
        let mut again = Cluster {
            around: self.around.clone(),
            nodes: self.nodes.iter().map(|node| Node::named(node.name.clone())).collect(),
            slots: self.slots.clone(),
            vacant: self.vacant.clone(),
            nominated: self.nominated.clone(),
            known: self.known,
            ..Cluster::default()
        };
        for (slot, node) in self.nodes.iter().enumerate() {
            again.nodes[slot].facts = node.facts.clone();
            again.nodes[slot].known = node.known;
            again.nodes[slot].changed = 1;
            for image in node.facts.images.keys() {
                *again.images.entry(image.clone()).or_default() += 1;
            }
        }
        let mut pods: Vec<&Placed> = self.pods.values().collect();
        pods.sort_by(|a, b| a.pod.uid.cmp(&b.pod.uid));
        for placed in pods {
            again.place(placed.pod.clone(), &self.nodes[placed.slot].name, placed.assumed);
        }
        for (subject, keys) in self.counts.asked() {
            again.count(subject, keys.iter().map(|key| &**key));
        }
        again
    }

    /// Everything that must be equal, in a fixed order.
    #[cfg(test)]
    pub(crate) fn summary(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for (slot, node) in self.nodes.iter().enumerate() {
            let live = self.slots.get(&node.name) == Some(&slot);
            if live {
                writeln!(text, "{slot} {}", node.summary()).unwrap();
            }
        }
        let images: std::collections::BTreeMap<_, _> = self.images.iter().collect();
        writeln!(text, "known {} images {images:?}", self.known).unwrap();
        text + &self.counts.summary()
    }
}

fn uncount(images: &mut HashMap<String, usize>, gone: &HashMap<String, i64>) {
    for image in gone.keys() {
        if let Some(count) = images.get_mut(image) {
            *count -= 1;
            if *count == 0 {
                images.remove(image);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! How many pods of which kind are in which domain: counters that each placement changes, so that affinity and spread
//! read them instead of going through all pods.
//! Two kinds: pods that somebody asks about (`Subject`, made when first asked and dropped when long unused), and terms
//! that placed pods bear, which say who they want near or far (symmetry).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Node, Surroundings};
use crate::pod::{LabelMap, Pod, Term, Whom};

/// At most so many subjects are counted; the one that was asked for longest ago goes first.
const SUBJECTS: usize = 256;

/// Which pods are counted: those that are meant by all of `whom`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    pub whom: Vec<Whom>,
    /// Without those that are being deleted.
    pub living: bool,
}

impl Subject {
    fn means(&self, pod: &Pod, around: &Surroundings) -> bool {
        let namespace = around.namespace(&pod.namespace);
        !(self.living && pod.deleting)
            && self
                .whom
                .iter()
                .all(|whom| whom.matches(&pod.namespace, &pod.labels, namespace))
    }
}

/// Why a placed pod's term matters to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Required anti-affinity: it keeps others out.
    Far,
    /// Required affinity: others are welcome.
    Near,
    /// Preferred affinity with its weight.
    RatherNear(i64),
    /// Preferred anti-affinity with its weight.
    RatherFar(i64),
}

/// Pods by the domain of one label of nodes.
pub(crate) type Domains = HashMap<Box<str>, i64>;

#[derive(Debug, Default)]
struct Tally {
    slots: HashMap<usize, i64>,
    domains: BTreeMap<Box<str>, Domains>,
    used: u64,
}

#[derive(Debug, Default)]
struct Borne {
    slots: HashMap<usize, i64>,
    domains: Domains,
}

#[derive(Debug, Default)]
pub struct Counts {
    subjects: HashMap<Subject, Tally>,
    borne: HashMap<(Role, Arc<Term>), Borne>,
    asked: u64,
}

impl Counts {
    /// Pods of a subject by the domains of a label. `None` where nobody had them counted.
    pub fn domains(&self, subject: &Subject, key: &str) -> Option<&Domains> {
        self.subjects.get(subject)?.domains.get(key)
    }

    /// Pods of a subject by slot; a slot without any is absent.
    pub fn slots(&self, subject: &Subject) -> Option<&HashMap<usize, i64>> {
        self.subjects.get(subject).map(|tally| &tally.slots)
    }

    /// The terms that placed pods bear, with the number of bearers by domain.
    pub fn borne(&self) -> impl Iterator<Item = (Role, &Term, &Domains)> {
        self.borne
            .iter()
            .map(|((role, term), borne)| (*role, &**term, &borne.domains))
    }

    pub(super) fn add(&mut self, pod: &Pod, slot: usize, labels: &LabelMap, around: &Surroundings, by: i64) {
        for (subject, tally) in &mut self.subjects {
            if subject.means(pod, around) {
                change(&mut tally.slots, &slot, by);
                for (key, domains) in &mut tally.domains {
                    change_domain(domains, labels.get(&**key), by);
                }
            }
        }
        let neighbours = &pod.shape.neighbours;
        if neighbours.is_empty() {
            return;
        }
        let roles = (neighbours.far.iter().map(|term| (Role::Far, term)))
            .chain(neighbours.near.iter().map(|term| (Role::Near, term)))
            .chain((neighbours.rather_near.iter()).map(|(weight, term)| (Role::RatherNear(*weight), term)))
            .chain((neighbours.rather_far.iter()).map(|(weight, term)| (Role::RatherFar(*weight), term)));
        for (role, term) in roles {
            let key = (role, term.clone());
            let borne = self.borne.entry(key).or_default();
            change(&mut borne.slots, &slot, by);
            change_domain(&mut borne.domains, labels.get(&*term.topology_key), by);
            if borne.slots.is_empty() {
                self.borne.remove(&(role, term.clone()));
            }
        }
    }

    pub(super) fn relabel(&mut self, slot: usize, old: &LabelMap, new: &LabelMap) {
        for tally in self.subjects.values_mut() {
            let Some(count) = tally.slots.get(&slot) else { continue };
            for (key, domains) in &mut tally.domains {
                shift(domains, old.get(&**key), new.get(&**key), *count);
            }
        }
        for ((_, term), borne) in &mut self.borne {
            let Some(count) = borne.slots.get(&slot) else { continue };
            let key = &*term.topology_key;
            shift(&mut borne.domains, old.get(key), new.get(key), *count);
        }
    }

    pub(super) fn ensure<'a>(
        &mut self,
        subject: Subject,
        keys: impl IntoIterator<Item = &'a str>,
        nodes: &[Node],
        around: &Surroundings,
    ) {
        self.asked += 1;
        if !self.subjects.contains_key(&subject) {
            self.make_room();
            let count = |node: &Node| node.pods.iter().filter(|pod| subject.means(pod, around)).count();
            let slots = nodes
                .iter()
                .enumerate()
                .map(|(slot, node)| (slot, i64::try_from(count(node)).unwrap_or(i64::MAX)))
                .filter(|(_, count)| *count > 0)
                .collect();
            self.subjects.insert(
                subject.clone(),
                Tally {
                    slots,
                    ..Tally::default()
                },
            );
        }
        let tally = self.subjects.get_mut(&subject).expect("it was put there just now");
        tally.used = self.asked;
        for key in keys {
            if tally.domains.contains_key(key) {
                continue;
            }
            let mut domains = Domains::new();
            for (slot, count) in &tally.slots {
                change_domain(&mut domains, nodes[*slot].facts.labels.get(key), *count);
            }
            tally.domains.insert(key.into(), domains);
        }
    }

    fn make_room(&mut self) {
        while self.subjects.len() >= SUBJECTS {
            let oldest = self.subjects.iter().min_by_key(|(_, tally)| tally.used);
            let Some(oldest) = oldest.map(|(subject, _)| subject.clone()) else {
                return;
            };
            self.subjects.remove(&oldest);
        }
    }

    pub(super) fn forget_by_namespace_labels(&mut self) {
        self.subjects
            .retain(|subject, _| subject.whom.iter().all(|whom| whom.namespace_selector.is_none()));
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> Vec<(Subject, Vec<Box<str>>)> {
        let subjects = self.subjects.iter();
        subjects
            .map(|(subject, tally)| (subject.clone(), tally.domains.keys().cloned().collect()))
            .collect()
    }

    #[cfg(test)]
    pub(super) fn summary(&self) -> String {
        let sorted = |domains: &Domains| format!("{:?}", domains.iter().collect::<BTreeMap<_, _>>());
        let slots = |slots: &HashMap<usize, i64>| format!("{:?}", slots.iter().collect::<BTreeMap<_, _>>());
        let mut lines: Vec<String> = Vec::new();
        for (subject, tally) in &self.subjects {
            let domains: Vec<String> = tally
                .domains
                .iter()
                .map(|(key, domains)| format!("{key} {}", sorted(domains)))
                .collect();
            lines.push(format!("{subject:?} {} {domains:?}", slots(&tally.slots)));
        }
        for (key, borne) in &self.borne {
            lines.push(format!("{key:?} {} {}", slots(&borne.slots), sorted(&borne.domains)));
        }
        lines.sort();
        lines.join("\n")
    }
}

fn change<K: std::hash::Hash + Eq + Clone>(counts: &mut HashMap<K, i64>, key: &K, by: i64) {
    let count = counts.entry(key.clone()).or_default();
    *count += by;
    if *count == 0 {
        counts.remove(key);
    }
}

fn change_domain(domains: &mut Domains, value: Option<&String>, by: i64) {
    let Some(value) = value else { return };
    match domains.get_mut(value.as_str()) {
        Some(count) => {
            *count += by;
            if *count == 0 {
                domains.remove(value.as_str());
            }
        }
        None => {
            domains.insert(value.as_str().into(), by);
        }
    }
}

fn shift(domains: &mut Domains, old: Option<&String>, new: Option<&String>, count: i64) {
    if old != new {
        change_domain(domains, old, -count);
        change_domain(domains, new, count);
    }
}

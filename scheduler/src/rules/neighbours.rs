use std::collections::HashMap;

use super::{Check, Event, Need, Normalize, Plugin, Rating, Reach, Refusal};
use crate::cluster::{Cluster, Node, Role, Subject};
use crate::pod::{Pod, Term, Whom};

/// Affinity and anti-affinity between pods, both ways: what the pod wants, and what placed pods want of it.
#[derive(Debug)]
pub struct InterPodAffinity {
    /// Points for a place where placed pods require pods like this one.
    pub hard_weight: i64,
    /// Only the pod's own preferences count.
    pub ignore_theirs: bool,
}

impl Default for InterPodAffinity {
    fn default() -> Self {
        InterPodAffinity {
            hard_weight: 1,
            ignore_theirs: false,
        }
    }
}

fn subject(whom: Vec<Whom>) -> Subject {
    Subject { whom, living: false }
}

/// What upstream counts for required affinity: pods that are meant by all of the terms.
fn near(pod: &Pod) -> Subject {
    subject(pod.shape.neighbours.near.iter().map(|term| term.whom.clone()).collect())
}

fn of_term(term: &Term) -> Subject {
    subject(vec![term.whom.clone()])
}

fn means(term: &Term, pod: &Pod, cluster: &Cluster) -> bool {
    let namespace = cluster.around.namespace(&pod.namespace);
    term.whom.matches(&pod.namespace, &pod.labels, namespace)
}

/// Whether the pod would be its own neighbour: then the first of its kind needs none.
fn wants_itself(pod: &Pod, cluster: &Cluster) -> bool {
    let mut terms = pod.shape.neighbours.near.iter();
    terms.all(|term| means(term, pod, cluster))
}

fn count(cluster: &Cluster, subject: &Subject, key: &str, node: &Node) -> i64 {
    let domains = cluster.counts().domains(subject, key);
    node.label(key)
        .and_then(|value| domains?.get(value).copied())
        .unwrap_or(0)
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }
    fn reach(&self) -> Reach {
        Reach::Cluster
    }

    fn needs(&self, pod: &Pod, _: &Cluster) -> Vec<Need> {
        let neighbours = &pod.shape.neighbours;
        let single = |term: &Term| Need {
            subject: of_term(term),
            keys: vec![term.topology_key.clone()],
        };
        let mut needs: Vec<Need> = neighbours.far.iter().map(|term| single(term)).collect();
        needs.extend(neighbours.rather_near.iter().map(|(_, term)| single(term)));
        needs.extend(neighbours.rather_far.iter().map(|(_, term)| single(term)));
        if !neighbours.near.is_empty() {
            needs.push(Need {
                subject: near(pod),
                keys: neighbours.near.iter().map(|term| term.topology_key.clone()).collect(),
            });
        }
        needs
    }

    fn filter<'a>(&'a self, pod: &'a Pod, cluster: &'a Cluster) -> Option<Check<'a>> {
        let neighbours = &pod.shape.neighbours;
        // Domains that placed pods keep this one out of.
        let mut closed: HashMap<&str, Vec<&str>> = HashMap::new();
        for (role, term, domains) in cluster.counts().borne() {
            if role == Role::Far && means(term, pod, cluster) {
                let values = closed.entry(&*term.topology_key).or_default();
                values.extend(domains.keys().map(|value| &**value));
            }
        }
        for values in closed.values_mut() {
            values.sort_unstable();
        }
        if closed.is_empty() && neighbours.near.is_empty() && neighbours.far.is_empty() {
            return None;
        }
        let near = near(pod);
        let far: Vec<(Subject, &str)> = neighbours
            .far
            .iter()
            .map(|term| (of_term(term), &*term.topology_key))
            .collect();
        let nobody = neighbours.near.iter().all(|term| {
            let domains = cluster.counts().domains(&near, &term.topology_key);
            domains.is_none_or(HashMap::is_empty)
        });
        let first = nobody && wants_itself(pod, cluster);
        Some(Box::new(move |node| {
            let mut near_by = true;
            for term in &neighbours.near {
                if node.label(&term.topology_key).is_none() {
                    return Some(Refusal::for_good("node(s) didn't match pod affinity rules"));
                }
                near_by &= count(cluster, &near, &term.topology_key, node) > 0;
            }
            if !near_by && !first {
                return Some(Refusal::for_good("node(s) didn't match pod affinity rules"));
            }
            if far.iter().any(|(subject, key)| count(cluster, subject, key, node) > 0) {
                return Some(Refusal::now("node(s) didn't match pod anti-affinity rules"));
            }
            let kept_out = closed.iter().any(|(key, values)| {
                let value = node.label(key);
                value.is_some_and(|value| values.binary_search(&value).is_ok())
            });
            kept_out.then(|| Refusal::now("node(s) didn't satisfy existing pods anti-affinity rules"))
        }))
    }

    fn score<'a>(&'a self, pod: &'a Pod, cluster: &'a Cluster, _: &[usize]) -> Option<Rating<'a>> {
        let neighbours = &pod.shape.neighbours;
        let mut points: HashMap<&str, HashMap<&str, i64>> = HashMap::new();
        let wishes = (neighbours.rather_near.iter().map(|(weight, term)| (*weight, term)))
            .chain(neighbours.rather_far.iter().map(|(weight, term)| (-*weight, term)));
        for (weight, term) in wishes {
            let counted = cluster.counts().domains(&of_term(term), &term.topology_key);
            for (value, count) in counted.into_iter().flatten() {
                *points.entry(&term.topology_key).or_default().entry(value).or_default() += weight * count;
            }
        }
        let own = !neighbours.rather_near.is_empty() || !neighbours.rather_far.is_empty();
        if own || !self.ignore_theirs {
            for (role, term, domains) in cluster.counts().borne() {
                let weight = match role {
                    Role::Far => continue,
                    Role::Near => self.hard_weight,
                    Role::RatherNear(weight) => weight,
                    Role::RatherFar(weight) => -weight,
                };
                if weight == 0 || !means(term, pod, cluster) {
                    continue;
                }
                let values = points.entry(&term.topology_key).or_default();
                for (value, count) in domains {
                    *values.entry(value).or_default() += weight * count;
                }
            }
        }
        if points.is_empty() {
            return None;
        }
        Some(Box::new(move |_, node| {
            let here = points
                .iter()
                .filter_map(|(key, values)| values.get(node.label(key)?).copied());
            Some(here.sum())
        }))
    }

    fn normalize(&self) -> Normalize {
        Normalize::Range
    }

    fn helps(&self, pod: &Pod, event: Event<'_>, cluster: &Cluster) -> bool {
        let neighbours = &pod.shape.neighbours;
        match event {
            Event::Node(node) => {
                let mut keys = neighbours.near.iter().map(|term| &term.topology_key);
                // Without required affinity a node without the label is as good as any.
                keys.all(|key| node.label(key).is_some())
            }
            Event::Freed(_, gone) => {
                neighbours.far.iter().any(|term| means(term, gone, cluster))
                    || gone.shape.neighbours.far.iter().any(|term| means(term, pod, cluster))
            }
            Event::Placed(new) => {
                let mut near = neighbours.near.iter();
                near.len() > 0 && near.all(|term| means(term, new, cluster))
            }
            Event::Namespace => true,
            Event::Other(_) => false,
        }
    }
}

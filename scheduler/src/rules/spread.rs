use std::borrow::Cow;
use std::collections::HashMap;

use api::selector::Labels;

use super::{Check, Event, Need, Normalize, Plugin, Rating, Reach, Refusal};
use crate::cluster::{Cluster, Node, Subject};
use crate::pod::{Pod, Spread, Whom};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// What pods without constraints of their own get, for the pods of their services and owner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Defaults {
    /// Spread a little over nodes and zones (`defaultingType: System`).
    #[default]
    System,
    /// The configuration's own (`defaultingType: List`).
    List(Vec<Spread>),
}

/// Pods of one kind are to be spread evenly.
#[derive(Debug, Default)]
pub struct PodTopologySpread {
    pub defaults: Defaults,
}

/// The constraints that hold for a pod.
struct Constraints<'a> {
    all: Cow<'a, [Spread]>,
    /// A node without one of the labels is left out; not so for the system's own constraints.
    all_labels: bool,
}

impl PodTopologySpread {
    fn constraints<'a>(&self, pod: &'a Pod, cluster: &Cluster) -> Constraints<'a> {
        if !pod.shape.spread.is_empty() {
            return Constraints {
                all: Cow::Borrowed(&pod.shape.spread),
                all_labels: true,
            };
        }
        let soft = |key: &str, max_skew: i64, selector: &Labels| Spread {
            topology_key: key.into(),
            max_skew,
            strict: false,
            selector: selector.clone(),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        };
        let none = matches!(&self.defaults, Defaults::List(list) if list.is_empty());
        let kind = if none { None } else { cluster.around.kind_of(pod) };
        let (all, all_labels) = match (kind, &self.defaults) {
            (None, _) => (Vec::new(), true),
            (Some(kind), Defaults::System) => (
                vec![soft(HOSTNAME, 3, &kind), soft("topology.kubernetes.io/zone", 5, &kind)],
                false,
            ),
            (Some(kind), Defaults::List(list)) => {
                let with = |spread: &Spread| Spread {
                    selector: kind.clone(),
                    ..spread.clone()
                };
                (list.iter().map(with).collect(), true)
            }
        };
        Constraints {
            all: all.into(),
            all_labels,
        }
    }
}

fn subject(pod: &Pod, spread: &Spread) -> Subject {
    Subject {
        whom: vec![Whom {
            namespaces: [pod.namespace.clone()].into(),
            namespace_selector: None,
            // Upstream counts no pods for a selector that selects all of them.
            selector: if spread.selector.is_everything() {
                Labels::nothing()
            } else {
                spread.selector.clone()
            },
        }],
        living: true,
    }
}

/// Whether the node is in a domain for this constraint.
fn takes_part(spread: &Spread, pod: &Pod, node: &Node) -> bool {
    let keeping_out = ["NoSchedule", "NoExecute"];
    (!spread.honor_affinity || pod.shape.allows(&node.name, &node.facts.labels))
        && (!spread.honor_taints
            || api::node::first_untolerated(&node.facts.taints, &pod.shape.tolerations, &keeping_out).is_none())
}

fn has_labels(spreads: &[&Spread], node: &Node) -> bool {
    spreads.iter().all(|spread| node.label(&spread.topology_key).is_some())
}

fn means(spread: &Spread, pod: &Pod) -> bool {
    spread.selector.matches(|key| pod.labels.get(key).map(String::as_str))
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }
    fn reach(&self) -> Reach {
        Reach::Cluster
    }

    fn needs(&self, pod: &Pod, cluster: &Cluster) -> Vec<Need> {
        // Domains are summed over the nodes that take part, so that only counts by node are needed.
        let constraints = self.constraints(pod, cluster);
        let need = |spread: &Spread| Need {
            subject: subject(pod, spread),
            keys: Vec::new(),
        };
        constraints.all.iter().map(need).collect()
    }

    fn filter<'a>(&'a self, pod: &'a Pod, cluster: &'a Cluster) -> Option<Check<'a>> {
        let constraints = self.constraints(pod, cluster);
        let strict: Vec<Spread> = constraints.all.iter().filter(|spread| spread.strict).cloned().collect();
        if strict.is_empty() {
            return None;
        }
        // Upstream: podtopologyspread/filtering.go, calPreFilterState (1.36).
        let mut domains: Vec<HashMap<&str, i64>> = vec![HashMap::new(); strict.len()];
        let subjects: Vec<Subject> = strict.iter().map(|spread| subject(pod, spread)).collect();
        let all: Vec<&Spread> = strict.iter().collect();
        for (slot, node) in cluster.nodes().filter(|(_, node)| has_labels(&all, node)) {
            for ((spread, subject), domains) in strict.iter().zip(&subjects).zip(&mut domains) {
                let (true, Some(value)) = (takes_part(spread, pod, node), node.label(&spread.topology_key)) else {
                    continue;
                };
                let counted = cluster.counts().slots(subject);
                *domains.entry(value).or_default() += counted.and_then(|c| c.get(&slot).copied()).unwrap_or(0);
            }
        }
        let found: Vec<(i64, i64)> = strict
            .iter()
            .zip(&domains)
            .map(|(spread, domains)| {
                let few = i64::try_from(domains.len()).unwrap_or(i64::MAX) < spread.min_domains;
                let least = if few {
                    0
                } else {
                    domains.values().copied().min().unwrap_or(i64::MAX)
                };
                (least, i64::from(means(spread, pod)))
            })
            .collect();
        Some(Box::new(move |node| {
            for ((spread, domains), (least, own)) in strict.iter().zip(&domains).zip(&found) {
                let Some(value) = node.label(&spread.topology_key) else {
                    return Some(Refusal::for_good(
                        "node(s) didn't match pod topology spread constraints (missing required label)",
                    ));
                };
                let here = domains.get(value).copied().unwrap_or(0);
                if here + own - least > spread.max_skew {
                    return Some(Refusal::now("node(s) didn't match pod topology spread constraints"));
                }
            }
            None
        }))
    }

    fn score<'a>(&'a self, pod: &'a Pod, cluster: &'a Cluster, feasible: &[usize]) -> Option<Rating<'a>> {
        let Constraints { all, all_labels } = self.constraints(pod, cluster);
        let soft: Vec<Spread> = all.iter().filter(|spread| !spread.strict).cloned().collect();
        if soft.is_empty() {
            return None;
        }
        // Upstream: podtopologyspread/scoring.go, PreScore and Score (1.36).
        let borrowed: Vec<&Spread> = soft.iter().collect();
        let nodes = cluster.slots();
        let counted = |node: &Node| !all_labels || has_labels(&borrowed, node);
        let mut domains: Vec<HashMap<&str, i64>> = vec![HashMap::new(); soft.len()];
        let mut taking_part = 0_usize;
        for slot in feasible {
            let node = &nodes[*slot];
            if !counted(node) {
                continue;
            }
            taking_part += 1;
            for (spread, domains) in soft.iter().zip(&mut domains) {
                if let (false, Some(value)) = (&*spread.topology_key == HOSTNAME, node.label(&spread.topology_key)) {
                    domains.entry(value).or_insert(0);
                }
            }
        }
        let subjects: Vec<Subject> = soft.iter().map(|spread| subject(pod, spread)).collect();
        let slots: Vec<Option<&HashMap<usize, i64>>> =
            subjects.iter().map(|subject| cluster.counts().slots(subject)).collect();
        for ((spread, slots), domains) in soft.iter().zip(&slots).zip(&mut domains) {
            if &*spread.topology_key == HOSTNAME {
                continue;
            }
            for (slot, count) in slots.iter().copied().flatten() {
                let node = &nodes[*slot];
                if !node.known || !counted(node) || !takes_part(spread, pod, node) {
                    continue;
                }
                let value = node.label(&spread.topology_key);
                if let Some(sum) = value.and_then(|value| domains.get_mut(value)) {
                    *sum += count;
                }
            }
        }
        let weights: Vec<f64> = soft
            .iter()
            .zip(&domains)
            .map(|(spread, domains)| {
                let size = if &*spread.topology_key == HOSTNAME {
                    taking_part
                } else {
                    domains.len()
                };
                (size as f64 + 2.0).ln()
            })
            .collect();
        let left_out = move |soft: &[Spread], node: &Node| {
            all_labels && !soft.iter().all(|spread| node.label(&spread.topology_key).is_some())
        };
        Some(Box::new(move |slot, node| {
            if left_out(&soft, node) {
                return None;
            }
            let mut points = 0.0;
            for (at, spread) in soft.iter().enumerate() {
                let Some(value) = node.label(&spread.topology_key) else {
                    continue;
                };
                let count = if &*spread.topology_key == HOSTNAME {
                    slots[at].and_then(|slots| slots.get(&slot)).copied().unwrap_or(0)
                } else {
                    domains[at].get(value).copied().unwrap_or(0)
                };
                points += count as f64 * weights[at] + (spread.max_skew - 1) as f64;
            }
            Some(points.round() as i64)
        }))
    }

    fn normalize(&self) -> Normalize {
        Normalize::Even
    }

    fn helps(&self, pod: &Pod, event: Event<'_>, cluster: &Cluster) -> bool {
        let constraints = self.constraints(pod, cluster);
        let mut strict = constraints.all.iter().filter(|spread| spread.strict);
        match event {
            Event::Node(node) => strict.all(|spread| node.label(&spread.topology_key).is_some()),
            Event::Freed(_, other) | Event::Placed(other) => {
                other.namespace == pod.namespace && strict.any(|spread| means(spread, other))
            }
            Event::Namespace | Event::Other(_) => false,
        }
    }
}

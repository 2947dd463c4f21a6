use std::collections::BTreeSet;

use super::{Check, MAX_SCORE, Plugin, Rating, Reach, Reason, Refusal};
use crate::cluster::{Cluster, Node};
use crate::pod::{Amounts, Pod};

/// Which of the nodes that will do is the best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// The emptier, the better.
    LeastAllocated,
    /// The fuller, the better.
    MostAllocated,
    /// Points by the percentage that is taken: a line through these points (utilization, score 0..=10).
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// What is left of the node must do for the pod.
#[derive(Debug)]
pub struct Fit {
    pub strategy: Strategy,
    /// Resources that are scored, with their weights.
    pub scored: Vec<(Box<str>, i64)>,
    /// Extended resources that are not looked at.
    pub ignored: BTreeSet<String>,
    /// The same by what stands before the slash.
    pub ignored_groups: BTreeSet<String>,
}

impl Default for Fit {
    fn default() -> Self {
        Fit {
            strategy: Strategy::LeastAllocated,
            scored: vec![("cpu".into(), 1), ("memory".into(), 1)],
            ignored: BTreeSet::new(),
            ignored_groups: BTreeSet::new(),
        }
    }
}

impl Fit {
    fn refuses(&self, pod: &Pod, node: &Node) -> Option<Refusal> {
        let (want, have, taken) = (&pod.shape.requests, &node.facts.allocatable, &node.taken);
        let mut reasons: Vec<Reason> = Vec::new();
        let mut for_good = false;
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) + 1 > node.facts.max_pods {
            reasons.push("Too many pods".into());
        }
        let mut look = |name: &str, reason: fn(&str) -> Reason, want: i64, have: i64, taken: i64| {
            if want > 0 && want > have - taken {
                reasons.push(reason(name));
                // Even empty, the node would not do.
                for_good |= want > have;
            }
        };
        look("", |_| "Insufficient cpu".into(), want.cpu, have.cpu, taken.cpu);
        look(
            "",
            |_| "Insufficient memory".into(),
            want.memory,
            have.memory,
            taken.memory,
        );
        look(
            "",
            |_| "Insufficient ephemeral-storage".into(),
            want.ephemeral,
            have.ephemeral,
            taken.ephemeral,
        );
        for (name, want) in &want.other {
            let group = name.split_once('/').map_or("", |(group, _)| group);
            if self.ignored.contains(&**name) || self.ignored_groups.contains(group) {
                continue;
            }
            let reason = |name: &str| format!("Insufficient {name}").into();
            look(name, reason, *want, have.of(name), taken.of(name));
        }
        (!reasons.is_empty()).then_some(Refusal { reasons, for_good })
    }

    fn points(&self, taken: i64, have: i64) -> i64 {
        match &self.strategy {
            Strategy::LeastAllocated if taken > have => 0,
            Strategy::LeastAllocated => (have - taken) * MAX_SCORE / have,
            Strategy::MostAllocated => taken.min(have) * MAX_SCORE / have,
            Strategy::RequestedToCapacityRatio(shape) => {
                let percent = if taken > have { 100 } else { taken * 100 / have };
                on_line(shape, percent) * (MAX_SCORE / 10)
            }
        }
    }
}

fn on_line(shape: &[(i64, i64)], at: i64) -> i64 {
    let mut before: Option<(i64, i64)> = None;
    for &(x, y) in shape {
        if at <= x {
            return match before {
                None => y,
                Some((left, low)) => low + (y - low) * (at - left) / (x - left),
            };
        }
        before = Some((x, y));
    }
    before.map_or(0, |(_, y)| y)
}

/// Scores count containers that ask for nothing as if they asked for a little; extended resources count as asked.
fn scored(name: &str, assumed: &Amounts, exact: &Amounts) -> i64 {
    match name {
        "cpu" => assumed.cpu,
        "memory" => assumed.memory,
        other => exact.of(other),
    }
}

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn reach(&self) -> Reach {
        Reach::Node
    }
    fn filter<'a>(&'a self, pod: &'a Pod, _: &'a Cluster) -> Option<Check<'a>> {
        Some(Box::new(|node| self.refuses(pod, node)))
    }
    fn score<'a>(&'a self, pod: &'a Pod, _: &'a Cluster, _: &[usize]) -> Option<Rating<'a>> {
        Some(Box::new(|_, node| {
            let (mut sum, mut weights) = (0, 0);
            for (name, weight) in &self.scored {
                let have = node.facts.allocatable.of(name);
                let standard = matches!(&**name, "cpu" | "memory" | "ephemeral-storage");
                // An extended resource that the pod does not ask for says nothing about it.
                if have == 0 || (!standard && pod.shape.requests.of(name) == 0) {
                    continue;
                }
                let taken =
                    scored(name, &node.assumed, &node.taken) + scored(name, &pod.shape.assumed, &pod.shape.requests);
                let points = self.points(taken, have);
                // Upstream's ratio leaves out what has no points.
                if points > 0 || !matches!(self.strategy, Strategy::RequestedToCapacityRatio(_)) {
                    sum += points * weight;
                    weights += weight;
                }
            }
            Some(if weights == 0 { 0 } else { sum / weights })
        }))
    }
}

/// The more alike the shares of resources that are taken, the better.
#[derive(Debug)]
pub struct BalancedAllocation {
    pub scored: Vec<Box<str>>,
}

impl Default for BalancedAllocation {
    fn default() -> Self {
        BalancedAllocation {
            scored: vec!["cpu".into(), "memory".into()],
        }
    }
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
    fn reach(&self) -> Reach {
        Reach::Node
    }
    fn score<'a>(&'a self, pod: &'a Pod, _: &'a Cluster, _: &[usize]) -> Option<Rating<'a>> {
        // A pod that takes nothing changes no balance.
        if self.scored.iter().all(|name| pod.shape.requests.of(name) == 0) {
            return None;
        }
        Some(Box::new(|_, node| {
            let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
            for name in &self.scored {
                let have = node.facts.allocatable.of(name);
                if have == 0 {
                    continue;
                }
                let taken = node.taken.of(name) + pod.shape.requests.of(name);
                let share = (taken as f64 / have as f64).min(1.0);
                count += 1.0;
                sum += share;
                squares += share * share;
            }
            if count < 2.0 {
                return Some(MAX_SCORE);
            }
            let mean: f64 = sum / count;
            let deviation = (squares / count - mean * mean).max(0.0).sqrt();
            Some(((1.0 - deviation) * MAX_SCORE as f64 + 1e-9) as i64)
        }))
    }
}

//! One decision: where a pod goes, or why nowhere. Pure: the cluster and the rules come in, a decision goes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::{Cluster, Node};
use crate::pod::Pod;
use crate::rules::{Check, MAX_SCORE, Normalize, Reason, Rules};

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Place(Arc<str>),
    /// The message for the pod's condition and event.
    Nowhere(String),
}

/// Decides. `turn` rotates the start, so that equals take turns.
pub fn decide(pod: &Pod, cluster: &Cluster, rules: &Rules, turn: usize) -> Decision {
    if let Some(why) = rules.filters.iter().find_map(|filter| filter.refuse(pod, cluster)) {
        return Decision::Nowhere(match cluster.known() {
            0 => message(0, &BTreeMap::new()),
            total => format!("0/{total} nodes are available: {why}."),
        });
    }
    let checks: Vec<Check<'_>> = rules
        .filters
        .iter()
        .filter_map(|filter| filter.prepare(pod, cluster))
        .collect();
    let mut feasible: Vec<&Node> = Vec::new();
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    let mut total = 0;
    let count = cluster.nodes().len().max(1);
    let start = turn % count;
    for node in cluster
        .nodes()
        .skip(start)
        .chain(cluster.nodes().take(start))
        .filter(|node| node.known)
    {
        total += 1;
        match checks.iter().find_map(|check| check(node)) {
            None => feasible.push(node),
            Some(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    match feasible.as_slice() {
        [] => Decision::Nowhere(message(total, &reasons)),
        [only] => Decision::Place(only.name.clone()),
        many => Decision::Place(best(pod, cluster, rules, many)),
    }
}

/// Whether the pod would do on this one node now: what a change of the node could mean for it.
pub fn fits(pod: &Pod, node: &Node, cluster: &Cluster, rules: &Rules) -> bool {
    let mut checks = rules.filters.iter().filter_map(|filter| filter.prepare(pod, cluster));
    node.known && checks.all(|check| check(node).is_none())
}

fn best(pod: &Pod, cluster: &Cluster, rules: &Rules, feasible: &[&Node]) -> Arc<str> {
    let mut totals = vec![0_i64; feasible.len()];
    for (weight, score) in &rules.scores {
        let Some(rating) = score.prepare(pod, cluster) else {
            continue;
        };
        let mut ratings: Vec<i64> = feasible.iter().map(|node| rating(node)).collect();
        normalize(&mut ratings, score.normalize());
        for (total, rating) in totals.iter_mut().zip(ratings) {
            *total += weight * rating;
        }
    }
    let mut best = 0;
    for (place, total) in totals.iter().enumerate() {
        if *total > totals[best] {
            best = place;
        }
    }
    feasible[best].name.clone()
}

// Follows pkg/scheduler/framework/plugins/helper/normalize_score.go (1.36).
fn normalize(ratings: &mut [i64], how: Normalize) {
    let reverse = match how {
        Normalize::No => return,
        Normalize::Share => false,
        Normalize::Reverse => true,
    };
    let most = ratings.iter().copied().max().unwrap_or(0);
    for rating in ratings {
        let share = if most == 0 { 0 } else { *rating * MAX_SCORE / most };
        *rating = if reverse { MAX_SCORE - share } else { share };
    }
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 Too many pods.`
fn message(total: usize, reasons: &BTreeMap<Reason, usize>) -> String {
    if total == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut parts: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort();
    format!("0/{total} nodes are available: {}.", parts.join(", "))
}

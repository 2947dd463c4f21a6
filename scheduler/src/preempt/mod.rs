//! Which less important pods have to go so that a pod has a place: the refusals of a decision come in, a node and its
//! victims go out. Nothing is written here: each attempt is made in the cluster itself, whose
//! counters follow, and is taken back.
// Upstream: framework/preemption/preemption.go and plugins/defaultpreemption (1.36).

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;

use crate::cluster::{Cluster, Placed};
use crate::cycle::{Refused, message, refusal_on, with_nominated};
use crate::pod::Pod;
use crate::rules::{Candidates, Profile, Reason, Refusal};

pub const NO_HELP: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// Where there will be room, and who has to go.
#[derive(Debug, Clone)]
pub struct Room {
    pub node: Arc<str>,
    pub victims: Vec<Arc<Pod>>,
    /// Less important pods for which this node was being emptied: they look for another one.
    pub outranked: Vec<Arc<Pod>>,
}

impl PartialEq for Room {
    fn eq(&self, other: &Self) -> bool {
        let uids = |pods: &[Arc<Pod>]| pods.iter().map(|pod| pod.uid.clone()).collect::<Vec<_>>();
        self.node == other.node
            && uids(&self.victims) == uids(&other.victims)
            && uids(&self.outranked) == uids(&other.outranked)
    }
}

impl Eq for Room {}

#[derive(Debug)]
pub enum Outcome {
    Room(Room),
    None {
        message: String,
        /// Room that was being made for the pod would not do.
        give_up: bool,
    },
}

/// One node, emptied as far as is needed.
struct Candidate {
    slot: usize,
    /// The most important one first.
    victims: Vec<Arc<Pod>>,
    violations: usize,
}

/// Looks for room. `refused` says of every node why it will not do as it is.
pub fn preempt(
    pod: &Pod,
    cluster: &mut Cluster,
    profile: &Profile,
    limits: Candidates,
    refused: &[Refused],
    turn: usize,
) -> Outcome {
    if let Some(message) = not_eligible(pod, cluster, refused) {
        return Outcome::None {
            message: message.into(),
            give_up: false,
        };
    }
    let potential: Vec<usize> = refused
        .iter()
        .filter(|(_, _, refusal)| !refusal.for_good)
        .map(|(slot, ..)| *slot)
        .collect();
    let mut reasons: Vec<Reason> = vec![NO_HELP.into(); refused.len() - potential.len()];
    let enough = (potential.len() * limits.percentage / 100)
        .max(limits.absolute)
        .min(potential.len());
    let (mut candidates, mut without_violation) = (Vec::new(), false);
    let start = if potential.is_empty() {
        0
    } else {
        turn % potential.len()
    };
    for slot in potential[start..].iter().chain(&potential[..start]) {
        match victims_on(pod, *slot, cluster, profile) {
            Ok(candidate) => {
                without_violation |= candidate.violations == 0;
                candidates.push(candidate);
                if without_violation && candidates.len() >= enough {
                    break;
                }
            }
            Err(refusal) => reasons.extend(refusal.reasons),
        }
    }
    let Some(best) = candidates.into_iter().min_by_key(cost) else {
        return Outcome::None {
            message: message(cluster.known(), reasons.into_iter()),
            give_up: true,
        };
    };
    let node = cluster.slots()[best.slot].name.clone();
    let nominated = cluster.nominations().get(&node);
    let outranked = nominated
        .into_iter()
        .flatten()
        .filter(|other| other.uid != pod.uid && other.shape.priority < pod.shape.priority)
        .cloned()
        .collect();
    Outcome::Room(Room {
        node,
        victims: best.victims,
        outranked,
    })
}

fn not_eligible(pod: &Pod, cluster: &Cluster, refused: &[Refused]) -> Option<&'static str> {
    if pod.shape.peaceful {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let slot = cluster.nomination(&pod.uid).and_then(|node| cluster.slot(node))?;
    // Room is being made already, unless it turned out to be the wrong node.
    if refused.iter().any(|(at, _, refusal)| *at == slot && refusal.for_good) {
        return None;
    }
    cluster.slots()[slot]
        .pods
        .iter()
        .any(|other| other.shape.priority < pod.shape.priority && other.deleting && other.preempted)
        .then_some("not eligible due to a terminating pod on the nominated node.")
}

/// When the pod began; one that has not is the newest.
fn began(pod: &Pod) -> Timestamp {
    pod.started.unwrap_or(Timestamp::MAX)
}

fn victims_on(pod: &Pod, slot: usize, cluster: &mut Cluster, profile: &Profile) -> Result<Candidate, Refusal> {
    let name = cluster.slots()[slot].name.clone();
    let mut lower: Vec<Arc<Pod>> = (cluster.slots()[slot].pods.iter())
        .filter(|other| other.shape.priority < pod.shape.priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return Err(Refusal::for_good(NO_VICTIMS));
    }
    lower.sort_by(|a, b| {
        let key = |pod: &Pod| (Reverse(pod.shape.priority), began(pod), pod.uid.clone());
        key(a).cmp(&key(b))
    });
    let removed: Vec<Placed> = lower.iter().filter_map(|other| cluster.displace(&other.uid)).collect();
    let fits = |cluster: &mut Cluster| {
        let look = |cluster: &Cluster| refusal_on(pod, &cluster.slots()[slot], cluster, profile);
        // It must do with those that come and without them: they may go elsewhere.
        with_nominated(pod, &name, cluster, look)
            .flatten()
            .or_else(|| look(cluster))
    };
    let found = match fits(cluster) {
        Some((_, refusal)) => Err(refusal),
        None => {
            let (violating, others) = by_budget(lower, cluster);
            let mut victims = Vec::new();
            let mut violations = 0;
            for (pods, violates) in [(violating, true), (others, false)] {
                for other in pods {
                    // As many as possible may stay, the most important first.
                    cluster.place(other.clone(), &name, false);
                    if fits(cluster).is_some() {
                        cluster.displace(&other.uid);
                        violations += usize::from(violates);
                        victims.push(other);
                    }
                }
            }
            victims.sort_by_key(|victim| (Reverse(victim.shape.priority), began(victim)));
            Ok(Candidate {
                slot,
                victims,
                violations,
            })
        }
    };
    for Placed { pod, assumed, .. } in removed {
        cluster.place(pod, &name, assumed);
    }
    found
}

/// Those whose going would violate a budget of disruption, and the others.
fn by_budget(pods: Vec<Arc<Pod>>, cluster: &Cluster) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let mut budgets: Vec<_> = cluster
        .around
        .budgets()
        .map(|(namespace, budget)| (namespace, budget, budget.allowed))
        .collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        for (namespace, budget, left) in &mut budgets {
            let means = **namespace == *pod.namespace
                && !budget.selector.is_everything()
                && budget.selector.matches(|key| pod.labels.get(key).map(String::as_str));
            // What was counted when its eviction was allowed is not counted again.
            if means && !pod.labels.is_empty() && !budget.disrupted.contains(&*pod.name) {
                *left -= 1;
                violates |= *left < 0;
            }
        }
        violates
    })
}

/// The less, the better: violated budgets, the highest priority that goes, the sum of priorities, how many; then the one
/// whose most important victims have run for the shortest time.
fn cost(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
    let highest = candidate.victims.first().map_or(i32::MIN, |pod| pod.shape.priority);
    let sum = candidate
        .victims
        .iter()
        // Moved so that none is negative: more pods always weigh more.
        .map(|pod| i64::from(pod.shape.priority) + i64::from(i32::MAX) + 1)
        .sum();
    let earliest = candidate
        .victims
        .iter()
        .filter(|pod| pod.shape.priority == highest)
        .map(|pod| began(pod))
        .min()
        .unwrap_or(Timestamp::MAX);
    (
        candidate.violations,
        highest,
        sum,
        candidate.victims.len(),
        Reverse(earliest),
    )
}

#[cfg(test)]
mod tests;

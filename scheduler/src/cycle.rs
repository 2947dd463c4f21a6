//! One decision: where a pod goes, or why nowhere and whether room can be made. Pure: the cluster and the rules come in,
//! a decision goes out; what is placed on trial is taken back before it returns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cluster::{Cluster, Node};
use crate::memo::{Memo, checks, refused};
use crate::pod::Pod;
use crate::preempt::{self, Room};
use crate::rules::{Event, Plugin, Profile, Reach, Reason, Refusal};

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Place(Arc<str>),
    Nowhere(Nowhere),
}

/// Why there is no place now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nowhere {
    /// For the pod's condition and event.
    pub message: String,
    /// The rules that refused a node, as bits by their place among the profile's filters.
    pub by: u64,
    /// What has to go so that the pod has a place.
    pub room: Option<Room>,
    /// Room that was being made is no use any more.
    pub give_up: bool,
}

/// A node that will not do: its slot, the rule and why.
pub type Refused = (usize, usize, Arc<Refusal>);

/// Decides. `turn` rotates the start, so that equals take turns.
pub fn decide(pod: &Pod, cluster: &mut Cluster, memo: &mut Memo, profile: &Profile, turn: usize) -> Decision {
    prepare(pod, cluster, profile);
    if cluster.known() == 0 {
        return Decision::Nowhere(Nowhere {
            message: "no nodes available to schedule pods".into(),
            ..Nowhere::default()
        });
    }
    for (at, plugin) in profile.filters.iter().enumerate() {
        if let Err(refusal) = plugin.admit(pod, cluster) {
            return inadmissible(cluster.known(), at, &refusal, profile);
        }
    }
    let crowded = crowded(pod, cluster, profile);
    if let Some(name) = kept_for(pod, cluster)
        && let Some(slot) = cluster.slot(&name)
        && !crowded.contains_key(&slot)
        && cluster.slots()[slot].known
        && refusal_on(pod, &cluster.slots()[slot], cluster, profile).is_none()
    {
        return Decision::Place(name);
    }
    let (feasible, refused) = filter(pod, cluster, memo, profile, &crowded);
    match feasible.as_slice() {
        [] => nowhere(pod, cluster, profile, &refused, turn),
        [only] => Decision::Place(cluster.slots()[*only].name.clone()),
        many => {
            let best = best(pod, cluster, memo, profile, many, turn);
            Decision::Place(cluster.slots()[best].name.clone())
        }
    }
}

/// Has everything counted that the rules will read.
fn prepare(pod: &Pod, cluster: &mut Cluster, profile: &Profile) {
    let plugins = profile
        .filters
        .iter()
        .chain(profile.scores.iter().map(|(_, plugin)| plugin));
    for plugin in plugins.filter(|plugin| plugin.reach() == Reach::Cluster) {
        for need in plugin.needs(pod, cluster) {
            cluster.count(need.subject, need.keys.iter().map(|key| &**key));
        }
    }
}

/// Where room is being made for the pod.
fn kept_for(pod: &Pod, cluster: &Cluster) -> Option<Arc<str>> {
    cluster.nomination(&pod.uid).cloned()
}

fn inadmissible(nodes: usize, by: usize, refusal: &Refusal, profile: &Profile) -> Decision {
    let mut message = format!("0/{nodes} nodes are available: {}.", refusal.reasons.join(", "));
    if profile.preemption.is_some() {
        message.push_str(&format!(
            " preemption: 0/{nodes} nodes are available: {nodes} {}.",
            preempt::NO_HELP
        ));
    }
    Decision::Nowhere(Nowhere {
        message,
        by: 1 << by,
        ..Nowhere::default()
    })
}

/// Nodes that would do but for pods that are no less important and for which room is being made there.
// Upstream: runtime/framework.go, RunFilterPluginsWithNominatedPods (1.36).
fn crowded(pod: &Pod, cluster: &mut Cluster, profile: &Profile) -> HashMap<usize, (usize, Refusal)> {
    let nodes: Vec<Arc<str>> = cluster.nominations().keys().cloned().collect();
    let mut crowded = HashMap::new();
    for name in nodes {
        let Some(slot) = cluster.slot(&name).filter(|slot| cluster.slots()[*slot].known) else {
            continue;
        };
        let found = with_nominated(pod, &name, cluster, |cluster| {
            refusal_on(pod, &cluster.slots()[slot], cluster, profile)
        });
        if let Some(Some(refusal)) = found {
            crowded.insert(slot, refusal);
        }
    }
    crowded
}

/// Looks at a cluster in which the pods that a node is being emptied for are there already, but for less important ones.
/// `None` where there is no such pod.
pub fn with_nominated<T>(
    pod: &Pod,
    node: &Arc<str>,
    cluster: &mut Cluster,
    look: impl FnOnce(&Cluster) -> T,
) -> Option<T> {
    let nominated = cluster.nominations().get(node)?;
    let counted: Vec<Arc<Pod>> = nominated
        .iter()
        .filter(|other| other.uid != pod.uid && other.shape.priority >= pod.shape.priority)
        .filter(|other| !cluster.has(&other.uid))
        .cloned()
        .collect();
    if counted.is_empty() {
        return None;
    }
    for other in &counted {
        cluster.place(other.clone(), node, true);
    }
    let found = look(cluster);
    for other in &counted {
        cluster.displace(&other.uid);
    }
    Some(found)
}

/// Why the pod cannot be on this node now; asked anew, without what is remembered.
pub fn refusal_on(pod: &Pod, node: &Node, cluster: &Cluster, profile: &Profile) -> Option<(usize, Refusal)> {
    refused(&checks(pod, cluster, profile, Reach::Node), node)
        .or_else(|| refused(&checks(pod, cluster, profile, Reach::Cluster), node))
}

fn filter(
    pod: &Pod,
    cluster: &Cluster,
    memo: &mut Memo,
    profile: &Profile,
    crowded: &HashMap<usize, (usize, Refusal)>,
) -> (Vec<usize>, Vec<Refused>) {
    let answers = memo.answers(pod, cluster, profile);
    let wide = checks(pod, cluster, profile, Reach::Cluster);
    let mut feasible = Vec::with_capacity(cluster.known());
    let mut out = Vec::new();
    for (slot, node) in cluster.nodes() {
        if let Some((rule, refusal)) = crowded.get(&slot) {
            out.push((slot, *rule, Arc::new(refusal.clone())));
        } else if let Some((rule, refusal)) = &answers.of(slot).refusal {
            out.push((slot, *rule, refusal.clone()));
        } else if let Some((rule, refusal)) = refused(&wide, node) {
            out.push((slot, rule, Arc::new(refusal)));
        } else {
            feasible.push(slot);
        }
    }
    (feasible, out)
}

fn best(pod: &Pod, cluster: &Cluster, memo: &mut Memo, profile: &Profile, feasible: &[usize], turn: usize) -> usize {
    let totals = totals(pod, cluster, memo, profile, feasible);
    let start = turn % feasible.len();
    let mut best = start;
    for at in (start..feasible.len()).chain(0..start) {
        if totals[at] > totals[best] {
            best = at;
        }
    }
    feasible[best]
}

/// The weighted points of each node that will do.
pub fn totals(pod: &Pod, cluster: &Cluster, memo: &mut Memo, profile: &Profile, feasible: &[usize]) -> Vec<i64> {
    let answers = memo.answers(pod, cluster, profile);
    let mut totals = vec![0_i64; feasible.len()];
    let mut ratings: Vec<Option<i64>> = Vec::with_capacity(feasible.len());
    for (at, (weight, plugin)) in profile.scores.iter().enumerate() {
        ratings.clear();
        match plugin.reach() {
            Reach::Node => ratings.extend(feasible.iter().map(|slot| answers.of(*slot).ratings[at])),
            Reach::Cluster => {
                let Some(rating) = plugin.score(pod, cluster, feasible) else {
                    continue;
                };
                ratings.extend(feasible.iter().map(|slot| rating(*slot, &cluster.slots()[*slot])));
            }
        }
        plugin.normalize().apply(&mut ratings);
        for (total, rating) in totals.iter_mut().zip(&ratings) {
            *total += weight * rating.unwrap_or(0);
        }
    }
    totals
}

fn nowhere(pod: &Pod, cluster: &mut Cluster, profile: &Profile, refused: &[Refused], turn: usize) -> Decision {
    let nodes = cluster.known();
    let mut out = Nowhere {
        message: message(
            nodes,
            refused
                .iter()
                .flat_map(|(_, _, refusal)| refusal.reasons.iter().cloned()),
        ),
        by: refused.iter().fold(0, |by, (_, rule, _)| by | 1 << rule),
        ..Nowhere::default()
    };
    if let Some(candidates) = profile.preemption {
        match preempt::preempt(pod, cluster, profile, candidates, refused, turn) {
            preempt::Outcome::Room(room) => out.room = Some(room),
            preempt::Outcome::None { message, give_up } => {
                out.message.push_str(" preemption: ");
                out.message.push_str(&message);
                out.give_up = give_up;
            }
        }
    }
    Decision::Nowhere(out)
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 Too many pods.`
pub fn message(nodes: usize, reasons: impl Iterator<Item = Reason>) -> String {
    let mut counts: BTreeMap<Reason, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<String> = counts
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

/// Whether all rules that look at the node alone would take the pod there.
pub fn fits_node(pod: &Pod, node: &Node, cluster: &Cluster, profile: &Profile) -> bool {
    node.known && refused(&checks(pod, cluster, profile, Reach::Node), node).is_none()
}

/// Of the rules that refused a pod, those that look beyond a node.
pub fn beyond(by: u64, profile: &Profile) -> u64 {
    let rules = profile.filters.iter().enumerate();
    let wide = rules.filter(|(_, plugin)| plugin.reach() == Reach::Cluster);
    by & wide.fold(0, |bits, (at, _)| bits | 1 << at)
}

/// Whether one of the rules that refused the pod and look beyond a node says that this event could help it.
pub fn helps_beyond(pod: &Pod, by: u64, event: Event<'_>, cluster: &Cluster, profile: &Profile) -> bool {
    let rules = profile.filters.iter().enumerate();
    rules
        .filter(|(at, plugin)| by & (1 << at) != 0 && plugin.reach() == Reach::Cluster)
        .any(|(_, plugin): (usize, &Arc<dyn Plugin>)| plugin.helps(pod, event, cluster))
}

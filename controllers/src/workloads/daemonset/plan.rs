//! What a DaemonSet does next, from what is there. Upstream: daemon/{daemon_controller,update}.go (1.36).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::int_or_string::{Round, scaled};
use api::pod;
use daemon::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::pods::{Wish, hash, is_updated, target, wish};

/// The most pods that one reconciliation makes or deletes. Upstream: daemon.BurstReplicas.
const BURST: usize = 250;

/// What one reconciliation looks at.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: &'a [Arc<Node>],
    /// The set's pods.
    pub(super) pods: &'a [Arc<Pod>],
    /// The hash of the present template's revision.
    pub(super) hash: &'a str,
    pub(super) collisions: Option<i32>,
    /// How long a node whose pods fail has to wait still, by its name.
    pub(super) held: &'a BTreeMap<String, Duration>,
    pub(super) now: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The nodes to make a pod for.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// The nodes on which a failed pod is to be replaced: the next failure there waits longer.
    pub(super) failed: Vec<String>,
    pub(super) events: Vec<(EventType, &'static str, String)>,
    pub(super) status: DaemonSetStatus,
    pub(super) look_again: Option<Duration>,
}

struct Work<'a> {
    observed: &'a Observed<'a>,
    spec: &'a DaemonSetSpec,
    min_ready: i32,
    /// By node, the oldest first, those on the node before those that only are for it.
    placed: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
    wishes: Vec<(&'a str, Wish)>,
    plan: Plan,
}

pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let set = observed.set;
    let Some(spec) = &set.spec else { return Plan::default() };
    let mut placed: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in observed.pods {
        // What has ended and is going does not stand in the way.
        if pod::is_terminal(pod) && pod::is_deleting(pod) {
            continue;
        }
        if let Some(node) = target(pod) {
            placed.entry(node).or_default().push(pod);
        }
    }
    for pods in placed.values_mut() {
        pods.sort_by_key(|pod| {
            let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (pod::node_name(pod).is_none(), made, pod.metadata.name.clone())
        });
    }
    let name = |node: &'_ Node| -> String { node.metadata.name.clone().unwrap_or_default() };
    let names: Vec<String> = observed.nodes.iter().map(|node| name(node)).collect();
    let wishes = names
        .iter()
        .map(String::as_str)
        .zip(observed.nodes.iter().map(|node| wish(set, node)))
        .collect();
    let mut work = Work {
        observed,
        spec,
        min_ready: spec.min_ready_seconds.unwrap_or(0),
        placed,
        wishes,
        plan: Plan::default(),
    };
    work.manage();
    if is_rolling(spec) && work.plan.create.is_empty() && work.plan.delete.is_empty() {
        work.roll();
    }
    work.plan.create.truncate(BURST);
    work.plan.delete.truncate(BURST);
    work.tell();
    work.plan
}

pub(super) fn is_rolling(spec: &DaemonSetSpec) -> bool {
    let update = spec.update_strategy.as_ref();
    update.and_then(|update| update.type_.as_deref()) != Some("OnDelete")
}

/// The new and the old pod of a node.
type Versions<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

impl<'a> Work<'a> {
    fn pods_on(&self, node: &str) -> Vec<&'a Arc<Pod>> {
        self.placed.get(node).cloned().unwrap_or_default()
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pod::is_available(pod, self.min_ready, self.observed.now.as_second())
    }

    fn surge(&self) -> i32 {
        let update = self
            .spec
            .update_strategy
            .as_ref()
            .and_then(|update| update.rolling_update.as_ref());
        let surge = update.and_then(|update| update.max_surge.as_ref());
        surge.map_or(0, |surge| scaled(surge, self.desired(), Round::Up).unwrap_or(0))
    }

    fn max_unavailable(&self) -> i32 {
        let update = self
            .spec
            .update_strategy
            .as_ref()
            .and_then(|update| update.rolling_update.as_ref());
        let most = update.and_then(|update| update.max_unavailable.as_ref());
        most.map_or(1, |most| scaled(most, self.desired(), Round::Up).unwrap_or(1))
    }

    fn desired(&self) -> i32 {
        i32::try_from(self.wishes.iter().filter(|(_, wish)| wish.run).count()).unwrap_or(i32::MAX)
    }

    fn say(&mut self, kind: EventType, reason: &'static str, text: String) {
        self.plan.events.push((kind, reason, text));
    }

    fn delete(&mut self, pod: &Arc<Pod>) {
        if !pod::is_deleting(pod) && !self.plan.delete.iter().any(|other| Arc::ptr_eq(other, pod)) {
            self.plan.delete.push(pod.clone());
        }
    }

    /// Each node has what it wants.
    fn manage(&mut self) {
        for (node, wish) in self.wishes.clone() {
            let pods = self.pods_on(node);
            if wish.run && pods.is_empty() {
                self.plan.create.push(node.to_owned());
            } else if wish.stay {
                self.tidy(node, &pods);
            } else {
                pods.into_iter().for_each(|pod| self.delete(pod));
            }
        }
        // Pods that wait for a node that is gone wait in vain.
        let known: Vec<&str> = self.wishes.iter().map(|(node, _)| *node).collect();
        let lost: Vec<_> = self
            .placed
            .iter()
            .filter(|(node, _)| !known.contains(node))
            .flat_map(|(_, pods)| pods.iter().copied())
            .filter(|pod| pod::node_name(pod).is_none())
            .collect();
        lost.into_iter().for_each(|pod| self.delete(pod));
    }

    /// One node's pods: none that ended, and no more than one, but for a surge.
    fn tidy(&mut self, node: &str, pods: &[&'a Arc<Pod>]) {
        let mut running: Vec<&Arc<Pod>> = Vec::new();
        for pod in pods {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            if pod::is_deleting(pod) {
                continue;
            }
            match pod::phase(pod) {
                "Failed" => {
                    if let Some(left) = self.observed.held.get(node) {
                        self.look_again(*left);
                        continue;
                    }
                    let text =
                        format!("Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it");
                    self.say(EventType::Warning, "FailedDaemonPod", text);
                    self.plan.failed.push(node.to_owned());
                    self.delete(pod);
                }
                "Succeeded" => {
                    let text =
                        format!("Found succeeded daemon pod {namespace}/{name} on node {node}, will try to delete it");
                    self.say(EventType::Normal, "SucceededDaemonPod", text);
                    self.delete(pod);
                }
                _ => running.push(pod),
            }
        }
        if !(is_rolling(self.spec) && self.surge() > 0) {
            running.into_iter().skip(1).for_each(|pod| self.delete(pod));
            return;
        }
        if running.len() <= 1 {
            return;
        }
        // A new and an old pod may be there together while the old one serves and the new one does not yet.
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| hash(pod) == self.observed.hash);
        for pod in new.iter().skip(1).chain(old.iter().skip(1)) {
            self.delete(pod);
        }
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pod::is_ready(old) || self.is_available(new))
        {
            self.delete(old);
        }
    }

    fn look_again(&mut self, after: Duration) {
        self.plan.look_again = Some(self.plan.look_again.map_or(after, |look| look.min(after)));
    }

    /// The one new and the one old pod of a node; nothing where there are more, which `manage` settles.
    fn versions(&self, pods: &[&'a Arc<Pod>]) -> Option<Versions<'a>> {
        let living = pods.iter().copied().filter(|pod| !pod::is_deleting(pod));
        let (new, old): (Vec<_>, Vec<_>) =
            living.partition(|pod| is_updated(self.observed.set, pod, self.observed.hash));
        (new.len() <= 1 && old.len() <= 1).then(|| (new.first().copied(), old.first().copied()))
    }

    /// Every node that is to have a pod, and every other that has one.
    fn places(&self) -> Vec<(&'a str, Vec<&'a Arc<Pod>>)> {
        let mut all = self.placed.clone();
        let wanted = self.wishes.iter().filter(|(_, wish)| wish.run);
        let wanted: Vec<&str> = wanted.map(|(node, _)| *node).collect();
        // The names of the nodes live in the observed nodes, as do those of the map in its pods.
        let names = self
            .observed
            .nodes
            .iter()
            .filter_map(|node| node.metadata.name.as_deref());
        for name in names.filter(|name| wanted.contains(name)) {
            all.entry(name).or_default();
        }
        all.into_iter().collect()
    }

    fn roll(&mut self) {
        let (mut surge, mut most) = (self.surge(), self.max_unavailable());
        if surge == 0 && most == 0 {
            most = 1;
        }
        if surge > 0 {
            self.roll_with_surge(&mut surge);
        } else {
            self.roll_in_place(most);
        }
    }

    /// Deletes old pods, as many as may be unavailable; `manage` makes the new ones.
    fn roll_in_place(&mut self, most: i32) {
        let mut unavailable = 0;
        let (mut replace, mut candidates) = (Vec::new(), Vec::new());
        for (_, pods) in self.places() {
            match self.versions(&pods) {
                None | Some((None, None) | (Some(_), Some(_))) => unavailable += 1,
                Some((Some(new), None)) => unavailable += i32::from(!self.is_available(new)),
                // It does not serve anyway.
                Some((None, Some(old))) if !self.is_available(old) => replace.push(old),
                Some((None, Some(old))) => candidates.push(old),
            }
        }
        let spare = usize::try_from(most - unavailable).unwrap_or(0);
        let all = replace.into_iter().chain(candidates.into_iter().take(spare));
        all.for_each(|pod| self.delete(pod));
    }

    /// Makes new pods beside old ones, and deletes the old one of each node where the new one is available.
    fn roll_with_surge(&mut self, surge: &mut i32) {
        let (mut allowed, mut candidates) = (Vec::new(), Vec::new());
        for (node, pods) in self.places() {
            match self.versions(&pods) {
                None => *surge -= 1,
                Some((_, None)) => {}
                Some((None, Some(old))) => {
                    let wanted = self.wishes.iter().any(|(name, wish)| *name == node && wish.run);
                    if !wanted {
                        // It may go on, but nothing new may come here: it goes when the update comes to it.
                        self.delete(old);
                    } else if self.is_available(old) {
                        candidates.push(node);
                    } else {
                        allowed.push(node);
                    }
                }
                Some((Some(new), Some(_))) if !self.is_available(new) => *surge -= 1,
                Some((Some(_), Some(old))) => self.delete(old),
            }
        }
        let spare = usize::try_from(*surge).unwrap_or(0);
        let nodes = allowed.into_iter().chain(candidates.into_iter().take(spare));
        self.plan.create.extend(nodes.map(str::to_owned));
    }

    fn tell(&mut self) {
        let set = self.observed.set;
        let before = set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: set.metadata.generation,
            collision_count: self.observed.collisions,
            conditions: before.conditions,
            ..Default::default()
        };
        let (mut updated, mut available) = (0, 0);
        let mut waits = false;
        for (node, wish) in &self.wishes {
            let pods = self.pods_on(node);
            if !wish.run {
                status.number_misscheduled += i32::from(!pods.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = pods.first() else { continue };
            status.current_number_scheduled += 1;
            if pod::is_ready(pod) {
                status.number_ready += 1;
                available += i32::from(self.is_available(pod));
                waits |= !self.is_available(pod);
            }
            updated += i32::from(is_updated(set, pod, self.observed.hash));
        }
        let nonzero = |count: i32| Some(count).filter(|count| *count != 0);
        status.updated_number_scheduled = nonzero(updated);
        status.number_available = nonzero(available);
        status.number_unavailable = nonzero(status.desired_number_scheduled - available);
        self.plan.status = status;
        if waits {
            let seconds = u64::try_from(self.min_ready).unwrap_or(0);
            self.look_again(Duration::from_secs(seconds));
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

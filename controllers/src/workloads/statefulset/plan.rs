//! What a StatefulSet does next, from what is there. Upstream: statefulset/stateful_set_control.go (1.36).

use std::sync::Arc;
use std::time::Duration;

use api::int_or_string::{Round, scaled};
use api::{condition, pod};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};

use super::pods::{
    Claims, claims, identify, in_range, is_available, is_parallel, is_ready, is_rolling, is_stale, name_of, new_claim,
    new_pod, ordinal, owners, partition, replicas, revision, start, store,
};

/// What one reconciliation looks at.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) set: &'a StatefulSet,
    /// The set's pods.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) claims: &'a Claims,
    /// The revision that all pods had when the last update was complete, and its template.
    pub(super) current: (&'a ControllerRevision, &'a PodTemplateSpec),
    /// The revision that the set asks for, and its template.
    pub(super) update: (&'a ControllerRevision, &'a PodTemplateSpec),
    pub(super) collisions: i32,
    pub(super) now: Timestamp,
}

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Make a pod, after those of its claims that are missing.
    Create {
        pod: Pod,
        claims: Vec<PersistentVolumeClaim>,
    },
    /// Make claims that a pod waits for.
    Claim {
        pod: Arc<Pod>,
        claims: Vec<PersistentVolumeClaim>,
    },
    /// Give a pod back what says which it is.
    Update {
        pod: Pod,
        claims: Vec<PersistentVolumeClaim>,
    },
    /// Give a claim other owners.
    Own(PersistentVolumeClaim),
    Delete(Arc<Pod>),
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In this order, where the set is ordered; else all at once.
    pub(super) steps: Vec<Step>,
    pub(super) status: StatefulSetStatus,
    pub(super) look_again: Option<Duration>,
}

/// Whether the pass goes on with the next pod.
#[derive(PartialEq)]
enum Go {
    On,
    Stop,
}

struct Work<'a> {
    observed: &'a Observed<'a>,
    spec: &'a StatefulSetSpec,
    ordered: bool,
    min_ready: i32,
    plan: Plan,
}

pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let set = observed.set;
    let Some(spec) = &set.spec else { return Plan::default() };
    let mut work = Work {
        observed,
        spec,
        ordered: !is_parallel(spec),
        min_ready: spec.min_ready_seconds.unwrap_or(0),
        plan: Plan {
            status: status(observed, spec),
            ..Plan::default()
        },
    };
    if set.metadata.deletion_timestamp.is_none() {
        work.decide();
    }
    work.complete();
    work.plan
}

/// The counts, of the pods as they are.
fn status(observed: &Observed<'_>, spec: &StatefulSetSpec) -> StatefulSetStatus {
    let set = observed.set;
    let (current, update) = (
        name_of(&observed.current.0.metadata),
        name_of(&observed.update.0.metadata),
    );
    let count = |test: &dyn Fn(&Pod) -> bool| {
        let made = observed.pods.iter().filter(|pod| !pod::phase(pod).is_empty());
        i32::try_from(made.filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let nonzero = |count: i32| Some(count).filter(|count| *count != 0);
    StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(&|_| true),
        ready_replicas: nonzero(count(&is_ready)),
        available_replicas: Some(count(&|pod| is_available(pod, min_ready, observed.now))),
        current_replicas: nonzero(count(&|pod| !pod::is_deleting(pod) && revision(pod) == current)),
        updated_replicas: nonzero(count(&|pod| !pod::is_deleting(pod) && revision(pod) == update)),
        current_revision: Some(current.to_owned()),
        update_revision: Some(update.to_owned()),
        collision_count: Some(observed.collisions),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    }
}

impl Work<'_> {
    fn decide(&mut self) {
        let (first, count) = (start(self.spec), replicas(self.spec));
        let of = |number: i32| {
            self.observed
                .pods
                .iter()
                .find(|pod| ordinal(pod) == Some(number))
                .cloned()
        };
        let mut living: Vec<(i32, Option<Arc<Pod>>)> = Vec::new();
        for number in first..first.saturating_add(count) {
            living.push((number, of(number)));
        }
        let mut condemned: Vec<Arc<Pod>> = Vec::new();
        for pod in self.observed.pods {
            if ordinal(pod).is_some_and(|number| !in_range(self.spec, number)) {
                condemned.push(pod.clone());
            }
        }
        condemned.sort_by_key(|pod| std::cmp::Reverse(ordinal(pod)));
        // A pod that is not there yet is as unhealthy as one that is ill.
        let missing = living
            .iter()
            .any(|(_, pod)| pod.as_ref().is_none_or(|pod| self.is_unavailable(pod)));
        let first_ill = condemned
            .iter()
            .rev()
            .find(|pod| self.is_unavailable(pod))
            .filter(|_| !missing);
        let first_ill = first_ill.cloned();
        for (number, pod) in &living {
            if self.live(*number, pod.as_ref()) == Go::Stop && self.ordered {
                return;
            }
        }
        for pod in &condemned {
            self.own_claims(pod);
        }
        for pod in &condemned {
            if self.condemn(pod, first_ill.as_ref()) == Go::Stop && self.ordered {
                return;
            }
        }
        if is_rolling(self.spec) {
            self.roll(&living);
        }
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        pod::is_deleting(pod) || !is_available(pod, self.min_ready, self.observed.now)
    }

    /// The claims of a pod that are not there.
    fn missing(&self, number: i32) -> Vec<PersistentVolumeClaim> {
        let all = claims(self.observed.set, number);
        let missing = all.filter(|(_, name)| !self.observed.claims.contains_key(name));
        missing
            .map(|(template, name)| new_claim(self.observed.set, template, name))
            .collect()
    }

    fn own_claims(&mut self, pod: &Pod) {
        let Some(number) = ordinal(pod) else { return };
        for (_, name) in claims(self.observed.set, number) {
            let Some(claim) = self.observed.claims.get(&name) else {
                continue;
            };
            if let Some(owners) = owners(self.observed.set, pod, claim) {
                let mut claim = (**claim).clone();
                claim.metadata.owner_references = Some(owners);
                self.plan.steps.push(Step::Own(claim));
            }
        }
    }

    /// One pod that is to be there.
    fn live(&mut self, number: i32, pod: Option<&Arc<Pod>>) -> Go {
        let set = self.observed.set;
        let Some(pod) = pod else {
            let name = format!("{}-{number}", name_of(&set.metadata));
            let mut present = claims(set, number).filter_map(|(_, name)| self.observed.claims.get(&name));
            if present.any(|claim| is_stale(claim, &name)) {
                return Go::Stop;
            }
            let (of, template) = self.version_for(number);
            let pod = new_pod(set, template, name_of(&of.metadata), number);
            let claims = self.missing(number);
            self.plan.steps.push(Step::Create { pod, claims });
            return Go::Stop;
        };
        // How a container ended tells nothing: an evicted pod may have ended well.
        if pod::is_terminal(pod) {
            if !pod::is_deleting(pod) {
                self.plan.steps.push(Step::Delete(pod.clone()));
            }
            return Go::Stop;
        }
        if pod::phase(pod) == "Pending" {
            let claims = self.missing(number);
            if !claims.is_empty() {
                let pod = pod.clone();
                self.plan.steps.push(Step::Claim { pod, claims });
            }
        }
        if self.ordered && self.is_unavailable(pod) {
            self.wait_for(pod);
            return Go::Stop;
        }
        self.wait_for(pod);
        let mut right = (**pod).clone();
        let had_labels = identify(&mut right, number);
        let had_volumes = store(set, &mut right, number);
        if !(had_labels && had_volumes) {
            let claims = self.missing(number);
            self.plan.steps.push(Step::Update { pod: right, claims });
        }
        self.own_claims(pod);
        Go::On
    }

    /// A pod that is ready becomes available when time has passed.
    fn wait_for(&mut self, pod: &Pod) {
        if self.min_ready == 0 || !is_ready(pod) || is_available(pod, self.min_ready, self.observed.now) {
            return;
        }
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
        let since = condition::find(conditions, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
        let Some(since) = since else { return };
        let left = since.0.as_second() + i64::from(self.min_ready) - self.observed.now.as_second();
        let left = Duration::from_secs(u64::try_from(left).unwrap_or(0).max(1));
        self.plan.look_again = Some(self.plan.look_again.map_or(left, |look| look.min(left)));
    }

    /// The version that a new pod gets: below the partition the old one.
    fn version_for(&self, number: i32) -> (&ControllerRevision, &PodTemplateSpec) {
        let status = self.observed.set.status.as_ref();
        let updated = status.and_then(|status| status.current_revision.as_deref())
            == Some(name_of(&self.observed.update.0.metadata));
        if is_rolling(self.spec) && !updated && number < start(self.spec).saturating_add(partition(self.spec)) {
            self.observed.current
        } else {
            self.observed.update
        }
    }

    /// One pod that is not to be there.
    fn condemn(&mut self, pod: &Arc<Pod>, first_ill: Option<&Arc<Pod>>) -> Go {
        if pod::is_deleting(pod) {
            return Go::Stop;
        }
        let is_first_ill = first_ill.is_some_and(|ill| Arc::ptr_eq(ill, pod));
        if self.ordered && self.is_unavailable(pod) && !is_first_ill {
            self.wait_for(pod);
            return Go::Stop;
        }
        self.plan.steps.push(Step::Delete(pod.clone()));
        Go::Stop
    }

    /// Replaces pods of older versions, the highest numbers first, as far as the set can spare them.
    fn roll(&mut self, living: &[(i32, Option<Arc<Pod>>)]) {
        let update = name_of(&self.observed.update.0.metadata).to_owned();
        let strategy = self.spec.update_strategy.as_ref();
        let most = strategy
            .and_then(|strategy| strategy.rolling_update.as_ref()?.max_unavailable.as_ref())
            .map_or(1, |most| {
                // Validation lets in nothing that cannot be read; one at a time is right for anything.
                scaled(most, replicas(self.spec), Round::Down).unwrap_or(1).max(1)
            });
        let most = usize::try_from(most).unwrap_or(1);
        // What this pass makes is not there yet.
        let unavailable = |pod: &Option<Arc<Pod>>| pod.as_ref().is_none_or(|pod| self.is_unavailable(pod));
        let count = living.iter().filter(|(_, pod)| unavailable(pod)).count();
        let mut spare = most.saturating_sub(count);
        let from = usize::try_from(partition(self.spec)).unwrap_or(0);
        let old = |pod: &&Arc<Pod>| revision(pod) != update && !pod::is_deleting(pod);
        // Those that this pass removes already are on their way.
        let removed = |pod: &&Arc<Pod>| {
            let same = |step: &Step| matches!(step, Step::Delete(gone) if Arc::ptr_eq(gone, pod));
            !self.plan.steps.iter().any(same)
        };
        let candidates = living.iter().skip(from).rev().filter_map(|(_, pod)| pod.as_ref());
        let candidates: Vec<_> = candidates.filter(old).filter(removed).cloned().collect();
        let mut gone = Vec::new();
        if !self.ordered {
            // Replacing what does not serve costs nothing.
            gone.extend(candidates.iter().filter(|pod| self.is_unavailable(pod)).cloned());
        }
        for pod in candidates {
            if spare > 0 && !gone.iter().any(|other| Arc::ptr_eq(other, &pod)) {
                spare -= 1;
                gone.push(pod);
            }
        }
        for pod in gone {
            if let Some(current) = &mut self.plan.status.current_replicas
                && Some(revision(&pod)) == self.plan.status.current_revision.as_deref()
            {
                *current -= 1;
            }
            self.plan.steps.push(Step::Delete(pod));
        }
        self.plan.status.current_replicas = self.plan.status.current_replicas.filter(|count| *count > 0);
    }

    /// When all pods have the new version, it is the current one.
    fn complete(&mut self) {
        let wanted = replicas(self.spec);
        let status = &mut self.plan.status;
        if is_rolling(self.spec)
            && status.updated_replicas.unwrap_or(0) == wanted
            && status.ready_replicas.unwrap_or(0) == wanted
            && status.replicas == wanted
        {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

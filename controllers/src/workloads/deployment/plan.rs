//! What a Deployment does next, from what is there. Upstream: deployment/{sync,rolling,recreate}.go (1.36).

use std::sync::Arc;
use std::time::Duration;

use api::names::well_known::{DEPLOYMENT_DESIRED_REPLICAS, DEPLOYMENT_MAX_REPLICAS, DEPLOYMENT_REVISION};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet};

use super::sets::{
    Limits, actual, annotate, annotation, available, is_rolling, limits, new_set, note_size, replicas, revision,
    same_template,
};
use super::status;

/// What one reconciliation looks at.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) deployment: &'a Deployment,
    /// All sets of the Deployment.
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// UIDs of the sets that still have a pod that has not ended.
    pub(super) with_pods: &'a [String],
    pub(super) now: Timestamp,
}

#[derive(Debug)]
pub(super) enum Step {
    Create(ReplicaSet),
    /// The set as it should be, and how many pods it was asked for before.
    Update {
        set: ReplicaSet,
        from: i32,
    },
    Delete(ReplicaSet),
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// The Deployment's own revision, where it has to change.
    pub(super) revision: Option<String>,
    pub(super) status: DeploymentStatus,
    pub(super) look_again: Option<Duration>,
}

/// Copies of the sets, changed as the plan goes; the steps are the difference.
struct Work<'a> {
    observed: &'a Observed<'a>,
    spec: &'a DeploymentSpec,
    wanted: i32,
    limits: Limits,
    /// Oldest first.
    sets: Vec<ReplicaSet>,
    /// Where the set of the present template is.
    new: Option<usize>,
    /// Whether that one is to be made.
    made: bool,
    removed: Vec<ReplicaSet>,
    before: DeploymentStatus,
    revision: Option<String>,
}

pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let deployment = observed.deployment;
    let before = deployment.status.clone().unwrap_or_default();
    let Some(spec) = &deployment.spec else {
        return Plan {
            steps: Vec::new(),
            revision: None,
            status: before,
            look_again: None,
        };
    };
    let mut sets: Vec<ReplicaSet> = observed.sets.iter().map(|set| (**set).clone()).collect();
    let made = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    sets.sort_by(|a, b| {
        made(a)
            .cmp(&made(b))
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
    let new = sets.iter().position(|set| same_template(deployment, set));
    let mut work = Work {
        observed,
        spec,
        wanted: spec.replicas.unwrap_or(1),
        limits: limits(spec),
        sets,
        new,
        made: false,
        removed: Vec::new(),
        before,
        revision: None,
    };
    let rollout = work.decide();
    work.finish(rollout)
}

impl Work<'_> {
    /// Changes the copies; says whether this is a rollout, whose progress is judged.
    fn decide(&mut self) -> bool {
        if self.observed.deployment.metadata.deletion_timestamp.is_some() {
            return false;
        }
        status::note_pause(&mut self.before, self.spec, self.observed.now);
        if self.spec.paused == Some(true) {
            self.settle_revision();
            self.scale();
            self.clean_up();
            return false;
        }
        if self.was_scaled() {
            self.settle_revision();
            self.scale();
            return false;
        }
        if is_rolling(self.spec) {
            self.roll()
        } else {
            self.recreate()
        }
        true
    }

    fn finish(self, rollout: bool) -> Plan {
        let Observed {
            deployment,
            sets: originals,
            now,
            ..
        } = self.observed;
        let all: Vec<&ReplicaSet> = self.sets.iter().collect();
        let new = self.new.map(|at| &self.sets[at]);
        let mut next = status::count(deployment, self.spec, &self.before, &all, new, *now);
        if rollout {
            status::progress(deployment, self.spec, &self.before, &mut next, &all, new, *now);
        }
        let look_again = if rollout {
            status::look_again(deployment, self.spec, &next, *now)
        } else {
            None
        };
        let mut steps = Vec::new();
        for (at, set) in self.sets.into_iter().enumerate() {
            if self.made && self.new == Some(at) {
                steps.push(Step::Create(set));
                continue;
            }
            let original = originals
                .iter()
                .find(|original| original.metadata.uid == set.metadata.uid);
            let original = original.expect("every set but the new one was observed");
            if set != **original {
                steps.push(Step::Update {
                    from: replicas(original),
                    set,
                });
            }
        }
        steps.extend(self.removed.into_iter().map(Step::Delete));
        Plan {
            steps,
            revision: self.revision,
            status: next,
            look_again,
        }
    }

    fn old(&self) -> impl Iterator<Item = &ReplicaSet> {
        let new = self.new;
        self.sets
            .iter()
            .enumerate()
            .filter(move |(at, _)| Some(*at) != new)
            .map(|(_, set)| set)
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(replicas).sum()
    }

    /// The most pods that may be there at once.
    fn most(&self) -> i32 {
        self.wanted + self.limits.surge
    }

    fn resize(&mut self, at: usize, to: i32) -> bool {
        let (wanted, most) = (self.wanted, self.most());
        let set = &mut self.sets[at];
        let changes = replicas(set) != to;
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(to);
        }
        note_size(set, wanted, most);
        changes
    }

    /// Gives the new set, where there is one, its revision and annotations, and the Deployment the same revision.
    fn settle_revision(&mut self) {
        let next = self.old().map(revision).max().unwrap_or(0) + 1;
        let Some(at) = self.new else { return };
        let set = &mut self.sets[at];
        annotate(self.observed.deployment, set, next);
        if let Some(spec) = &mut set.spec {
            // Validation keeps it within the deadline.
            spec.min_ready_seconds = match (spec.min_ready_seconds, self.spec.min_ready_seconds) {
                (None | Some(0), None | Some(0)) => spec.min_ready_seconds,
                (_, wanted) => wanted,
            };
        }
        let name = set.metadata.name.clone().unwrap_or_default();
        self.note_revision(at);
        if status::has_deadline(self.spec) && status::progressing(&self.before).is_none() {
            status::note_new_set(&mut self.before, &name, false, self.observed.now);
        }
    }

    fn note_revision(&mut self, at: usize) {
        let revision = annotation(&self.sets[at].metadata, DEPLOYMENT_REVISION).map(str::to_owned);
        let have = annotation(&self.observed.deployment.metadata, DEPLOYMENT_REVISION);
        self.revision = revision.filter(|revision| Some(revision.as_str()) != have);
    }

    /// Makes the new set where there is none.
    fn settle_new(&mut self) {
        self.settle_revision();
        if self.new.is_some() {
            return;
        }
        let next = self.sets.iter().map(revision).max().unwrap_or(0) + 1;
        let mut set = new_set(self.observed.deployment, self.spec);
        annotate(self.observed.deployment, &mut set, next);
        let size = self.new_size(0);
        note_size(&mut set, self.wanted, self.most());
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(size);
        }
        let name = set.metadata.name.clone().unwrap_or_default();
        self.new = Some(self.sets.len());
        self.made = true;
        self.sets.push(set);
        self.note_revision(self.sets.len() - 1);
        if status::has_deadline(self.spec) {
            status::note_new_set(&mut self.before, &name, true, self.observed.now);
        }
    }

    /// The size that the new set may grow to now, from `size`.
    fn new_size(&self, size: i32) -> i32 {
        if !is_rolling(self.spec) {
            return self.wanted;
        }
        let room = self.most() - self.total();
        if room <= 0 {
            size
        } else {
            size + room.min(self.wanted - size)
        }
    }

    fn roll(&mut self) {
        self.settle_new();
        if self.made {
            return;
        }
        let at = self.new.expect("it was found or made");
        let size = replicas(&self.sets[at]);
        let target = if size > self.wanted {
            self.wanted
        } else {
            self.new_size(size)
        };
        if size != self.wanted && target != size {
            self.resize(at, target);
            return;
        }
        if self.shrink_old(at) {
            return;
        }
        if status::is_complete(self.observed.deployment, self.spec, &self.before) {
            self.clean_up();
        }
    }

    /// Takes pods from the old sets, the unhealthy first, as far as the Deployment can spare them.
    fn shrink_old(&mut self, new: usize) -> bool {
        if self.old().map(replicas).sum::<i32>() == 0 {
            return false;
        }
        let least = self.wanted - self.limits.unavailable;
        let new_unavailable = replicas(&self.sets[new]) - available(&self.sets[new]);
        let mut spare = self.total() - least - new_unavailable;
        if spare <= 0 {
            return false;
        }
        let mut shrunk = false;
        for at in (0..self.sets.len()).filter(|at| *at != new) {
            let size = replicas(&self.sets[at]);
            let gone = (size - available(&self.sets[at])).clamp(0, spare);
            if gone > 0 {
                shrunk |= self.resize(at, size - gone);
                spare -= gone;
            }
        }
        let mut spare = self.sets.iter().map(available).sum::<i32>() - least;
        for at in (0..self.sets.len()).filter(|at| *at != new) {
            let size = replicas(&self.sets[at]);
            let gone = size.min(spare);
            if gone > 0 {
                shrunk |= self.resize(at, size - gone);
                spare -= gone;
            }
        }
        shrunk
    }

    fn recreate(&mut self) {
        self.settle_revision();
        let mut shrunk = false;
        for at in 0..self.sets.len() {
            if Some(at) != self.new && replicas(&self.sets[at]) > 0 {
                shrunk |= self.resize(at, 0);
            }
        }
        if shrunk || self.old_pods_remain() {
            return;
        }
        self.settle_new();
        let at = self.new.expect("it was found or made");
        if !self.made && replicas(&self.sets[at]) != self.wanted {
            let wanted = self.wanted;
            self.resize(at, wanted);
        }
        if status::is_complete(self.observed.deployment, self.spec, &self.before) {
            self.clean_up();
        }
    }

    fn old_pods_remain(&self) -> bool {
        self.old().any(|set| {
            let uid = set.metadata.uid.as_ref();
            actual(set) > 0 || uid.is_some_and(|uid| self.observed.with_pods.contains(uid))
        })
    }

    /// Whether the size was changed since the sets were last sized.
    fn was_scaled(&self) -> bool {
        let noted = |set: &ReplicaSet| {
            let noted = annotation(&set.metadata, DEPLOYMENT_DESIRED_REPLICAS);
            noted.and_then(|text| text.parse::<i32>().ok())
        };
        let active = self.sets.iter().filter(|set| replicas(set) > 0);
        active.filter_map(noted).any(|noted| noted != self.wanted)
    }

    /// Brings a new size to the sets that have pods, each in proportion, without going on with a rollout.
    fn scale(&mut self) {
        let active: Vec<usize> = (0..self.sets.len())
            .filter(|at| replicas(&self.sets[*at]) > 0)
            .collect();
        let single = match active[..] {
            [] => self.new.or(self.sets.len().checked_sub(1)),
            [one] => Some(one),
            _ => None,
        };
        if let Some(at) = single {
            if replicas(&self.sets[at]) != self.wanted {
                let wanted = self.wanted;
                self.resize(at, wanted);
            }
            return;
        }
        if active.is_empty() {
            return;
        }
        if let Some(new) = self.new
            && self.is_saturated(new)
        {
            for at in active.into_iter().filter(|at| *at != new) {
                self.resize(at, 0);
            }
            return;
        }
        if is_rolling(self.spec) {
            self.spread(active);
        }
    }

    fn is_saturated(&self, at: usize) -> bool {
        let set = &self.sets[at];
        let noted = annotation(&set.metadata, DEPLOYMENT_DESIRED_REPLICAS).and_then(|text| text.parse::<i32>().ok());
        replicas(set) == self.wanted && noted == Some(self.wanted) && available(set) == self.wanted
    }

    fn spread(&mut self, mut active: Vec<usize>) {
        let total: i32 = active.iter().map(|at| replicas(&self.sets[*at])).sum();
        let allowed = if self.wanted > 0 { self.most() } else { 0 };
        let add = allowed - total;
        // The largest first; of equals the newest grows first and the oldest shrinks first.
        active.sort_by_key(|at| {
            let age = i64::try_from(*at).unwrap_or(i64::MAX);
            (-replicas(&self.sets[*at]), if add > 0 { -age } else { age })
        });
        let mut added = 0;
        let mut sizes: Vec<i32> = Vec::new();
        for at in &active {
            let set = &self.sets[*at];
            let share = self.share(set, add, added);
            added += share;
            sizes.push(replicas(set) + share);
        }
        // What rounding left goes to the largest.
        if let Some(first) = sizes.first_mut() {
            *first = (*first + add - added).max(0);
        }
        for (at, size) in active.into_iter().zip(sizes) {
            self.resize(at, size);
        }
    }

    /// How much of `add` one set gets, of which `added` is given away already.
    fn share(&self, set: &ReplicaSet, add: i32, added: i32) -> i32 {
        let size = replicas(set);
        if size == 0 || add == added {
            return 0;
        }
        let fraction = if self.wanted == 0 {
            -size
        } else {
            let noted = annotation(&set.metadata, DEPLOYMENT_MAX_REPLICAS).and_then(|text| text.parse::<i32>().ok());
            let before = noted
                .filter(|most| *most > 0)
                .or(self.before.replicas)
                .filter(|most| *most > 0);
            let before = f64::from(before.unwrap_or(self.wanted));
            let target = f64::from(size) * f64::from(self.most()) / before;
            #[expect(clippy::cast_possible_truncation, reason = "both factors are numbers of pods")]
            let target = target.round() as i32;
            target - size
        };
        let left = add - added;
        if add > 0 {
            fraction.min(left)
        } else {
            fraction.max(left)
        }
    }

    /// Removes the oldest sets that are of no use any more beyond the history that is to be kept.
    fn clean_up(&mut self) {
        let Some(keep) = self.spec.revision_history_limit else {
            return;
        };
        let keep = usize::try_from(keep).unwrap_or(0);
        let mut old: Vec<&ReplicaSet> = self
            .old()
            .filter(|set| set.metadata.deletion_timestamp.is_none())
            .collect();
        let surplus = old.len().saturating_sub(keep);
        old.sort_by_key(|set| revision(set));
        let idle = |set: &&&ReplicaSet| {
            let observed = set
                .status
                .as_ref()
                .and_then(|status| status.observed_generation)
                .unwrap_or(0);
            actual(set) == 0 && replicas(set) == 0 && set.metadata.generation.unwrap_or(0) <= observed
        };
        self.removed = old
            .iter()
            .take(surplus)
            .filter(idle)
            .map(|set| (*set).clone())
            .collect();
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

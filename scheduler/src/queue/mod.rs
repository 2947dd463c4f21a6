//! Which pod is next, and what would wake a pod that fits nowhere. Pods and events come in, turns go out.
//! No I/O, no clock (the time comes in) and no rules: who asks says what helps.
//! A pod that waits is in exactly one state: *active* (its turn comes by priority, then age), *resting* (it failed
//! lately and its back-off runs), *parked* (it fits nowhere until something changes), *gated* (somebody holds it back)
//! or *away* (being decided or bound).

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::pod::Pod;

/// A parked pod is tried again after this long though nothing happened (upstream's podMaxInUnschedulablePodsDuration): a
/// rule that overlooks an event costs minutes then, not for ever.
const LEFTOVER: Duration = Duration::from_secs(300);

/// Order of turns: higher priority first, then the older pod.
type Turn = (Reverse<i32>, Timestamp, Arc<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    Resting(Instant),
    /// Since when.
    Parked(Instant),
    Gated,
    Away,
}

/// How many pods are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    pub active: usize,
    pub resting: usize,
    pub parked: usize,
    pub gated: usize,
}

/// How long pods rest after an attempt: twice as long after each, within these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rests {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Rests {
    // Upstream's podInitialBackoffSeconds and podMaxBackoffSeconds.
    fn default() -> Self {
        Rests {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(10),
        }
    }
}

#[derive(Debug)]
struct Waiting {
    pod: Arc<Pod>,
    state: State,
    attempts: u32,
    /// When it came, for how long it waited in all.
    since: Instant,
    /// The rules that refused it, as the decision says it.
    by: u64,
    /// When it was last found to fit nowhere.
    failed: Option<Instant>,
    /// Something changed while it was away that could help it.
    missed: bool,
}

/// Pods that have no place.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<Arc<str>, Waiting>,
    active: BTreeSet<Turn>,
    resting: BTreeSet<(Instant, Arc<str>)>,
    parked: BTreeSet<(Instant, Arc<str>)>,
    rests: Rests,
}

fn turn(pod: &Pod) -> Turn {
    (Reverse(pod.shape.priority), pod.created, pod.uid.clone())
}

impl Queue {
    pub fn new(rests: Rests) -> Self {
        Queue {
            rests,
            ..Queue::default()
        }
    }

    /// A pod came or changed. A change of what it asks for gives it its turn. `gated` holds it back.
    pub fn add(&mut self, pod: Arc<Pod>, gated: bool, now: Instant) {
        let uid = pod.uid.clone();
        match self.pods.get_mut(&uid) {
            None => {
                let waiting = Waiting {
                    pod,
                    state: State::Gated,
                    attempts: 0,
                    since: now,
                    by: 0,
                    failed: None,
                    missed: false,
                };
                self.pods.insert(uid.clone(), waiting);
                if !gated {
                    self.activate(&uid);
                }
            }
            Some(waiting) => {
                let same = waiting.pod.same_demand(&pod);
                if waiting.state == State::Active {
                    self.active.remove(&turn(&waiting.pod));
                    self.active.insert(turn(&pod));
                }
                waiting.pod = pod;
                match waiting.state {
                    State::Gated if !gated => self.activate(&uid),
                    State::Parked(_) if !same => self.wake(&uid, now),
                    State::Away if !same => waiting.missed = true,
                    State::Gated | State::Parked(_) | State::Away | State::Active | State::Resting(_) => {}
                }
            }
        }
    }

    /// The pod is gone, or has a place. Returns how often it was tried and since when it waited.
    pub fn remove(&mut self, uid: &str) -> Option<(u32, Instant)> {
        let waiting = self.pods.remove(uid)?;
        self.unlist(&waiting);
        Some((waiting.attempts, waiting.since))
    }

    /// How often a pod was tried, and since when it waits.
    pub fn history(&self, uid: &str) -> Option<(u32, Instant)> {
        let waiting = self.pods.get(uid)?;
        Some((waiting.attempts, waiting.since))
    }

    fn unlist(&mut self, waiting: &Waiting) {
        match waiting.state {
            State::Active => {
                self.active.remove(&turn(&waiting.pod));
            }
            State::Resting(until) => {
                self.resting.remove(&(until, waiting.pod.uid.clone()));
            }
            State::Parked(since) => {
                self.parked.remove(&(since, waiting.pod.uid.clone()));
            }
            State::Gated | State::Away => {}
        }
    }

    /// Takes the next pod away to be decided. Resting pods whose time has come take part.
    pub fn next(&mut self, now: Instant) -> Option<Arc<Pod>> {
        while let Some((until, uid)) = self.resting.first().cloned() {
            if until > now {
                break;
            }
            self.activate(&uid);
        }
        while let Some((since, uid)) = self.parked.first().cloned() {
            if since + LEFTOVER > now {
                break;
            }
            self.activate(&uid);
        }
        let (_, _, uid) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&uid).expect("an active pod waits");
        waiting.state = State::Away;
        waiting.attempts += 1;
        waiting.missed = false;
        Some(waiting.pod.clone())
    }

    /// The pod fits nowhere, because these rules refused it: it is parked, unless something changed while it was away.
    pub fn park(&mut self, uid: &str, by: u64, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.failed = Some(now);
        waiting.by = by;
        waiting.state = State::Parked(now);
        self.parked.insert((now, waiting.pod.uid.clone()));
        if waiting.missed {
            self.wake(uid, now);
        }
    }

    /// The pod's binding failed: it rests and comes again.
    pub fn retry(&mut self, uid: &str, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.failed = Some(now);
        self.wake(uid, now);
    }

    /// Whether some pod is parked.
    pub fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Every parked pod that `helps` says yes to gets its turn once its back-off has run. It is given the pod and the
    /// rules that refused it.
    pub fn wake_where(&mut self, now: Instant, mut helps: impl FnMut(&Pod, u64) -> bool) {
        let mut chosen = Vec::new();
        for (_, uid) in &self.parked {
            let waiting = &self.pods[uid];
            if helps(&waiting.pod, waiting.by) {
                chosen.push(uid.clone());
            }
        }
        for uid in chosen {
            self.wake(&uid, now);
        }
    }

    /// The pod gets its turn whatever happened, once its back-off has run.
    pub fn wake_one(&mut self, uid: &str, now: Instant) {
        let parked = self.pods.get(uid).map(|waiting| waiting.state);
        if let Some(State::Parked(_)) = parked {
            self.wake(uid, now);
        }
    }

    /// When a pod must be looked at though nothing happens.
    pub fn due(&self) -> Option<Instant> {
        let rested = self.resting.first().map(|(until, _)| *until);
        let leftover = self.parked.first().map(|(since, _)| *since + LEFTOVER);
        rested.into_iter().chain(leftover).min()
    }

    pub fn sizes(&self) -> Sizes {
        let (active, resting, parked) = (self.active.len(), self.resting.len(), self.parked.len());
        let gated = self.pods.values().filter(|waiting| waiting.state == State::Gated);
        Sizes {
            active,
            resting,
            parked,
            gated: gated.count(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    fn activate(&mut self, uid: &str) {
        self.set(uid, State::Active);
    }

    fn set(&mut self, uid: &str, state: State) {
        let waiting = self.pods.get_mut(uid).expect("called for pods that wait");
        let key = waiting.pod.uid.clone();
        match waiting.state {
            State::Active => {
                self.active.remove(&turn(&waiting.pod));
            }
            State::Resting(until) => {
                self.resting.remove(&(until, key.clone()));
            }
            State::Parked(since) => {
                self.parked.remove(&(since, key.clone()));
            }
            State::Gated | State::Away => {}
        }
        waiting.state = state;
        match state {
            State::Active => {
                self.active.insert(turn(&waiting.pod));
            }
            State::Resting(until) => {
                self.resting.insert((until, key));
            }
            State::Parked(since) => {
                self.parked.insert((since, key));
            }
            State::Gated | State::Away => {}
        }
    }

    fn wake(&mut self, uid: &str, now: Instant) {
        let waiting = self.pods.get(uid).expect("called for pods that wait");
        let until = waiting
            .failed
            .map_or(now, |failed| failed + self.rests.after(waiting.attempts));
        let next = if until <= now {
            State::Active
        } else {
            State::Resting(until)
        };
        self.set(uid, next);
    }
}

impl Rests {
    fn after(self, attempts: u32) -> Duration {
        let doubled = self
            .first
            .saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1).min(16)));
        self.longest.min(doubled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::pod;

    fn aged(name: &str, priority: i32, seconds: i64) -> Arc<Pod> {
        let mut pod = pod(name).spec("priority", priority.into()).build();
        pod.created = Timestamp::from_second(seconds).unwrap();
        Arc::new(pod)
    }

    fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.next(now))
            .map(|pod| pod.name.to_string())
            .collect()
    }

    #[test]
    fn turns_go_by_priority_then_age() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for pod in [aged("young", 0, 9), aged("old", 0, 1), aged("vip", 5, 9)] {
            queue.add(pod, false, now);
        }
        assert_eq!(names(&mut queue, now), ["vip", "old", "young"]);
    }

    #[test]
    fn a_parked_pod_wakes_only_for_what_could_help_it_and_after_its_rest() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(aged("a", 0, 1), false, now);
        assert!(queue.next(now).is_some());
        queue.park("a", 0, now);
        queue.wake_where(now, |_, _| false);
        assert!(queue.next(now).is_none());
        assert_eq!(queue.due(), Some(now + LEFTOVER));
        queue.wake_where(now, |_, _| true);
        assert!(queue.next(now).is_none());
        let due = queue.due().unwrap();
        assert_eq!(due, now + Rests::default().first);
        assert_eq!(names(&mut queue, due), ["a"]);
    }

    #[test]
    fn a_change_while_a_pod_is_decided_is_not_missed() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(aged("a", 0, 1), false, now);
        assert!(queue.next(now).is_some());
        queue.add(Arc::new(pod("a").cpu("1").build()), false, now);
        queue.park("a", 0, now);
        assert_eq!(queue.due(), Some(now + Rests::default().first));
    }

    #[test]
    fn rests_double_up_to_ten_seconds() {
        let rests: Vec<u64> = (1..=6)
            .map(|attempts| Rests::default().after(attempts).as_secs())
            .collect();
        assert_eq!(rests, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_pod_that_goes_leaves_nothing_behind() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(aged("a", 0, 1), false, now);
        queue.remove("a");
        assert!(queue.next(now).is_none());
        queue.add(aged("b", 0, 1), false, now);
        queue.next(now);
        queue.retry("b", now);
        queue.remove("b");
        assert_eq!(queue.due(), None);
    }

    #[test]
    fn a_parked_pod_is_tried_again_after_five_minutes_though_nothing_happened() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(aged("a", 0, 1), false, now);
        queue.next(now);
        queue.park("a", 0, now);
        assert!(queue.next(now + LEFTOVER - Duration::from_millis(1)).is_none());
        assert_eq!(names(&mut queue, now + LEFTOVER), ["a"]);
    }

    #[test]
    fn a_gated_pod_has_no_turn_until_its_gates_are_gone() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(aged("a", 0, 1), true, now);
        queue.wake_where(now, |_, _| true);
        assert!(queue.next(now).is_none() && queue.due().is_none());
        assert_eq!(queue.sizes().gated, 1);
        queue.add(aged("a", 0, 1), false, now);
        assert_eq!(names(&mut queue, now), ["a"]);
    }
}

//! Which pod is next, and what would wake a pod that fits nowhere. No I/O and no clock: the time comes in.
//!
//! A pod that waits is in exactly one state: *active* (its turn comes by priority, then age), *resting* (it failed
//! lately and its back-off runs), *parked* (it fits nowhere until something changes) or *away* (being decided or bound).

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::pod::Pod;

// Upstream's podInitialBackoffSeconds and podMaxBackoffSeconds.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Order of turns: higher priority first, then the older pod.
type Turn = (Reverse<i32>, Timestamp, Arc<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    Resting(Instant),
    Parked,
    Away,
}

#[derive(Debug)]
struct Waiting {
    pod: Arc<Pod>,
    state: State,
    attempts: u32,
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
}

fn turn(pod: &Pod) -> Turn {
    (Reverse(pod.priority), pod.created, pod.uid.clone())
}

impl Queue {
    /// A pod came or changed. A change of what it asks for gives it its turn.
    pub fn add(&mut self, pod: Arc<Pod>) {
        let uid = pod.uid.clone();
        match self.pods.get_mut(&uid) {
            None => {
                self.pods.insert(
                    uid.clone(),
                    Waiting {
                        pod,
                        state: State::Parked,
                        attempts: 0,
                        failed: None,
                        missed: false,
                    },
                );
                self.activate(&uid);
            }
            Some(waiting) => {
                let same = same_demand(&waiting.pod, &pod);
                if waiting.state == State::Active {
                    self.active.remove(&turn(&waiting.pod));
                    self.active.insert(turn(&pod));
                }
                waiting.pod = pod;
                match waiting.state {
                    State::Parked if !same => self.activate(&uid),
                    State::Away if !same => waiting.missed = true,
                    _ => {}
                }
            }
        }
    }

    /// The pod is gone, or has a place.
    pub fn remove(&mut self, uid: &str) {
        if let Some(waiting) = self.pods.remove(uid) {
            self.unlist(&waiting);
        }
    }

    fn unlist(&mut self, waiting: &Waiting) {
        match waiting.state {
            State::Active => {
                self.active.remove(&turn(&waiting.pod));
            }
            State::Resting(until) => {
                self.resting.remove(&(until, waiting.pod.uid.clone()));
            }
            State::Parked | State::Away => {}
        }
    }

    /// Takes the next pod away to be decided. Resting pods whose time has come take part.
    pub fn next(&mut self, now: Instant) -> Option<Arc<Pod>> {
        while let Some((until, uid)) = self.resting.first().cloned() {
            if until > now {
                break;
            }
            self.resting.pop_first();
            self.activate(&uid);
        }
        let (_, _, uid) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&uid).expect("an active pod waits");
        waiting.state = State::Away;
        waiting.attempts += 1;
        waiting.missed = false;
        Some(waiting.pod.clone())
    }

    /// The pod fits nowhere: it is parked, unless something changed while it was away.
    pub fn park(&mut self, uid: &str, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.failed = Some(now);
        waiting.state = State::Parked;
        if waiting.missed {
            self.wake(uid, now);
        }
    }

    /// The pod's binding failed: it rests and comes again.
    pub fn retry(&mut self, uid: &str, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.failed = Some(now);
        waiting.state = State::Parked;
        self.wake(uid, now);
    }

    /// Every parked pod that `helps` says yes to gets its turn once its back-off has run.
    pub fn wake_where(&mut self, now: Instant, helps: impl Fn(&Pod) -> bool) {
        let mut chosen = Vec::new();
        for (uid, waiting) in &mut self.pods {
            match waiting.state {
                State::Parked if helps(&waiting.pod) => chosen.push(uid.clone()),
                State::Away => waiting.missed = true,
                State::Parked | State::Active | State::Resting(_) => {}
            }
        }
        for uid in chosen {
            self.wake(&uid, now);
        }
    }

    /// When the next resting pod must be looked at.
    pub fn due(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// Whether a pod could be taken now.
    pub fn is_ready(&self, now: Instant) -> bool {
        !self.active.is_empty() || self.due().is_some_and(|due| due <= now)
    }

    fn activate(&mut self, uid: &str) {
        let waiting = self.pods.get_mut(uid).expect("called for pods that wait");
        waiting.state = State::Active;
        self.active.insert(turn(&waiting.pod));
    }

    fn wake(&mut self, uid: &str, now: Instant) {
        let waiting = self.pods.get_mut(uid).expect("called for pods that wait");
        let until = waiting.failed.map_or(now, |failed| failed + rest(waiting.attempts));
        if until <= now {
            return self.activate(uid);
        }
        waiting.state = State::Resting(until);
        let key = waiting.pod.uid.clone();
        self.resting.insert((until, key));
    }
}

fn rest(attempts: u32) -> Duration {
    LONGEST_REST.min(FIRST_REST * 2_u32.saturating_pow(attempts.saturating_sub(1).min(8)))
}

/// Whether nothing that decides a placement differs.
fn same_demand(a: &Pod, b: &Pod) -> bool {
    a.requests == b.requests
        && a.tolerations == b.tolerations
        && a.node_selector == b.node_selector
        && a.required == b.required
        && a.ports == b.ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::pod;

    fn aged(name: &str, priority: i32, seconds: i64) -> Arc<Pod> {
        let mut pod = pod(name).build();
        pod.priority = priority;
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
            queue.add(pod);
        }
        assert_eq!(names(&mut queue, now), ["vip", "old", "young"]);
    }

    #[test]
    fn a_parked_pod_wakes_only_for_what_could_help_it_and_after_its_rest() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(aged("a", 0, 1));
        assert!(queue.next(now).is_some());
        queue.park("a", now);
        queue.wake_where(now, |_| false);
        assert!(queue.next(now).is_none() && queue.due().is_none());
        queue.wake_where(now, |_| true);
        assert!(queue.next(now).is_none());
        let due = queue.due().unwrap();
        assert_eq!(due, now + FIRST_REST);
        assert_eq!(names(&mut queue, due), ["a"]);
    }

    #[test]
    fn a_change_while_a_pod_is_decided_is_not_missed() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(aged("a", 0, 1));
        assert!(queue.next(now).is_some());
        queue.wake_where(now, |_| true);
        queue.park("a", now);
        assert!(queue.due().is_some());
    }

    #[test]
    fn rests_double_up_to_ten_seconds() {
        let rests: Vec<u64> = (1..=6).map(|attempts| rest(attempts).as_secs()).collect();
        assert_eq!(rests, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_pod_that_goes_leaves_nothing_behind() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(aged("a", 0, 1));
        queue.remove("a");
        assert!(queue.next(now).is_none());
        queue.add(aged("b", 0, 1));
        queue.next(now);
        queue.retry("b", now);
        queue.remove("b");
        assert_eq!(queue.due(), None);
    }
}

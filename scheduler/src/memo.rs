//! What was found out about the nodes for one shape of pod, kept for the next pod of that shape.
//! Only answers of rules with `Reach::Node` are kept, each for as long as its node does not change; so the second of a
//! thousand replicas costs one look at the node that took the first.

use std::sync::Arc;

use crate::cluster::{Cluster, Node};
use crate::pod::{Pod, Shape};
use crate::rules::{Check, Plugin, Profile, Rating, Reach, Refusal};

/// Shapes that are remembered; the one used longest ago is forgotten first.
const SHAPES: usize = 16;

#[derive(Debug, Default)]
pub struct Memo {
    entries: Vec<Answers>,
    used: u64,
}

/// The answers for one shape under one profile.
#[derive(Debug)]
pub struct Answers {
    /// Held, so that no other shape gets its address.
    shape: Arc<Shape>,
    profile: Box<str>,
    structure: u64,
    slots: Vec<Answer>,
    used: u64,
}

/// What is known of one node.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The node's clock when it was asked.
    at: u64,
    /// The rule that refused, by its place among the profile's filters.
    pub refusal: Option<(usize, Arc<Refusal>)>,
    /// Before normalization, in the order of the profile's scores; empty where the node was refused.
    pub ratings: Vec<Option<i64>>,
}

impl Answers {
    pub fn of(&self, slot: usize) -> &Answer {
        &self.slots[slot]
    }
}

impl Memo {
    /// Forgets everything: when nothing waits, nothing has to be remembered.
    pub fn clear(&mut self) {
        self.entries = Vec::new();
    }

    /// Asks the nodes that changed, and returns what is known of all of them.
    pub fn answers(&mut self, pod: &Pod, cluster: &Cluster, profile: &Profile) -> &Answers {
        self.used += 1;
        let found = self
            .entries
            .iter()
            .position(|have| Arc::ptr_eq(&have.shape, &pod.shape) && have.profile == profile.name);
        let at = found.unwrap_or_else(|| self.add(pod, profile));
        let answers = &mut self.entries[at];
        answers.used = self.used;
        answers.refresh(pod, cluster, profile);
        answers
    }

    fn add(&mut self, pod: &Pod, profile: &Profile) -> usize {
        if self.entries.len() >= SHAPES {
            let oldest = (0..self.entries.len()).min_by_key(|at| self.entries[*at].used);
            if let Some(oldest) = oldest {
                self.entries.swap_remove(oldest);
            }
        }
        self.entries.push(Answers {
            shape: pod.shape.clone(),
            profile: profile.name.clone(),
            structure: 0,
            slots: Vec::new(),
            used: 0,
        });
        self.entries.len() - 1
    }
}

impl Answers {
    fn refresh(&mut self, pod: &Pod, cluster: &Cluster, profile: &Profile) {
        if self.structure != cluster.structure() {
            self.structure = cluster.structure();
            self.slots.clear();
        }
        self.slots.resize_with(cluster.slots().len(), Answer::default);
        let mut asked = None;
        for (slot, node) in cluster.nodes() {
            let answer = &mut self.slots[slot];
            if answer.at == node.changed {
                continue;
            }
            let asked = asked.get_or_insert_with(|| Asked::prepare(pod, cluster, profile));
            asked.ask(slot, node, answer);
        }
    }
}

struct Asked<'a> {
    checks: Vec<(usize, Check<'a>)>,
    ratings: Vec<Option<Rating<'a>>>,
}

impl<'a> Asked<'a> {
    fn prepare(pod: &'a Pod, cluster: &'a Cluster, profile: &'a Profile) -> Self {
        let rating = |plugin: &'a Arc<dyn Plugin>| match plugin.reach() {
            Reach::Node => plugin.score(pod, cluster, &[]),
            Reach::Cluster => None,
        };
        Asked {
            checks: checks(pod, cluster, profile, Reach::Node),
            ratings: profile.scores.iter().map(|(_, plugin)| rating(plugin)).collect(),
        }
    }

    fn ask(&self, slot: usize, node: &Node, answer: &mut Answer) {
        answer.at = node.changed;
        answer.refusal = refused(&self.checks, node).map(|(rule, refusal)| (rule, Arc::new(refusal)));
        answer.ratings.clear();
        if answer.refusal.is_none() {
            let points = |rating: &Option<Rating<'_>>| rating.as_ref().and_then(|rating| rating(slot, node));
            answer.ratings.extend(self.ratings.iter().map(points));
        }
    }
}

/// The filters of one reach that have something to say, with their places among the profile's filters.
pub fn checks<'a>(pod: &'a Pod, cluster: &'a Cluster, profile: &'a Profile, reach: Reach) -> Vec<(usize, Check<'a>)> {
    let filters = profile.filters.iter().enumerate();
    filters
        .filter(|(_, plugin)| plugin.reach() == reach)
        .filter_map(|(at, plugin)| Some((at, plugin.filter(pod, cluster)?)))
        .collect()
}

/// The first refusal.
pub fn refused(checks: &[(usize, Check<'_>)], node: &Node) -> Option<(usize, Refusal)> {
    checks.iter().find_map(|(at, check)| Some((*at, check(node)?)))
}

//! One copy of what many pods have in common.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use super::{LabelMap, Owner, Pod, Shape};

/// At first so many entries are kept before those that nobody uses are dropped.
const FIRST_SWEEP: usize = 1024;

/// The shapes, labels and words in use.
#[derive(Debug)]
pub struct Shares {
    shapes: HashMap<u64, Vec<Weak<Shape>>>,
    labels: HashSet<Arc<LabelMap>>,
    owners: HashSet<Arc<Owner>>,
    words: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Default for Shares {
    fn default() -> Self {
        Shares {
            shapes: HashMap::new(),
            labels: HashSet::new(),
            owners: HashSet::new(),
            words: HashSet::new(),
            sweep_at: FIRST_SWEEP,
        }
    }
}

impl Shares {
    /// Has the pod use what others have already.
    pub fn share(&mut self, pod: &mut Pod) {
        self.sweep();
        self.shape(&mut pod.shape);
        common(&mut self.labels, &mut pod.labels);
        if let Some(owner) = &mut pod.owner {
            common(&mut self.owners, owner);
        }
        common(&mut self.words, &mut pod.namespace);
        for word in [&mut pod.node, &mut pod.nominated].into_iter().flatten() {
            common(&mut self.words, word);
        }
    }

    fn shape(&mut self, shape: &mut Arc<Shape>) {
        let same = self.shapes.entry(shape.fingerprint()).or_default();
        same.retain(|have| have.strong_count() > 0);
        for have in same.iter().filter_map(Weak::upgrade) {
            if have == *shape {
                *shape = have;
                return;
            }
        }
        same.push(Arc::downgrade(shape));
    }

    fn sweep(&mut self) {
        let size = self.shapes.len() + self.labels.len() + self.owners.len() + self.words.len();
        if size < self.sweep_at {
            return;
        }
        self.shapes.retain(|_, same| {
            same.retain(|have| have.strong_count() > 0);
            !same.is_empty()
        });
        self.labels.retain(|have| Arc::strong_count(have) > 1);
        self.owners.retain(|have| Arc::strong_count(have) > 1);
        self.words.retain(|have| Arc::strong_count(have) > 1);
        let left = self.shapes.len() + self.labels.len() + self.owners.len() + self.words.len();
        self.sweep_at = FIRST_SWEEP.max(2 * left);
    }
}

fn common<T: ?Sized + std::hash::Hash + Eq>(set: &mut HashSet<Arc<T>>, value: &mut Arc<T>) {
    match set.get(value) {
        Some(have) => *value = have.clone(),
        None => {
            set.insert(value.clone());
        }
    }
}

//! One object as the cache keeps it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use serde_json::Value;

use super::scan::scan;
use super::{Spec, Splice};
use crate::object::Object;
use crate::store::{Key, Revision};

/// What selectors and indexes ask of an object, extracted once when it is fed.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// Sorted by key.
    pub labels: Box<[(Arc<str>, Arc<str>)]>,
    /// Values of the row's selectable fields, in the row's order (`metadata.name` and `.namespace` apart).
    pub fields: Box<[Arc<str>]>,
}

/// One object as the cache keeps it: the stored bytes, the facts, and renderings made on demand.
#[derive(Debug)]
pub struct Item {
    pub facts: Facts,
    pub key: Key,
    pub revision: Revision,
    json: Splice,
    renderings: Mutex<Option<Box<Renderings>>>,
    hot: Arc<Hot>,
}

type Renderings = Vec<(u64, Splice)>;

/// Which items hold renderings, oldest first, so that all of them together stay within a bound.
#[derive(Debug, Default)]
pub(super) struct Hot(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<(Weak<Item>, usize)>,
    bytes: usize,
}

/// Renderings that are remembered: enough for a burst of updates that many watchers read in another form.
const HOT_BYTES: usize = 4 << 20;
const HOT_ITEMS: usize = 4096;

/// Strings that many objects share, once.
#[derive(Debug, Default)]
pub(super) struct Interner {
    strings: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Item {
    /// `None` where `value` is no JSON object with metadata, or `key` is not one of the spec's.
    pub(super) fn read(
        spec: &Spec,
        key: Key,
        value: &Bytes,
        revision: Revision,
        interner: &mut Interner,
        hot: &Arc<Hot>,
    ) -> Option<Self> {
        let (namespace, name) = spec.parts(&key)?;
        let scanned = scan(value, &spec.fields)?;
        let mut labels: Box<[_]> = scanned
            .labels
            .iter()
            .map(|(key, value)| (interner.intern(key), interner.intern(value)))
            .collect();
        labels.sort_unstable();
        let facts = Facts {
            namespace: interner.intern(namespace),
            name: name.into(),
            uid: (&*scanned.uid).into(),
            labels,
            fields: scanned.fields.iter().map(|value| interner.intern(value)).collect(),
        };
        Some(Item {
            facts,
            revision,
            json: scanned.splice(value),
            key,
            renderings: Mutex::new(None),
            hot: hot.clone(),
        })
    }

    /// The storage version as JSON: slices of the stored bytes.
    pub fn json(&self) -> &Splice {
        &self.json
    }

    /// As a JSON tree, with its resourceVersion.
    pub fn object(&self) -> Object {
        let mut json = Vec::with_capacity(self.json.len(self.revision));
        self.json.write_to(self.revision, &mut json);
        match serde_json::from_slice(&json) {
            Ok(Value::Object(map)) => Object(map),
            // The scan accepts what is not quite JSON; such bytes were never written by us.
            _ => {
                tracing::error!(key = %self.key, "a stored object is not JSON");
                let mut object = Object::default();
                let metadata = object.metadata_mut();
                metadata.insert("name".into(), (&*self.facts.name).into());
                if !self.facts.namespace.is_empty() {
                    metadata.insert("namespace".into(), (&*self.facts.namespace).into());
                }
                metadata.insert("resourceVersion".into(), self.revision.to_string().into());
                object
            }
        }
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.facts.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.facts.labels[at].1)
    }

    /// Another form of this object (a Table row, protobuf, another version): made once and remembered while hot. `form`
    /// tells forms apart for the whole process, schema generation included.
    pub fn rendering(self: &Arc<Self>, form: u64, make: impl FnOnce(&Item) -> Splice) -> Splice {
        if let Some(known) = self.remembered().as_deref().and_then(|all| find(all, form)) {
            return known;
        }
        // Not under the lock: a form may be made from another one of the same item.
        let made = make(self);
        {
            let mut all = self.remembered();
            let all = all.get_or_insert_default();
            if let Some(known) = find(all, form) {
                return known;
            }
            all.push((form, made.clone()));
        }
        self.hot.remember(self, made.head.len() + made.tail.len());
        made
    }

    fn remembered(&self) -> MutexGuard<'_, Option<Box<Renderings>>> {
        self.renderings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(all: &Renderings, form: u64) -> Option<Splice> {
    all.iter().find(|(f, _)| *f == form).map(|(_, splice)| splice.clone())
}

impl Hot {
    fn remember(&self, item: &Arc<Item>, bytes: usize) {
        let mut cold = Vec::new();
        {
            let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            queue.bytes += bytes;
            queue.items.push_back((Arc::downgrade(item), bytes));
            while queue.bytes > HOT_BYTES || queue.items.len() > HOT_ITEMS {
                let Some((item, bytes)) = queue.items.pop_front() else {
                    break;
                };
                queue.bytes -= bytes;
                cold.push(item);
            }
        }
        for item in cold.iter().filter_map(Weak::upgrade) {
            *item.remembered() = None;
        }
    }

    /// Forgets every rendering: nobody asked for a while.
    pub(super) fn clear(&self) {
        let queue = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for item in queue.items.iter().filter_map(|(item, _)| item.upgrade()) {
            *item.remembered() = None;
        }
    }
}

impl Interner {
    pub(super) fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return known.clone();
        }
        if self.strings.len() >= self.sweep_at {
            self.strings.retain(|s| Arc::strong_count(s) > 1);
            self.sweep_at = (self.strings.len() * 2).max(256);
        }
        let new: Arc<str> = text.into();
        self.strings.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing::item;

    #[test]
    fn a_rendering_is_made_once_while_hot() {
        let hot = Arc::new(Hot::default());
        let first = Arc::new(item("a", r#"{"metadata":{"name":"a"}}"#, 3, &hot));
        let made = |item: &Arc<Item>| {
            let mut made = false;
            item.rendering(1, |_| {
                made = true;
                Splice::whole(vec![0; HOT_BYTES / 3].into())
            });
            made
        };
        assert!(made(&first) && !made(&first));
        let others: Vec<_> = (0..3)
            .map(|_| Arc::new(item("b", r#"{"metadata":{"name":"b"}}"#, 3, &hot)))
            .collect();
        assert!(others.iter().all(made));
        assert!(made(&first), "the oldest rendering had to go");
        hot.clear();
        assert!(made(&others[2]));
    }

    #[test]
    fn a_form_may_be_made_from_another() {
        let hot = Arc::default();
        let item = Arc::new(item("a", r#"{"metadata":{"name":"a"}}"#, 3, &hot));
        let outer = item.rendering(2, |_| item.rendering(1, |item| item.json().clone()));
        assert_eq!(
            outer.chunks(Revision(3)).concat(),
            item.json().chunks(Revision(3)).concat()
        );
    }

    #[test]
    fn an_object_carries_its_revision() {
        let hot = Arc::default();
        let object = item("a", r#"{"metadata":{"name":"a"}}"#, 31, &hot).object();
        assert_eq!(object.resource_version(), "31");
        assert_eq!(object.name(), "a");
    }

    #[test]
    fn strings_that_nobody_holds_are_swept() {
        let mut interner = Interner::default();
        let kept = interner.intern("kept");
        for n in 0..10_000 {
            interner.intern(&n.to_string());
        }
        assert!(interner.strings.len() <= 512);
        assert!(Arc::ptr_eq(&kept, &interner.intern("kept")));
    }
}

//! The current items in key order, and secondary indexes for selective lists.
//! Comes in: items, one at a time, from `feed`. Goes out: snapshots. Secondary indexes are made when a list first asks
//! for one, so a resource that nobody selects from pays nothing.
//! Holds at all times: `postings` has one entry for each item and indexed aspect, and nothing else.

use std::ops::Bound;
use std::sync::Arc;

use super::select::Matcher;
use super::{Filter, Item, Page, Spec};
use crate::store::tree::Tree;
use crate::store::{Key, Revision};

/// Below this a walk is as good as an index.
const WORTH_INDEXING: usize = 256;
/// Aspects that are indexed, at most: selectors are the clients' words, and an index costs on every write.
const MOST_ASPECTS: usize = 16;

/// All items, changed in place; a clone is O(1) and stays.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    items: Tree<Key, Arc<Item>>,
    aspects: Arc<Vec<Aspect>>,
    postings: Tree<Posting, ()>,
}

/// What an index is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Aspect {
    Label(Arc<str>),
    Field(usize),
}

/// "The item at `key` has this value in this aspect."
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Posting {
    aspect: u16,
    value: Arc<str>,
    key: Key,
}

/// All objects of a resource at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(super) index: Index,
    pub(super) spec: Arc<Spec>,
    pub(super) revision: Revision,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Item>> {
        self.items.get(key)
    }

    /// Sets or (`None`) removes what is at `key`; returns what was there.
    pub(super) fn set(&mut self, key: &Key, new: Option<Arc<Item>>) -> Option<Arc<Item>> {
        let old = match &new {
            Some(item) => self.items.insert(key.clone(), item.clone()),
            None => self.items.remove(&**key),
        };
        for (number, aspect) in self.aspects.iter().enumerate() {
            let before = old.as_ref().and_then(|item| aspect.value(item));
            let after = new.as_ref().and_then(|item| aspect.value(item));
            if before == after {
                continue;
            }
            let posting = |value: &Arc<str>| Posting {
                aspect: number as u16,
                value: value.clone(),
                key: key.clone(),
            };
            if let Some(value) = before {
                self.postings.remove(&posting(value));
            }
            if let Some(value) = after {
                self.postings.insert(posting(value), ());
            }
        }
        old
    }

    /// Whether a list like this deserves an index that is not there yet.
    pub(super) fn lacks(&self, matcher: &Matcher) -> bool {
        self.items.len() >= WORTH_INDEXING && self.missing(matcher).next().is_some()
    }

    pub(super) fn add_for(&mut self, matcher: &Matcher) {
        let missing: Vec<Aspect> = self.missing(matcher).collect();
        for aspect in missing {
            if self.aspects.len() == MOST_ASPECTS {
                return;
            }
            let number = self.aspects.len() as u16;
            for (key, item) in self.items.iter() {
                if let Some(value) = aspect.value(item) {
                    let posting = Posting {
                        aspect: number,
                        value: value.clone(),
                        key: key.clone(),
                    };
                    self.postings.insert(posting, ());
                }
            }
            Arc::make_mut(&mut self.aspects).push(aspect);
        }
    }

    fn missing(&self, matcher: &Matcher) -> impl Iterator<Item = Aspect> {
        let room = self.aspects.len() < MOST_ASPECTS && matcher.name.is_none();
        asked(matcher)
            .map(|(aspect, _)| aspect)
            .filter(move |aspect| room && !self.aspects.contains(aspect))
    }

    /// The narrowest index for `matcher`: its number, the value, and how many items have it.
    fn narrowest(&self, matcher: &Matcher) -> Option<(u16, Arc<str>, usize)> {
        asked(matcher)
            .filter_map(|(aspect, value)| {
                let number = self.aspects.iter().position(|a| *a == aspect)? as u16;
                let value: Arc<str> = value.into();
                let from = self.postings.rank(&posting(number, &value, ""));
                // No key starts with the last code point, and none is above it.
                let to = self.postings.rank(&posting(number, &value, "\u{10FFFF}"));
                Some((number, value, to - from))
            })
            .min_by_key(|(_, _, count)| *count)
    }

    /// Visits what `matcher` selects in key order, after `after` (a whole key), until `visit` says false.
    fn visit<'a>(
        &'a self,
        spec: &Spec,
        matcher: &Matcher,
        after: Option<&str>,
        mut visit: impl FnMut(&'a Arc<Item>) -> bool,
    ) {
        let prefix = spec.prefix_of(matcher.namespace.as_deref());
        let start = match after {
            Some(after) if after >= &*prefix => Bound::Excluded(after),
            _ => Bound::Included(&*prefix),
        };
        if let (Some(name), true) = (&matcher.name, matcher.namespace.is_some() || !spec.namespaced) {
            let key = format!("{prefix}{name}");
            let in_range = match start {
                Bound::Excluded(after) => *key > *after,
                _ => true,
            };
            if let Some(item) = self.items.get(&*key)
                && in_range
                && matcher.matches(item)
            {
                visit(item);
            }
            return;
        }
        if let Some((number, value, count)) = self.narrowest(matcher)
            // An index costs a look-up for each item, a walk a step.
            && count * 4 < self.items.len()
        {
            let start = match start {
                Bound::Excluded(after) => Bound::Excluded(posting(number, &value, after)),
                _ => Bound::Included(posting(number, &value, &prefix)),
            };
            for (posting, ()) in self.postings.range(start.as_ref()) {
                if posting.aspect != number || posting.value != value || !posting.key.starts_with(&*prefix) {
                    return;
                }
                let item = self.items.get(&*posting.key).expect("postings follow items");
                if matcher.matches(item) && !visit(item) {
                    return;
                }
            }
            return;
        }
        for (key, item) in self.items.range(start) {
            if !key.starts_with(&*prefix) || (matcher.matches(item) && !visit(item)) {
                return;
            }
        }
    }

    /// How many items are in `namespace` (or anywhere) after `after`.
    fn count_after(&self, spec: &Spec, namespace: Option<&str>, after: &str) -> usize {
        let mut end = spec.prefix_of(namespace);
        end.push('\u{10FFFF}');
        let to = self.items.rank(&*end);
        let from = self.items.rank(after) + usize::from(self.items.get(after).is_some());
        to.saturating_sub(from)
    }

    /// The same items with `undone` put back, without secondary indexes.
    pub(super) fn undo<'a>(&self, undone: impl Iterator<Item = (&'a Key, Option<Arc<Item>>)>) -> Self {
        let mut index = Index {
            items: self.items.clone(),
            ..Index::default()
        };
        for (key, old) in undone {
            index.set(key, old);
        }
        index
    }
}

fn posting(aspect: u16, value: &Arc<str>, key: &str) -> Posting {
    Posting {
        aspect,
        value: value.clone(),
        key: key.into(),
    }
}

/// The aspects of which `matcher` demands one value.
fn asked(matcher: &Matcher) -> impl Iterator<Item = (Aspect, &str)> {
    let labels = matcher
        .labels
        .equalities()
        .map(|(key, value)| (Aspect::Label(key.into()), value));
    let fields = matcher.field_equalities().map(|(at, value)| (Aspect::Field(at), value));
    fields.chain(labels)
}

impl Aspect {
    fn value<'a>(&self, item: &'a Item) -> Option<&'a Arc<str>> {
        match self {
            Aspect::Field(at) => item.facts.fields.get(*at),
            Aspect::Label(key) => {
                let labels = &item.facts.labels;
                let at = labels.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                Some(&labels[at].1)
            }
        }
    }
}

impl Snapshot {
    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Item>> {
        self.index.get(&self.spec.key(namespace, name))
    }

    /// What the filter selects, in key order.
    pub fn list(&self, filter: &Filter) -> Vec<Arc<Item>> {
        self.page(filter, None, 0).items
    }

    /// One page of it; 0 is no limit. See [`super::Cache::page`], which also sees to it that the next page can be asked for.
    pub fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Page {
        let matcher = Matcher::new(filter, &self.spec);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let after = after.map(|after| format!("{}{after}", self.spec.prefix));
        let mut items = Vec::new();
        if matcher.by_key_alone() && matcher.namespace.is_none() && after.is_none() {
            items.reserve_exact(limit.min(self.len()));
        }
        let mut more = false;
        self.index.visit(&self.spec, &matcher, after.as_deref(), |item| {
            more = items.len() == limit;
            if !more {
                items.push(item.clone());
            }
            !more
        });
        let last = items.last().filter(|_| more);
        Page {
            next: last.map(|item| item.key[self.spec.prefix.len()..].into()),
            remaining: last.filter(|_| matcher.by_key_alone()).map(|item| {
                self.index
                    .count_after(&self.spec, matcher.namespace.as_deref(), &item.key)
            }),
            items,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing::{filter, item_of, spec};

    fn snapshot(count: usize) -> Snapshot {
        let mut index = Index::default();
        let spec = Arc::new(spec());
        for n in 0..count {
            let item = item_of(
                &spec,
                &format!("ns{}/pod-{n:04}", n % 3),
                &serde_json::json!({
                    "metadata": {"name": "x", "labels": {"app": format!("a{}", n % 50), "all": "same"}},
                    "spec": {"nodeName": format!("n{}", n % 40)},
                }),
                n as u64,
            );
            index.set(&item.key.clone(), Some(Arc::new(item)));
        }
        Snapshot {
            index,
            spec,
            revision: Revision(1),
        }
    }

    #[test]
    fn an_index_answers_as_a_walk_does() {
        let plain = snapshot(1000);
        for (namespace, labels, fields) in [
            ("", "app=a7", ""),
            ("ns1", "app=a7", ""),
            ("ns1", "all=same,app=a8", "spec.nodeName=n8"),
            ("", "", "spec.nodeName=n3"),
            ("", "all=same", ""),
            ("", "app=none", ""),
            ("", "app notin (a1),app", ""),
            ("ns2", "", "metadata.name=pod-0002"),
            ("", "", "metadata.name=pod-0002,metadata.namespace=ns2"),
            ("ns1", "", "metadata.namespace=ns2"),
        ] {
            let filter = filter(namespace, labels, fields);
            let matcher = Matcher::new(&filter, &plain.spec);
            let mut indexed = plain.clone();
            indexed.index.add_for(&matcher);
            let walked: Vec<Arc<Item>> = plain
                .index
                .items
                .iter()
                .map(|(_, item)| item.clone())
                .filter(|item| matcher.matches(item))
                .collect();
            let mut paged = Vec::new();
            let mut after = None;
            loop {
                let page = indexed.page(&filter, after.as_deref(), 7);
                paged.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            for found in [indexed.list(&filter), plain.list(&filter), paged] {
                let keys = |items: &[Arc<Item>]| items.iter().map(|i| i.key.clone()).collect::<Vec<_>>();
                assert_eq!(keys(&found), keys(&walked), "{namespace} {labels} {fields}");
            }
        }
    }

    #[test]
    fn an_index_follows_changes_and_a_snapshot_does_not() {
        let mut current = snapshot(600);
        let by_node = filter("", "", "spec.nodeName=n3");
        assert!(current.index.lacks(&Matcher::new(&by_node, &current.spec)));
        current.index.add_for(&Matcher::new(&by_node, &current.spec));
        assert!(!current.index.lacks(&Matcher::new(&by_node, &current.spec)));
        let before = current.clone();
        let gone = before.list(&by_node)[0].clone();
        current.index.set(&gone.key, None);
        let moved = item_of(
            &current.spec,
            "ns0/pod-0000",
            &serde_json::json!({"metadata": {"name": "x"}, "spec": {"nodeName": "n3"}}),
            9999,
        );
        current.index.set(&moved.key.clone(), Some(Arc::new(moved)));
        assert_eq!(before.list(&by_node).len(), 15);
        assert_eq!(current.list(&by_node).len(), 15);
        assert_eq!(current.index.postings.len(), 599);
        assert_eq!(&*current.list(&by_node)[0].key, "/registry/pods/ns0/pod-0000");
    }

    #[test]
    fn what_remains_is_counted_within_the_namespace() {
        let snapshot = snapshot(100);
        let page = snapshot.page(&filter("ns1", "", ""), None, 10);
        assert_eq!((page.items.len(), page.remaining), (10, Some(23)));
        assert_eq!(page.next.as_deref(), Some("ns1/pod-0028"));
        let page = snapshot.page(&filter("", "", ""), Some("ns1/pod-0028"), 10);
        assert_eq!(page.remaining, Some(13 + 33));
        assert_eq!(snapshot.page(&filter("", "all=same", ""), None, 10).remaining, None);
        assert_eq!(snapshot.page(&filter("", "", ""), None, 100).next, None);
    }
}

//! An ordered map whose clone is O(1) and stays as it was: nodes are shared and copied only when written while shared.
//! Comes in: keys and values. Goes out: entries in key order, and ranks. Knows nothing of what it holds.
//! Holds at all times: every count is the number of entries below it, and every separator is at most the keys right of
//! it and above those left of it.

use std::borrow::Borrow;
use std::ops::Bound;
use std::sync::Arc;

/// Entries of a leaf, children of an inner node. A write to a shared map copies one such node per level.
const WIDTH: usize = 32;
/// A node that shrinks below this joins a neighbour, where both fit into one.
const NARROW: usize = WIDTH / 4;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Tree<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

#[derive(Debug, Clone)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Vec<Child<K, V>>),
}

#[derive(Debug, Clone)]
struct Child<K, V> {
    /// At most the keys below, above those of the left neighbours. Not looked at in a first child.
    first: K,
    count: usize,
    node: Arc<Node<K, V>>,
}

/// Entries in key order, from somewhere on.
#[derive(Debug, Clone)]
pub(crate) struct Iter<'a, K, V> {
    above: Vec<std::slice::Iter<'a, Child<K, V>>>,
    leaf: std::slice::Iter<'a, (K, V)>,
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Tree {
            root: Arc::new(Node::Leaf(Vec::new())),
            len: 0,
        }
    }
}

impl<K, V> Tree<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter {
            above: Vec::new(),
            leaf: [].iter(),
        };
        iter.descend(&self.root);
        iter
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_entry(key).map(|(_, value)| value)
    }

    pub(crate) fn get_entry<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Inner(children) => node = &children[child_of(children, key)].node,
                Node::Leaf(entries) => {
                    let at = entries.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
                    return Some((&entries[at].0, &entries[at].1));
                }
            }
        }
    }

    /// How many keys are below `key`.
    pub(crate) fn rank<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let (mut node, mut before) = (&*self.root, 0);
        loop {
            match node {
                Node::Inner(children) => {
                    let at = child_of(children, key);
                    before += children[..at].iter().map(|c| c.count).sum::<usize>();
                    node = &children[at].node;
                }
                Node::Leaf(entries) => return before + entries.partition_point(|(k, _)| k.borrow() < key),
            }
        }
    }

    /// Entries from `start` on.
    pub(crate) fn range<Q: Ord + ?Sized>(&self, start: Bound<&Q>) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let (key, inclusive) = match start {
            Bound::Unbounded => return self.iter(),
            Bound::Included(key) => (key, true),
            Bound::Excluded(key) => (key, false),
        };
        let (mut node, mut above) = (&*self.root, Vec::new());
        loop {
            match node {
                Node::Inner(children) => {
                    let at = child_of(children, key);
                    above.push(children[at + 1..].iter());
                    node = &children[at].node;
                }
                Node::Leaf(entries) => {
                    let at = entries.partition_point(|(k, _)| match k.borrow().cmp(key) {
                        std::cmp::Ordering::Less => true,
                        std::cmp::Ordering::Equal => !inclusive,
                        std::cmp::Ordering::Greater => false,
                    });
                    return Iter {
                        above,
                        leaf: entries[at..].iter(),
                    };
                }
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> Tree<K, V> {
    /// Sets the value of `key` and returns what it was. A key that is there already is kept as it is.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (old, split) = insert_below(&mut self.root, key, value);
        if old.is_none() {
            self.len += 1;
        }
        if let Some(right) = split {
            let left = Child {
                first: right.first.clone(),
                count: self.len - right.count,
                node: std::mem::replace(&mut self.root, Arc::new(Node::Leaf(Vec::new()))),
            };
            self.root = Arc::new(Node::Inner(vec![left, right]));
        }
        old
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Looked up first, so that a key that is not there copies nothing.
        self.get(key)?;
        let old = remove_below(&mut self.root, key);
        self.len -= 1;
        while let Node::Inner(children) = &*self.root
            && children.len() == 1
        {
            let only = children[0].node.clone();
            self.root = only;
        }
        Some(old)
    }
}

impl<'a, K, V> Iter<'a, K, V> {
    fn descend(&mut self, mut node: &'a Node<K, V>) {
        loop {
            match node {
                Node::Leaf(entries) => {
                    self.leaf = entries.iter();
                    return;
                }
                Node::Inner(children) => {
                    let mut rest = children.iter();
                    let first = rest.next().expect("an inner node has children");
                    self.above.push(rest);
                    node = &first.node;
                }
            }
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            match self.above.last_mut()?.next() {
                Some(child) => self.descend(&child.node),
                None => {
                    self.above.pop();
                }
            }
        }
    }
}

fn child_of<K: Borrow<Q>, V, Q: Ord + ?Sized>(children: &[Child<K, V>], key: &Q) -> usize {
    children[1..].partition_point(|c| c.first.borrow() <= key)
}

/// The old value, and a new right neighbour where the node had to be split.
fn insert_below<K: Ord + Clone, V: Clone>(
    node: &mut Arc<Node<K, V>>,
    key: K,
    value: V,
) -> (Option<V>, Option<Child<K, V>>) {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => match entries.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => (Some(std::mem::replace(&mut entries[at].1, value)), None),
            Err(at) => {
                if entries.len() < WIDTH {
                    entries.insert(at, (key, value));
                    return (None, None);
                }
                // Keys that come in order (a restart, generated names) leave full leaves behind.
                let cut = if at == WIDTH { WIDTH } else { WIDTH / 2 };
                let mut right = Vec::with_capacity(WIDTH);
                right.extend(entries.drain(cut..));
                if at > cut || right.is_empty() {
                    right.insert(at - cut, (key, value));
                } else {
                    entries.insert(at, (key, value));
                }
                let split = Child {
                    first: right[0].0.clone(),
                    count: right.len(),
                    node: Arc::new(Node::Leaf(right)),
                };
                (None, Some(split))
            }
        },
        Node::Inner(children) => {
            let at = child_of(children, &key);
            let (old, split) = insert_below(&mut children[at].node, key, value);
            if old.is_none() {
                children[at].count += 1;
            }
            let Some(new) = split else { return (old, None) };
            children[at].count -= new.count;
            if children.len() < WIDTH {
                children.insert(at + 1, new);
                return (old, None);
            }
            let cut = if at + 1 == WIDTH { WIDTH } else { WIDTH / 2 };
            let mut right = Vec::with_capacity(WIDTH);
            right.extend(children.drain(cut..));
            if at + 1 > cut || right.is_empty() {
                right.insert(at + 1 - cut, new);
            } else {
                children.insert(at + 1, new);
            }
            let split = Child {
                first: right[0].first.clone(),
                count: right.iter().map(|c| c.count).sum(),
                node: Arc::new(Node::Inner(right)),
            };
            (old, Some(split))
        }
    }
}

fn remove_below<K: Clone + Borrow<Q>, V: Clone, Q: Ord + ?Sized>(node: &mut Arc<Node<K, V>>, key: &Q) -> V {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => {
            let at = entries
                .binary_search_by(|(k, _)| k.borrow().cmp(key))
                .expect("the key was looked up before");
            entries.remove(at).1
        }
        Node::Inner(children) => {
            let at = child_of(children, key);
            let old = remove_below(&mut children[at].node, key);
            children[at].count -= 1;
            if width(&children[at].node) < NARROW {
                narrow(children, at);
            }
            old
        }
    }
}

fn width<K, V>(node: &Node<K, V>) -> usize {
    match node {
        Node::Leaf(entries) => entries.len(),
        Node::Inner(children) => children.len(),
    }
}

/// Joins the narrow child `at` with a neighbour, if they fit into one node; drops it when it is empty.
fn narrow<K: Clone, V: Clone>(children: &mut Vec<Child<K, V>>, at: usize) {
    if children[at].count == 0 {
        if children.len() > 1 {
            children.remove(at);
        }
        return;
    }
    let fits = |left: usize| width(&children[left].node) + width(&children[left + 1].node) <= WIDTH;
    let left = if at + 1 < children.len() && fits(at) {
        at
    } else if at > 0 && fits(at - 1) {
        at - 1
    } else {
        return;
    };
    let right = children.remove(left + 1);
    let into = &mut children[left];
    into.count += right.count;
    match (Arc::make_mut(&mut into.node), Arc::unwrap_or_clone(right.node)) {
        (Node::Leaf(entries), Node::Leaf(more)) => entries.extend(more),
        (Node::Inner(below), Node::Inner(mut more)) => {
            // A first child's separator was never looked at and may be too high: the parent's is right.
            more[0].first = right.first;
            below.extend(more);
        }
        _ => unreachable!("neighbours have the same depth"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(tree: &Tree<u16, u32>, model: &BTreeMap<u16, u32>) {
        assert_eq!(tree.len(), model.len());
        assert!(tree.iter().eq(model.iter()));
        count(&tree.root);
    }

    fn count(node: &Node<u16, u32>) -> usize {
        match node {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(children) => {
                assert!(!children.is_empty());
                children
                    .iter()
                    .map(|c| {
                        assert_eq!(c.count, count(&c.node));
                        c.count
                    })
                    .sum()
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_answers_as_a_btree_map_and_snapshots_stay(
            steps in proptest::collection::vec((0u16..2000, any::<u32>(), 0u8..10), 0..4000),
            grow in 3u8..9,
        ) {
            let (mut tree, mut model, mut snapshots) = (Tree::default(), BTreeMap::new(), Vec::new());
            for (n, (key, value, action)) in steps.iter().enumerate() {
                if *action < grow {
                    prop_assert_eq!(tree.insert(*key, *value), model.insert(*key, *value));
                } else {
                    prop_assert_eq!(tree.remove(key), model.remove(key));
                }
                if n % 500 == 0 {
                    snapshots.push((tree.clone(), model.clone()));
                }
                prop_assert_eq!(tree.get(key), model.get(key));
            }
            check(&tree, &model);
            for (tree, model) in &snapshots {
                check(tree, model);
            }
            for key in [0, 1, 77, 500, 1000, 1999, 5000] {
                prop_assert_eq!(tree.rank(&key), model.range(..key).count());
                prop_assert!(tree.range(Bound::Included(&key)).eq(model.range(key..)));
                prop_assert!(tree.range(Bound::Excluded(&key)).eq(model.range((Bound::Excluded(key), Bound::Unbounded))));
            }
            for key in model.keys() {
                tree.remove(key);
            }
            prop_assert_eq!(tree.len(), 0);
            prop_assert_eq!(tree.iter().count(), 0);
        }
    }

    #[test]
    fn keys_in_order_leave_full_leaves() {
        let mut tree = Tree::default();
        for key in 0..1024u16 {
            tree.insert(key, 0u32);
        }
        let Node::Inner(children) = &*tree.root else {
            panic!("1024 entries in a leaf")
        };
        assert!(children.len() <= 32);
        assert_eq!(count(&tree.root), 1024);
    }
}

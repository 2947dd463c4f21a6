//! Sets of paths, and their form in managedFields (fieldsV1). A path may be in the set without what is below it, and
//! what is below without itself; the algebra works on each path alone unless it says otherwise.
//! Semantics: structured-merge-diff/fieldpath/set.go (v6).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

use super::element::Element;
use super::shape::Shape;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set(BTreeMap<Element, Node>);

/// A path: whether it is in the set itself, and what is in it below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) member: bool,
    pub(super) below: Set,
}

const SELF: &str = ".";

impl Node {
    pub(super) fn leaf() -> Self {
        Node {
            member: true,
            below: Set::default(),
        }
    }
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Adds what `node` has to what is there at `element`. Nothing stands for an empty node.
    pub(super) fn put(&mut self, element: Element, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.0.entry(element) {
            Entry::Vacant(slot) => {
                slot.insert(node);
            }
            Entry::Occupied(mut slot) => {
                let have = slot.get_mut();
                have.member |= node.member;
                have.below.add(node.below);
            }
        }
    }
    pub(super) fn get(&self, element: &str) -> Option<&Node> {
        self.0.get(element)
    }
    pub(super) fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.get(last.as_str()).is_some_and(|node| node.member),
            [first, rest @ ..] => self.get(first.as_str()).is_some_and(|node| node.below.has(rest)),
        }
    }
    /// A set of one path.
    pub(super) fn of(path: &[Element]) -> Self {
        let mut set = Set::default();
        if let Some((first, rest)) = path.split_first() {
            let node = if rest.is_empty() {
                Node::leaf()
            } else {
                Node {
                    member: false,
                    below: Set::of(rest),
                }
            };
            set.put(first.clone(), node);
        }
        set
    }
    /// Struct fields all the way.
    pub(super) fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Set::default();
        for path in paths {
            let path: Vec<Element> = path.iter().map(|name| Element::field(name)).collect();
            set.add(Set::of(&path));
        }
        set
    }
    /// Union.
    pub(super) fn add(&mut self, other: Set) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for (element, node) in other.0 {
            self.put(element, node);
        }
    }
    pub(super) fn union(mut self, other: &Set) -> Set {
        self.add(other.clone());
        self
    }
    /// Takes out the paths of `other`, and only those.
    pub(super) fn subtract(&mut self, other: &Set) {
        if other.is_empty() || self.is_empty() {
            return;
        }
        self.0.retain(|element, node| {
            if let Some(gone) = other.get(element.as_str()) {
                node.member &= !gone.member;
                node.below.subtract(&gone.below);
            }
            !node.is_empty()
        });
    }
    /// Takes out the paths of `other` and everything below them.
    pub(super) fn subtract_trees(&mut self, other: &Set) {
        if other.is_empty() || self.is_empty() {
            return;
        }
        self.0.retain(|element, node| match other.get(element.as_str()) {
            Some(gone) if gone.member => false,
            Some(gone) => {
                node.below.subtract_trees(&gone.below);
                !node.is_empty()
            }
            None => true,
        });
    }
    /// Leaves the paths of `other`, what is below them, and what leads to them.
    pub(super) fn keep_trees(&mut self, other: &Set) {
        self.0.retain(|element, node| match other.get(element.as_str()) {
            Some(kept) if kept.member => true,
            Some(kept) => {
                node.member = false;
                node.below.keep_trees(&kept.below);
                !node.is_empty()
            }
            None => false,
        });
    }
    /// The paths that are in both.
    pub(super) fn intersection(&self, other: &Set) -> Set {
        let mut both = Set::default();
        for (element, node) in &self.0 {
            if let Some(theirs) = other.get(element.as_str()) {
                both.put(
                    element.clone(),
                    Node {
                        member: node.member && theirs.member,
                        below: node.below.intersection(&theirs.below),
                    },
                );
            }
        }
        both
    }
    /// With every struct field that leads to a member: whoever owns `a.b.c` owns the struct `a` for the purpose of removal.
    pub(super) fn with_named_fields(&self, shape: Shape) -> Set {
        let mut out = Set::default();
        for (element, node) in &self.0 {
            let (child, named) = match element.as_field() {
                Some(name) => (shape.field(name), shape.declares(name)),
                None => (shape.item(), false),
            };
            let member = node.member || (named && !node.below.is_empty());
            let below = match child {
                Some(child) => node.below.with_named_fields(child),
                None => node.below.clone(),
            };
            out.put(element.clone(), Node { member, below });
        }
        out
    }
    /// Every path: those of one depth before what is below them, as upstream walks.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.walk(&mut String::new(), &mut out);
        out
    }
    fn walk(&self, prefix: &mut String, out: &mut Vec<String>) {
        for (element, node) in &self.0 {
            if node.member {
                out.push(format!("{prefix}{element}"));
            }
        }
        for (element, node) in &self.0 {
            if !node.below.is_empty() {
                let length = prefix.len();
                prefix.push_str(&element.to_string());
                node.below.walk(prefix, out);
                prefix.truncate(length);
            }
        }
    }

    /// The value of `fieldsV1`.
    pub(super) fn encode(&self) -> Value {
        self.encode_node(false)
    }
    fn encode_node(&self, member: bool) -> Value {
        let mut map = Map::new();
        if member && !self.is_empty() {
            map.insert(SELF.to_owned(), Value::Object(Map::new()));
        }
        for (element, node) in &self.0 {
            map.insert(element.as_str().to_owned(), node.below.encode_node(node.member));
        }
        Value::Object(map)
    }
    pub(super) fn decode(value: &Value) -> Result<Set, String> {
        match value {
            Value::Null => Ok(Set::default()),
            Value::Object(map) => Ok(decode_node(map)?.below),
            _ => Err("fieldsV1 must be an object".into()),
        }
    }
}

fn decode_node(map: &Map<String, Value>) -> Result<Node, String> {
    // Nothing inside is how a leaf is written.
    let mut node = Node {
        member: map.is_empty(),
        below: Set::default(),
    };
    for (key, value) in map {
        if key == SELF {
            node.member = true;
            continue;
        }
        let Value::Object(inner) = value else {
            return Err(format!("the value of {key:?} must be an object"));
        };
        if let Some(element) = Element::parse(key)? {
            node.below.put(element, decode_node(inner)?);
        }
    }
    Ok(node)
}

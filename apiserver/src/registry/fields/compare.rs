//! What differs between two objects, as sets of paths. Semantics: structured-merge-diff/typed/compare.go (v6).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::Element;
use super::set::{Node, Set};
use super::shape::Shape;

/// The paths that differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

impl Comparison {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
    pub(super) fn each(&mut self, mut change: impl FnMut(&mut Set)) {
        change(&mut self.added);
        change(&mut self.modified);
        change(&mut self.removed);
    }
}

/// Of two whole objects.
pub(super) fn compare(shape: Shape, old: &Map<String, Value>, new: &Map<String, Value>) -> Comparison {
    let mut change = Change::default();
    fields(shape, Some(old), Some(new), &mut change);
    Comparison {
        added: change.added.below,
        modified: change.modified.below,
        removed: change.removed.below,
    }
}

#[derive(Default)]
struct Change {
    added: Node,
    modified: Node,
    removed: Node,
}

impl Change {
    fn put(&mut self, element: Element, child: Change) {
        let Change {
            added,
            modified,
            removed,
        } = child;
        // Mostly one of them, and its element need not be copied.
        match (added.is_empty(), modified.is_empty(), removed.is_empty()) {
            (true, true, true) => {}
            (false, true, true) => self.added.below.put(element, added),
            (true, false, true) => self.modified.below.put(element, modified),
            (true, true, false) => self.removed.below.put(element, removed),
            _ => {
                self.added.below.put(element.clone(), added);
                self.modified.below.put(element.clone(), modified);
                self.removed.below.put(element, removed);
            }
        }
    }
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

/// At least one of them is there.
fn value(shape: Shape, old: Option<&Value>, new: Option<&Value>) -> Change {
    let mut change = Change::default();
    let is_leaf = match shape {
        Shape::Scalar(_) | Shape::Any => true,
        _ if shape.is_atomic() => true,
        Shape::Struct { .. } | Shape::Map { .. } => {
            let (was, is) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            let empty = is_none_or_empty(was.map(Map::len)) && is_none_or_empty(is.map(Map::len));
            if !empty {
                fields(shape, was, is, &mut change);
            }
            // Between empty and null there is a difference too.
            empty
        }
        Shape::List { .. } => {
            let (was, is) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
            let empty = is_none_or_empty(was.map(Vec::len)) && is_none_or_empty(is.map(Vec::len));
            if !empty && old != new {
                items(shape, was, is, &mut change);
            }
            empty
        }
    };
    match (old, new) {
        (None, _) => change.added.member = true,
        (_, None) => change.removed.member = true,
        (Some(old), Some(new)) if is_leaf && old != new => change.modified.member = true,
        _ => {}
    }
    change
}

fn is_none_or_empty(length: Option<usize>) -> bool {
    length.is_none_or(|length| length == 0)
}

fn fields(shape: Shape, old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, change: &mut Change) {
    let mut one = |name: &str, was: Option<&Value>, is: Option<&Value>| {
        // A field that the type does not have is nobody's.
        let Some(inner) = shape.field(name) else { return };
        let child = value(inner, was, is);
        if !child.is_empty() {
            change.put(Element::field(name), child);
        }
    };
    for (name, was) in old.into_iter().flatten() {
        one(name, Some(was), new.and_then(|new| new.get(name)));
    }
    for (name, is) in new.into_iter().flatten() {
        if !old.is_some_and(|old| old.contains_key(name)) {
            one(name, None, Some(is));
        }
    }
}

/// Items that come twice are one thing together, since nothing tells them apart.
fn items(shape: Shape, old: Option<&Vec<Value>>, new: Option<&Vec<Value>>, change: &mut Change) {
    let Some(inner) = shape.item() else { return };
    let mut all: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for item in old.into_iter().flatten() {
        if let Ok(element) = shape.element(item) {
            all.entry(element).or_default().0.push(item);
        }
    }
    for item in new.into_iter().flatten() {
        if let Ok(element) = shape.element(item) {
            all.entry(element).or_default().1.push(item);
        }
    }
    for (element, (was, is)) in all {
        let child = match (was.as_slice(), is.as_slice()) {
            (was @ ([] | [_]), is @ ([] | [_])) => value(inner, was.first().copied(), is.first().copied()),
            ([_, _, ..], [_, _, ..]) => {
                let mut child = Change::default();
                child.modified.member = was != is;
                child
            }
            ([_, _, ..], is) => {
                let mut child = match is.first() {
                    Some(is) => value(inner, None, Some(is)),
                    None => Change::default(),
                };
                child.removed.member = true;
                child
            }
            (was, _) => {
                let mut child = match was.first() {
                    Some(was) => value(inner, Some(was), None),
                    None => Change::default(),
                };
                child.added.member = true;
                child
            }
        };
        change.put(element, child);
    }
}

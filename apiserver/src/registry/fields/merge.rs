//! Applying: what the applier says over what is there, and taking paths out of a value.
//! Semantics: structured-merge-diff/typed/{merge,remove,tofieldset}.go (v6).

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value};

use super::element::Element;
use super::set::{Node, Set};
use super::shape::Shape;

/// `config` over `live`.
pub(super) fn merge(shape: Shape, live: &Map<String, Value>, config: &Map<String, Value>) -> Map<String, Value> {
    fields(shape, Some(live), Some(config))
}

fn fields(shape: Shape, old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>) -> Map<String, Value> {
    let mut out = Map::new();
    let mut one = |name: &str, was: Option<&Value>, is: Option<&Value>| {
        let merged = match shape.field(name) {
            Some(inner) => value(inner, was, is),
            None => is.or(was).cloned(),
        };
        if let Some(merged) = merged {
            out.insert(name.to_owned(), merged);
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
    out
}

fn value(shape: Shape, old: Option<&Value>, new: Option<&Value>) -> Option<Value> {
    let leaf = || new.or(old).cloned();
    if shape.is_atomic() {
        return leaf();
    }
    match shape {
        Shape::Struct { .. } | Shape::Map { .. } => {
            let (was, is) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            if was.is_none_or(Map::is_empty) && is.is_none_or(Map::is_empty) {
                return leaf();
            }
            let merged = fields(shape, was, is);
            (!merged.is_empty()).then_some(Value::Object(merged))
        }
        Shape::List { .. } => {
            let (was, is) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
            if was.is_none_or(Vec::is_empty) && is.is_none_or(Vec::is_empty) {
                return leaf();
            }
            let empty = Vec::new();
            let merged = items(shape, was.unwrap_or(&empty), is.unwrap_or(&empty));
            (!merged.is_empty()).then_some(Value::Array(merged))
        }
        Shape::Scalar(_) | Shape::Any => leaf(),
    }
}

/// The applier's items keep the applier's order, items of others keep their places between them as far as both orders
/// allow. Of live items that come twice, all stay unless the applier has one of them.
fn items(shape: Shape, old: &[Value], new: &[Value]) -> Vec<Value> {
    let Some(inner) = shape.item() else {
        return new.to_vec();
    };
    let index = |list: &[Value]| -> Vec<Element> {
        // Both were validated: every item has an element.
        list.iter().filter_map(|item| shape.element(item).ok()).collect()
    };
    let (left, right) = (index(old), index(new));
    let mut was: BTreeMap<&Element, Option<&Value>> = BTreeMap::new();
    for (element, item) in left.iter().zip(old) {
        // Nothing of what comes twice takes part in a merge.
        was.entry(element).and_modify(|item| *item = None).or_insert(Some(item));
    }
    let is: BTreeMap<&Element, &Value> = right.iter().zip(new).collect();
    let mut shared: VecDeque<&Element> = right.iter().filter(|element| was.contains_key(element)).collect();
    let mut next = shared.pop_front();
    let mut merged: std::collections::BTreeSet<&Element> = std::collections::BTreeSet::new();
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            let element = &left[l];
            if *element == right[r] {
                merged.insert(element);
                out.extend(value(
                    inner,
                    was.get(element).copied().flatten(),
                    is.get(element).copied(),
                ));
                l += 1;
                r += 1;
                next = shared.pop_front();
                continue;
            }
            if is.contains_key(element) && next.is_some_and(|next| next != element) {
                // Shared, but not the one whose turn it is.
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            let element = &left[l];
            if !is.contains_key(element) {
                out.extend(value(inner, Some(&old[l]), None));
                l += 1;
                continue;
            }
            if merged.contains(element) {
                l += 1;
            }
        }
        if r < right.len() {
            let element = &right[r];
            merged.insert(element);
            out.extend(value(
                inner,
                was.get(element).copied().flatten(),
                is.get(element).copied(),
            ));
            r += 1;
            if next == Some(element) {
                next = shared.pop_front();
            }
        }
    }
    out
}

/// Without the paths of `gone` and what is below them.
pub(super) fn remove(shape: Shape, object: &Map<String, Value>, gone: &Set) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in object {
        let element = Element::field(name);
        let left = match (gone.get(element.as_str()), shape.field(name)) {
            (Some(node), _) if node.member => continue,
            (Some(node), Some(inner)) if !node.below.is_empty() => remove_inside(inner, value, &node.below),
            _ => value.clone(),
        };
        out.insert(name.clone(), left);
    }
    out
}

/// Null is what is left where nothing is.
fn remove_inside(shape: Shape, value: &Value, gone: &Set) -> Value {
    match (shape, value) {
        (Shape::Struct { .. } | Shape::Map { .. }, Value::Object(object)) => {
            let left = remove(shape, object, gone);
            if left.is_empty() {
                Value::Null
            } else {
                Value::Object(left)
            }
        }
        (Shape::List { .. }, Value::Array(list)) => {
            let inner = shape.item();
            let mut left = Vec::new();
            for item in list {
                let node = shape.element(item).ok().and_then(|element| gone.get(element.as_str()));
                left.push(match (node, inner) {
                    (Some(node), _) if node.member => continue,
                    (Some(node), Some(inner)) if !node.below.is_empty() => remove_inside(inner, item, &node.below),
                    _ => item.clone(),
                });
            }
            if left.is_empty() {
                Value::Null
            } else {
                Value::Array(left)
            }
        }
        (_, value) => value.clone(),
    }
}

/// Every path that an object has.
pub(super) fn set_of(shape: Shape, object: &Map<String, Value>) -> Set {
    let mut set = Set::default();
    for (name, value) in object {
        let Some(inner) = shape.field(name) else { continue };
        let mut node = node_of(inner, value);
        let is_bare = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        node.member |= is_bare || !shape.declares(name);
        set.put(Element::field(name), node);
    }
    set
}

fn node_of(shape: Shape, value: &Value) -> Node {
    if shape.is_atomic() {
        return Node::leaf();
    }
    let below = match (shape, value) {
        (Shape::Struct { .. } | Shape::Map { .. }, Value::Object(object)) => set_of(shape, object),
        (Shape::List { .. }, Value::Array(list)) => {
            let mut set = Set::default();
            for item in list {
                if let (Ok(element), Some(inner)) = (shape.element(item), shape.item()) {
                    let mut node = node_of(inner, item);
                    node.member = true;
                    set.put(element, node);
                }
            }
            set
        }
        _ => Set::default(),
    };
    Node { member: false, below }
}

//! Whether a tree is of a type, before it is merged: what an applier sends has not been decoded.
//! Texts: structured-merge-diff/typed/{validate,helpers}.go (v6), which clients show as they are.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::element::Element;
use super::shape::{Scalar, Shape};
use crate::registry::patch::{go_list, go_map, go_syntax};

/// The complaints in one text, as upstream joins them.
pub(super) fn validate(shape: Shape, object: &Map<String, Value>, duplicates: bool) -> Result<(), String> {
    let mut walk = Walk {
        path: String::new(),
        duplicates,
        errors: Vec::new(),
    };
    walk.fields(shape, object);
    match walk.errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

struct Walk {
    path: String,
    /// Items may come twice: what is live may be from a time when nobody minded.
    duplicates: bool,
    errors: Vec<String>,
}

impl Walk {
    fn fail(&mut self, why: &str) {
        self.errors.push(match &*self.path {
            "" => why.to_owned(),
            path => format!("{path}: {why}"),
        });
    }

    fn below(&mut self, element: &Element, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(&element.to_string());
        check(self);
        self.path.truncate(length);
    }

    fn fields(&mut self, shape: Shape, object: &Map<String, Value>) {
        for (name, value) in object {
            let inner = shape.field(name);
            self.below(&Element::field(name), |walk| match inner {
                Some(inner) => walk.value(inner, value),
                None => walk.fail("field not declared in schema"),
            });
        }
    }

    fn value(&mut self, shape: Shape, value: &Value) {
        if value.is_null() {
            return;
        }
        match (shape, value) {
            (Shape::Any, _) => {}
            (Shape::Scalar(Scalar::String), Value::String(_))
            | (Shape::Scalar(Scalar::Number), Value::Number(_))
            | (Shape::Scalar(Scalar::Bool), Value::Bool(_))
            | (Shape::Scalar(Scalar::Any), Value::String(_) | Value::Number(_) | Value::Bool(_)) => {}
            (Shape::Scalar(scalar), other) => self.fail(&match scalar {
                Scalar::String => format!(
                    "expected string, got &value.valueUnstructured{{Value:{}}}",
                    go_syntax(other)
                ),
                Scalar::Number => format!("expected numeric (int or float), got {}", go_type(other)),
                Scalar::Bool => format!("expected boolean, got {}", shown(other)),
                Scalar::Any => format!("expected any scalar, got {}", shown(other)),
            }),
            (Shape::Struct { .. } | Shape::Map { .. }, Value::Object(object)) => self.fields(shape, object),
            (Shape::Struct { .. } | Shape::Map { .. }, other) => {
                self.fail(&format!("expected map, got {}", shown(other)))
            }
            (Shape::List { .. }, Value::Array(list)) => self.items(shape, list),
            (Shape::List { .. }, other) => self.fail(&format!("expected list, got {}", shown(other))),
        }
    }

    fn items(&mut self, shape: Shape, list: &[Value]) {
        let Some(inner) = shape.item() else { return };
        let mut seen = BTreeSet::new();
        for (index, item) in list.iter().enumerate() {
            let element = if shape.is_atomic() {
                Element::index(index)
            } else {
                match shape.element(item) {
                    Ok(element) => element,
                    // Nothing deeper could be named.
                    Err(why) => return self.fail(&format!("element {index}: {why}")),
                }
            };
            if !seen.insert(element.clone()) && !self.duplicates {
                self.fail(&format!("duplicate entries for key {element}"));
            }
            self.below(&element, |walk| walk.value(inner, item));
        }
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go prints the box that it is in.
fn shown(value: &Value) -> String {
    let inside = match value {
        Value::Object(fields) => go_map(fields),
        Value::Array(list) => go_list(list),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    format!("&{{{inside}}}")
}

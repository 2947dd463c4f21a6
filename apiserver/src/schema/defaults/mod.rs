//! Defaults that a type carries wherever it is embedded: an object in, the same object with what the server adds out.
//! What depends on other objects, on the request or on the old object is not here; strategies and admission do that.
//! A value that is there is never changed, so defaulting twice is defaulting once.

mod apps;
mod core;
mod network;
mod other;

use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::table::{Field, Shape, Ty, TypeRef, types};

pub(super) type Tree = Map<String, Value>;
type Rule = fn(&mut Tree);
/// The id of a type and what its values get, before the values inside them do.
type Rules = &'static [(&'static str, Rule)];

struct Plan {
    rules: Vec<Option<Rule>>,
    /// Types that have a default themselves or somewhere inside.
    reaches: Vec<bool>,
}

fn plan() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| {
        let mut rules = vec![None; TypeRef::count()];
        for (id, rule) in [core::RULES, apps::RULES, network::RULES, other::RULES]
            .into_iter()
            .flatten()
        {
            let ty = TypeRef::by_id(id).expect("rules name types of the table");
            rules[ty.index()] = Some(*rule);
        }
        let mut reaches: Vec<bool> = types()
            .map(|ty| rules[ty.index()].is_some() || ty.fields().any(|f| f.default().is_some() || is_resources(f)))
            .collect();
        // What reaches a type that reaches a default reaches it too; the types nest a few levels deep.
        loop {
            let mut changed = false;
            for ty in types().filter(|ty| !reaches[ty.index()]).collect::<Vec<_>>() {
                if ty
                    .fields()
                    .any(|f| f.ty().object().is_some_and(|inner| reaches[inner.index()]))
                {
                    reaches[ty.index()] = true;
                    changed = true;
                }
            }
            if !changed {
                return Plan { rules, reaches };
            }
        }
    })
}

/// Adds the defaults of a type to an object of it.
pub fn default(ty: TypeRef, object: &mut Tree) {
    walk(plan(), ty, object);
}

fn walk(plan: &Plan, ty: TypeRef, object: &mut Tree) {
    if !plan.reaches[ty.index()] {
        return;
    }
    if let Some(rule) = plan.rules[ty.index()] {
        rule(object);
    }
    for field in ty.fields() {
        if let Some(text) = field.default() {
            mark(field, text, object);
        }
        let inner = field.ty();
        if is_resources(field) {
            if let Some(Value::Object(list)) = object.get_mut(field.name()) {
                round(list);
            }
        } else if inner.object().is_some_and(|o| plan.reaches[o.index()])
            && let Some(value) = object.get_mut(field.name())
        {
            inside(plan, inner, value);
        }
    }
}

fn inside(plan: &Plan, ty: Ty, value: &mut Value) {
    match (ty.shape(), value) {
        (Shape::Object(ty), Value::Object(map)) => walk(plan, ty, map),
        (Shape::List(inner), Value::Array(list)) => list.iter_mut().for_each(|v| inside(plan, inner, v)),
        (Shape::Map(inner), Value::Object(map)) => map.values_mut().for_each(|v| inside(plan, inner, v)),
        _ => {}
    }
}

/// A default that the table itself knows.
fn mark(field: Field, text: &str, object: &mut Tree) {
    let value: Value = serde_json::from_str(text).expect("a test reads every default");
    let empty = match &value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Bool(value) => !value,
        _ => false,
    };
    if field.is_pointer() || !empty {
        put(object, field.name(), value);
    }
}

/// A ResourceList: the server keeps no more than thousandths.
fn is_resources(field: Field) -> bool {
    matches!(field.ty().shape(), Shape::Map(inner) if inner.shape() == Shape::Quantity)
}

fn round(list: &mut Tree) {
    const MILLI: i32 = -3;
    for value in list.values_mut() {
        let Some(text) = value.as_str() else { continue };
        // Only these suffixes and a fraction reach below a thousandth.
        if !text.ends_with(['n', 'u']) && !text.contains(['.', 'e']) {
            continue;
        }
        if let Ok(mut quantity) = api::quantity::Quantity::parse(text)
            && !quantity.round_up(MILLI)
        {
            *value = Value::String(quantity.to_string());
        }
    }
}

/// Sets a field that is missing, null or an empty string.
fn put(object: &mut Tree, name: &str, value: impl Into<Value>) {
    match object.get(name) {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(_) => return,
    }
    object.insert(name.to_owned(), value.into());
}

/// Sets a field that is missing or null; an empty string is a value here (Go's pointer fields).
fn put_pointer(object: &mut Tree, name: &str, value: impl Into<Value>) {
    if object.get(name).is_none_or(Value::is_null) {
        object.insert(name.to_owned(), value.into());
    }
}

fn text<'a>(object: &'a Tree, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or("")
}

fn is_true(object: &Tree, name: &str) -> bool {
    object.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn has(object: &Tree, name: &str) -> bool {
    object.get(name).is_some_and(|v| !v.is_null())
}

/// A map under a field that is there.
fn inner<'a>(object: &'a mut Tree, name: &str) -> Option<&'a mut Tree> {
    object.get_mut(name)?.as_object_mut()
}

/// A map under a field, made where there is none.
fn made<'a>(object: &'a mut Tree, name: &str) -> &'a mut Tree {
    let slot = object.entry(name).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Tree::new());
    }
    slot.as_object_mut().expect("made an object above")
}

/// The objects of a list.
fn items<'a>(object: &'a mut Tree, name: &str) -> impl Iterator<Item = &'a mut Tree> {
    let list = object.get_mut(name).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn is_empty(object: &Tree, name: &str) -> bool {
    match object.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

fn empty() -> Value {
    Value::Object(Tree::new())
}

//! Strategic merge patch: a merge patch that knows which lists are maps by a key, and its directives.
//! Follows apimachinery/pkg/util/strategicpatch/patch.go (1.36), the half that merges a patch into an object.

use serde_json::{Map, Value};

use super::{Error, go_list, go_map, go_value};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// What a strategic merge asks of a type.
pub trait Shape: Copy {
    /// What is known of the field `name` of this object.
    fn field(self, name: &str) -> Field<Self>;
}

/// How one field merges.
#[derive(Debug, Clone, Copy)]
pub struct Field<S> {
    /// A list that merges: by `key` where its elements are objects, as a set where they are not.
    pub merge: bool,
    /// An object that is replaced as a whole.
    pub replace: bool,
    pub key: Option<&'static str>,
    /// The type of the field's value or, for a list or map, of its elements. `None` where nothing is known: lists below
    /// are replaced.
    pub inner: Option<S>,
}

impl<S> Field<S> {
    /// A field of which nothing is known.
    pub fn unknown() -> Self {
        Field {
            merge: false,
            replace: false,
            key: None,
            inner: None,
        }
    }
}

/// Merges `patch` into `target`.
pub fn apply<S: Shape>(
    target: &mut Map<String, Value>,
    patch: Map<String, Value>,
    shape: Option<S>,
) -> Result<(), Error> {
    let original = std::mem::take(target);
    *target = merge_map(original, patch, shape)?;
    Ok(())
}

fn merge_map<S: Shape>(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    shape: Option<S>,
) -> Result<Map<String, Value>, Error> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(unknown_directive(&patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(&mut original, &mut patch, shape)?;
    for (key, value) in patch {
        let (key, is_deletion) = match key.strip_prefix(DELETE_PREFIX) {
            Some(list) => (list.to_owned(), true),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let field = shape.map_or_else(Field::unknown, |s| s.field(&key));
        match (original.get_mut(&key), value) {
            (Some(Value::Object(have)), Value::Object(patch)) if !field.replace && !is_deletion => {
                *have = merge_map(std::mem::take(have), patch, field.inner)?;
            }
            (Some(Value::Array(have)), Value::Array(patch)) => {
                *have = if field.merge || is_deletion {
                    merge_list(std::mem::take(have), patch, field, is_deletion)?
                } else {
                    patch
                };
            }
            // A list that is not there has nothing to delete from.
            (_, _) if is_deletion => {}
            (_, mut value) => {
                drop_nulls(&mut value);
                drop_directives(&mut value);
                original.insert(key, value);
            }
        }
    }
    Ok(original)
}

/// `$retainKeys`: what the list does not name goes, and the patch may set nothing that it does not name.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let bad = || Error::Malformed("invalid patch format of retainKeys".into());
    let keys = keys.as_array().ok_or_else(bad)?;
    let named = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_PREFIX) || key.starts_with(ORDER_PREFIX);
        if !value.is_null() && !directive && !named(key) {
            return Err(Error::Rejected);
        }
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// `$setElementOrder/x` together with the list `x` of the patch, which is merged here and removed from the patch.
fn ordered_lists<S: Shape>(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    shape: Option<S>,
) -> Result<(), Error> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER_PREFIX)).cloned().collect();
    for directive in directives {
        let bad = || Error::Malformed("invalid patch format of setElementOrder list".into());
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(bad());
        };
        let name = &directive[ORDER_PREFIX.len()..];
        let field = shape.map_or_else(Field::unknown, |s| s.field(name));
        let patched = match patch.remove(name) {
            // An explicit null removes the list below, in its turn.
            Some(Value::Null) => {
                patch.insert(name.to_owned(), Value::Null);
                continue;
            }
            Some(Value::Array(list)) => Some(list),
            Some(_) => return Err(bad()),
            None => None,
        };
        let had = match original.get(name) {
            Some(Value::Array(list)) => Some(list.clone()),
            Some(Value::Null) | None => None,
            Some(_) => return Err(bad()),
        };
        if let Some(patched) = &patched {
            same_order(patched, &order, field.key)?;
        }
        let merged = match (had.clone(), patched) {
            (None, None) => continue,
            (Some(had), None) => had,
            (None, Some(patched)) => {
                let mut list = Value::Array(patched);
                drop_nulls(&mut list);
                drop_directives(&mut list);
                match list {
                    Value::Array(list) => list,
                    _ => return Err(bad()),
                }
            }
            (Some(had), Some(patched)) if field.merge => merge_list(had, patched, field, false)?,
            (Some(_), Some(patched)) => patched,
        };
        let sorted = arrange(merged, &order, had.as_deref().unwrap_or(&[]), field.key);
        original.insert(name.to_owned(), Value::Array(sorted));
    }
    Ok(())
}

/// Every element of the patch's list stands in the order list, in the same relative order.
fn same_order(patched: &[Value], order: &[Value], key: Option<&str>) -> Result<(), Error> {
    if order.is_empty() {
        return Ok(());
    }
    let mut from = 0;
    for item in patched.iter().filter(|item| item.get(PATCH).is_none()) {
        match order[from..].iter().position(|o| same(o, item, key)) {
            Some(at) => from += at + 1,
            None => {
                return Err(Error::Unfit(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    go_list(patched),
                    go_list(order)
                )));
            }
        }
    }
    Ok(())
}

fn merge_list<S: Shape>(
    original: Vec<Value>,
    patch: Vec<Value>,
    field: Field<S>,
    is_deletion: bool,
) -> Result<Vec<Value>, Error> {
    let objects = original.iter().chain(&patch).any(Value::is_object);
    let before = original.clone();
    if !objects {
        if is_deletion {
            let mut left = original;
            left.retain(|item| !patch.contains(item));
            return Ok(left);
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.into_iter().chain(patch.iter().cloned()) {
            if !merged.contains(&item) {
                merged.push(item);
            }
        }
        return Ok(arrange(merged, &patch, &before, None));
    }
    let key = field
        .key
        .ok_or_else(|| Error::Unfit("cannot merge lists without merge key".into()))?;
    let mut merged = original;
    let mut replaces = false;
    let mut ordinary = Vec::with_capacity(patch.len());
    for item in patch {
        let Value::Object(fields) = item else {
            return Err(Error::Unfit(format!(
                "expected an object with the merge key {key} in a list"
            )));
        };
        match fields.get(PATCH).map(Value::as_str) {
            None => ordinary.push(fields),
            Some(Some("delete")) => {
                let value = fields.get(key).ok_or_else(|| no_merge_key(&fields, key))?;
                merged.retain(|have| have.get(key) != Some(value));
            }
            Some(Some("replace")) => replaces = true,
            Some(Some("merge")) => {
                return Err(Error::Unfit(
                    "merging lists cannot yet be specified in the patch".into(),
                ));
            }
            Some(_) => return Err(unknown_directive(&fields)),
        }
    }
    let order: Vec<Value> = ordinary.iter().cloned().map(Value::Object).collect();
    if replaces {
        return Ok(order);
    }
    for fields in ordinary {
        let value = fields.get(key).ok_or_else(|| no_merge_key(&fields, key))?;
        match merged.iter_mut().find(|have| have.get(key) == Some(value)) {
            Some(Value::Object(have)) => *have = merge_map(std::mem::take(have), fields, field.inner)?,
            _ => {
                let mut item = Value::Object(fields);
                drop_nulls(&mut item);
                drop_directives(&mut item);
                merged.push(item);
            }
        }
    }
    Ok(arrange(merged, &order, &before, Some(key)))
}

/// Elements that `order` names take its order; the others keep the server's; the two are merged so that elements which
/// the server knew stay where they stood relative to each other.
fn arrange(items: Vec<Value>, order: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item, key));
    let (mut patched, mut own): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(order, item).is_some());
    patched.sort_by_key(|item| place(order, item));
    own.sort_by_key(|item| place(server, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(patched.len() + own.len());
    let (mut patched, mut own) = (patched.into_iter().peekable(), own.into_iter().peekable());
    loop {
        let own_first = match (own.peek(), patched.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(mine), Some(theirs)) => match (place(server, mine), place(server, theirs)) {
                (Some(mine), Some(theirs)) => mine < theirs,
                _ => false,
            },
        };
        out.extend(if own_first { own.next() } else { patched.next() });
    }
}

/// Whether two list elements are the same one: by the merge key, or by value.
fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, v| !v.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// What is added from a patch must not carry the patch's directives into the object.
fn drop_directives(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get(PATCH).and_then(Value::as_str) == Some("delete") {
                fields.clear();
            }
            fields.retain(|key, _| {
                !(key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_PREFIX) || key.starts_with(ORDER_PREFIX))
            });
            fields.values_mut().for_each(drop_directives);
        }
        Value::Array(items) => {
            items.retain(|item| item.get(PATCH).is_none());
            items.iter_mut().for_each(drop_directives);
        }
        _ => {}
    }
}

fn no_merge_key(fields: &Map<String, Value>, key: &str) -> Error {
    let fields = go_map(fields);
    Error::Unfit(format!("map: {fields} does not contain declared merge key: {key}"))
}

fn unknown_directive(fields: &Map<String, Value>) -> Error {
    let directive = fields.get(PATCH).map(go_value).unwrap_or_default();
    Error::Unfit(format!("unknown patch type: {directive} in map: {}", go_map(fields)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A type with the lists that the cases need.
    #[derive(Clone, Copy)]
    struct Sample;
    impl Shape for Sample {
        fn field(self, name: &str) -> Field<Self> {
            let key = match name {
                "containers" | "env" => Some("name"),
                "ports" => Some("containerPort"),
                _ => None,
            };
            Field {
                merge: key.is_some() || name == "finalizers",
                replace: name == "whole",
                key,
                inner: Some(Sample),
            }
        }
    }

    #[track_caller]
    fn check(target: Value, patch: Value, want: Value) {
        assert_eq!(outcome(target, patch), Ok(want));
    }
    fn outcome(target: Value, patch: Value) -> Result<Value, Error> {
        let (Value::Object(mut target), Value::Object(patch)) = (target, patch) else {
            panic!("objects only")
        };
        apply(&mut target, patch, Some(Sample)).map(|()| Value::Object(target))
    }

    #[test]
    fn lists_with_a_merge_key_merge_by_it() {
        check(
            json!({"containers":[{"name":"a","image":"1"},{"name":"b","image":"1"}]}),
            json!({"containers":[{"name":"b","image":"2"}]}),
            json!({"containers":[{"name":"a","image":"1"},{"name":"b","image":"2"}]}),
        );
        check(
            json!({"containers":[{"name":"a"}]}),
            json!({"containers":[{"name":"b"}]}),
            json!({"containers":[{"name":"b"},{"name":"a"}]}),
        );
        check(
            json!({"containers":[{"name":"a","env":[{"name":"X","value":"1"}]}]}),
            json!({"containers":[{"name":"a","env":[{"name":"Y","value":"2"}]}]}),
            json!({"containers":[{"name":"a","env":[{"name":"Y","value":"2"},{"name":"X","value":"1"}]}]}),
        );
    }

    #[test]
    fn lists_without_one_are_replaced() {
        check(json!({"args":["a","b"]}), json!({"args":["c"]}), json!({"args":["c"]}));
        check(
            json!({"finalizers":["a"]}),
            json!({"finalizers":["b"]}),
            json!({"finalizers":["b","a"]}),
        );
    }

    #[test]
    fn null_removes_and_is_not_added() {
        check(
            json!({"a":1,"b":{"c":1}}),
            json!({"a":null,"b":{"c":null,"d":null},"e":{"f":null}}),
            json!({"b":{},"e":{}}),
        );
    }

    #[test]
    fn directives_delete_replace_and_retain() {
        check(
            json!({"containers":[{"name":"a"},{"name":"b"}]}),
            json!({"containers":[{"name":"a","$patch":"delete"}]}),
            json!({"containers":[{"name":"b"}]}),
        );
        check(
            json!({"containers":[{"name":"a"},{"name":"b"}]}),
            json!({"containers":[{"name":"c"},{"$patch":"replace"}]}),
            json!({"containers":[{"name":"c"}]}),
        );
        check(
            json!({"a":{"b":1,"c":2}}),
            json!({"a":{"$patch":"replace","d":3}}),
            json!({"a":{"d":3}}),
        );
        check(json!({"a":{"b":1}}), json!({"a":{"$patch":"delete"}}), json!({"a":{}}));
        check(
            json!({"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}}}),
            json!({"strategy":{"$retainKeys":["type"],"type":"Recreate"}}),
            json!({"strategy":{"type":"Recreate"}}),
        );
        check(
            json!({"finalizers":["a","b","c"]}),
            json!({"$deleteFromPrimitiveList/finalizers":["b"]}),
            json!({"finalizers":["a","c"]}),
        );
        check(
            json!({"whole":{"a":1}}),
            json!({"whole":{"b":2}}),
            json!({"whole":{"b":2}}),
        );
    }

    #[test]
    fn an_order_directive_sorts_the_list() {
        check(
            json!({"containers":[{"name":"a"},{"name":"b"},{"name":"c"}]}),
            json!({"$setElementOrder/containers":[{"name":"c"},{"name":"a"},{"name":"d"}],"containers":[{"name":"d"}]}),
            json!({"containers":[{"name":"b"},{"name":"c"},{"name":"a"},{"name":"d"}]}),
        );
        check(
            json!({"finalizers":["a","b"]}),
            json!({"$setElementOrder/finalizers":["b","a"]}),
            json!({"finalizers":["b","a"]}),
        );
        let refused = outcome(
            json!({"containers":[]}),
            json!({"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"b"}]}),
        );
        assert!(matches!(refused, Err(Error::Unfit(_))), "{refused:?}");
    }

    #[test]
    fn directives_do_not_reach_the_object() {
        check(
            json!({}),
            json!({"a":{"$retainKeys":["b"],"b":1},"$setElementOrder/containers":[{"name":"x"}],"containers":[{"name":"x","$setElementOrder/env":[]}]}),
            json!({"a":{"b":1},"containers":[{"name":"x"}]}),
        );
    }

    #[test]
    fn an_element_without_the_merge_key_is_refused() {
        let refused = outcome(
            json!({"containers":[{"name":"a"}]}),
            json!({"containers":[{"image":"x"}]}),
        );
        assert!(matches!(refused, Err(Error::Unfit(_))), "{refused:?}");
    }
}

//! JSON patch (RFC 6902).

use serde_json::Value;

use super::Error;

/// As upstream bounds it (`maxJSONPatchOperations`).
const MAX_OPERATIONS: usize = 10_000;

/// Applies the operations in order; the first that fails refuses the whole.
pub fn apply(target: &mut Value, operations: &[Value]) -> Result<(), Error> {
    if operations.len() > MAX_OPERATIONS {
        return Err(Error::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    for operation in operations {
        one(target, operation)?;
    }
    Ok(())
}

fn one(target: &mut Value, operation: &Value) -> Result<(), Error> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    // Upstream's library looks at an operation when its turn comes, so what is wrong with it is no matter of syntax.
    let path = text("path").ok_or(Error::Rejected)?;
    let value = || operation.get("value").cloned();
    match text("op").ok_or(Error::Rejected)? {
        // Upstream's library reads a missing value of an add as null.
        "add" => add(target, path, value().unwrap_or(Value::Null)),
        "remove" => remove(target, path).map(drop),
        "replace" => {
            let value = value().unwrap_or(Value::Null);
            *target.pointer_mut(path).ok_or(Error::Rejected)? = value;
            Ok(())
        }
        "move" => {
            let from = text("from").ok_or(Error::Rejected)?;
            // A value cannot be moved into itself.
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(Error::Rejected);
            }
            let value = remove(target, from)?;
            add(target, path, value)
        }
        "copy" => {
            let from = text("from").ok_or(Error::Rejected)?;
            let value = target.pointer(from).ok_or(Error::Rejected)?.clone();
            add(target, path, value)
        }
        "test" => {
            // A missing value compares as null, and a missing member equals null, as upstream's library has it.
            let want = value().unwrap_or(Value::Null);
            let have = target.pointer(path).unwrap_or(&Value::Null);
            if equal(have, &want) {
                Ok(())
            } else {
                Err(Error::Rejected)
            }
        }
        _ => Err(Error::Rejected),
    }
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), Error> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = parent(target, path)?;
    match parent {
        Value::Object(fields) => {
            fields.insert(unescape(last), value);
            Ok(())
        }
        Value::Array(items) => {
            let at = if last == "-" {
                items.len()
            } else {
                index(last).ok_or(Error::Rejected)?
            };
            if at > items.len() {
                return Err(Error::Rejected);
            }
            items.insert(at, value);
            Ok(())
        }
        _ => Err(Error::Rejected),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, Error> {
    if path.is_empty() {
        return Ok(std::mem::take(target));
    }
    let (parent, last) = parent(target, path)?;
    match parent {
        Value::Object(fields) => fields.remove(&unescape(last)).ok_or(Error::Rejected),
        Value::Array(items) => {
            let at = index(last).filter(|at| *at < items.len()).ok_or(Error::Rejected)?;
            Ok(items.remove(at))
        }
        _ => Err(Error::Rejected),
    }
}

fn parent<'a, 'p>(target: &'a mut Value, path: &'p str) -> Result<(&'a mut Value, &'p str), Error> {
    let (parent, last) = path.rsplit_once('/').ok_or(Error::Rejected)?;
    Ok((target.pointer_mut(parent).ok_or(Error::Rejected)?, last))
}

/// An array index without leading zeros or sign, as RFC 6901 wants it.
fn index(text: &str) -> Option<usize> {
    if text.starts_with('+') || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

/// Numbers are equal by value: 1 is 1.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, x)| y.get(k).is_some_and(|y| equal(x, y)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // RFC 6902, appendix A, and the corners that clients hit.
    #[test]
    fn the_cases_of_the_rfc() {
        for (name, target, patch, want) in [
            (
                "A.1",
                json!({"foo":"bar"}),
                json!([{"op":"add","path":"/baz","value":"qux"}]),
                Some(json!({"baz":"qux","foo":"bar"})),
            ),
            (
                "A.2",
                json!({"foo":["bar","baz"]}),
                json!([{"op":"add","path":"/foo/1","value":"qux"}]),
                Some(json!({"foo":["bar","qux","baz"]})),
            ),
            (
                "A.3",
                json!({"baz":"qux","foo":"bar"}),
                json!([{"op":"remove","path":"/baz"}]),
                Some(json!({"foo":"bar"})),
            ),
            (
                "A.4",
                json!({"foo":["bar","qux","baz"]}),
                json!([{"op":"remove","path":"/foo/1"}]),
                Some(json!({"foo":["bar","baz"]})),
            ),
            (
                "A.5",
                json!({"baz":"qux","foo":"bar"}),
                json!([{"op":"replace","path":"/baz","value":"boo"}]),
                Some(json!({"baz":"boo","foo":"bar"})),
            ),
            (
                "A.6",
                json!({"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}),
                json!([{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]),
                Some(json!({"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}})),
            ),
            (
                "A.7",
                json!({"foo":["all","grass","cows","eat"]}),
                json!([{"op":"move","from":"/foo/1","path":"/foo/3"}]),
                Some(json!({"foo":["all","cows","eat","grass"]})),
            ),
            (
                "A.8",
                json!({"baz":"qux","foo":["a",2,"c"]}),
                json!([{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]),
                Some(json!({"baz":"qux","foo":["a",2,"c"]})),
            ),
            (
                "A.9",
                json!({"baz":"qux"}),
                json!([{"op":"test","path":"/baz","value":"bar"}]),
                None,
            ),
            (
                "A.10",
                json!({"foo":"bar"}),
                json!([{"op":"add","path":"/child","value":{"grandchild":{}}}]),
                Some(json!({"foo":"bar","child":{"grandchild":{}}})),
            ),
            (
                "A.12",
                json!({"foo":"bar"}),
                json!([{"op":"add","path":"/baz/bat","value":"qux"}]),
                None,
            ),
            (
                "A.14",
                json!({"/":9,"~1":10}),
                json!([{"op":"test","path":"/~01","value":10}]),
                Some(json!({"/":9,"~1":10})),
            ),
            (
                "A.15",
                json!({"/":9,"~1":10}),
                json!([{"op":"test","path":"/~01","value":"10"}]),
                None,
            ),
            (
                "A.16",
                json!({"foo":["bar"]}),
                json!([{"op":"add","path":"/foo/-","value":["abc","def"]}]),
                Some(json!({"foo":["bar",["abc","def"]]})),
            ),
            (
                "remove what is not there",
                json!({}),
                json!([{"op":"remove","path":"/a"}]),
                None,
            ),
            (
                "replace what is not there",
                json!({}),
                json!([{"op":"replace","path":"/a","value":1}]),
                None,
            ),
            (
                "test null of what is not there",
                json!({}),
                json!([{"op":"test","path":"/a","value":null}]),
                Some(json!({})),
            ),
            (
                "an index past the end",
                json!({"a":[1]}),
                json!([{"op":"add","path":"/a/2","value":1}]),
                None,
            ),
            (
                "a move into itself",
                json!({"a":{"b":1}}),
                json!([{"op":"move","from":"/a","path":"/a/b"}]),
                None,
            ),
        ] {
            let mut got = target;
            let outcome = apply(&mut got, patch.as_array().unwrap()).ok().map(|()| got);
            assert_eq!(outcome, want, "{name}");
        }
    }
}

//! Laws of patching that hold for every object, found on made-up ones.

use apiserver::registry::patch::{json, merge};
use proptest::prelude::*;
use serde_json::{Map, Value};

/// Any JSON without nulls: an API object holds none.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z~/]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c~/]{1,2}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-c~/]{1,2}", value(), 0..4)
        .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()))
}

/// The merge patch that makes `to` of `from`.
fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (from, to) else {
        return to.clone();
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) => {
                patch.insert(key.clone(), difference(before, value));
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

/// Every place in a value, as a JSON pointer.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                places(
                    inner,
                    &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")),
                    out,
                );
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                places(inner, &format!("{at}/{index}"), out);
            }
        }
        _ => {}
    }
}

fn merged(mut target: Value, patch: &Value) -> Value {
    merge::apply(&mut target, patch.clone());
    target
}

proptest! {
    #[test]
    fn a_difference_merged_is_the_goal(from in object(), to in object()) {
        prop_assert_eq!(merged(from.clone(), &difference(&from, &to)), to);
    }

    #[test]
    fn merging_twice_is_merging_once(target in object(), patch in object()) {
        let once = merged(target, &patch);
        prop_assert_eq!(merged(once.clone(), &patch), once);
    }

    #[test]
    fn an_object_merged_into_itself_stays(target in object()) {
        prop_assert_eq!(merged(target.clone(), &target), target);
    }

    #[test]
    fn every_place_passes_its_test_and_can_be_replaced_by_itself(target in object()) {
        let mut all = Vec::new();
        places(&target, "", &mut all);
        for path in all {
            let value = target.pointer(&path).unwrap().clone();
            let patch = serde_json::json!([
                {"op": "test", "path": path, "value": value},
                {"op": "replace", "path": path, "value": value},
            ]);
            let mut got = target.clone();
            prop_assert_eq!(json::apply(&mut got, patch.as_array().unwrap()), Ok(()));
            prop_assert_eq!(&got, &target);
        }
    }

    #[test]
    fn what_is_removed_can_be_added_back(target in object(), pick in any::<prop::sample::Index>()) {
        let mut all = Vec::new();
        places(&target, "", &mut all);
        let path = pick.get(&all);
        let value = target.pointer(path).unwrap().clone();
        let patch = serde_json::json!([{"op": "remove", "path": path}, {"op": "add", "path": path, "value": value}]);
        let mut got = target.clone();
        prop_assert_eq!(json::apply(&mut got, patch.as_array().unwrap()), Ok(()));
        prop_assert_eq!(got, target);
    }

    #[test]
    fn a_copy_leaves_its_source(target in object(), pick in any::<prop::sample::Index>()) {
        let mut all = Vec::new();
        places(&target, "", &mut all);
        let from = pick.get(&all);
        let patch = serde_json::json!([{"op": "copy", "from": from, "path": "/new"}]);
        let mut got = target.clone();
        prop_assert_eq!(json::apply(&mut got, patch.as_array().unwrap()), Ok(()));
        prop_assert_eq!(got.pointer("/new"), target.pointer(from));
    }
}

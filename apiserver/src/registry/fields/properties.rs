//! Laws of ownership, on made-up objects of real kinds.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::merge::{merge, remove, set_of};
use super::shape::{List, Scalar};
use super::*;

const KINDS: &[(&str, &str, &str)] = &[
    ("", "v1", "ConfigMap"),
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("", "v1", "Node"),
    ("apps", "v1", "Deployment"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration"),
];

/// Two names of one thing, which the server keeps equal: what is said of one is also there as the other.
const TWINS: &[&str] = &[
    "podCIDR",
    "podCIDRs",
    "podIP",
    "podIPs",
    "hostIP",
    "hostIPs",
    "clusterIP",
    "clusterIPs",
    "serviceAccount",
    "serviceAccountName",
];

/// A value of a shape: small alphabets, so that two of them meet; in canonical form, no nulls, nothing empty.
fn value(shape: Shape, ty: Option<schema::Ty>, depth: u32) -> BoxedStrategy<Value> {
    let some = |word: &'static [&'static str]| prop::sample::select(word).prop_map(Value::from).boxed();
    match shape {
        Shape::Scalar(Scalar::String) => match ty.map(schema::Ty::shape) {
            Some(schema::Shape::Bytes) => some(&["YQ==", "Yg=="]),
            _ => some(&["a", "b", "c"]),
        },
        Shape::Scalar(Scalar::Number) => (1..4i32).prop_map(Value::from).boxed(),
        Shape::Scalar(Scalar::Bool) => Just(json!(true)).boxed(),
        Shape::Scalar(Scalar::Any) => match ty.map(schema::Ty::shape) {
            Some(schema::Shape::Quantity) => some(&["1", "500m", "2Gi"]),
            Some(schema::Shape::Time) => some(&["2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"]),
            Some(schema::Shape::MicroTime) => some(&["2026-01-02T03:04:05.000000Z"]),
            Some(schema::Shape::Duration) => some(&["1s", "1m0s"]),
            _ => prop_oneof![some(&["a", "50%"]), Just(json!(7))].boxed(),
        },
        Shape::Any => match ty.map(schema::Ty::shape) {
            Some(schema::Shape::Items) => Just(json!(["a"])).boxed(),
            _ => prop_oneof![Just(json!({"x": 1})), Just(json!({"y": [2]}))].boxed(),
        },
        Shape::Struct { ty, .. } => object(ty, depth).prop_map(Value::Object).boxed(),
        Shape::Map { of, .. } => {
            let inner = shape.field("x").expect("a map has a type of values");
            prop::collection::btree_map("[a-c]", value(inner, Some(of), depth.saturating_sub(1)), 1..3)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
                .boxed()
        }
        Shape::List { of, .. } => {
            let inner = shape.item().expect("a list has a type of items");
            prop::collection::vec(value(inner, Some(of), depth.saturating_sub(1)), 1..4)
                .prop_map(move |items| Value::Array(told_apart(shape, items)))
                .boxed()
        }
    }
}

/// Without the items of a set or keyed list that come twice or have no key.
fn told_apart(shape: Shape, items: Vec<Value>) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let keep = |item: &Value| match shape {
        Shape::List { list: List::Atomic, .. } => true,
        _ => shape.element(item).is_ok_and(|element| seen.insert(element)),
    };
    items.into_iter().filter(keep).collect()
}

fn object(ty: TypeRef, depth: u32) -> BoxedStrategy<Map<String, Value>> {
    let scalar = |field: &schema::Field| matches!(Shape::object(ty).field(field.name()), Some(Shape::Scalar(_)));
    let fields: Vec<schema::Field> = ty
        .fields()
        .filter(|field| !matches!(field.name(), "apiVersion" | "kind" | "metadata") && !TWINS.contains(&field.name()))
        .filter(|field| depth > 0 || scalar(field))
        .collect();
    let most = fields.len().min(5);
    prop::sample::subsequence(fields, 0..=most)
        .prop_flat_map(move |chosen| {
            let members: Vec<_> = chosen
                .into_iter()
                .map(|field| {
                    let inner = Shape::object(ty).field(field.name()).expect("its own field");
                    (
                        Just(field.name().to_owned()),
                        value(inner, Some(field.ty()), depth.saturating_sub(1)),
                    )
                })
                .collect();
            members
        })
        .prop_map(|members| members.into_iter().map(|(name, value)| (name, clean(value))).collect())
        .boxed()
}

/// What generation left empty is not said.
fn clean(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| (key, clean(value)))
                .filter(|(_, value)| !is_bare(value))
                .collect(),
        ),
        other => other,
    }
}

fn is_bare(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        other => other.is_null(),
    }
}

#[derive(Debug, Clone)]
struct Made {
    gvk: Gvk<'static>,
    ty: TypeRef,
    objects: Vec<Map<String, Value>>,
}

fn made(count: usize) -> impl Strategy<Value = Made> {
    (0..KINDS.len()).prop_flat_map(move |at| {
        let (group, version, kind) = KINDS[at];
        let gvk = Gvk { group, version, kind };
        let ty = schema::type_of(group, version, kind).expect("a kind of the table");
        let whole = move |mut object: Map<String, Value>| {
            object.retain(|_, value| !is_bare(value));
            object.insert("apiVersion".into(), gvk.api_version().into());
            object.insert("kind".into(), kind.into());
            object.insert("metadata".into(), json!({"name": "x"}));
            object
        };
        prop::collection::vec(object(ty, 4).prop_map(whole), count).prop_map(move |objects| Made { gvk, ty, objects })
    })
}

impl Made {
    fn form<'a>(&self, manager: &'a str, second: u32) -> Form<'a> {
        Form {
            gvk: self.gvk,
            ty: self.ty,
            subresource: "",
            reset: Reset::NOTHING,
            manager,
            now: format!("2026-01-02T03:04:{second:02}Z"),
            versions: &OneVersion,
        }
    }
    fn shape(&self) -> Shape {
        Shape::object(self.ty)
    }
}

/// The naive model: every leaf by the letters of its path.
fn leaves(shape: Shape, value: &Value, path: String, out: &mut BTreeMap<String, Value>) {
    match (shape, value) {
        _ if shape.is_atomic() => drop(out.insert(path, value.clone())),
        (Shape::Struct { .. } | Shape::Map { .. }, Value::Object(map)) => {
            for (name, value) in map {
                let inner = shape.field(name).expect("a field of the type");
                leaves(inner, value, format!("{path}/f:{name}"), out);
            }
        }
        (Shape::List { .. }, Value::Array(items)) => {
            for item in items {
                let element = shape.element(item).expect("items have elements");
                leaves(
                    shape.item().expect("a list"),
                    item,
                    format!("{path}/{}", element.as_str()),
                    out,
                );
            }
        }
        // What removal leaves of a struct.
        (_, Value::Null) => {}
        _ => drop(out.insert(path, value.clone())),
    }
}

fn model(shape: Shape, object: &Map<String, Value>) -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    leaves(shape, &Value::Object(object.clone()), String::new(), &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_global_rejects: 10_000, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_set_is_read_as_it_was_written(made in made(1)) {
        let set = set_of(made.shape(), &made.objects[0]);
        prop_assert_eq!(Set::decode(&set.encode()).unwrap(), set);
    }

    #[test]
    fn no_letters_make_a_reader_of_sets_panic(text in "\\{\"[fkvi.]:?[a-z{\\\\\":,0-9\\[\\]}]{0,20}\":\\{\\}\\}") {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            let _ = Set::decode(&value).map(|set| set.paths());
        }
    }

    #[test]
    fn sets_obey_the_algebra(made in made(3)) {
        let sets: Vec<Set> = made.objects.iter().map(|o| set_of(made.shape(), o)).collect();
        let [a, b, c] = sets.as_slice() else { unreachable!("three were made") };
        prop_assert_eq!(a.clone().union(b), b.clone().union(a));
        prop_assert_eq!(a.clone().union(b).union(c), a.clone().union(&b.clone().union(c)));
        prop_assert_eq!(a.intersection(b), b.intersection(a));
        let mut difference = a.clone();
        difference.subtract(b);
        prop_assert!(difference.intersection(b).is_empty());
        prop_assert_eq!(difference.union(&a.intersection(b)), a.clone());
    }

    #[test]
    fn a_merge_is_the_naive_overlay_of_leaves(made in made(2)) {
        let (live, config) = (&made.objects[0], &made.objects[1]);
        let merged = merge(made.shape(), live, config);
        let mut want = model(made.shape(), live);
        want.extend(model(made.shape(), config));
        prop_assert_eq!(model(made.shape(), &merged), want);
        // Of itself, and again, it is nothing new.
        prop_assert_eq!(&merge(made.shape(), live, live), live);
        prop_assert_eq!(&merge(made.shape(), &merged, config), &merged);
    }

    #[test]
    fn a_comparison_names_exactly_the_leaves_that_differ(made in made(2)) {
        let shape = made.shape();
        let (old, new) = (&made.objects[0], &made.objects[1]);
        let same = compare::compare(shape, old, old);
        prop_assert!(same.added.is_empty() && same.modified.is_empty() && same.removed.is_empty());
        let change = compare::compare(shape, old, new);
        let back = compare::compare(shape, new, old);
        prop_assert_eq!((&back.added, &back.modified, &back.removed), (&change.removed, &change.modified, &change.added));
        // What was added or modified is in the new object, what was removed only in the old one.
        let (was, is) = (model(shape, old), model(shape, new));
        let differing = was.iter().filter(|(path, value)| is.get(*path).is_some_and(|other| other != *value)).count();
        prop_assert_eq!(change.modified.paths().len(), differing);
        let rest = remove(shape, new, &change.added);
        let kept = model(shape, &rest);
        prop_assert!(kept.keys().all(|path| was.contains_key(path)), "{:?}", kept);
    }

    #[test]
    fn applying_twice_is_applying_once(made in made(2)) {
        let mut live = made.objects[0].clone();
        schema::default(made.ty, &mut live);
        track(&made.form("creator", 1), None, &mut live);
        let form = made.form("me", 2);
        if let Ok(once) = apply(&form, Some(&live), &made.objects[1], true) {
            let twice = apply(&form, Some(&once), &made.objects[1], false).expect("no conflict is left");
            prop_assert_eq!(twice, once);
        }
    }

    #[test]
    fn who_agrees_may_come_in_any_order(made in made(2)) {
        // Who says nothing owns nothing, and the next one finds an object that nobody tracks.
        prop_assume!(made.objects.iter().all(|object| object.len() > 3));
        let by = |first: usize, second: usize| {
            let names = ["one", "two"];
            let start = apply(&made.form(names[first], 1), None, &made.objects[first], false)?;
            apply(&made.form(names[second], 1), Some(&start), &made.objects[second], false)
        };
        if let (Ok(there), Ok(back)) = (by(0, 1), by(1, 0)) {
            prop_assert_eq!(&there["metadata"]["managedFields"], &back["metadata"]["managedFields"]);
            // What defaults add depends on what was there when they were added.
            let (there, back) = (model(made.shape(), &without(&there)), model(made.shape(), &without(&back)));
            let said: BTreeSet<String> = made.objects.iter().flat_map(|o| model(made.shape(), o).into_keys()).collect();
            for path in said {
                prop_assert_eq!(there.get(&path), back.get(&path), "{}", path);
            }
        }
    }

    #[test]
    fn what_is_taken_by_force_is_the_takers_alone(made in made(2)) {
        let Ok(live) = apply(&made.form("one", 1), None, &made.objects[0], false) else { return Ok(()) };
        let Ok(taken) = apply(&made.form("two", 2), Some(&live), &made.objects[1], true) else { return Ok(()) };
        let entries = managed::Managed::decode(track::list(&taken)).unwrap().0;
        let own = |name: &str| entries.iter().find(|e| e.owner.manager == name).map(|e| e.set.clone()).unwrap_or_default();
        let mut said = set_of(made.shape(), &made.objects[1]);
        said.subtract(&SYSTEM);
        prop_assert_eq!(own("two"), said);
        // Both own only what they agree on.
        let both = own("one").intersection(&own("two"));
        let change = compare::compare(made.shape(), &made.objects[0], &made.objects[1]);
        prop_assert!(both.intersection(&change.modified).is_empty());
    }

    #[test]
    fn what_nobody_says_any_more_is_gone(made in made(2)) {
        let Ok(live) = apply(&made.form("me", 1), None, &made.objects[0], false) else { return Ok(()) };
        let Ok(later) = apply(&made.form("me", 2), Some(&live), &made.objects[1], false) else { return Ok(()) };
        let Ok(fresh) = apply(&made.form("me", 2), None, &made.objects[1], false) else { return Ok(()) };
        let (later, fresh) = (model(made.shape(), &without(&later)), model(made.shape(), &without(&fresh)));
        let said: BTreeMap<_, _> = model(made.shape(), &made.objects[0]);
        // Only defaults of what was there before can be left over.
        for path in later.keys().filter(|path| !fresh.contains_key(*path)) {
            prop_assert!(!said.contains_key(path), "{} is left", path);
        }
    }
}

fn without(object: &Map<String, Value>) -> Map<String, Value> {
    let mut object = object.clone();
    object.remove("metadata");
    object
}

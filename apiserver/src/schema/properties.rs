//! What holds for every body, found by making them up.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;

const KINDS: &[(&str, &str, &str)] = &[
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("", "v1", "Node"),
    ("", "v1", "LimitRange"),
    ("apps", "v1", "StatefulSet"),
    ("batch", "v1", "CronJob"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    ("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration"),
    ("resource.k8s.io", "v1", "ResourceClaim"),
];

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        prop_oneof![
            "1",
            "500m",
            "1.5Gi",
            "0.00001",
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.123456+01:00",
            "1h",
            "YWJj",
            "é@:/latest",
            "RollingUpdate",
            "LoadBalancer",
            "Container"
        ]
        .prop_map(Value::from),
    ]
}

/// A value of a type, mostly right and sometimes not.
fn value(ty: Ty, depth: u32) -> BoxedStrategy<Value> {
    let right = match ty.shape() {
        Shape::Object(ty) if depth > 0 => object(ty, depth - 1),
        Shape::List(inner) if depth > 0 => prop::collection::vec(value(inner, depth - 1), 0..3)
            .prop_map(Value::Array)
            .boxed(),
        Shape::Map(inner) if depth > 0 => {
            prop::collection::btree_map("[a-z]{0,3}|\\PC{0,2}", value(inner, depth - 1), 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
                .boxed()
        }
        Shape::Int32 | Shape::Int64 => any::<i16>().prop_map(Value::from).boxed(),
        Shape::Bool => any::<bool>().prop_map(Value::from).boxed(),
        Shape::String | Shape::Items => "\\PC{0,6}|RollingUpdate|LoadBalancer|Container|ClientIP"
            .prop_map(Value::from)
            .boxed(),
        Shape::Quantity => "[0-9]{1,4}(m|Ki|Gi|k|e2|u|\\.5)?".prop_map(Value::from).boxed(),
        Shape::Time => "2026-0[1-9]-[01][1-9]T[01][0-9]:04:05(\\.[0-9]{1,9})?(Z|\\+0[0-9]:30)"
            .prop_map(Value::from)
            .boxed(),
        Shape::MicroTime => "2026-0[1-9]-[01][1-9]T[01][0-9]:04:05\\.[0-9]{6}Z"
            .prop_map(Value::from)
            .boxed(),
        Shape::Bytes => prop::sample::select(vec!["", "YWJj", "YQ=="])
            .prop_map(Value::from)
            .boxed(),
        Shape::IntOrString => prop_oneof![
            any::<i16>().prop_map(Value::from),
            "[a-z0-9%]{0,4}".prop_map(Value::from)
        ]
        .boxed(),
        Shape::Raw | Shape::Json | Shape::Any | Shape::Fields | Shape::Double => {
            any::<i16>().prop_map(Value::from).boxed()
        }
        _ => Just(Value::Null).boxed(),
    };
    prop_oneof![120 => right, 2 => Just(Value::Null), 1 => scalar()].boxed()
}

fn object(ty: TypeRef, depth: u32) -> BoxedStrategy<Value> {
    // Another kind is another refusal.
    let fields: Vec<Field> = ty
        .fields()
        .filter(|f| !matches!(f.name(), "apiVersion" | "kind"))
        .collect();
    if fields.is_empty() {
        return Just(Value::Object(Map::new())).boxed();
    }
    prop::sample::subsequence(fields.clone(), 0..=fields.len().min(6))
        .prop_flat_map(move |chosen| {
            chosen
                .into_iter()
                .map(|field| (Just(field.name().to_owned()), value(field.ty(), depth)))
                .collect::<Vec<_>>()
        })
        .prop_map(|members| Value::Object(members.into_iter().collect()))
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn a_body_that_is_read_reads_the_same_again((kind, tree) in (0..KINDS.len()).prop_flat_map(|i| {
        let (group, version, kind) = KINDS[i];
        (Just(i), object(type_of(group, version, kind).unwrap(), 5))
    })) {
        let (group, version, kind) = KINDS[kind];
        let (ty, gvk) = (type_of(group, version, kind).unwrap(), Gvk { group, version, kind });
        let body = serde_json::to_vec(&tree).unwrap();
        let Ok(read) = decode(ty, gvk, Format::Json, &body, Validation::Warn) else { return Ok(()) };
        let mut object = read.object;
        let again = decode(ty, gvk, Format::Json, &encode(&object), Validation::Strict).unwrap();
        prop_assert_eq!(&again.object, &object);
        let mut normal = object.clone();
        normalise(ty, &mut normal.0);
        prop_assert_eq!(&normal, &object);
        default(ty, &mut object.0);
        let mut twice = object.clone();
        default(ty, &mut twice.0);
        prop_assert_eq!(&twice, &object);
        let message = protobuf::to_protobuf(ty, &object.0).unwrap();
        let (found, mut through) = protobuf::from_protobuf(&message, None, protobuf::Unknown::Refuse).unwrap();
        prop_assert_eq!(found, ty);
        // The kinds of objects within objects are not on that wire; defaulting brings them back.
        default(ty, &mut through);
        prop_assert_eq!(Value::Object(through), Value::Object(object.0.clone()));
        for by in [Patched::Text, Patched::Tree] {
            let checked = check(ty, gvk, by, &Value::Object(object.0.clone())).unwrap();
            prop_assert_eq!(checked.1, Vec::<String>::new());
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}:,\"a-f0-9\\\\ue.+ \n&*<|>!-]{0,80}") {
        let (ty, gvk) = (type_of("", "v1", "Pod").unwrap(), Gvk { group: "", version: "v1", kind: "Pod" });
        for body in [bytes.as_slice(), text.as_bytes()] {
            for format in [Format::Json, Format::Yaml] {
                let _ = decode(ty, gvk, format, body, Validation::Strict);
            }
            let _ = protobuf::from_protobuf(&[protobuf::MAGIC, body].concat(), Some(ty), protobuf::Unknown::Drop);
        }
    }

    #[test]
    fn json_reads_as_serde_json_reads_it(text in "[\\[\\]{}:,\"a-f0-9\\\\ue.+ \n-]{0,40}") {
        let ours = {
            let mut reader = json::Reader::new(text.as_bytes());
            reader.any().and_then(|value| reader.end().map(|()| value)).ok()
        };
        let theirs: Option<Value> = serde_json::from_str(&text).ok();
        // serde_json refuses halves of surrogate pairs and numbers too large for a float; Go replaces them.
        if theirs.is_some() || !(text.contains("\\u") || text.contains('e')) {
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn leaves_survive_any_text(text in "\\PC{0,30}|[0-9T:Z.+a-z -]{0,30}") {
        for read in [leaf::time(&text), leaf::micro_time(&text), leaf::quantity(&text)].into_iter().flatten() {
            prop_assert!(!read.is_empty());
        }
        if let Ok(nanos) = leaf::duration(&text) {
            let printed = leaf::print_duration(nanos);
            prop_assert_eq!(leaf::duration(&printed), Ok(nanos), "{}", printed);
        }
        if let Ok(bytes) = leaf::base64(&text) {
            prop_assert_eq!(leaf::base64(&leaf::print_base64(&bytes)), Ok(bytes));
        }
    }
}

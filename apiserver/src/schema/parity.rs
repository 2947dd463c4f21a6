//! Compares decoding and defaulting with what a 1.36 API server made of the same objects. The recorded answers are not
//! part of this project: `KUBERNETES_FACTS` names the folder that holds them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::*;

/// Where the facts of 1.36 are, if they are here.
pub(super) fn facts() -> Option<PathBuf> {
    let folder = std::env::var_os("KUBERNETES_FACTS").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: KUBERNETES_FACTS is not set");
    }
    folder
}

/// What strategies, admission and allocation add, which is not the schema's business: kind (or `*`) and path.
const OTHERS: &[(&str, &str)] = &[
    ("*", "metadata.namespace"),
    ("*", "metadata.generation"),
    ("CustomResourceDefinition", "status.storedVersions"),
    ("DaemonSet", "metadata.annotations"),
    ("Job", "metadata.labels"),
    ("Job", "spec.selector"),
    ("Job", "spec.template.metadata.labels"),
    // A name of its own making where there is none.
    ("LimitRange", "metadata.name"),
    ("Namespace", "spec.finalizers"),
    ("Node", "spec.taints"),
    ("PersistentVolume", "metadata.finalizers"),
    ("PersistentVolume", "status.lastPhaseTransitionTime"),
    ("PersistentVolumeClaim", "metadata.finalizers"),
    ("Pod", "spec.preemptionPolicy"),
    ("Pod", "spec.priority"),
    ("Pod", "spec.serviceAccount"),
    ("Pod", "status.phase"),
    ("Pod", "status.qosClass"),
    ("Service", "spec.clusterIP"),
    ("Service", "spec.ports[].nodePort"),
];

/// Takes out of a recorded pod what admission put into its lists.
fn without_admission(pod: &mut Value) {
    const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let drop = |object: &mut Value, list: &str, gone: &dyn Fn(&Value) -> bool| {
        let Some(items) = object.get_mut(list).and_then(Value::as_array_mut) else {
            return;
        };
        items.retain(|item| !gone(item));
        if items.is_empty() {
            object.as_object_mut().unwrap().remove(list);
        }
    };
    let Some(spec) = pod.get_mut("spec") else { return };
    drop(spec, "volumes", &|v| {
        v["name"].as_str().is_some_and(|n| n.starts_with("kube-api-access"))
    });
    drop(spec, "tolerations", &|t| {
        t["tolerationSeconds"] == 300 && t["key"].as_str().is_some_and(|k| k.starts_with("node.kubernetes.io/"))
    });
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            drop(container, "volumeMounts", &|m| m["mountPath"] == MOUNT);
        }
    }
}
/// The paths at which two trees differ.
pub(super) fn differences(path: &str, ours: Option<&Value>, theirs: Option<&Value>, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                differences(&path, a.get(key), b.get(key), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (a, b) in a.iter().zip(b) {
                differences(&format!("{path}[]"), Some(a), Some(b), found);
            }
        }
        (a, b) if a != b => found.push(path.to_owned()),
        _ => {}
    }
}

#[test]
fn defaults_are_those_of_a_recorded_server() {
    let Some(folder) = facts() else { return };
    let text = std::fs::read_to_string(folder.join("defaulting-cases.jsonl")).unwrap();
    let (mut total, mut same) = (0, 0);
    let mut wrong: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for line in text.lines() {
        let mut case: Value = serde_json::from_str(line).unwrap();
        let body = serde_json::to_vec(&case["object"]).unwrap();
        let api_version = case["object"]["apiVersion"].as_str().unwrap().to_owned();
        let kind = case["object"]["kind"].as_str().unwrap().to_owned();
        let kind = kind.as_str();
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let ty = type_of(group, version, kind).unwrap();
        let read = decode(
            ty,
            Gvk { group, version, kind },
            Format::Json,
            &body,
            Validation::Strict,
        )
        .unwrap();
        let mut ours = read.object.0;
        default(ty, &mut ours);
        let again = {
            let mut again = ours.clone();
            default(ty, &mut again);
            again
        };
        assert_eq!(ours, again, "defaulting twice differs from once: {line}");
        let mut normal = ours.clone();
        normalise(ty, &mut normal);
        assert_eq!(ours, normal, "a defaulted object is in normal form");
        if kind == "Pod" {
            without_admission(&mut case["result"]);
        }
        let mut found = Vec::new();
        differences("", Some(&Value::Object(ours)), Some(&case["result"]), &mut found);
        found.retain(|path| {
            !OTHERS
                .iter()
                .any(|(k, p)| (*k == "*" || *k == kind) && path.starts_with(p))
        });
        total += 1;
        if found.is_empty() {
            same += 1;
        }
        for path in found {
            let example = format!("{} {}", case["path"], case["case"]);
            wrong.entry(format!("{kind} {path}")).or_insert((0, example)).0 += 1;
        }
    }
    for (what, (count, example)) in &wrong {
        println!("{count:5} {what}   e.g. {example}");
    }
    println!("{same} of {total} as recorded");
    assert_eq!(same, total);
}

#[test]
fn bodies_that_a_recorded_server_could_not_read_are_refused_and_no_others() {
    let Some(folder) = facts() else { return };
    let text = std::fs::read_to_string(folder.join("validation-cases.jsonl")).unwrap();
    let mut wrong = Vec::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let body = serde_json::to_vec(&case["object"]).unwrap();
        let Some(api_version) = case["object"]["apiVersion"].as_str() else {
            continue;
        };
        let Some(kind) = case["object"]["kind"].as_str() else {
            continue;
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let Some(ty) = type_of(group, version, kind) else {
            continue;
        };
        let read = decode(
            ty,
            Gvk { group, version, kind },
            Format::Json,
            &body,
            Validation::Strict,
        );
        if read.is_err() != (case["code"] == 400) {
            let why = read.err().map(|e| e.message).unwrap_or_default();
            wrong.push(format!(
                "{} {}: {} {}; ours: {why}",
                case["path"], case["case"], case["code"], case["message"]
            ));
        }
    }
    wrong.sort();
    println!("{}", wrong.join("\n"));
    assert!(wrong.is_empty(), "{} differ", wrong.len());
}

/// `apps.v1.Deployment`, the name of an example, in its parts.
pub(super) fn example(name: &str) -> (&str, &str, &str) {
    let (rest, kind) = name.rsplit_once('.').unwrap();
    let (group, version) = rest.rsplit_once('.').unwrap();
    (if group == "core" { "" } else { group }, version, kind)
}

#[test]
fn published_examples_are_read_without_loss() {
    let Some(folder) = facts() else { return };
    let (mut read, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(folder.join("fixtures")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let format = match path.extension().and_then(|e| e.to_str()) {
            Some("json") => Format::Json,
            Some("yaml") => Format::Yaml,
            _ => continue,
        };
        let body = std::fs::read(&path).unwrap();
        let tree: Value = serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        let (group, version, kind) = example(&name);
        let Some(ty) = type_of(group, version, kind) else {
            wrong.push(format!("{name}: no such type"));
            continue;
        };
        match decode(ty, Gvk { group, version, kind }, format, &body, Validation::Strict) {
            Err(e) => wrong.push(format!("{name}: {}", e.message)),
            Ok(decoded) => {
                let mut object = decoded.object.0;
                object.retain(|name, _| ty.field(name).is_some());
                let mut found = Vec::new();
                differences("", Some(&Value::Object(object)), Some(&tree), &mut found);
                wrong.extend(found.into_iter().map(|path| format!("{name}: {path}")));
            }
        }
        read += 1;
    }
    wrong.sort();
    println!("{}", wrong.join("\n"));
    assert!(read >= 370 && wrong.is_empty(), "{read} read, {} differ", wrong.len());
}

#[test]
fn protobuf_numbers_are_the_published_ones() {
    let Some(folder) = facts() else { return };
    let text = std::fs::read_to_string(folder.join("protobuf-fields.tsv")).unwrap();
    let (mut compared, mut wrong) = (0, Vec::new());
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        let (message, name) = (cells[0], cells[1]);
        let Some((package, ty)) = message.rsplit_once('.') else {
            continue;
        };
        let package: Vec<&str> = package.rsplit('.').take(2).collect();
        let Some(ty) = TypeRef::by_id(&format!("{}/{}.{ty}", package[1], package[0])) else {
            continue;
        };
        if name.is_empty() {
            continue;
        }
        let number: u32 = cells[2].parse().unwrap();
        compared += 1;
        let found = ty.wire().find(|f| f.number() == number);
        match found {
            None => wrong.push(format!("{message}.{name}: no field {number}")),
            Some(field) => {
                // Names differ where JSON has none: inlined structs, `$ref`, capitals.
                let plain = |name: &str| name.to_lowercase().replace(['-', '$'], "");
                if !field.is_inline() && plain(field.name()) != plain(name) {
                    wrong.push(format!("{message}.{name}: {number} is {}", field.name()));
                }
                let repeated =
                    matches!(field.ty().shape(), Shape::List(_)) || matches!(field.ty().shape(), Shape::Map(_));
                if repeated != (cells[4] == "repeated" || cells[3].starts_with("map<")) {
                    wrong.push(format!("{message}.{name}: {field:?} but {} {}", cells[4], cells[3]));
                }
            }
        }
    }
    println!("{}", wrong.join("\n"));
    assert!(
        compared > 3500 && wrong.is_empty(),
        "{compared} compared, {} differ",
        wrong.len()
    );
}

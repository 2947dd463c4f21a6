use serde_json::json;

use super::super::{Gvk, parity};
use super::*;

fn pod(tree: Value) -> Map<String, Value> {
    let bytes = serde_json::to_vec(&tree).unwrap();
    let gvk = Gvk {
        group: "",
        version: "v1",
        kind: "Pod",
    };
    let ty = type_of("", "v1", "Pod").unwrap();
    super::super::decode(ty, gvk, super::super::Format::Json, &bytes, Default::default())
        .unwrap()
        .object
        .0
}

#[test]
fn an_object_survives_the_way_there_and_back() {
    let object = pod(
        json!({"metadata": {"name": "x", "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T03:04:05Z"}, "spec": {
        "hostNetwork": true, "terminationGracePeriodSeconds": 0, "volumes": [{"name": "v", "hostPath": {"path": "/é", "type": ""}}],
        "containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"tcpSocket": {"port": -1}},
            "resources": {"limits": {"cpu": "500m"}}}]}}),
    );
    let bytes = to_protobuf(type_of("", "v1", "Pod").unwrap(), &object).unwrap();
    let (ty, again) = from_protobuf(&bytes, None, Unknown::Refuse).unwrap();
    assert_eq!((ty.id(), again), ("core/v1.Pod", object));
}

#[test]
fn what_cannot_be_complete_is_refused() {
    let table = type_of("", "v1", "Table").unwrap();
    assert_eq!(
        to_protobuf(table, &Map::new()),
        Err(Error::NoForm("meta/v1.Table".into()))
    );
    let mut bytes = to_protobuf(
        type_of("", "v1", "Secret").unwrap(),
        json!({"apiVersion": "v1", "kind": "Secret"}).as_object().unwrap(),
    )
    .unwrap();
    let raw = bytes.iter().position(|b| *b == 0x12).unwrap();
    let at = bytes[raw..].iter().position(|b| *b == 0x0a).unwrap();
    bytes[raw + at] = 0x7a;
    let read = from_protobuf(&bytes, None, Unknown::Refuse);
    assert!(read.is_err(), "{read:?}");
    for end in 0..bytes.len() {
        let _ = from_protobuf(&bytes[..end], None, Unknown::Drop);
    }
    assert_eq!(from_protobuf(b"{}", None, Unknown::Refuse), Err(Error::NotAMessage));
}

#[test]
fn published_examples_are_the_same_bytes() {
    let Some(folder) = parity::facts() else { return };
    let (mut compared, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(folder.join("fixtures")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "pb") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let theirs = std::fs::read(&path).unwrap();
        let tree: Value = serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        let (group, version, kind) = parity::example(&name);
        let ty = type_of(group, version, kind).unwrap();
        compared += 1;
        match from_protobuf(&theirs, Some(ty), Unknown::Refuse) {
            Err(e) => wrong.push(format!("{name}: {e}")),
            Ok((found, ours)) => {
                if found != ty {
                    wrong.push(format!("{name}: read as {found:?}"));
                }
                let mut paths = Vec::new();
                parity::differences("", Some(&Value::Object(ours.clone())), Some(&tree), &mut paths);
                wrong.extend(paths.into_iter().map(|path| format!("{name}: read {path}")));
            }
        }
        match to_protobuf(ty, tree.as_object().unwrap()) {
            Err(e) => wrong.push(format!("{name}: {e}")),
            Ok(ours) if ours != theirs => {
                let at = ours
                    .iter()
                    .zip(&theirs)
                    .position(|(a, b)| a != b)
                    .unwrap_or(ours.len().min(theirs.len()));
                let around = |bytes: &[u8]| {
                    String::from_utf8_lossy(&bytes[at.saturating_sub(20).min(bytes.len())..(at + 20).min(bytes.len())])
                        .into_owned()
                };
                wrong.push(format!(
                    "{name}: written otherwise at {at}: {:?} {:?}",
                    around(&ours),
                    around(&theirs)
                ));
            }
            Ok(_) => {}
        }
    }
    wrong.sort();
    println!("{}", wrong.join("\n"));
    assert!(
        compared >= 185 && wrong.is_empty(),
        "{compared} compared, {} differ",
        wrong.len()
    );
}

use std::collections::BTreeMap;

use super::super::protobuf::wire;
use super::*;

fn pods() -> Resource {
    let sub = |name: &str, kind: &str, verbs: &[&str]| Subresource {
        name: name.into(),
        group: String::new(),
        version: "v1".into(),
        kind: kind.into(),
        verbs: verbs.iter().map(|v| (*v).into()).collect(),
    };
    Resource {
        group: String::new(),
        version: "v1".into(),
        kind: "Pod".into(),
        plural: "pods".into(),
        namespaced: true,
        verbs: [
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ]
        .map(Into::into)
        .to_vec(),
        subresources: vec![
            sub("status", "Pod", &["get", "patch", "update"]),
            sub("binding", "Binding", &["create"]),
            sub("exec", "PodExecOptions", &["connect"]),
            sub("proxy", "PodProxyOptions", &["connect"]),
        ],
    }
}

fn parse(document: &Document) -> Value {
    serde_json::from_slice(&document.plain()).unwrap()
}

#[test]
fn explain_finds_what_it_looks_for() {
    let documents = Documents::new("v1.36.0", vec![pods()]);
    let url = documents.index()["paths"]["api/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    let document = documents.v3("api/v1").unwrap();
    assert!(url.ends_with(&*document.hash));
    let tree = parse(&document);
    let get = &tree["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["get"];
    assert_eq!(
        get["x-kubernetes-group-version-kind"],
        json!({"group": "", "version": "v1", "kind": "Pod"})
    );
    let patch = &tree["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    let names: Vec<&Value> = patch["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["name"])
        .collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let schemas = &tree["components"]["schemas"];
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert!(containers["description"].as_str().unwrap().contains("containers"));
    assert_eq!(
        containers["items"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.core.v1.Container"
    );
    assert_eq!(
        schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"],
        "TCP"
    );
    assert!(documents.v3("apis/apps/v1").is_none());
}

#[test]
fn every_reference_has_its_definition() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    found.push(target.clone());
                }
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(list) => list.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    let documents = Documents::new("v1.36.0", vec![pods()]);
    for tree in [
        parse(&documents.v3("api/v1").unwrap()),
        parse(&documents.v2(Coding::Json)),
    ] {
        let mut found = Vec::new();
        references(&tree, &mut found);
        assert!(found.len() > 200);
        for target in found {
            assert!(tree.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
        }
    }
}

/// The messages under a number, and the texts.
fn within(bytes: &[u8], number: u32) -> Vec<&[u8]> {
    wire::fields(bytes)
        .filter_map(|field| match field.unwrap() {
            (found, wire::Datum::Bytes(bytes)) if found == number => Some(bytes),
            _ => None,
        })
        .collect()
}

fn word(bytes: &[u8], number: u32) -> &str {
    within(bytes, number)
        .first()
        .map_or("", |text| std::str::from_utf8(text).unwrap())
}

/// A schema of the protobuf form as the JSON that it was made of.
fn schema_of(bytes: &[u8]) -> Value {
    let mut made = serde_json::Map::new();
    for (name, number) in [("$ref", 1), ("format", 2), ("description", 4)] {
        if !word(bytes, number).is_empty() {
            made.insert(name.into(), word(bytes, number).into());
        }
    }
    let required: Vec<&str> = within(bytes, 19)
        .into_iter()
        .map(|text| std::str::from_utf8(text).unwrap())
        .collect();
    if !required.is_empty() {
        made.insert("required".into(), required.into());
    }
    for (name, number) in [("additionalProperties", 21), ("items", 23)] {
        if let [inside] = within(bytes, number)[..] {
            made.insert(name.into(), schema_of(within(inside, 1)[0]));
        }
    }
    if let [inside] = within(bytes, 22)[..] {
        made.insert("type".into(), word(inside, 1).into());
    }
    if let [inside] = within(bytes, 25)[..] {
        made.insert("properties".into(), schemas_of(inside));
    }
    made.extend(extensions_of(bytes, 31));
    Value::Object(made)
}

fn schemas_of(bytes: &[u8]) -> Value {
    let pairs = within(bytes, 1).into_iter();
    pairs
        .map(|pair| (word(pair, 1).to_owned(), schema_of(within(pair, 2)[0])))
        .collect()
}

fn extensions_of(bytes: &[u8], number: u32) -> impl Iterator<Item = (String, Value)> {
    within(bytes, number).into_iter().map(|pair| {
        let yaml = word(within(pair, 2)[0], 2);
        (word(pair, 1).to_owned(), serde_saphyr::from_str(yaml).unwrap())
    })
}

#[test]
fn the_protobuf_form_says_what_the_json_form_says() {
    let documents = Documents::new("v1.36.0", vec![pods()]);
    let json = parse(&documents.v2(Coding::Json));
    let protobuf = documents.v2(Coding::Protobuf).plain();
    assert_eq!(word(&protobuf, 1), "2.0");
    assert_eq!(word(within(&protobuf, 2)[0], 1), "Kubernetes");
    assert_eq!(word(within(within(&protobuf, 12)[0], 1)[0], 1), "BearerToken");
    let scheme = within(within(within(within(&protobuf, 13)[0], 1)[0], 2)[0], 2)[0];
    assert_eq!((word(scheme, 1), word(scheme, 3)), ("apiKey", "header"));

    let definitions = schemas_of(within(&protobuf, 9)[0]);
    assert_eq!(definitions, json["definitions"]);
    let properties = |tree: &Value| -> usize {
        let all = tree.as_object().unwrap().values();
        all.filter_map(|definition| definition["properties"].as_object())
            .map(|p| p.len())
            .sum()
    };
    assert!(properties(&definitions) > 500);

    let paths = within(within(&protobuf, 8)[0], 2);
    assert_eq!(paths.len(), json["paths"].as_object().unwrap().len());
    let methods = [
        ("get", 2),
        ("put", 3),
        ("post", 4),
        ("delete", 5),
        ("options", 6),
        ("head", 7),
        ("patch", 8),
    ];
    for path in paths {
        let (path, item) = (word(path, 1), within(path, 2)[0]);
        let published = &json["paths"][path];
        for (method, number) in methods {
            let found = within(item, number);
            assert_eq!(
                found.len(),
                usize::from(published.get(method).is_some()),
                "{path} {method}"
            );
            let Some(operation) = found.first() else { continue };
            let published = &published[method];
            assert_eq!(word(operation, 5), published["operationId"]);
            let parameters = within(operation, 8).into_iter().map(parameter_of).collect::<Vec<_>>();
            assert_eq!(parameters.len(), published["parameters"].as_array().map_or(0, Vec::len));
            for (found, published) in parameters
                .iter()
                .zip(published["parameters"].as_array().into_iter().flatten())
            {
                assert_eq!(
                    (found.0, found.1),
                    (published["name"].as_str().unwrap(), published["in"].as_str().unwrap())
                );
            }
            let codes = within(within(operation, 9)[0], 1);
            assert_eq!(codes.len(), published["responses"].as_object().unwrap().len());
            for pair in codes {
                let response = within(within(pair, 2)[0], 1)[0];
                let published = &published["responses"][word(pair, 1)];
                assert_eq!(word(response, 1), published["description"]);
                let schema = within(response, 2).first().map(|item| schema_of(within(item, 1)[0]));
                assert_eq!(schema.as_ref(), published.get("schema"));
            }
            for (name, value) in extensions_of(operation, 13) {
                assert_eq!(value, published[&name], "{path} {method} {name}");
            }
        }
    }
}

/// Name and place of a parameter.
fn parameter_of(item: &[u8]) -> (&str, &str) {
    let parameter = within(item, 1)[0];
    if let [body] = within(parameter, 1)[..] {
        return (word(body, 2), word(body, 3));
    }
    let other = within(parameter, 2)[0];
    let found = within(other, 3).into_iter().chain(within(other, 4)).next().unwrap();
    (word(found, 4), word(found, 2))
}

#[test]
fn one_form_of_v2_is_kept() {
    let documents = Documents::new("v1.36.0", vec![pods()]);
    let first = documents.v2(Coding::Protobuf).compressed;
    assert_eq!(documents.v2(Coding::Protobuf).compressed.as_ptr(), first.as_ptr());
    assert_ne!(documents.v2(Coding::Json).compressed, first);
    assert_eq!(documents.v2.lock().unwrap().as_ref().unwrap().0, Coding::Json);
}

/// The crate that has the sentences has no such types.
fn undescribed(name: &str) -> bool {
    name.ends_with("List") || name.contains("version.Info") || name.ends_with("WatchEvent")
}

/// Compares with the published document: every definition, and the operations of what it serves.
#[test]
fn definitions_are_the_published_ones() {
    let Some(folder) = super::super::parity::facts() else {
        return;
    };
    let published: Value = serde_json::from_slice(&std::fs::read(folder.join("swagger.json")).unwrap()).unwrap();
    // What is served, read back from the published paths.
    let mut served: BTreeMap<String, Resource> = BTreeMap::new();
    let mut subresources: Vec<(String, Subresource)> = Vec::new();
    for (path, item) in published["paths"].as_object().unwrap() {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (group, version, rest) = match &parts[..] {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => continue,
        };
        let (namespaced, rest) = match rest {
            ["namespaces", "{namespace}", rest @ ..] if !rest.is_empty() => (true, rest),
            rest => (false, rest),
        };
        if rest.first().is_none_or(|r| r.is_empty() || *r == "watch") {
            continue;
        }
        for operation in item
            .as_object()
            .unwrap()
            .iter()
            .filter(|(m, _)| *m != "parameters")
            .map(|(_, o)| o)
        {
            let text = |name: &str| {
                operation["x-kubernetes-group-version-kind"][name]
                    .as_str()
                    .unwrap_or("")
                    .to_owned()
            };
            let verb = match operation["x-kubernetes-action"].as_str().unwrap_or("") {
                "post" => "create",
                "put" => "update",
                other => other,
            };
            match rest {
                [plural] | [plural, "{name}"] => {
                    let entry = served
                        .entry(format!("{group}/{version}/{plural}"))
                        .or_insert_with(|| Resource {
                            group: group.into(),
                            version: version.into(),
                            kind: text("kind"),
                            plural: (*plural).into(),
                            namespaced,
                            verbs: Vec::new(),
                            subresources: Vec::new(),
                        });
                    entry.namespaced |= namespaced;
                    entry.verbs.push(verb.into());
                    if verb == "list" {
                        entry.verbs.push("watch".into());
                    }
                }
                [plural, "{name}", sub] => {
                    let key = format!("{group}/{version}/{plural}");
                    let made = Subresource {
                        name: (*sub).into(),
                        group: text("group"),
                        version: text("version"),
                        kind: text("kind"),
                        verbs: vec![verb.into()],
                    };
                    subresources.push((key, made));
                }
                _ => {}
            }
        }
    }
    for (key, sub) in subresources {
        let list = &mut served.get_mut(&key).unwrap().subresources;
        match list.iter_mut().find(|s| s.name == sub.name) {
            Some(known) => known.verbs.extend(sub.verbs),
            None => list.push(sub),
        }
    }
    let ours = parse(&Documents::new("v1.36.0", served.into_values().collect()).v2(Coding::Json));

    let mut wrong = Vec::new();
    let mut compared = 0;
    for (name, ours) in ours["definitions"].as_object().unwrap() {
        let mut ours = ours.clone();
        let Some(theirs) = published["definitions"].get(name) else {
            wrong.push(format!("{name} is not published"));
            continue;
        };
        let mut theirs = theirs.clone();
        let bare = |tree: &mut Value| {
            let map = tree.as_object_mut().unwrap();
            map.remove("x-kubernetes-unions");
            map.remove("x-kubernetes-group-version-kind");
            if let Some(Value::Array(names)) = map.get_mut("required") {
                names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            }
        };
        bare(&mut ours);
        bare(&mut theirs);
        let leaf = ours.get("properties").is_none();
        for (key, value) in theirs.as_object().unwrap() {
            if key == "properties" || leaf && key == "description" {
                continue;
            }
            if key == "description" && (undescribed(name)) {
                continue;
            }
            let words = |text: &Value| {
                text.to_string()
                    .replace("\\t", " ")
                    .split_whitespace()
                    .collect::<String>()
            };
            if ours.get(key).map(words) != Some(words(value)) {
                wrong.push(format!(
                    "{name} {key}: {} instead of {value}",
                    ours.get(key).unwrap_or(&Value::Null)
                ));
            }
        }
        let empty = serde_json::Map::new();
        for (property, value) in theirs["properties"].as_object().unwrap_or(&empty) {
            let mut ours = ours["properties"][property].clone();
            let mut theirs = value.clone();
            if undescribed(name) {
                ours.as_object_mut().unwrap().remove("description");
                theirs.as_object_mut().unwrap().remove("description");
            }
            // The crate's documentation comments indent with spaces where the definitions have tabs.
            let words = |tree: &Value| {
                tree.to_string()
                    .replace("\\t", " ")
                    .split_whitespace()
                    .collect::<String>()
            };
            if words(&ours) != words(&theirs) {
                wrong.push(format!("{name}.{property}: {ours} instead of {theirs}"));
            }
            compared += 1;
        }
    }
    for name in published["definitions"].as_object().unwrap().keys() {
        if ours["definitions"].get(name).is_none() {
            wrong.push(format!("{name} is missing"));
        }
    }
    for (path, item) in published["paths"].as_object().unwrap() {
        if path.contains("/watch/")
            || path.contains("/logs")
            || path.contains(".well-known")
            || path.contains("/openid/")
        {
            continue;
        }
        for (method, operation) in item.as_object().unwrap().iter().filter(|(m, _)| *m != "parameters") {
            let found = &ours["paths"][path][method];
            for key in [
                "operationId",
                "x-kubernetes-action",
                "x-kubernetes-group-version-kind",
                "tags",
            ] {
                if found.get(key) != operation.get(key) {
                    wrong.push(format!(
                        "{path} {method} {key}: {:?} instead of {:?}",
                        found.get(key),
                        operation.get(key)
                    ));
                }
            }
        }
    }
    println!("{}", wrong.join("\n"));
    assert!(
        compared > 3000 && wrong.is_empty(),
        "{compared} compared, {} differ",
        wrong.len()
    );
}

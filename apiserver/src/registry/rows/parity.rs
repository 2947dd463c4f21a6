//! Compares the rows with what a 1.36 server serves, and the strategies with what it answered. The recorded answers
//! are no part of this project: `KUBERNETES_FACTS` names the folder that holds them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::identity::User;
use crate::object::Object;
use crate::schema::{self, Format, Gvk, Validation};
use crate::strategy::Context;

fn facts() -> Option<PathBuf> {
    let folder = std::env::var_os("KUBERNETES_FACTS").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: KUBERNETES_FACTS is not set");
    }
    folder
}

/// What a server answers to a create: its code and the refused fields.
type Answer = (u64, BTreeSet<(String, String)>);

fn answer(row: &Resource, api_version: &str, kind: &str, body: &Value) -> Result<Object, Answer> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let gvk = Gvk { group, version, kind };
    let ty = schema::type_of(group, version, kind).expect("a served kind has a type");
    let bytes = serde_json::to_vec(body).expect("JSON");
    let mut object = schema::decode(ty, gvk, Format::Json, &bytes, Validation::Strict)
        .map_err(|status| (u64::from(status.code), BTreeSet::new()))?
        .object;
    schema::default(ty, &mut object.0);
    row.to_stored(&mut object);
    if row.namespaced() {
        object.metadata_mut().insert("namespace".into(), "default".into());
    }
    let user = User::default();
    let context = Context {
        user: &user,
        version,
        subresource: "",
        now: "2024-05-01T10:00:00Z".parse().expect("time"),
    };
    row.strategy.default(&mut object);
    row.prepare_create(&context, &mut object, "uid");
    let causes = row.validate_create(&context, &object).into_causes();
    if causes.is_empty() {
        Ok(object)
    } else {
        Err((
            422,
            causes.into_iter().map(|c| (c.field, c.reason.to_owned())).collect(),
        ))
    }
}

/// Of each kind in `file`: how many cases there are and which fail.
fn run(file: &str, check: impl Fn(&Resource, &str, &Value) -> Result<(), String>) -> Option<(usize, Vec<String>)> {
    let text = std::fs::read_to_string(facts()?.join(file)).expect("facts");
    let rows = rows();
    let mut kinds: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    let mut unserved = BTreeSet::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("one case a line");
        let api_version = case["object"]["apiVersion"].as_str().expect("apiVersion");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let path = case["path"].as_str().expect("path");
        let plural = path.rsplit('/').next().expect("resource");
        let row = rows
            .iter()
            .find(|row| *row.group == *group && *row.plural == *plural && row.versions.iter().any(|v| &**v == version));
        let Some(row) = row.filter(|row| row.verbs.contains(&"create")) else {
            unserved.insert(plural.to_owned());
            continue;
        };
        let entry = kinds.entry(plural.to_owned()).or_default();
        entry.0 += 1;
        if let Err(why) = check(row, api_version, &case) {
            entry
                .1
                .push(format!("{plural}: {}: {why}", case["case"].as_str().unwrap_or("")));
        }
    }
    for (kind, (total, bad)) in &kinds {
        println!(
            "{:5.1} % of {total:4} {kind}",
            100.0 * (total - bad.len()) as f64 / *total as f64
        );
    }
    println!("not yet served: {unserved:?}");
    let total = kinds.values().map(|(total, _)| total).sum();
    Some((total, kinds.into_values().flat_map(|(_, bad)| bad).collect()))
}

#[test]
fn creates_are_refused_where_a_recorded_server_refused_them() {
    let Some((total, bad)) = run("validation-cases.jsonl", |row, api_version, case| {
        let causes = case["causes"].as_array().expect("causes");
        let causes = causes
            .iter()
            .map(|c| (c[0].as_str().unwrap_or("").into(), c[1].as_str().unwrap_or("").into()));
        let want: Answer = (case["code"].as_u64().expect("code"), causes.collect());
        let got = match answer(row, api_version, &row.kind, &case["object"]) {
            Ok(_) => (201, BTreeSet::new()),
            Err(refusal) => refusal,
        };
        if got == want {
            Ok(())
        } else {
            Err(format!("got {got:?}, want {want:?}"))
        }
    }) else {
        return;
    };
    for line in &bad {
        println!("{line}");
    }
    println!("{:.2} % of {total}", 100.0 * (total - bad.len()) as f64 / total as f64);
    assert!(bad.is_empty(), "{} cases differ", bad.len());
}

#[test]
fn a_new_object_gets_the_status_and_generation_of_a_recorded_server() {
    let Some((_, bad)) = run("defaulting-cases.jsonl", |row, api_version, case| {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let ty = schema::type_of(group, version, &row.kind).expect("a served kind has a type");
        let mut object =
            answer(row, api_version, &row.kind, &case["object"]).map_err(|got| format!("refused: {got:?}"))?;
        row.from_stored(&mut object, version);
        schema::normalise(ty, &mut object.0);
        let mut want = case["result"].clone();
        let mut got = Value::Object(object.0);
        for object in [&mut got, &mut want] {
            if let Some(Value::Object(status)) = object.get_mut("status") {
                status.remove("lastPhaseTransitionTime");
            }
        }
        for path in [
            "/status",
            "/metadata/generation",
            "/spec/selector",
            "/spec/serviceAccount",
            "/spec/finalizers",
        ] {
            if path == "/spec/serviceAccount" && row.plural.as_ref() == "pods" {
                continue;
            }
            let (a, b) = (got.pointer(path), want.pointer(path));
            // The recorded server gave each Job a uid of its own.
            let same = a == b || (&*row.kind == "Job" && path == "/spec/selector" && a.is_some() == b.is_some());
            if !same {
                return Err(format!("{path}: got {a:?}, want {b:?}"));
            }
        }
        Ok(())
    }) else {
        return;
    };
    for line in &bad {
        println!("{line}");
    }
    assert!(bad.is_empty(), "{} cases differ", bad.len());
}

/// What discovery says of one resource.
fn described(resource: &Value) -> BTreeSet<String> {
    let list = |value: &Value| {
        value
            .as_array()
            .into_iter()
            .flatten()
            .map(|v| v.as_str().unwrap_or("").to_owned())
            .collect::<Vec<_>>()
            .join(",")
    };
    let mut facts: BTreeSet<String> = ["scope", "singularResource"]
        .iter()
        .map(|name| format!("{name}={}", resource[*name].as_str().unwrap_or("")))
        .collect();
    facts.insert(format!(
        "kind={}",
        resource["responseKind"]["kind"].as_str().unwrap_or("")
    ));
    for name in ["shortNames", "categories", "verbs"] {
        facts.insert(format!("{name}={}", list(&resource[name])));
    }
    for sub in resource["subresources"].as_array().into_iter().flatten() {
        facts.insert(format!(
            "{}={} {}",
            sub["subresource"].as_str().unwrap_or(""),
            sub["responseKind"]["kind"].as_str().unwrap_or(""),
            list(&sub["verbs"])
        ));
    }
    facts
}

fn declared(row: &Resource) -> BTreeSet<String> {
    let list = |list: &[Arc<str>]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>().join(",");
    let mut facts = BTreeSet::from([
        format!("scope={}", if row.namespaced() { "Namespaced" } else { "Cluster" }),
        format!("singularResource={}", row.singular),
        format!("kind={}", row.kind),
        format!("shortNames={}", list(&row.short)),
        format!("categories={}", list(&row.categories)),
        format!("verbs={}", row.verbs.join(",")),
    ]);
    for sub in &row.subresources {
        let kind = sub.speaks(&row.kind).map_or(&*row.kind, |speaks| speaks.kind);
        facts.insert(format!("{}={kind} {}", sub.name(), sub.verbs().join(",")));
    }
    facts
}

#[test]
fn rows_are_those_of_a_recorded_server() {
    let Some(folder) = facts() else { return };
    let text = std::fs::read_to_string(folder.join("discovery-served-by-default.json")).expect("facts");
    let served: Value = serde_json::from_str(&text).expect("JSON");
    let mut want: BTreeMap<(String, String, String), BTreeSet<String>> = BTreeMap::new();
    for part in ["api", "apis"] {
        for group in served[part]["items"].as_array().expect("groups") {
            for version in group["versions"].as_array().expect("versions") {
                for resource in version["resources"].as_array().expect("resources") {
                    let word = |v: &Value| v.as_str().unwrap_or("").to_owned();
                    let key = (
                        word(&group["metadata"]["name"]),
                        word(&version["version"]),
                        word(&resource["resource"]),
                    );
                    want.insert(key, described(resource));
                }
            }
        }
    }
    let mut missing: BTreeSet<String> = BTreeSet::new();
    let rows = rows();
    for row in &rows {
        for version in &row.versions {
            let key = (row.group.to_string(), version.to_string(), row.plural.to_string());
            let want = want.remove(&key).unwrap_or_else(|| panic!("nobody serves {key:?}"));
            if row.verbs == READ {
                missing.insert(format!("{}.{}", row.plural, row.group));
                continue;
            }
            assert_eq!(declared(row), want, "{key:?}");
        }
    }
    for (group, _, plural) in want.into_keys() {
        missing.insert(if group.is_empty() {
            plural
        } else {
            format!("{plural}.{group}")
        });
    }
    let listed: BTreeSet<String> = NOT_YET_SERVED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        missing, listed,
        "NOT_YET_SERVED must name what is missing, and nothing else"
    );
}

#[test]
fn columns_are_those_of_a_recorded_server() {
    let Some(folder) = facts() else { return };
    let text = std::fs::read_to_string(folder.join("table-columns.tsv")).expect("facts");
    let mut want: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let [group, version, resource, rest @ ..] = &line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        want.entry((format!("{group}/{version}"), (*resource).to_owned()))
            .or_default()
            .push(rest.join("\t"));
    }
    for row in rows().iter().filter(|row| row.is_stored()) {
        for version in &row.versions {
            let key = (format!("{}/{version}", row.group), row.plural.to_string());
            let got: Vec<String> = row
                .columns
                .columns
                .iter()
                .map(|c| format!("{}\t{}\t{}\t{}", c.name, c.kind, c.format, c.priority))
                .collect();
            match want.get(&key) {
                Some(want) => assert_eq!(&got, want, "{key:?}"),
                None => println!("no recorded columns of {key:?}"),
            }
        }
    }
}

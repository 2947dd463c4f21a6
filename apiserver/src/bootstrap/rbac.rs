//! The table `rbac.txt` as objects.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Wanted;
use crate::authz::rbac::{GROUP, Kind};
use crate::authz::rules::Rule;

const TABLE: &str = include_str!("rbac.txt");
const API_VERSION: &str = "rbac.authorization.k8s.io/v1";
/// Selects what is aggregated into the role whose name follows.
pub(super) const AGGREGATE_TO: &str = "rbac.authorization.k8s.io/aggregate-to-";
/// `false`: a person keeps this object himself.
pub(super) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// Every role and binding of the table.
pub(super) fn wanted() -> Vec<Wanted> {
    parse(TABLE)
}

/// The rules of one role of the table, for the node authorizer.
pub fn rules_of(role: &str) -> Vec<Rule> {
    let found = wanted()
        .into_iter()
        .find(|wanted| wanted.plural == Kind::ClusterRole.plural() && wanted.object["metadata"]["name"] == role);
    let rules = found.map(|mut wanted| wanted.object["rules"].take());
    rules
        .and_then(|rules| serde_json::from_value(rules).ok())
        .unwrap_or_default()
}

fn parse(table: &str) -> Vec<Wanted> {
    let mut out: Vec<Wanted> = Vec::new();
    for line in table.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rule) = line.strip_prefix("  ") {
            let role = out.last_mut().expect("a rule follows its role");
            let rules = role.object["rules"].as_array_mut().expect("made with the role");
            rules.push(json!(parse_rule(rule)));
        } else if let Some(binding) = line.strip_prefix("bind ") {
            out.push(parse_binding(binding));
        } else {
            out.push(parse_role(line));
        }
    }
    out
}

/// `role NAME [in NAMESPACE] [joins NAME]`, `union NAME [joins NAME]`.
fn parse_role(line: &str) -> Wanted {
    let words: Vec<&str> = line.split(' ').collect();
    let name = words[1];
    let after = |word: &str| words.iter().position(|w| *w == word).map(|at| words[at + 1]);
    let namespace = after("in");
    let kind = if namespace.is_some() {
        Kind::Role
    } else {
        Kind::ClusterRole
    };
    let mut object = object(kind, name, namespace);
    object["rules"] = json!([]);
    if let Some(union) = after("joins") {
        object["metadata"]["labels"][format!("{AGGREGATE_TO}{union}")] = "true".into();
    }
    if words[0] == "union" {
        let label = format!("{AGGREGATE_TO}{name}");
        object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
    }
    Wanted::new(GROUP, kind.plural(), object)
}

/// `VERBS GROUPS: RESOURCES [= NAMES]`, `VERBS path: PATHS`.
fn parse_rule(line: &str) -> Rule {
    let words = |text: &str| -> Vec<Arc<str>> { text.split_whitespace().map(Arc::from).collect() };
    let (head, tail) = line.split_once(": ").expect("a rule has a colon");
    let (verbs, groups) = head.split_once(' ').expect("verbs, then groups");
    let verbs = match verbs {
        "read" => READ.iter().map(|v| Arc::from(*v)).collect(),
        "write" => WRITE.iter().map(|v| Arc::from(*v)).collect(),
        "all" => ALL.iter().map(|v| Arc::from(*v)).collect(),
        verbs => verbs.split(',').map(Arc::from).collect(),
    };
    if groups == "path" {
        return Rule {
            urls: words(tail),
            verbs,
            ..Rule::default()
        };
    }
    let (resources, names) = tail.split_once(" = ").unwrap_or((tail, ""));
    Rule {
        api_groups: groups
            .split(',')
            .map(|group| Arc::from(if group == "core" { "" } else { group }))
            .collect(),
        resources: words(resources),
        resource_names: words(names),
        verbs,
        ..Rule::default()
    }
}

/// `NAME [in NAMESPACE] to ROLE: SUBJECTS`.
fn parse_binding(line: &str) -> Wanted {
    let (head, subjects) = line.split_once(" to ").expect("a binding names its role");
    let (name, namespace) = match head.split_once(" in ") {
        Some((name, namespace)) => (name, Some(namespace)),
        None => (head, None),
    };
    let (role, subjects) = match subjects.split_once(": ") {
        Some((role, subjects)) => (role, subjects),
        None => (subjects.trim_end_matches(':'), ""),
    };
    let (kind, role_kind) = if namespace.is_some() {
        (Kind::RoleBinding, "Role")
    } else {
        (Kind::ClusterRoleBinding, "ClusterRole")
    };
    let mut object = object(kind, name, namespace);
    object["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    let subjects: Vec<Value> = subjects.split_whitespace().map(parse_subject).collect();
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    Wanted::new(GROUP, kind.plural(), object)
}

fn parse_subject(word: &str) -> Value {
    let (kind, name) = word.split_once(':').expect("kind and name");
    match kind {
        "user" => json!({"kind": "User", "apiGroup": GROUP, "name": name}),
        "group" => json!({"kind": "Group", "apiGroup": GROUP, "name": name}),
        "account" => {
            let (namespace, name) = name.split_once('/').expect("namespace and name");
            json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        }
        other => unreachable!("the table has no subject {other}"),
    }
}

fn object(kind: Kind, name: &str, namespace: Option<&str>) -> Value {
    let kind = match kind {
        Kind::Role => "Role",
        Kind::ClusterRole => "ClusterRole",
        Kind::RoleBinding => "RoleBinding",
        Kind::ClusterRoleBinding => "ClusterRoleBinding",
    };
    let mut metadata = json!({
        "name": name,
        "annotations": {AUTOUPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata})
}

//! What may still change in a pod that exists.

use serde_json::{Map, Value};

use super::super::field::{Field, same};
use super::super::{resources, template};
use super::{affinity, keep_metadata};
use crate::object::Object;
use crate::status::Errors;

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(new: &Object, old: &Object, errors: &mut Errors) {
    let (spec, was) = (Field::root(new, "spec"), Field::root(old, "spec"));
    for kind in ["containers", "initContainers"] {
        if spec.get(kind).len() != was.get(kind).len() {
            spec.get(kind)
                .forbidden(errors, "pod updates may not add or remove containers");
            return;
        }
    }
    let (deadline, before) = (spec.get("activeDeadlineSeconds"), was.get("activeDeadlineSeconds"));
    match (deadline.int(), before.int()) {
        (Some(now), Some(then)) if now > then => {
            return deadline.invalid(errors, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            deadline.invalid_as(
                errors,
                Value::Null,
                "must not update from a positive integer to nil value",
            );
        }
        _ => {}
    }
    affinity::only_added_tolerations(&spec.get("tolerations"), &was.get("tolerations"), errors);
    let gates = spec.get("schedulingGates");
    for gate in gates.items() {
        let name = gate.get("name").str();
        if !was
            .get("schedulingGates")
            .items()
            .any(|old| old.get("name").str() == name)
        {
            gates.forbidden(
                errors,
                &format!("only deletion is allowed, but found new scheduling gate '{name}'"),
            );
        }
    }

    // All that is allowed is set back; what then differs is not.
    let mut munged = new
        .0
        .get("spec")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let old_spec = old
        .0
        .get("spec")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for list in ["containers", "initContainers"] {
        set_back_each(&mut munged, &old_spec, list, "image");
    }
    for name in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        set_back(&mut munged, &old_spec, name);
    }
    let grace = "terminationGracePeriodSeconds";
    if was.get(grace).number() < 0 && spec.get(grace).int() == Some(1) {
        set_back(&mut munged, &old_spec, grace);
    }
    if !was.get("schedulingGates").is_empty() {
        gated(&spec, &was, &mut munged, &old_spec, errors);
    }
    let (munged, old_spec) = (Value::Object(munged), Value::Object(old_spec));
    if !same(Some(&munged), Some(&old_spec)) {
        let mut lines = Vec::new();
        difference("", Some(&old_spec), Some(&munged), &mut lines);
        spec.forbidden(errors, &format!("{MUTABLE}\n{}", lines.join("\n")));
    }
    for (key, before) in Field::root(old, "metadata.annotations").entries() {
        let annotations = Field::root(new, "metadata.annotations");
        let now = annotations.key(key);
        if key == "kubernetes.io/config.mirror" && now.value() != before.value() {
            now.forbidden(errors, "may not remove or update mirror pod annotation");
        }
    }
    let mirror = "kubernetes.io/config.mirror";
    let annotations = Field::root(new, "metadata.annotations");
    if annotations.key(mirror).present() && !Field::root(old, "metadata.annotations").key(mirror).present() {
        annotations
            .key(mirror)
            .forbidden(errors, "may not add mirror pod annotation");
    }
}

/// A pod that waits behind a gate may be aimed more narrowly: nobody has placed it yet.
fn gated(
    spec: &Field,
    was: &Field,
    munged: &mut Map<String, Value>,
    old_spec: &Map<String, Value>,
    errors: &mut Errors,
) {
    let selector = spec.get("nodeSelector");
    let kept = was
        .get("nodeSelector")
        .entries()
        .all(|(key, value)| selector.key(key).value() == value.value());
    if kept {
        set_back(munged, old_spec, "nodeSelector");
    } else {
        selector.invalid(
            errors,
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        );
    }
    // Terms of a required node affinity are alternatives: each may only get more conditions.
    let path = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (terms, before) = (spec.get(path), was.get(path));
    let contains = |new: &Field, old: &Field| {
        ["matchExpressions", "matchFields"].iter().all(|kind| {
            old.get(kind)
                .items()
                .all(|o| new.get(kind).items().any(|n| same(n.value(), o.value())))
        })
    };
    let narrower = before.is_empty()
        || (terms.len() == before.len() && terms.items().zip(before.items()).all(|(n, o)| contains(&n, &o)));
    if narrower {
        let mut back = Value::Object(std::mem::take(munged));
        let pointer = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
        let old_value = Value::Object(old_spec.clone()).pointer(pointer).cloned();
        match (back.pointer_mut(pointer), old_value) {
            (Some(slot), Some(value)) => *slot = value,
            (Some(slot), None) => *slot = Value::Null,
            _ => {}
        }
        if let Value::Object(map) = back {
            *munged = map;
        }
    } else {
        terms.invalid(
            errors,
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        );
    }
}

fn set_back(new: &mut Map<String, Value>, old: &Map<String, Value>, name: &str) {
    match old.get(name) {
        Some(value) => new.insert(name.into(), value.clone()),
        None => new.remove(name),
    };
}

fn set_back_each(new: &mut Map<String, Value>, old: &Map<String, Value>, list: &str, name: &str) {
    let before: Vec<Map<String, Value>> = old
        .get(list)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .cloned()
        .collect();
    for (now, then) in template::objects(new, list).zip(&before) {
        set_back(now, then, name);
    }
}

/// What differs, one line per value: `- spec.x: old`, `+ spec.x: new`.
fn difference(path: &str, old: Option<&Value>, new: Option<&Value>, lines: &mut Vec<String>) {
    if same(old, new) {
        return;
    }
    match (old, new) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                difference(&format!("{path}.{name}"), a.get(name), b.get(name), lines);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                difference(&format!("{path}[{index}]"), a.get(index), b.get(index), lines);
            }
        }
        _ => {
            let mut line = |sign: &str, value: Option<&Value>| {
                if let Some(value) = value {
                    lines.push(format!("{sign} spec{path}: {value}"));
                }
            };
            line("-", old);
            line("+", new);
        }
    }
}

pub(super) fn validate_status(new: &Object, old: &Object, errors: &mut Errors) {
    let status = Field::root(new, "status");
    // A container that ended for good does not come back.
    let policy = Field::root(old, "spec.restartPolicy").str();
    for list in ["containerStatuses", "initContainerStatuses"] {
        let now = status.get(list);
        let path = format!("status.{list}");
        let was = Field::root(old, &path);
        for before in was.items() {
            let ended = before.get("state.terminated");
            if !ended.present() || policy == "Always" {
                continue;
            }
            if policy == "OnFailure" && ended.get("exitCode").number() != 0 {
                continue;
            }
            for (index, after) in now.items().enumerate() {
                let sidecar = Field::root(old, "spec.initContainers")
                    .items()
                    .chain(Field::root(old, "spec.containers").items())
                    .any(|c| c.get("name").str() == after.get("name").str() && c.get("restartPolicy").present());
                if after.get("name").str() == before.get("name").str()
                    && !after.get("state.terminated").present()
                    && !sidecar
                {
                    errors.forbidden(
                        format!("status.{list}[{index}].state"),
                        "may not be transitioned to non-terminated state",
                    );
                }
            }
        }
    }
    let nominated = status.get("nominatedNodeName");
    if !nominated.str().is_empty() {
        nominated.each_invalid(errors, super::format::dns_subdomain(nominated.str()));
    }
    let ips = status.get("podIPs");
    for ip in ips.items() {
        ip.each_invalid(errors, super::format::ip(ip.get("ip").str()));
    }
    if Field::root(new, "spec.nodeName").str() != Field::root(old, "spec.nodeName").str() {
        Field::root(new, "status.nodeName").forbidden(errors, "may not be changed directly");
    }
}

/// Only the ephemeral containers are the client's.
pub(super) fn keep_all_but_ephemeral(new: &mut Object, old: &Object) {
    let asked = new.at(&["spec", "ephemeralContainers"]).cloned();
    let version = new.0.get("metadata").and_then(|m| m.get("resourceVersion")).cloned();
    new.0 = old.0.clone();
    if let Some(version) = version {
        new.metadata_mut().insert("resourceVersion".into(), version);
    }
    if let Some(asked) = asked {
        new.entry("spec").insert("ephemeralContainers".into(), asked);
    }
}

pub(super) fn validate_ephemeral(new: &Object, old: &Object, errors: &mut Errors) {
    super::whole(new, errors);
    let (list, was) = (
        Field::root(new, "spec.ephemeralContainers"),
        Field::root(old, "spec.ephemeralContainers"),
    );
    for before in was.items() {
        let name = before.get("name").str();
        match list.items().find(|c| c.get("name").str() == name) {
            None => list.forbidden(errors, "existing ephemeral containers may not be removed"),
            Some(after) if !same(after.value(), before.value()) => {
                list.forbidden(
                    errors,
                    &format!("existing ephemeral containers \"{name}\" may not be changed"),
                );
            }
            Some(_) => {}
        }
    }
}

/// Only the containers' resources and resize policies are the client's.
pub(super) fn keep_all_but_resources(new: &mut Object, old: &Object) {
    let mut kept = old.clone();
    let asked = new.clone();
    for list in ["containers", "initContainers"] {
        let wanted = Field::root(&asked, "spec");
        let spec = kept.entry("spec");
        for container in template::objects(spec, list) {
            let name = container.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
            let Some(new) = wanted
                .get(list)
                .items()
                .find(|c| c.get("name").str() == name)
                .and_then(|c| c.value())
            else {
                continue;
            };
            for what in ["resources", "resizePolicy"] {
                match new.get(what) {
                    Some(value) => container.insert(what.into(), value.clone()),
                    None => container.remove(what),
                };
            }
        }
    }
    if let Some(version) = asked.0.get("metadata").and_then(|m| m.get("resourceVersion")) {
        kept.metadata_mut().insert("resourceVersion".into(), version.clone());
    }
    *new = kept;
    keep_metadata(new, old, &["uid"]);
}

pub(super) fn validate_resize(new: &Object, old: &Object, errors: &mut Errors) {
    if super::qos::class(&Field::root(new, "spec")) != super::qos::class(&Field::root(old, "spec")) {
        Field::root(new, "spec").invalid_as(
            errors,
            super::qos::class(&Field::root(new, "spec")),
            "Pod QOS Class may not change as a result of resizing",
        );
    }
    for list in ["spec.containers", "spec.initContainers"] {
        let (now, was) = (Field::root(new, list), Field::root(old, list));
        for (container, before) in now.items().zip(was.items()) {
            let (after, then) = (container.get("resources"), before.get("resources"));
            resources::requirements(&after, errors);
            for kind in ["requests", "limits"] {
                for (name, value) in then.get(kind).entries() {
                    let resizable = matches!(name, "cpu" | "memory");
                    let field = after.get(kind);
                    if !resizable && !same(field.key(name).value(), value.value()) {
                        container
                            .get("resources")
                            .forbidden(errors, "only cpu and memory resources are mutable");
                    } else if resizable && !field.key(name).present() {
                        container.get("resources").forbidden(
                            errors,
                            &format!(
                                "{} cannot be removed",
                                if kind == "limits" {
                                    "resource limits"
                                } else {
                                    "resource requests"
                                }
                            ),
                        );
                    }
                }
            }
        }
    }
}

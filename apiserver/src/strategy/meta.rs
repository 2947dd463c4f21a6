//! ObjectMeta: what every kind has, checked once for all (apimachinery/pkg/api/validation/objectmeta.go, 1.36).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::field::{Field, IMMUTABLE, same};
use super::format::{self, NameRule};
use crate::object::Object;
use crate::status::Errors;

/// Keys and values of all annotations together.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// A time as the API writes it: whole seconds, UTC.
pub fn seconds(now: jiff::Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What the system sets at creation and a client may not.
pub fn prepare_create(new: &mut Object, uid: &str, now: jiff::Timestamp) {
    let meta = new.metadata_mut();
    for name in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        meta.remove(name);
    }
    meta.insert("uid".into(), uid.into());
    meta.insert("creationTimestamp".into(), seconds(now).into());
}

/// What a client may leave out of an update, and what it may not touch.
pub fn prepare_update(new: &mut Object, old: &Object) {
    let old_meta = old.0.get("metadata");
    let meta = new.metadata_mut();
    meta.remove("selfLink");
    let keep = |name: &str, only_if_absent: bool, meta: &mut serde_json::Map<String, Value>| match old_meta
        .and_then(|m| m.get(name))
        .filter(|v| !v.is_null())
    {
        Some(_) if only_if_absent && meta.get(name).is_some_and(|v| !v.is_null() && v != "") => {}
        Some(value) => {
            meta.insert(name.into(), value.clone());
        }
        None if only_if_absent => {}
        None => {
            meta.remove(name);
        }
    };
    keep("generation", false, meta);
    keep("uid", true, meta);
    keep("creationTimestamp", true, meta);
    // Once a deletion has begun nothing takes it back.
    if old.is_deleting() {
        keep("deletionTimestamp", false, meta);
        keep("deletionGracePeriodSeconds", true, meta);
    }
}

/// The whole check of metadata at creation.
pub fn validate(new: &Object, namespaced: bool, name_rule: NameRule, errors: &mut Errors) {
    let meta = Field::root(new, "metadata");
    let prefix = meta.get("generateName");
    if !prefix.str().is_empty() {
        prefix.each_invalid(errors, name_rule(prefix.str(), true));
    }
    let name = meta.get("name");
    if name.str().is_empty() {
        name.required(errors, "name or generateName is required");
    } else {
        name.each_invalid(errors, name_rule(name.str(), false));
    }
    let namespace = meta.get("namespace");
    match (namespaced, namespace.str()) {
        (true, "") => namespace.required(errors, ""),
        (true, value) => namespace.each_invalid(errors, format::dns_label(value)),
        (false, "") => {}
        (false, _) => namespace.forbidden(errors, "not allowed on this type"),
    }
    meta.get("generation").non_negative(errors);
    common(&meta, errors);
}

/// The whole check of metadata at an update.
pub fn validate_update(new: &Object, old: &Object, errors: &mut Errors) {
    let meta = Field::root(new, "metadata");
    let was = Field::root(old, "metadata");
    if old.is_deleting() {
        let before: Vec<&str> = was.get("finalizers").strings().collect();
        let mut extra: Vec<&str> = meta
            .get("finalizers")
            .strings()
            .filter(|f| !before.contains(f))
            .collect();
        extra.sort_unstable();
        extra.dedup();
        if !extra.is_empty() {
            let list = extra.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ");
            meta.get("finalizers").forbidden(
                errors,
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"
                ),
            );
        }
    }
    if meta.get("generation").number() < was.get("generation").number() {
        meta.get("generation").invalid(errors, "must not be decremented");
    }
    for name in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let field = meta.get(name);
        if !same(field.value(), was.get(name).value()) {
            errors.invalid(field, field.shown(), IMMUTABLE);
        }
    }
    common(&meta, errors);
}

/// Labels, annotations, owners and finalizers.
fn common(meta: &Field, errors: &mut Errors) {
    labels(&meta.get("labels"), errors);
    annotations(&meta.get("annotations"), errors);
    owners(&meta.get("ownerReferences"), errors);
    finalizers(&meta.get("finalizers"), errors);
    managers(&meta.get("managedFields"), errors);
}

/// What only a client could have written into entries that can be read.
fn managers(field: &Field, errors: &mut Errors) {
    const MANAGER_MAX: usize = 128;
    const SUBRESOURCE_MAX: usize = 256;
    for entry in field.items() {
        let (manager, subresource) = (entry.get("manager"), entry.get("subresource"));
        if manager.str().len() > MANAGER_MAX {
            errors.too_long(entry.get("manager"), MANAGER_MAX);
        }
        for (at, letter) in manager.str().char_indices().filter(|(_, letter)| letter.is_control()) {
            let why = format!("invalid character U+{:04X} (at position {at})", u32::from(letter));
            manager.invalid(errors, &why);
        }
        if subresource.str().len() > SUBRESOURCE_MAX {
            errors.too_long(subresource, SUBRESOURCE_MAX);
        }
    }
}

/// A map of labels. Upstream names the map, not the key.
pub fn labels(field: &Field, errors: &mut Errors) {
    for (key, value) in field.entries() {
        for message in format::qualified_name(key) {
            field.invalid_as(errors, key, &message);
        }
        for message in format::label_value(value.str()) {
            field.invalid_as(errors, value.str(), &message);
        }
    }
}

pub fn annotations(field: &Field, errors: &mut Errors) {
    let mut total = 0;
    for (key, value) in field.entries() {
        // The rule for the letters is that of labels, without regard to case.
        for message in format::qualified_name(&key.to_lowercase()) {
            field.invalid_as(errors, key, &message);
        }
        total += key.len() + value.str().len();
    }
    if total > ANNOTATIONS_MAX {
        errors.too_long(field, ANNOTATIONS_MAX);
    }
}

fn owners(field: &Field, errors: &mut Errors) {
    let mut controller: Option<&str> = None;
    for owner in field.items() {
        let (api_version, kind) = (owner.get("apiVersion"), owner.get("kind"));
        // Upstream names the list here, without the index.
        let at = |name: &str| format!("{}.{name}", field.path());
        let version = api_version.str().rsplit('/').next().unwrap_or("");
        if version.is_empty() {
            errors.invalid(at("apiVersion"), &json!(api_version.str()), "version must not be empty");
        }
        for name in ["kind", "name", "uid"] {
            if owner.get(name).str().is_empty() {
                errors.invalid(at(name), &json!(""), "must not be empty");
            }
        }
        if (api_version.str(), kind.str()) == ("v1", "Event") {
            errors.invalid(
                field,
                owner.shown(),
                "/v1, Kind=Event is disallowed from being an owner",
            );
        }
        if owner.get("controller").is_true() {
            let name = owner.get("name").str();
            match controller {
                None => controller = Some(name),
                Some(first) => errors.invalid(
                    field,
                    field.shown(),
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    ),
                ),
            }
        }
    }
}

fn finalizers(field: &Field, errors: &mut Errors) {
    for finalizer in field.strings() {
        for message in format::qualified_name(finalizer) {
            field.invalid_as(errors, finalizer, &message);
        }
    }
    let has = |name: &str| field.strings().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        field.invalid(errors, "finalizer orphan and foregroundDeletion cannot be both set");
    }
    for item in field.items() {
        finalizer_name(&item, errors);
    }
}

/// A finalizer without a domain must be one of Kubernetes' own.
pub fn finalizer_name(item: &Field, errors: &mut Errors) {
    let name = item.str();
    if !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
        item.invalid(
            errors,
            "name is neither a standard finalizer name nor is it fully qualified",
        );
    }
}

/// A label selector (`meta/v1` LabelSelector).
pub fn label_selector(field: &Field, errors: &mut Errors) {
    for (key, value) in field.get("matchLabels").entries() {
        let at = field.get("matchLabels");
        for message in format::qualified_name(key) {
            at.invalid_as(errors, key, &message);
        }
        for message in format::label_value(value.str()) {
            at.invalid_as(errors, value.str(), &message);
        }
    }
    for requirement in field.get("matchExpressions").items() {
        let (key, operator, values) = (
            requirement.get("key"),
            requirement.get("operator"),
            requirement.get("values"),
        );
        match operator.str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    values.forbidden(
                        errors,
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
            }
            _ => operator.invalid(errors, "not a valid selector operator"),
        }
        key.each_invalid(errors, format::qualified_name(key.str()));
        for value in values.items() {
            value.each_invalid(errors, format::label_value(value.str()));
        }
    }
}

/// Whether a label selector (valid by [`label_selector`]) matches labels. The empty selector matches all.
pub fn selects(selector: &Field, labels: &Field) -> bool {
    let labels: BTreeMap<&str, &str> = labels.entries().map(|(k, v)| (k, v.str())).collect();
    selector
        .get("matchLabels")
        .entries()
        .all(|(k, v)| labels.get(k) == Some(&v.str()))
        && selector.get("matchExpressions").items().all(|requirement| {
            let found = labels.get(requirement.get("key").str());
            let listed = |value: &&str| requirement.get("values").strings().any(|v| v == *value);
            match requirement.get("operator").str() {
                "In" => found.is_some_and(listed),
                "NotIn" => !found.is_some_and(listed),
                "Exists" => found.is_some(),
                _ => found.is_none(),
            }
        })
}

/// Whether a label selector says anything.
pub fn selector_is_empty(selector: &Field) -> bool {
    selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        Object(value.as_object().expect("map").clone())
    }
    #[track_caller]
    fn check(meta: Value, want: &[&str]) {
        let mut errors = Errors::default();
        validate(
            &object(json!({ "metadata": meta })),
            true,
            format::subdomain_name,
            &mut errors,
        );
        let got: Vec<String> = errors
            .into_causes()
            .into_iter()
            .map(|c| format!("{} {}", c.field, c.reason))
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn metadata_is_refused_where_upstream_refuses_it() {
        check(json!({"name": "a", "namespace": "b"}), &[]);
        check(json!({"namespace": "b"}), &["metadata.name FieldValueRequired"]);
        check(
            json!({"name": "A_", "namespace": "b"}),
            &["metadata.name FieldValueInvalid"],
        );
        check(json!({"name": "a"}), &["metadata.namespace FieldValueRequired"]);
        let labels = json!({"name": "a", "namespace": "b", "labels": {"-": "v", "k": "-"}});
        check(labels, &["metadata.labels FieldValueInvalid"; 2]);
        let annotations =
            json!({"name": "a", "namespace": "b", "annotations": {"Big/K": "v", "k": "x".repeat(ANNOTATIONS_MAX)}});
        check(annotations, &["metadata.annotations FieldValueTooLong"]);
        let finalizers = json!({"name": "a", "namespace": "b", "finalizers": ["mine", "a.b/c", "orphan"]});
        check(finalizers, &["metadata.finalizers[0] FieldValueInvalid"]);
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
        check(
            json!({"name": "a", "namespace": "b", "ownerReferences": [owner, owner]}),
            &["metadata.ownerReferences FieldValueInvalid"],
        );
        let nameless = json!({"apiVersion": "v1", "kind": "Pod"});
        check(
            json!({"name": "a", "namespace": "b", "ownerReferences": [nameless]}),
            &[
                "metadata.ownerReferences.name FieldValueInvalid",
                "metadata.ownerReferences.uid FieldValueInvalid",
            ],
        );
    }
    #[test]
    fn an_update_keeps_identity() {
        let old = object(
            json!({"metadata": {"name": "a", "uid": "u", "generation": 3, "creationTimestamp": "t",
            "deletionTimestamp": "d", "finalizers": ["a.b/c"]}}),
        );
        let mut new = object(json!({"metadata": {"name": "a", "generation": 9, "finalizers": ["a.b/c", "d.e/f"]}}));
        prepare_update(&mut new, &old);
        assert_eq!(new.at(&["metadata", "generation"]), Some(&json!(3)));
        assert_eq!(new.uid(), "u");
        assert!(new.is_deleting());
        let mut errors = Errors::default();
        validate_update(&new, &old, &mut errors);
        let causes = errors.into_causes();
        assert_eq!(causes.len(), 1);
        assert_eq!(
            causes[0].message,
            "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"d.e/f\"}"
        );

        let mut moved = old.clone();
        moved.metadata_mut().insert("uid".into(), "other".into());
        let mut errors = Errors::default();
        validate_update(&moved, &old, &mut errors);
        assert_eq!(errors.into_causes()[0].field, "metadata.uid");
    }
    #[test]
    fn selectors_match_labels() {
        let labels = json!({"a": "b", "c": "d"});
        let labels = Field::at(Some(&labels), "labels");
        for (selector, want) in [
            (json!({}), true),
            (json!({"matchLabels": {"a": "b"}}), true),
            (json!({"matchLabels": {"a": "c"}}), false),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "b"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "z", "operator": "NotIn", "values": ["x"]}]}),
                true,
            ),
            (json!({"matchExpressions": [{"key": "z", "operator": "Exists"}]}), false),
            (
                json!({"matchExpressions": [{"key": "z", "operator": "DoesNotExist"}]}),
                true,
            ),
        ] {
            assert_eq!(
                selects(&Field::at(Some(&selector), "selector"), &labels),
                want,
                "{selector}"
            );
        }
    }
}

//! Where a pod may run: node selectors, affinity, tolerations, spread.

use super::super::field::{Field, same};
use super::super::{format, meta};
use crate::status::Errors;

/// `affinity` of a pod.
pub(super) fn affinity(field: &Field, errors: &mut Errors) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = field.get("nodeAffinity");
    if node.get(REQUIRED).present() {
        node_selector(&node.get(REQUIRED), errors);
    }
    for term in node.get(PREFERRED).items() {
        weight(&term.get("weight"), errors);
        node_term(&term.get("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = field.get(kind);
        for term in pods.get(REQUIRED).items() {
            pod_term(&term, errors);
        }
        for term in pods.get(PREFERRED).items() {
            weight(&term.get("weight"), errors);
            pod_term(&term.get("podAffinityTerm"), errors);
        }
    }
}

fn weight(field: &Field, errors: &mut Errors) {
    if !(1..=100).contains(&field.number()) {
        field.invalid_as(errors, field.number(), "must be in the range 1-100");
    }
}

/// `nodeSelectorTerms` of an affinity or a volume.
pub(in super::super) fn node_selector(field: &Field, errors: &mut Errors) {
    let terms = field.get("nodeSelectorTerms");
    if terms.is_empty() {
        terms.required(errors, "must have at least one node selector term");
    }
    for term in terms.items() {
        node_term(&term, errors);
    }
}

pub(in super::super) fn node_term(term: &Field, errors: &mut Errors) {
    for requirement in term.get("matchExpressions").items() {
        let (key, operator, values) = (
            requirement.get("key"),
            requirement.get("operator"),
            requirement.get("values"),
        );
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => {
                values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                values.forbidden(
                    errors,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "Gt" | "Lt" if values.len() != 1 => {
                values.required(errors, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => operator.invalid(errors, "not a valid selector operator"),
        }
        key.each_invalid(errors, format::qualified_name(key.str()));
        for value in values.items() {
            value.each_invalid(errors, format::label_value(value.str()));
        }
    }
    for requirement in term.get("matchFields").items() {
        let (key, operator, values) = (
            requirement.get("key"),
            requirement.get("operator"),
            requirement.get("values"),
        );
        match operator.str() {
            "In" | "NotIn" => {
                if values.len() != 1 {
                    values.required(
                        errors,
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                    );
                }
            }
            _ => operator.invalid(errors, "not a valid selector operator"),
        }
        if key.str() == "metadata.name" {
            for value in values.items() {
                value.each_invalid(errors, format::dns_subdomain(value.str()));
            }
        } else {
            key.invalid(errors, "not a valid field selector key");
        }
    }
}

fn pod_term(term: &Field, errors: &mut Errors) {
    meta::label_selector(&term.get("labelSelector"), errors);
    meta::label_selector(&term.get("namespaceSelector"), errors);
    for name in term.get("namespaces").strings() {
        for message in format::dns_label(name) {
            term.get("namespace").invalid_as(errors, name, &message);
        }
    }
    label_keys(&term.get("matchLabelKeys"), &term.get("labelSelector"), errors);
    label_keys(&term.get("mismatchLabelKeys"), &term.get("labelSelector"), errors);
    let other: Vec<&str> = term.get("mismatchLabelKeys").strings().collect();
    for key in term.get("matchLabelKeys").items() {
        if other.contains(&key.str()) {
            key.invalid(errors, "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
    let topology = term.get("topologyKey");
    if topology.str().is_empty() {
        topology.required(errors, "can not be empty");
    }
    topology.each_invalid(errors, format::qualified_name(topology.str()));
}

/// Keys whose values come from the pod's own labels: they need a selector to join.
fn label_keys(keys: &Field, selector: &Field, errors: &mut Errors) {
    if !keys.is_empty() && !selector.present() {
        keys.forbidden(errors, "must not be specified when labelSelector is not set");
    }
    for key in keys.items() {
        key.each_invalid(errors, format::qualified_name(key.str()));
    }
}

/// In upstream's order, which clients see.
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `effect` of a taint, which must have one.
pub(in super::super) fn taint_effect(field: &Field, errors: &mut Errors) {
    if field.str().is_empty() {
        field.required(errors, "");
    } else {
        field.one_of(errors, EFFECTS);
    }
}

/// `tolerations` of a pod or a runtime class.
pub(in super::super) fn tolerations(field: &Field, errors: &mut Errors) {
    for toleration in field.items() {
        let (key, operator, value, effect) = (
            toleration.get("key"),
            toleration.get("operator"),
            toleration.get("value"),
            toleration.get("effect"),
        );
        if !key.str().is_empty() {
            key.each_invalid(errors, format::qualified_name(key.str()));
        } else if operator.str() != "Exists" {
            operator.invalid(
                errors,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.get("tolerationSeconds").present() && effect.str() != "NoExecute" {
            effect.invalid(errors, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.str() {
            "Equal" | "" => {
                let problems = format::label_value(value.str());
                if !problems.is_empty() {
                    operator.invalid_as(errors, value.str(), &problems.join(";"));
                }
            }
            "Exists" => {
                if !value.str().is_empty() {
                    operator.invalid_as(
                        errors,
                        toleration.shown().clone(),
                        "value must be empty when `operator` is 'Exists'",
                    );
                }
            }
            _ => operator.unsupported(errors, &["Equal", "Exists"]),
        }
        if !effect.str().is_empty() {
            effect.one_of(errors, EFFECTS);
        }
    }
}

/// `topologySpreadConstraints` of a pod.
pub(super) fn spread(field: &Field, errors: &mut Errors) {
    let all: Vec<Field> = field.items().collect();
    for (index, constraint) in all.iter().enumerate() {
        let (skew, key, action) = (
            constraint.get("maxSkew"),
            constraint.get("topologyKey"),
            constraint.get("whenUnsatisfiable"),
        );
        if skew.number() <= 0 {
            skew.invalid_as(errors, skew.number(), "must be greater than zero");
        }
        if key.str().is_empty() {
            key.required(errors, "can not be empty");
        }
        action.one_of(errors, &["DoNotSchedule", "ScheduleAnyway"]);
        let pair = |c: &Field| {
            (
                c.get("topologyKey").str().to_owned(),
                c.get("whenUnsatisfiable").str().to_owned(),
            )
        };
        if all[index + 1..].iter().any(|other| pair(other) == pair(constraint)) {
            constraint
                .get("{topologyKey, whenUnsatisfiable}")
                .duplicate_as(errors, format!("{{{}, {}}}", key.str(), action.str()));
        }
        let domains = constraint.get("minDomains");
        if domains.int().is_some_and(|n| n <= 0) {
            domains.invalid(errors, "must be greater than zero");
        }
        if domains.present() && action.str() != "DoNotSchedule" {
            domains.invalid(
                errors,
                &format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    action.str()
                ),
            );
        }
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if constraint.get(name).present() {
                constraint.get(name).one_of(errors, &["Honor", "Ignore"]);
            }
        }
        label_keys(
            &constraint.get("matchLabelKeys"),
            &constraint.get("labelSelector"),
            errors,
        );
        meta::label_selector(&constraint.get("labelSelector"), errors);
    }
}

/// An update may add tolerations, and change the seconds of those that are there.
pub(super) fn only_added_tolerations(new: &Field, old: &Field, errors: &mut Errors) {
    let timeless = |toleration: &Field| {
        let mut value = toleration.shown().clone();
        if let Some(map) = value.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        value
    };
    let kept = old.items().all(|before| {
        let before = timeless(&before);
        new.items().any(|after| same(Some(&before), Some(&timeless(&after))))
    });
    if !kept {
        new.forbidden(
            errors,
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
    tolerations(new, errors);
}

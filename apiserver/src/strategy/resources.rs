//! Amounts of resources: their names, their quantities, and requests against limits.

use api::quantity::Quantity;
use serde_json::Value;

use super::field::{Field, NEGATIVE};
use super::format;
use crate::status::Errors;

/// The amount under a field. Decoding has refused what is no quantity; what is not there is nothing.
pub fn quantity(field: &Field) -> Option<Quantity> {
    match field.value()? {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// A resource of Kubernetes itself: without a domain, or with kubernetes.io's.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}
/// Limits may exceed requests.
fn is_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}
/// A device or the like, in the domain of whoever provides it.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && format::qualified_name(&format!("requests.{name}")).is_empty()
}
fn is_container_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name)
}
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
fn is_standard(name: &str) -> bool {
    is_container_resource(name)
        || COUNTED.contains(&name)
        || matches!(
            name,
            "storage"
                | "requests.storage"
                | "requests.cpu"
                | "requests.memory"
                | "requests.ephemeral-storage"
                | "limits.cpu"
                | "limits.memory"
                | "limits.ephemeral-storage"
        )
        || name.starts_with("requests.hugepages-")
}
fn is_whole(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended(name)
}
/// What a quota may count.
fn is_quota_resource(name: &str) -> bool {
    COUNTED.contains(&name)
        || matches!(
            name,
            "cpu"
                | "memory"
                | "ephemeral-storage"
                | "requests.cpu"
                | "requests.memory"
                | "requests.storage"
                | "requests.ephemeral-storage"
                | "limits.cpu"
                | "limits.memory"
                | "limits.ephemeral-storage"
        )
        || is_huge_page(name)
        || name.starts_with("requests.hugepages-")
}

/// The name under which a resource stands; `field` is at its key.
pub fn name(field: &Field, value: &str, errors: &mut Errors) -> bool {
    let problems = format::qualified_name(value);
    if !problems.is_empty() {
        for message in problems {
            field.invalid_as(errors, value, &message);
        }
        return false;
    }
    if !value.contains('/') && !is_standard(value) {
        field.invalid_as(errors, value, "must be a standard resource type or fully qualified");
        return false;
    }
    true
}

/// A name that a container may ask for.
pub fn container_name(field: &Field, value: &str, errors: &mut Errors) {
    name(field, value, errors);
    if !value.contains('/') {
        if !is_container_resource(value) {
            field.invalid_as(errors, value, "must be a standard resource for containers");
        }
    } else if !is_native(value) && !is_extended(value) {
        field.invalid_as(errors, value, "doesn't follow extended resource name standard");
    }
}

/// A name that a quota may count.
pub fn quota_name(field: &Field, value: &str, errors: &mut Errors) {
    name(field, value, errors);
    if !value.contains('/') && !is_quota_resource(value) {
        field.invalid_as(errors, value, "must be a standard resource for quota");
    }
}

/// An amount: not negative, and whole where the resource is counted.
pub fn amount(field: &Field, name: &str, errors: &mut Errors) {
    let Some(amount) = quantity(field) else { return };
    if amount < Quantity::ZERO {
        field.invalid(errors, NEGATIVE);
    }
    if is_whole(name) && amount.exact_i64().is_none() {
        field.invalid(errors, "must be an integer");
    }
}

/// `resources` of a container.
pub fn requirements(field: &Field, errors: &mut Errors) {
    let (limits, requests) = (field.get("limits"), field.get("requests"));
    let (mut compute, mut huge_pages) = (false, false);
    for (name, limit) in limits.entries() {
        container_name(&limit, name, errors);
        amount(&limit, name, errors);
        compute |= matches!(name, "cpu" | "memory");
        huge_pages |= is_huge_page(name);
    }
    for (name, request) in requests.entries() {
        container_name(&request, name, errors);
        amount(&request, name, errors);
        compute |= matches!(name, "cpu" | "memory");
        huge_pages |= is_huge_page(name);
        let limit = limits.key(name);
        match (quantity(&request), quantity(&limit)) {
            (Some(asked), Some(most)) if asked != most && !is_overcommitted(name) => requests.invalid_as(
                errors,
                request.str(),
                &format!("must be equal to {name} limit of {}", limit.str()),
            ),
            (Some(asked), Some(most)) if asked > most => requests.invalid_as(
                errors,
                request.str(),
                &format!("must be less than or equal to {name} limit of {}", limit.str()),
            ),
            (Some(_), None) if !is_overcommitted(name) => {
                limits.required(errors, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    if huge_pages && !compute {
        field.forbidden(errors, "HugePages require cpu or memory");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(value: Value, want: &[&str]) {
        let mut errors = Errors::default();
        requirements(&Field::at(Some(&value), "r"), &mut errors);
        let got: Vec<String> = errors
            .into_causes()
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn requests_stay_within_limits() {
        check(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}),
            &[],
        );
        check(
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            &["r.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
        );
        check(
            json!({"limits": {"a.b/gpu": "2"}, "requests": {"a.b/gpu": "1"}}),
            &["r.requests: Invalid value: \"1\": must be equal to a.b/gpu limit of 2"],
        );
        check(
            json!({"requests": {"a.b/gpu": "1"}}),
            &["r.limits: Required value: Limit must be set for non overcommitable resources"],
        );
        check(
            json!({"limits": {"a.b/gpu": "500m"}}),
            &["r.limits[a.b/gpu]: Invalid value: \"500m\": must be an integer"],
        );
        check(
            json!({"limits": {"cpu": "-1"}}),
            &["r.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
        );
        check(
            json!({"limits": {"hugepages-2Mi": "4Mi"}}),
            &["r: Forbidden: HugePages require cpu or memory"],
        );
    }
}

//! ResourceQuotas and LimitRanges: how much a namespace may use.

use std::collections::BTreeSet;

use api::quantity::Quantity;

use super::field::{Field, IMMUTABLE};
use super::resources::{self, quantity};
use super::{Context, Shape, Strategy, format};
use crate::object::Object;
use crate::status::Errors;

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

#[derive(Debug)]
pub struct Quotas;

impl Strategy for Quotas {
    fn shape(&self) -> Shape {
        Shape::STATUS
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        amounts(&spec.get("hard"), errors);
        scopes(&spec, errors);
        selector(&spec, errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            amounts(&Field::root(new, "status.hard"), errors);
            amounts(&Field::root(new, "status.used"), errors);
            return;
        }
        self.validate(context, new, errors);
        let scopes = Field::root(new, "spec.scopes");
        let set = |object: &Object| -> BTreeSet<String> {
            Field::root(object, "spec.scopes")
                .strings()
                .map(str::to_owned)
                .collect()
        };
        if set(new) != set(old) {
            scopes.invalid(errors, IMMUTABLE);
        }
    }
}

fn amounts(list: &Field, errors: &mut Errors) {
    for (name, amount) in list.entries() {
        resources::quota_name(&amount, name, errors);
        resources::amount(&amount, name, errors);
    }
}

/// A scope that speaks of pods cannot limit what is no pod's.
fn fits(scope: &str, resource: &str) -> bool {
    const OF_PODS: &[&str] = &[
        "pods",
        "cpu",
        "memory",
        "requests.cpu",
        "requests.memory",
        "limits.cpu",
        "limits.memory",
    ];
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage")
        }
        _ => OF_PODS.contains(&resource) || !resources::is_native(resource),
    }
}

fn scopes(spec: &Field, errors: &mut Errors) {
    let field = spec.get("scopes");
    let set: BTreeSet<&str> = field.strings().collect();
    for scope in &set {
        if !SCOPES.contains(scope) {
            field.invalid(errors, "unsupported scope");
            continue;
        }
        for (resource, _) in spec.get("hard").entries() {
            if !fits(scope, resource)
                && !resource.contains('/')
                && !resource.contains("ephemeral")
                && !resource.contains("hugepages")
            {
                field.invalid(errors, "unsupported scope applied to resource");
            }
        }
    }
    conflicts(&field, &set, errors);
}

fn conflicts(field: &Field, set: &BTreeSet<&str>, errors: &mut Errors) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| set.contains(scope)) {
            field.invalid(errors, "conflicting scopes");
        }
    }
}

fn selector(spec: &Field, errors: &mut Errors) {
    // Upstream names the list without an index.
    let at = spec.get("scopeSelector.matchExpressions");
    let mut set = BTreeSet::new();
    for expression in at.items() {
        let (scope, operator, values) = (
            expression.get("scopeName"),
            expression.get("operator"),
            expression.get("values"),
        );
        set.insert(scope.str());
        let refuse = |name: &str, field: &Field, why: &str, errors: &mut Errors| {
            at.get(name).with(field.value()).invalid(errors, why);
        };
        if !SCOPES.contains(&scope.str()) {
            refuse("scopeName", &scope, "unsupported scope", errors);
        }
        for (resource, _) in spec.get("hard").entries() {
            if SCOPES.contains(&scope.str())
                && !fits(scope.str(), resource)
                && !resource.contains('/')
                && !resource.contains("ephemeral")
                && !resource.contains("hugepages")
            {
                at.invalid(errors, "unsupported scope applied to resource");
            }
        }
        let only_exists =
            !matches!(scope.str(), "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope.str());
        if only_exists && operator.str() != "Exists" {
            refuse(
                "operator",
                &operator,
                "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
                errors,
            );
        }
        match operator.str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    at.get("values")
                        .required(errors, "must be at least one value when `operator` is 'In' or 'NotIn'");
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    refuse(
                        "values",
                        &values,
                        "must be no value when `operator` is 'Exist' or 'DoesNotExist'",
                        errors,
                    );
                }
            }
            _ => refuse("operator", &operator, "not a valid selector operator", errors),
        }
    }
    conflicts(&spec.get("scopes"), &set, errors);
}

#[derive(Debug)]
pub struct LimitRanges;

impl Strategy for LimitRanges {
    fn prepare_create(&self, _context: &Context<'_>, new: &mut Object) {
        // A limit range needs no name of anybody's choice.
        if new.name().is_empty() && new.generate_name().is_empty() {
            let uid = new.uid().to_owned();
            new.metadata_mut().insert("name".into(), uid.into());
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let mut kinds = BTreeSet::new();
        for limit in Field::root(new, "spec.limits").items() {
            let kind = limit.get("type");
            let problems = format::qualified_name(kind.str());
            if !problems.is_empty() {
                kind.each_invalid(errors, problems);
            } else if !kind.str().contains('/') && !matches!(kind.str(), "Pod" | "Container" | "PersistentVolumeClaim")
            {
                kind.invalid(errors, "must be a standard limit type or fully qualified");
            }
            if !kinds.insert(kind.str()) {
                kind.duplicate(errors);
            }
            limits(&limit, kind.str(), errors);
        }
    }
}

const LISTS: &[&str] = &["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn limits(limit: &Field, kind: &str, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for list in LISTS {
        let field = limit.get(list);
        if kind == "Pod" && list.starts_with("default") {
            if !field.is_empty() {
                field.forbidden(errors, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, amount) in field.entries() {
            names.insert(name);
            if matches!(kind, "Pod" | "Container") {
                resources::container_name(&amount, name, errors);
            } else {
                resources::name(&amount, name, errors);
            }
            resources::amount(&amount, name, errors);
        }
    }
    if kind == "PersistentVolumeClaim" && !limit.get("min.storage").present() && !limit.get("max.storage").present() {
        limit.get("limits").required(
            errors,
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    for name in names {
        let [max, min, default, request, ratio] = [0, 1, 2, 3, 4].map(|list| {
            let field = limit.get(LISTS[list]);
            (quantity(&field.key(name)), field.key(name).str().to_owned())
        });
        let mut order =
            |small: &(Option<Quantity>, String), big: &(Option<Quantity>, String), at: &str, what: [&str; 2]| {
                if let (Some(a), Some(b)) = (small.0, big.0)
                    && a > b
                {
                    let field = limit.get(at);
                    let why = format!(
                        "{} value {} is greater than {} value {}",
                        what[0], small.1, what[1], big.1
                    );
                    field.key(name).invalid(errors, &why);
                }
            };
        order(&min, &max, "min", ["min", "max"]);
        order(&min, &request, "defaultRequest", ["min", "default request"]);
        order(&request, &max, "defaultRequest", ["default request", "max"]);
        order(
            &request,
            &default,
            "defaultRequest",
            ["default request", "default limit"],
        );
        order(&min, &default, "default", ["min", "default"]);
        order(&default, &max, "default", ["default", "max"]);
        let field = limit.get("maxLimitRequestRatio");
        if ratio
            .0
            .is_some_and(|r| r < Quantity::new(1, api::quantity::Format::DecimalSi))
        {
            field
                .key(name)
                .invalid(errors, &format!("ratio {} is less than 1", ratio.1));
        }
        if let (Some(r), Some(low), Some(high)) = (ratio.0, min.0, max.0)
            && low > Quantity::ZERO
            && r.as_f64() > high.as_f64() / low.as_f64()
        {
            field.key(name).invalid(
                errors,
                &format!(
                    "ratio {} is greater than max/min = {:.6}",
                    ratio.1,
                    high.as_f64() / low.as_f64()
                ),
            );
        }
        // What cannot be overcommitted is asked for as it is limited.
        let whole = !resources::is_native(name) || resources::is_huge_page(name);
        if whole && default.0.is_some() && request.0.is_some() && default.0 != request.0 {
            let field = limit.get("defaultRequest");
            field.key(name).invalid(
                errors,
                &format!(
                    "default value {} must equal to defaultRequest value {} in {name}",
                    default.1, request.1
                ),
            );
        }
    }
}

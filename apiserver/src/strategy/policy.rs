//! Disruption budgets and priority classes: who goes first, and who may not.

use serde_json::json;

use super::field::{Field, IMMUTABLE, same};
use super::{Context, Shape, Strategy, int_or_percent, meta};
use crate::object::Object;
use crate::status::Errors;

#[derive(Debug)]
pub struct DisruptionBudgets;

impl Strategy for DisruptionBudgets {
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
        if least.present() && most.present() {
            spec.invalid(errors, "minAvailable and maxUnavailable cannot be both set");
        }
        for field in [&least, &most] {
            if field.present() {
                int_or_percent::validate(field, errors);
                int_or_percent::at_most_all(field, errors);
            }
        }
        meta::label_selector(&spec.get("selector"), errors);
        let unhealthy = spec.get("unhealthyPodEvictionPolicy");
        if unhealthy.present() {
            unhealthy.one_of(errors, &["AlwaysAllow", "IfHealthyBudget"]);
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, _old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            let status = Field::root(new, "status");
            for name in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
                status.get(name).non_negative(errors);
            }
            return;
        }
        self.validate(context, new, errors);
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let selector = Field::root(new, "spec.selector");
        if selector.present() && meta::selector_is_empty(&selector) {
            vec!["spec.selector: empty selector matches all pods in the namespace".into()]
        } else {
            Vec::new()
        }
    }
}

/// The highest priority that a user may give.
const HIGHEST: i64 = 1_000_000_000;
/// Classes of the system: name, value, and whether it is the default.
const SYSTEM: &[(&str, i64)] = &[
    ("system-node-critical", 2_000_001_000),
    ("system-cluster-critical", 2_000_000_000),
];

#[derive(Debug)]
pub struct PriorityClasses;

impl Strategy for PriorityClasses {
    fn shape(&self) -> Shape {
        Shape::COUNTED
    }
    fn prepare_create(&self, _context: &Context<'_>, new: &mut Object) {
        self.shape().prepare_create(new);
        new.0.entry("value").or_insert_with(|| json!(0));
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let (name, value) = (Field::root(new, "metadata.name"), Field::root(new, "value"));
        if name.str().starts_with("system-") {
            let known = SYSTEM.iter().find(|(system, _)| *system == name.str());
            let why = match known {
                None => format!("priority class {} is not a known system priority class", name.str()),
                Some((_, want)) if *want != value.number() => {
                    format!("value of {} PriorityClass must be {want}", name.str())
                }
                Some(_) if Field::root(new, "globalDefault").is_true() => {
                    format!("globalDefault of {} PriorityClass must be false", name.str())
                }
                Some(_) => String::new(),
            };
            if !why.is_empty() {
                name.forbidden(
                    errors,
                    &format!(
                        "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                    ),
                );
            }
        } else if value.number() > HIGHEST {
            value.forbidden(
                errors,
                &format!("maximum allowed value of a user defined priority is {HIGHEST}"),
            );
        }
        let preemption = Field::root(new, "preemptionPolicy");
        if preemption.present() {
            preemption.one_of(errors, &["Never", "PreemptLowerPriority"]);
        }
    }
    fn validate_update(&self, _context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        let (value, preemption) = (Field::root(new, "value"), Field::root(new, "preemptionPolicy"));
        if value.number() != Field::root(old, "value").number() {
            value.forbidden(errors, "may not be changed in an update.");
        }
        if !same(preemption.value(), old.0.get("preemptionPolicy")) {
            preemption.invalid(errors, IMMUTABLE);
        }
    }
}

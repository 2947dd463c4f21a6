//! Nodes, Leases and runtime classes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::field::{Field, same};
use super::{Context, Shape, Strategy, format, pod, resources};
use crate::object::Object;
use crate::status::Errors;

#[derive(Debug)]
pub struct Nodes;

impl Strategy for Nodes {
    fn shape(&self) -> Shape {
        Shape::STATUS
    }
    fn default(&self, new: &mut Object) {
        // Two names of one thing: where they differ the old one counts, since old writers know only it.
        let spec = new.entry("spec");
        let first = spec
            .get("podCIDRs")
            .and_then(|list| list.get(0))
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned();
        match spec.get("podCIDR").and_then(Value::as_str) {
            Some(one) if !one.is_empty() && one != first => {
                let list = json!([one]);
                spec.insert("podCIDRs".into(), list);
            }
            _ if !first.is_empty() => {
                spec.insert("podCIDR".into(), first.into());
            }
            _ => {}
        }
    }
    /// A node brings its status along when it registers.
    fn prepare_create(&self, _context: &Context<'_>, _new: &mut Object) {}
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        node(new, errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        node(new, errors);
        if context.subresource == "status" {
            let mut seen = BTreeSet::new();
            for address in Field::root(new, "status.addresses").items() {
                if !seen.insert((address.get("type").str(), address.get("address").str())) {
                    address.duplicate(errors);
                }
            }
            return;
        }
        let (spec, was) = (Field::root(new, "spec"), Field::root(old, "spec"));
        if !was.get("podCIDRs").is_empty() && !same(spec.get("podCIDRs").value(), was.get("podCIDRs").value()) {
            spec.get("podCIDRs")
                .forbidden(errors, "node updates may not change podCIDR except from \"\" to valid");
        }
        let before = was.get("providerID").str();
        if !before.is_empty() && spec.get("providerID").str() != before {
            spec.get("providerID").forbidden(
                errors,
                "node updates may not change providerID except from \"\" to valid",
            );
        }
        const MUTABLE: &[&str] = &[
            "podCIDR",
            "podCIDRs",
            "providerID",
            "taints",
            "unschedulable",
            "configSource",
        ];
        let rest = |spec: &Field| {
            let mut map = spec.map().cloned().unwrap_or_default();
            MUTABLE.iter().for_each(|name| drop(map.remove(*name)));
            Value::Object(map)
        };
        if !same(Some(&rest(&spec)), Some(&rest(&was))) {
            spec.forbidden(
                errors,
                "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is enabled)",
            );
        }
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut out = Vec::new();
        if Field::root(new, "spec.configSource").present() {
            out.push("spec.configSource: the feature is no longer supported".into());
        }
        if !Field::root(new, "spec.externalID").str().is_empty() {
            out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".into());
        }
        out
    }
}

fn node(new: &Object, errors: &mut Errors) {
    // Upstream names taints under metadata, where they once were.
    let taints = Field::at(Field::root(new, "spec.taints").value(), "metadata.taints");
    let mut seen = BTreeSet::new();
    for taint in taints.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        key.each_invalid(errors, format::qualified_name(key.str()));
        let problems = format::label_value(value.str());
        if !problems.is_empty() {
            value.invalid(errors, &problems.join(";"));
        }
        pod::taint_effect(&effect, errors);
        if !seen.insert((key.str(), effect.str())) {
            taint.duplicate(errors);
        }
    }
    let cidrs = Field::root(new, "spec.podCIDRs");
    for cidr in cidrs.items() {
        cidr.each_invalid(errors, format::cidr(cidr.str()));
    }
    let families: BTreeSet<bool> = cidrs
        .strings()
        .filter_map(|text| Some(format::parse_cidr(text)?.0.is_ipv4()))
        .collect();
    if cidrs.len() > 2 || (cidrs.len() == 2 && families.len() == 1) {
        cidrs.invalid(errors, "may specify no more than one CIDR for each IP family");
    }
    for list in ["status.capacity", "status.allocatable"] {
        for (name, amount) in Field::root(new, list).entries() {
            resources::amount(&amount, name, errors);
        }
    }
}

#[derive(Debug)]
pub struct Leases;

impl Strategy for Leases {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        let seconds = spec.get("leaseDurationSeconds");
        if seconds.int().is_some_and(|n| n <= 0) {
            seconds.invalid(errors, "must be greater than 0");
        }
        let transitions = spec.get("leaseTransitions");
        if transitions.int().is_some_and(|n| n < 0) {
            transitions.invalid(errors, "must be greater than or equal to 0");
        }
        let (strategy, preferred) = (spec.get("strategy"), spec.get("preferredHolder"));
        if strategy.present() {
            for message in format::qualified_name(strategy.str()).into_iter().take(1) {
                strategy.invalid(errors, &message);
            }
        }
        if !preferred.str().is_empty() && strategy.str().is_empty() {
            preferred.forbidden(errors, "may only be specified when `strategy` is defined");
        }
    }
}

#[derive(Debug)]
pub struct RuntimeClasses;

impl Strategy for RuntimeClasses {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let handler = Field::root(new, "handler");
        if handler.str().is_empty() {
            handler.required(errors, "");
        } else {
            handler.each_invalid(errors, format::dns_label(handler.str()));
        }
        for (name, amount) in Field::root(new, "overhead.podFixed").entries() {
            resources::container_name(&amount, name, errors);
            resources::amount(&amount, name, errors);
        }
        super::meta::labels(&Field::root(new, "scheduling.nodeSelector"), errors);
        pod::tolerations(&Field::root(new, "scheduling.tolerations"), errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        let handler = Field::root(new, "handler");
        if handler.str() != old.str_at(&["handler"]) {
            handler.invalid(errors, super::field::IMMUTABLE);
        }
    }
}

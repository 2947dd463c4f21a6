//! Pods: the unit that runs, and so the kind with the most rules.
//! Comes in: a pod or the spec of one. Goes out: defaults, refusals, warnings; templates come through [`super::template`].
//! Once a pod exists its spec is fixed but for the few fields in [`update`]: everything else is a new pod.

mod affinity;
mod container;
mod env;
mod probe;
mod qos;
mod security;
mod spec;
mod update;
mod volume;
mod warnings;

use serde_json::{Value, json};

use super::field::Field;
use super::{Context, Reset, Shape, Strategy, bump_generation, differs, format, template};
use crate::object::Object;
use crate::status::Errors;

pub(super) use affinity::{node_selector, taint_effect, tolerations};
pub(super) use probe::port_or_name;
pub(super) use spec::validate as validate_spec;
pub(super) use volume::{csi_driver, host_path, legacy_source, no_backsteps};
pub(super) use warnings::of_spec as spec_warnings;

#[derive(Debug)]
pub struct Pods;

impl Strategy for Pods {
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn reset(&self, subresource: &str) -> Reset {
        match subresource {
            "" => Reset::Paths(&[&["status"]]),
            "status" => Reset::Paths(&[
                &["spec"],
                &["metadata", "deletionTimestamp"],
                &["metadata", "ownerReferences"],
            ]),
            "ephemeralcontainers" => Reset::AllBut(&[&["spec", "ephemeralContainers"]]),
            "resize" => Reset::AllBut(&[&["spec", "containers"], &["spec", "initContainers"]]),
            _ => Reset::NOTHING,
        }
    }
    fn default(&self, new: &mut Object) {
        template::default_spec(new.entry("spec"));
        // Two names of one thing: where they differ the old one counts, since old writers know only it.
        let Some(status) = new.0.get_mut("status").and_then(Value::as_object_mut) else {
            return;
        };
        for (one, all) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
            let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("").to_owned();
            let ip = text(status.get(one));
            let first = text(status.get(all).and_then(|list| list.get(0)?.get("ip")));
            if ip.is_empty() && !first.is_empty() {
                status.insert(one.into(), first.into());
            } else if !ip.is_empty() && ip != first {
                status.insert(all.into(), json!([{ "ip": ip }]));
            }
        }
    }
    fn prepare_create(&self, _context: &Context<'_>, new: &mut Object) {
        // Admission may have named an account since.
        template::default_spec(new.entry("spec"));
        new.metadata_mut().insert("generation".into(), 1.into());
        let mut status = json!({ "phase": "Pending", "qosClass": qos::class(&Field::root(new, "spec")) });
        if !Field::root(new, "spec.schedulingGates").is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": null,
            }]);
        }
        new.0.insert("status".into(), status);
    }
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        match context.subresource {
            "ephemeralcontainers" => update::keep_all_but_ephemeral(new, old),
            "resize" => update::keep_all_but_resources(new, old),
            "status" => {
                Shape::FULL.prepare_update(context, new, old);
                // The kubelet reports; who owns a pod and whether it is deleted is not its to say.
                keep_metadata(
                    new,
                    old,
                    &["ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds"],
                );
                if let Some(qos) = old.at(&["status", "qosClass"]) {
                    new.entry("status").entry("qosClass").or_insert_with(|| qos.clone());
                }
                return;
            }
            _ => Shape::FULL.prepare_update(context, new, old),
        }
        if differs(new, old) {
            bump_generation(new, old);
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        whole(new, errors);
        let list = Field::root(new, "spec.ephemeralContainers");
        if !list.is_empty() {
            list.forbidden(errors, "cannot be set on create");
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        match context.subresource {
            "status" => update::validate_status(new, old, errors),
            "ephemeralcontainers" => update::validate_ephemeral(new, old, errors),
            "resize" => update::validate_resize(new, old, errors),
            _ => {
                whole(new, errors);
                update::validate(new, old, errors);
            }
        }
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, old: Option<&Object>) -> Vec<String> {
        // What was there before was warned of before.
        if old.is_some_and(|old| !differs(new, old)) {
            return Vec::new();
        }
        warnings::of_pod(new)
    }
    fn grace(&self, object: &Object, asked: Option<i64>) -> Option<i64> {
        let own = || Field::root(object, "spec.terminationGracePeriodSeconds").number();
        let seconds = asked.unwrap_or_else(own);
        let ended = matches!(object.str_at(&["status", "phase"]), "Succeeded" | "Failed");
        let unscheduled = object.str_at(&["spec", "nodeName"]).is_empty();
        Some(match seconds {
            _ if ended || unscheduled => 0,
            ..0 => 1,
            seconds => seconds,
        })
    }
}

fn keep_metadata(new: &mut Object, old: &Object, names: &[&str]) {
    for name in names {
        match old.at(&["metadata", name]) {
            Some(value) => new.metadata_mut().insert((*name).into(), value.clone()),
            None => new.metadata_mut().remove(*name),
        };
    }
}

/// What holds for a pod at all times.
fn whole(pod: &Object, errors: &mut Errors) {
    let spec = Field::root(pod, "spec");
    annotations(&Field::root(pod, "metadata.annotations"), &spec, errors);
    validate_spec(&spec, true, errors);
    if spec.get("serviceAccountName").str().is_empty() {
        for volume in spec.get("volumes").items() {
            for source in volume.get("projected").get("sources").items() {
                let token = source.get("serviceAccountToken");
                if token.present() {
                    token.forbidden(errors, "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
}

/// Annotations that mean something for pods.
pub(super) fn annotations(field: &Field, spec: &Field, errors: &mut Errors) {
    let mirror = field.key("kubernetes.io/config.mirror");
    if mirror.present() && spec.get("nodeName").str().is_empty() {
        mirror.invalid(errors, "must set spec.nodeName if mirror pod annotation is set");
    }
    let cost = field.key("controller.kubernetes.io/pod-deletion-cost");
    if cost.present() {
        let text = cost.str();
        // A sign or zeros in front would be read differently by others.
        let canonical = text.parse::<i32>().is_ok_and(|n| n.to_string() == text);
        if !canonical {
            cost.invalid(errors, "must be a 32bit integer");
        }
    }
}

/// PodTemplate, the stored kind.
#[derive(Debug)]
pub struct PodTemplates;

impl Strategy for PodTemplates {
    fn shape(&self) -> Shape {
        Shape::COUNTED
    }
    fn default(&self, new: &mut Object) {
        if let Some(spec) = new.entry("template").get_mut("spec").and_then(Value::as_object_mut) {
            template::default_spec(spec);
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        template::validate(&Field::root(new, "template"), errors);
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, _old: Option<&Object>) -> Vec<String> {
        spec_warnings(
            &Field::root(new, "template.metadata.annotations"),
            &Field::root(new, "template.spec"),
        )
    }
}

/// Binding: a pod is put on a node. Not stored; the pod is.
#[derive(Debug)]
pub struct Bindings;

impl Strategy for Bindings {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let target = Field::root(new, "target");
        let (kind, name) = (target.get("kind"), target.get("name"));
        if !matches!(kind.str(), "" | "Node") {
            kind.unsupported(errors, &["Node", "<empty>"]);
        }
        if name.str().is_empty() {
            name.required(errors, "");
        } else {
            name.each_invalid(errors, format::dns_subdomain(name.str()));
        }
    }
}

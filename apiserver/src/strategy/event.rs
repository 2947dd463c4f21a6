//! Events, in the stored (core) form (kubernetes/pkg/apis/core/validation/events.go, 1.36).

use super::field::{Field, same};
use super::{Context, Strategy, format};
use crate::object::Object;
use crate::status::Errors;

/// `strict` for events.k8s.io, which asks for what the core group leaves open.
#[derive(Debug)]
pub struct Events {
    pub strict: bool,
}

impl Strategy for Events {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        about(new, errors);
        if self.strict {
            whole(new, "reportingController", errors);
            let time = Field::root(new, "eventTime");
            if !time.present() {
                time.required(errors, "");
            }
            let kind = Field::root(new, "type");
            if !matches!(kind.str(), "Normal" | "Warning") {
                kind.invalid_as(errors, "", &format!("has invalid value: {}", kind.str()));
            }
            for name in ["firstTimestamp", "lastTimestamp", "count", "source"] {
                let field = Field::root(new, name);
                if !field.is_zero() {
                    field.invalid_as(errors, "", "needs to be unset");
                }
            }
            series(new, errors);
        } else if Field::root(new, "eventTime").present() {
            whole(new, "reportingComponent", errors);
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if !self.strict {
            return self.validate(context, new, errors);
        }
        about(new, errors);
        series(new, errors);
        // One event is one story: only how often it happened changes.
        for name in [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "eventTime",
            "type",
            "action",
            "related",
            "reportingComponent",
            "reportingInstance",
        ] {
            let field = Field::root(new, name);
            if !same(field.value(), old.0.get(name)) {
                field.invalid(errors, super::field::IMMUTABLE);
            }
        }
    }
}

/// The namespace is that of what the event is about; cluster-wide objects have theirs in `default` or `kube-system`.
fn about(new: &Object, errors: &mut Errors) {
    let namespace = Field::root(new, "involvedObject.namespace");
    let matches = match namespace.str() {
        "" => matches!(new.namespace(), "" | "default" | "kube-system"),
        about => about == new.namespace(),
    };
    if !matches {
        namespace.invalid(errors, "does not match event.namespace");
    }
}

fn whole(new: &Object, controller_name: &str, errors: &mut Errors) {
    const MOST: usize = 128;
    const LONGEST_NOTE: usize = 1024;
    let controller = Field::at(Field::root(new, "reportingComponent").value(), controller_name);
    if controller.str().is_empty() {
        controller.required(errors, "");
    }
    controller.each_invalid(errors, format::qualified_name(controller.str()));
    for name in ["reportingInstance", "action", "reason"] {
        let field = Field::root(new, name);
        if field.str().is_empty() {
            field.required(errors, "");
        } else if field.str().len() > MOST {
            field.invalid_as(errors, "", &format!("can have at most {MOST} characters"));
        }
    }
    let note = Field::root(new, "message");
    if note.str().len() > LONGEST_NOTE {
        note.invalid_as(errors, "", &format!("can have at most {LONGEST_NOTE} characters"));
    }
}

fn series(new: &Object, errors: &mut Errors) {
    let series = Field::root(new, "series");
    if !series.present() {
        return;
    }
    if series.get("count").number() < 2 {
        series.get("count").invalid_as(errors, "", "should be at least 2");
    }
    if !series.get("lastObservedTime").present() {
        series.get("lastObservedTime").required(errors, "");
    }
}

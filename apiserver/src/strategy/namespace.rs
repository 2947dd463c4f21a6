//! Namespaces: alive until their contents are gone.

use serde_json::{Value, json};

use super::field::Field;
use super::{Context, Shape, Strategy, format, meta};
use crate::object::Object;
use crate::status::Errors;

/// Kept by the namespace controller until it has emptied the namespace.
const FINALIZER: &str = "kubernetes";

#[derive(Debug)]
pub struct Namespaces;

impl Strategy for Namespaces {
    fn shape(&self) -> Shape {
        Shape::STATUS
    }
    fn prepare_create(&self, _context: &Context<'_>, new: &mut Object) {
        new.0.insert("status".into(), json!({"phase": "Active"}));
        let list = new.entry("spec").entry("finalizers").or_insert_with(|| json!([]));
        if list.is_null() {
            *list = json!([]);
        }
        if let Some(list) = list.as_array_mut().filter(|list| !list.iter().any(|f| f == FINALIZER)) {
            list.push(FINALIZER.into());
        }
    }
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        match context.subresource {
            "finalize" => {
                // Only the finalizers are the client's.
                let asked = new.at(&["spec", "finalizers"]).cloned();
                let meta = new.0.remove("metadata");
                new.0 = old.0.clone();
                if let Some(meta) = meta {
                    new.0.insert("metadata".into(), meta);
                }
                match asked {
                    Some(asked) => new.entry("spec").insert("finalizers".into(), asked),
                    None => new.entry("spec").remove("finalizers"),
                };
            }
            _ => {
                self.shape().prepare_update(context, new, old);
                match old.at(&["spec", "finalizers"]) {
                    Some(kept) => new.entry("spec").insert("finalizers".into(), kept.clone()),
                    None => new.entry("spec").remove("finalizers"),
                };
            }
        }
    }
    fn prepare_delete(&self, object: &mut Object) {
        object.entry("status").insert("phase".into(), "Terminating".into());
    }
    fn removable(&self, object: &Object) -> bool {
        object
            .at(&["spec", "finalizers"])
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let list = Field::root(new, "spec.finalizers");
        for name in list.items() {
            // Upstream names the list at creation, and the item in the finalize subresource.
            finalizer(&list.with(name.value()), errors);
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, _old: &Object, errors: &mut Errors) {
        match context.subresource {
            "finalize" => {
                for name in Field::root(new, "spec.finalizers").items() {
                    finalizer(&name, errors);
                }
            }
            "status" => {
                let phase = Field::root(new, "status.phase");
                let phase = Field::at(phase.value(), "status.Phase");
                match (new.is_deleting(), phase.str()) {
                    (false, "Active") | (true, "Terminating") => {}
                    (false, _) => {
                        phase.invalid(errors, "may only be 'Active' if `deletionTimestamp` is empty");
                    }
                    (true, _) => {
                        phase.invalid(errors, "may only be 'Terminating' if `deletionTimestamp` is not empty");
                    }
                }
            }
            _ => {}
        }
    }
}

fn finalizer(field: &Field, errors: &mut Errors) {
    field.each_invalid(errors, format::qualified_name(field.str()));
    meta::finalizer_name(field, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_lives_until_its_finalizers_are_gone() {
        let user = crate::identity::User::default();
        let context = |subresource| Context {
            user: &user,
            version: "v1",
            subresource,
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        let mut new = Object(json!({"metadata": {"name": "n"}}).as_object().expect("map").clone());
        Namespaces.prepare_create(&context(""), &mut new);
        assert_eq!(new.at(&["spec", "finalizers"]), Some(&json!(["kubernetes"])));
        assert_eq!(new.str_at(&["status", "phase"]), "Active");
        assert!(!Namespaces.removable(&new));
        Namespaces.prepare_delete(&mut new);
        assert_eq!(new.str_at(&["status", "phase"]), "Terminating");

        let old = new.clone();
        let mut update = Object(
            json!({"metadata": {"name": "n"}, "spec": {}})
                .as_object()
                .expect("map")
                .clone(),
        );
        Namespaces.prepare_update(&context(""), &mut update, &old);
        assert!(
            !Namespaces.removable(&update),
            "an update does not take finalizers away"
        );
        let mut update = Object(
            json!({"metadata": {"name": "n"}, "spec": {}})
                .as_object()
                .expect("map")
                .clone(),
        );
        Namespaces.prepare_update(&context("finalize"), &mut update, &old);
        assert!(Namespaces.removable(&update));
        assert_eq!(update.str_at(&["status", "phase"]), "Terminating");
    }
}

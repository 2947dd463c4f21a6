//! Pod templates: what pods, Deployments, Jobs and the like share of defaults and checks.

use serde_json::{Map, Value};

use super::field::Field;
use super::{meta, pod};
use crate::object::Object;
use crate::status::Errors;

/// Two names of one thing: the old one follows the new.
pub fn default_spec(spec: &mut Map<String, Value>) {
    let account = ["serviceAccountName", "serviceAccount"].into_iter().find_map(|name| {
        spec.get(name)?
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    });
    if let Some(account) = account {
        spec.insert("serviceAccountName".into(), account.clone().into());
        spec.insert("serviceAccount".into(), account.into());
    }
}

/// The same in `spec.template.spec`.
pub fn default(object: &mut Object) {
    let template = object.0.get_mut("spec").and_then(|spec| spec.get_mut("template"));
    if let Some(spec) = template
        .and_then(|template| template.get_mut("spec"))
        .and_then(Value::as_object_mut)
    {
        default_spec(spec);
    }
}

/// The objects in the list `name`.
pub fn objects<'a>(map: &'a mut Map<String, Value>, name: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(name)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// PodTemplateSpec.
pub fn validate(template: &Field, errors: &mut Errors) {
    // Upstream leaves `metadata` out of these two paths.
    meta::labels(
        &template.get("labels").with(template.get("metadata.labels").value()),
        errors,
    );
    meta::annotations(
        &template
            .get("annotations")
            .with(template.get("metadata.annotations").value()),
        errors,
    );
    let spec = template.get("spec");
    pod::annotations(
        &template
            .get("annotations")
            .with(template.get("metadata.annotations").value()),
        &spec,
        errors,
    );
    pod::validate_spec(&spec, false, errors);
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        ephemeral.forbidden(errors, "ephemeral containers not allowed in pod template");
    }
}

/// The template's labels are what the selector selects, or nothing would ever be found again.
pub fn selected(template: &Field, selector: &Field, errors: &mut Errors) {
    let labels = template.get("metadata.labels");
    let found = selector.present() && meta::selects(selector, &labels);
    if !found {
        let shown = labels.value().cloned().unwrap_or(Value::Null);
        labels.invalid_as(errors, shown, "`selector` does not match template `labels`");
    }
}

/// Pods that must run for ever.
pub fn always_restarts(template: &Field, kind: &str, errors: &mut Errors) {
    let policy = template.get("spec.restartPolicy");
    // A template without a spec has been told so.
    if template.get("spec").present() && policy.str() != "Always" {
        policy.unsupported(errors, &["Always"]);
    }
    let deadline = template.get("spec.activeDeadlineSeconds");
    if deadline.present() {
        deadline.forbidden(errors, &format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_old_name_of_the_service_account_follows_the_new() {
        for (given, want) in [
            (json!({"serviceAccount": "a"}), "a"),
            (json!({"serviceAccountName": "b", "serviceAccount": "a"}), "b"),
        ] {
            let mut spec = given;
            default_spec(spec.as_object_mut().expect("map"));
            assert_eq!(spec, json!({"serviceAccountName": want, "serviceAccount": want}));
        }
    }
}

//! Pod templates: what pods, Deployments, Jobs and the like share of defaults and checks.

use serde_json::{Map, Value, json};

use super::field::Field;
use super::{meta, pod};
use crate::status::Errors;

/// Defaults of a PodSpec that depend on more than one field.
pub fn default_spec(spec: &mut Map<String, Value>) {
    // Two names of one thing: the old one follows the new.
    let text = |spec: &Map<String, Value>, name: &str| spec.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let (new, old) = (text(spec, "serviceAccountName"), text(spec, "serviceAccount"));
    let account = if new.is_empty() { old } else { new };
    if !account.is_empty() {
        spec.insert("serviceAccountName".into(), account.clone().into());
        spec.insert("serviceAccount".into(), account.into());
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in objects(spec, list) {
            default_pull_policy(container);
        }
    }
    for volume in objects(spec, "volumes") {
        let sourceless = {
            let value = Value::Object(volume.clone());
            !pod::has_source(&Field::at(Some(&value), ""))
        };
        if sourceless {
            volume.insert("emptyDir".into(), json!({}));
        }
        if let Some(image) = volume.get_mut("image").and_then(Value::as_object_mut) {
            let reference = image.get("reference").and_then(Value::as_str).unwrap_or("").to_owned();
            set_default(image, "pullPolicy", || policy_of(&reference).into());
        }
    }
}

/// The objects in the list `name`.
pub fn objects<'a>(map: &'a mut Map<String, Value>, name: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Sets `name` where it is absent, null or "".
pub fn set_default(map: &mut Map<String, Value>, name: &str, value: impl FnOnce() -> Value) {
    if map.get(name).is_none_or(|v| v.is_null() || v == "") {
        map.insert(name.into(), value());
    }
}

fn default_pull_policy(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or("").to_owned();
    set_default(container, "imagePullPolicy", || policy_of(&image).into());
}

/// An image that can change under its name is always pulled.
fn policy_of(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or("");
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// PodTemplateSpec.
pub fn validate(template: &Field, errors: &mut Errors) {
    // Upstream leaves `metadata` out of these two paths.
    meta::labels(&template.get("labels").with(template.get("metadata.labels").value()), errors);
    meta::annotations(&template.get("annotations").with(template.get("metadata.annotations").value()), errors);
    let spec = template.get("spec");
    pod::annotations(&template.get("annotations").with(template.get("metadata.annotations").value()), &spec, errors);
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
pub fn always_restarts(template: &Field, errors: &mut Errors) {
    let policy = template.get("spec.restartPolicy");
    if policy.str() != "Always" {
        policy.unsupported(errors, &["Always"]);
    }
    let deadline = template.get("spec.activeDeadlineSeconds");
    if deadline.present() {
        deadline.forbidden(errors, "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_can_change_are_always_pulled() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(policy_of(image), want, "{image}");
        }
    }
    #[test]
    fn a_volume_without_a_source_is_an_empty_directory() {
        let mut spec = json!({"volumes": [{"name": "v"}, {"name": "w", "hostPath": {"path": "/"}}], "serviceAccount": "a"});
        default_spec(spec.as_object_mut().expect("map"));
        assert_eq!(spec["volumes"][0], json!({"name": "v", "emptyDir": {}}));
        assert_eq!(spec["volumes"][1], json!({"name": "w", "hostPath": {"path": "/"}}));
        assert_eq!(spec["serviceAccountName"], "a");
    }
}

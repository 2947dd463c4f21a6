//! Environment variables and the fields they may be read from.

use super::super::field::Field;
use super::super::format;
use crate::status::Errors;

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
pub(super) const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// What a downward field may be at all.
const FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `env` of a container.
pub(super) fn env(list: &Field, errors: &mut Errors) {
    for variable in list.items() {
        let name = variable.get("name");
        if name.str().is_empty() {
            name.required(errors, "");
        } else {
            name.each_invalid(errors, format::env_name(name.str()));
        }
        let from = variable.get("valueFrom");
        if from.present() {
            value_from(&from, !variable.get("value").str().is_empty(), errors);
        }
    }
}

fn value_from(from: &Field, has_value: bool, errors: &mut Errors) {
    let mut sources = 0;
    let mut source = |name: &str, check: fn(&Field, &mut Errors), errors: &mut Errors| {
        let field = from.get(name);
        if field.present() {
            sources += 1;
            check(&field, errors);
        }
    };
    source("fieldRef", |f, e| field_ref(f, ENV_FIELDS, e), errors);
    source("resourceFieldRef", |f, e| resource_ref(f, false, e), errors);
    source("configMapKeyRef", key_ref, errors);
    source("secretKeyRef", key_ref, errors);
    source("fileKeyRef", file_key_ref, errors);
    if sources == 0 {
        from.invalid_as(
            errors,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if has_value {
        from.invalid_as(errors, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        from.invalid_as(errors, "", "may not have more than one field specified at a time");
    }
}

fn key_ref(field: &Field, errors: &mut Errors) {
    if field.get("name").str().is_empty() {
        field.get("name").required(errors, "");
    }
    let key = field.get("key");
    if key.str().is_empty() {
        key.required(errors, "");
    } else {
        key.each_invalid(errors, format::config_key(key.str()));
    }
}

fn file_key_ref(field: &Field, errors: &mut Errors) {
    for name in ["key", "volumeName", "path"] {
        if field.get(name).str().is_empty() {
            field.get(name).required(errors, "");
        }
    }
    super::volume::descending_path(&field.get("path"), errors);
}

pub(super) fn field_ref(field: &Field, allowed: &[&str], errors: &mut Errors) {
    let (version, path) = (field.get("apiVersion"), field.get("fieldPath"));
    if version.str().is_empty() {
        return version.required(errors, "");
    }
    if path.str().is_empty() {
        return path.required(errors, "");
    }
    // `metadata.annotations['key']`
    let (base, key) = match path.str().strip_suffix("']").and_then(|head| head.split_once("['")) {
        Some((base, key)) => (base, Some(key)),
        None => (path.str(), None),
    };
    if version.str() != "v1" || !FIELDS.contains(&base) {
        let why = if version.str() == "v1" {
            format!("field label not supported: {base}")
        } else {
            format!("unsupported pod version: {}", version.str())
        };
        return path.invalid(errors, &format!("error converting fieldPath: {why}"));
    }
    match (base, key) {
        ("metadata.annotations", Some(key)) => {
            path.each_invalid(errors, format::qualified_name(&key.to_lowercase()));
        }
        ("metadata.labels", Some(key)) => path.each_invalid(errors, format::qualified_name(key)),
        (_, Some(_)) => path.invalid(errors, "does not support subscript"),
        (base, None) if !allowed.contains(&base) => path.unsupported(errors, allowed),
        _ => {}
    }
}

pub(super) fn resource_ref(field: &Field, in_volume: bool, errors: &mut Errors) {
    let (container, resource) = (field.get("containerName"), field.get("resource"));
    if in_volume && container.str().is_empty() {
        container.required(errors, "");
    } else if resource.str().is_empty() {
        resource.required(errors, "");
    } else if !RESOURCES.contains(&resource.str())
        && !resource.str().starts_with("requests.hugepages-")
        && !resource.str().starts_with("limits.hugepages-")
    {
        resource.unsupported(errors, RESOURCES);
    }
    let divisor = field.get("divisor");
    let (allowed, what): (&[&str], &str) = match resource.str().split_once('.') {
        Some((_, "cpu")) => (&["1m", "1"], "1m and 1 are supported with the cpu resource"),
        Some((_, name)) => (
            &[
                "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
            ],
            match name {
                "memory" => {
                    "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource"
                }
                "ephemeral-storage" => {
                    "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource"
                }
                _ => {
                    "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the hugepages resource"
                }
            },
        ),
        None => return,
    };
    if !matches!(divisor.str(), "" | "0") && !allowed.contains(&divisor.str()) {
        divisor.invalid(errors, &format!("only divisor's values {what}"));
    }
}

/// `envFrom` of a container.
pub(super) fn env_from(list: &Field, errors: &mut Errors) {
    for source in list.items() {
        let prefix = source.get("prefix");
        if !prefix.str().is_empty() {
            prefix.each_invalid(errors, format::env_name(prefix.str()));
        }
        let mut sources = 0;
        for kind in ["configMapRef", "secretRef"] {
            let reference = source.get(kind);
            if reference.present() {
                sources += 1;
                if reference.get("name").str().is_empty() {
                    reference.get("name").required(errors, "");
                }
            }
        }
        match sources {
            0 => source.invalid_as(errors, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => source.invalid_as(errors, "", "may not have more than one field specified at a time"),
        }
    }
}

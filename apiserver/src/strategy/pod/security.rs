//! Security contexts of pods and containers.

use super::super::field::Field;
use super::volume::descending_path;
use crate::status::Errors;

const ID: &str = "must be between 0 and 2147483647, inclusive";

/// A user or group number.
fn id(field: &Field, errors: &mut Errors) {
    if field.int().is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
        field.invalid(errors, ID);
    }
}

fn seccomp(field: &Field, errors: &mut Errors) {
    if !field.present() {
        return;
    }
    let (kind, local) = (field.get("type"), field.get("localhostProfile"));
    match kind.str() {
        "Localhost" if !local.present() => local.required(errors, "must be set when seccomp type is Localhost"),
        "Localhost" => descending_path(&local, errors),
        _ if local.present() => {
            local.invalid_as(
                errors,
                field.shown().clone(),
                "can only be set when seccomp type is Localhost",
            );
        }
        _ => {}
    }
    match kind.str() {
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        "" => kind.required(errors, "type is required when seccompProfile is set"),
        _ => kind.unsupported(errors, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

fn app_armor(field: &Field, errors: &mut Errors) {
    if !field.present() {
        return;
    }
    let (kind, local) = (field.get("type"), field.get("localhostProfile"));
    match kind.str() {
        "Localhost" => {
            let name = local.str();
            if !local.present() {
                local.required(errors, "must be set when AppArmor type is Localhost");
            } else if name.trim() != name {
                local.invalid(errors, "must not be padded with whitespace");
            } else if name.is_empty() {
                local.required(errors, "must be set when AppArmor type is Localhost");
            } else if name.len() > 4095 {
                errors.too_long(local, 4095);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if local.present() {
                local.invalid(errors, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => kind.required(errors, "type is required when appArmorProfile is set"),
        _ => kind.unsupported(errors, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

/// `securityContext` of a pod; `spec` is where it stands.
pub(super) fn of_pod(spec: &Field, errors: &mut Errors) {
    let context = spec.get("securityContext");
    id(&context.get("fsGroup"), errors);
    id(&context.get("runAsUser"), errors);
    id(&context.get("runAsGroup"), errors);
    for group in context.get("supplementalGroups").items() {
        id(&group, errors);
    }
    let choice = |name: &str, of: &[&str], errors: &mut Errors| {
        if context.get(name).present() {
            context.get(name).one_of(errors, of);
        }
    };
    choice("supplementalGroupsPolicy", &["Merge", "Strict"], errors);
    choice("fsGroupChangePolicy", &["Always", "OnRootMismatch"], errors);
    choice("seLinuxChangePolicy", &["MountOption", "Recursive"], errors);
    seccomp(&context.get("seccompProfile"), errors);
    app_armor(&context.get("appArmorProfile"), errors);
    sysctls(&context.get("sysctls"), spec, errors);
    let shared = spec.get("shareProcessNamespace");
    if shared.is_true() && spec.get("hostPID").is_true() {
        shared.invalid(errors, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    let host_users = spec.get("hostUsers");
    if host_users.bool() == Some(false) {
        for name in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec.get(name).is_true() {
                spec.get(name).forbidden(errors, "when `hostUsers` is false");
            }
        }
    }
}

fn sysctls(field: &Field, spec: &Field, errors: &mut Errors) {
    let mut seen = std::collections::BTreeSet::new();
    for sysctl in field.items() {
        let name = sysctl.get("name");
        let plain = name.str().replace('/', ".");
        let good = !plain.is_empty()
            && plain.len() <= 253
            && plain.split('.').all(|part| {
                let bytes = part.as_bytes();
                let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
                !bytes.is_empty()
                    && edge(bytes[0])
                    && edge(bytes[bytes.len() - 1])
                    && bytes.iter().all(|b| edge(*b) || matches!(b, b'-' | b'_'))
            });
        if name.str().is_empty() {
            name.required(errors, "");
        } else if !good {
            name.invalid(errors, "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        } else if !seen.insert(plain.clone()) {
            name.duplicate(errors);
        }
        // What the host owns cannot be set for a pod that uses the host's.
        if spec.get("hostNetwork").is_true() && plain.starts_with("net.") {
            name.invalid(errors, "may not be specified when 'hostNetwork' is true");
        }
        if spec.get("hostIPC").is_true()
            && (plain.starts_with("kernel.shm")
                || plain.starts_with("kernel.msg")
                || plain == "kernel.sem"
                || plain.starts_with("fs.mqueue."))
        {
            name.invalid(errors, "may not be specified when 'hostIPC' is true");
        }
    }
}

/// `securityContext` of a container.
pub(super) fn of_container(context: &Field, host_users: bool, errors: &mut Errors) {
    if !context.present() {
        return;
    }
    id(&context.get("runAsUser"), errors);
    id(&context.get("runAsGroup"), errors);
    let proc_mount = context.get("procMount");
    if proc_mount.present()
        && proc_mount.one_of(errors, &["Default", "Unmasked"])
        && host_users
        && proc_mount.str() == "Unmasked"
    {
        proc_mount.invalid(errors, "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(&context.get("seccompProfile"), errors);
    app_armor(&context.get("appArmorProfile"), errors);
    if context.get("allowPrivilegeEscalation").bool() == Some(false) {
        if context.get("privileged").is_true() {
            context.invalid(
                errors,
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        if context.get("capabilities.add").strings().any(|c| c == "CAP_SYS_ADMIN") {
            context.invalid(
                errors,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
}

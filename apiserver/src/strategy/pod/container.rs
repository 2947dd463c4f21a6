//! Containers of the three sorts: ordinary, init and ephemeral.

use std::collections::BTreeSet;

use super::super::field::Field;
use super::super::{format, resources};
use super::volume::Volumes;
use super::{env, probe, security, volume};
use crate::status::Errors;

/// What containers are judged against.
pub(super) struct Around<'v> {
    pub volumes: Volumes<'v>,
    /// The pod's termination grace period.
    pub grace: i64,
    pub host_users: bool,
    pub restart_policy: &'v str,
    /// A pod, not a template of one.
    pub in_pod: bool,
}

pub(super) fn pull_policy(field: &Field, errors: &mut Errors) {
    if field.str().is_empty() {
        field.required(errors, "");
    } else {
        field.one_of(errors, &["Always", "IfNotPresent", "Never"]);
    }
}

/// What all three sorts share.
fn common(container: &Field, around: &Around, errors: &mut Errors) {
    let (name, image) = (container.get("name"), container.get("image"));
    if name.str().is_empty() {
        name.required(errors, "");
    } else {
        name.each_invalid(errors, format::dns_label(name.str()));
    }
    if image.str().is_empty() {
        image.required(errors, "");
    } else if around.in_pod && image.str().trim() != image.str() {
        image.invalid(errors, "must not have leading or trailing whitespace");
    }
    let message = container.get("terminationMessagePolicy");
    if message.str().is_empty() {
        message.required(errors, "");
    } else {
        message.one_of(errors, &["File", "FallbackToLogsOnError"]);
    }
    ports(&container.get("ports"), errors);
    env::env(&container.get("env"), errors);
    env::env_from(&container.get("envFrom"), errors);
    volume::mounts(container, &around.volumes, errors);
    pull_policy(&container.get("imagePullPolicy"), errors);
    resources::requirements(&container.get("resources"), errors);
    resize_policy(&container.get("resizePolicy"), around.restart_policy, errors);
    security::of_container(&container.get("securityContext"), around.host_users, errors);
}

fn ports(list: &Field, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for port in list.items() {
        let (name, number, host, protocol) = (
            port.get("name"),
            port.get("containerPort"),
            port.get("hostPort"),
            port.get("protocol"),
        );
        if !name.str().is_empty() {
            let problems = format::port_name(name.str());
            if !problems.is_empty() {
                name.each_invalid(errors, problems);
            } else if !names.insert(name.str()) {
                name.duplicate(errors);
            }
        }
        if number.number() == 0 {
            number.required(errors, "");
        } else {
            number.each_invalid(errors, format::port_number(number.number()));
        }
        if host.number() != 0 {
            host.each_invalid(errors, format::port_number(host.number()));
        }
        if protocol.str().is_empty() {
            protocol.required(errors, "");
        } else {
            protocol.one_of(errors, &["SCTP", "TCP", "UDP"]);
        }
    }
}

fn resize_policy(list: &Field, restart_policy: &str, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for policy in list.items() {
        let (name, restart) = (policy.get("resourceName"), policy.get("restartPolicy"));
        if !names.insert(name.str()) {
            policy.duplicate_as(errors, name.str());
        }
        if name.str().is_empty() {
            name.required(errors, "");
        } else {
            name.one_of(errors, &["cpu", "memory"]);
        }
        if restart.str().is_empty() {
            restart.required(errors, "");
        } else if restart.one_of(errors, &["NotRequired", "RestartContainer"])
            && restart_policy == "Never"
            && restart.str() != "NotRequired"
        {
            restart.invalid(errors, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

fn restart_policy(container: &Field, errors: &mut Errors) {
    let policy = container.get("restartPolicy");
    if policy.present() {
        policy.one_of(errors, &["Always", "Never", "OnFailure"]);
    }
    let rules = container.get("restartPolicyRules");
    if !rules.is_empty() && !policy.present() {
        policy.required(errors, "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > 20 {
        errors.too_many(rules, rules.len(), 20);
    }
    for rule in rules.items() {
        let action = rule.get("action");
        action.one_of(errors, &["Restart", "RestartAllContainers"]);
        let codes = rule.get("exitCodes");
        if !codes.present() {
            codes.required(errors, "must be specified");
            continue;
        }
        codes.get("operator").one_of(errors, &["In", "NotIn"]);
        if codes.get("values").is_empty() {
            codes.get("values").required(errors, "must contain at least one value");
        }
    }
}

/// `containers` of a pod.
pub(super) fn ordinary(list: &Field, around: &Around, errors: &mut Errors) {
    if list.is_empty() {
        return list.required(errors, "");
    }
    let mut names = BTreeSet::new();
    for container in list.items() {
        common(&container, around, errors);
        let name = container.get("name");
        if !name.str().is_empty() && !names.insert(name.str()) {
            name.duplicate(errors);
        }
        probe::all(&container, around.grace, errors);
        restart_policy(&container, errors);
    }
    host_ports(list, errors);
}

/// `initContainers` of a pod.
pub(super) fn init(list: &Field, ordinary: &Field, around: &Around, errors: &mut Errors) {
    let mut names: BTreeSet<&str> = ordinary.items().map(|c| c.get("name").str()).collect();
    for container in list.items() {
        common(&container, around, errors);
        restart_policy(&container, errors);
        let name = container.get("name");
        if !name.str().is_empty() && !names.insert(name.str()) {
            name.duplicate(errors);
        }
        if container.get("restartPolicy").str() == "Always" {
            probe::all(&container, around.grace, errors);
        } else {
            for what in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.get(what).present() {
                    container.get(what).forbidden(
                        errors,
                        "may not be set for init containers without restartPolicy=Always",
                    );
                }
            }
        }
        host_ports_of(&container, &mut BTreeSet::new(), errors);
    }
}

/// `ephemeralContainers`: what helps to look inside and nothing more.
pub(super) fn ephemeral(list: &Field, others: &[&Field], around: &Around, errors: &mut Errors) {
    const FORBIDDEN: &[&str] = &[
        "ports",
        "resources",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
    ];
    let mut own = BTreeSet::new();
    for container in list.items() {
        common(&container, around, errors);
        let name = container.get("name");
        let taken = others
            .iter()
            .any(|list| list.items().any(|c| c.get("name").str() == name.str()));
        if !name.str().is_empty() && (!own.insert(name.str()) || taken) {
            name.duplicate(errors);
        }
        let target = container.get("targetContainerName");
        if !target.str().is_empty()
            && !others
                .iter()
                .any(|l| l.items().any(|c| c.get("name").str() == target.str()))
        {
            target.not_found(errors);
        }
        for what in FORBIDDEN {
            if !container.get(what).is_zero() {
                container
                    .get(what)
                    .forbidden(errors, "cannot be set for an Ephemeral Container");
            }
        }
        for mount in container.get("volumeMounts").items() {
            for path in ["subPath", "subPathExpr"] {
                if !mount.get(path).str().is_empty() {
                    mount
                        .get(path)
                        .forbidden(errors, "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}

/// No two containers may want one port of the host.
fn host_ports(list: &Field, errors: &mut Errors) {
    let mut taken = BTreeSet::new();
    for container in list.items() {
        host_ports_of(&container, &mut taken, errors);
    }
}

fn host_ports_of(container: &Field, taken: &mut BTreeSet<String>, errors: &mut Errors) {
    for port in container.get("ports").items() {
        let host = port.get("hostPort");
        if host.number() == 0 {
            continue;
        }
        let key = format!(
            "{}/{}/{}",
            port.get("protocol").str(),
            port.get("hostIP").str(),
            host.number()
        );
        if !taken.insert(key.clone()) {
            host.duplicate_as(errors, key);
        }
    }
}

/// With the host's network a container's port is the host's.
pub(super) fn host_network(list: &Field, errors: &mut Errors) {
    for container in list.items() {
        for port in container.get("ports").items() {
            let (inner, host) = (port.get("containerPort"), port.get("hostPort"));
            if inner.number() != host.number() {
                inner.invalid(errors, "must match `hostPort` when `hostNetwork` is true");
            }
        }
    }
}

//! PodSpec: what pods and their templates share (kubernetes/pkg/apis/core/validation/validation.go, 1.36).

use std::collections::BTreeSet;

use super::super::field::Field;
use super::super::{format, meta, resources};
use super::{affinity, container, security, volume};
use crate::status::Errors;

const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

/// The whole check of a PodSpec; `in_pod` is false for templates.
pub(in super::super) fn validate(spec: &Field, in_pod: bool, errors: &mut Errors) {
    let list = spec.get("volumes");
    let around = container::Around {
        volumes: volume::volumes(&list, !in_pod, errors),
        grace: spec.get("terminationGracePeriodSeconds").number(),
        host_users: spec.get("hostUsers").bool() != Some(false),
        restart_policy: spec.get("restartPolicy").str(),
        in_pod,
    };
    let (ordinary, init) = (spec.get("containers"), spec.get("initContainers"));
    container::ordinary(&ordinary, &around, errors);
    container::init(&init, &ordinary, &around, errors);
    container::ephemeral(&spec.get("ephemeralContainers"), &[&ordinary, &init], &around, errors);
    if spec.get("hostNetwork").is_true() {
        container::host_network(&ordinary, errors);
        container::host_network(&init, errors);
    }
    if spec.get("resources").present() {
        resources::requirements(&spec.get("resources"), errors);
    }

    let restart = spec.get("restartPolicy");
    if restart.str().is_empty() {
        restart.required(errors, "");
    } else {
        restart.one_of(errors, &["Always", "OnFailure", "Never"]);
    }
    dns(spec, errors);
    meta::labels(&spec.get("nodeSelector"), errors);
    security::of_pod(spec, errors);
    affinity::affinity(&spec.get("affinity"), errors);
    for gate in spec.get("readinessGates").items() {
        let kind = gate.get("conditionType");
        kind.each_invalid(errors, format::qualified_name(kind.str()));
    }
    let mut gates = BTreeSet::new();
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name").str();
        for message in format::qualified_name(name) {
            gate.invalid_as(errors, name, &message);
        }
        if !gates.insert(name) {
            gate.duplicate_as(errors, name);
        }
    }
    if !gates.is_empty() && !spec.get("nodeName").str().is_empty() {
        spec.get("nodeName")
            .forbidden(errors, "cannot be set until all schedulingGates have been cleared");
    }
    affinity::spread(&spec.get("topologySpreadConstraints"), errors);
    affinity::tolerations(&spec.get("tolerations"), errors);

    let named = |name: &str, rule: format::Check, errors: &mut Errors| {
        let field = spec.get(name);
        if !field.str().is_empty() {
            field.each_invalid(errors, rule(field.str()));
        }
    };
    named("serviceAccountName", format::dns_subdomain, errors);
    named("nodeName", format::dns_subdomain, errors);
    named("hostname", format::dns_label, errors);
    named("subdomain", format::dns_label, errors);
    named("priorityClassName", format::dns_subdomain, errors);
    if spec.get("runtimeClassName").present() {
        let class = spec.get("runtimeClassName");
        class.each_invalid(errors, format::dns_subdomain(class.str()));
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline
        .int()
        .is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds))
    {
        deadline.invalid(errors, "must be between 1 and 2147483647, inclusive");
    }
    host_aliases(&spec.get("hostAliases"), errors);
    let preemption = spec.get("preemptionPolicy");
    if preemption.present() {
        preemption.one_of(errors, &["Never", "PreemptLowerPriority"]);
    }
    for (name, amount) in spec.get("overhead").entries() {
        resources::container_name(&amount, name, errors);
        resources::amount(&amount, name, errors);
    }
    let os = spec.get("os");
    if os.present() {
        let name = os.get("name");
        if name.str().is_empty() {
            name.required(errors, "cannot be empty");
        } else {
            name.one_of(errors, &["linux", "windows"]);
        }
    }
    claims(spec, errors);
}

fn dns(spec: &Field, errors: &mut Errors) {
    let (policy, config) = (spec.get("dnsPolicy"), spec.get("dnsConfig"));
    if policy.str().is_empty() {
        policy.required(errors, "");
    } else {
        policy.one_of(errors, DNS_POLICIES);
    }
    let servers = config.get("nameservers");
    if policy.str() == "None" {
        if !config.present() {
            return config.required(errors, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            servers.required(
                errors,
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
        }
    }
    if servers.len() > 3 {
        servers.invalid(errors, "must not have more than 3 nameservers");
    }
    for server in servers.items() {
        server.each_invalid(errors, format::ip(server.str()));
    }
    let searches = config.get("searches");
    if searches.len() > 32 {
        searches.invalid(errors, "must not have more than 32 search paths");
    }
    if searches.strings().map(|s| s.len() + 1).sum::<usize>().saturating_sub(1) > 2048 {
        searches.invalid(
            errors,
            "must not have more than 2048 characters (including spaces) in the search list",
        );
    }
    for search in searches.items() {
        let name = search.str();
        if name != "." {
            search.each_invalid(
                errors,
                format::dns_subdomain_underscore(name.strip_suffix('.').unwrap_or(name)),
            );
        }
    }
    for option in config.get("options").items() {
        if option.get("name").str().is_empty() {
            option.required(errors, "must not be empty");
        }
    }
}

fn host_aliases(list: &Field, errors: &mut Errors) {
    for alias in list.items() {
        let ip = alias.get("ip");
        ip.each_invalid(errors, format::ip(ip.str()));
        for name in alias.get("hostnames").items() {
            name.each_invalid(errors, format::dns_subdomain(name.str()));
        }
    }
}

/// `resourceClaims`, and that containers use only what is claimed.
fn claims(spec: &Field, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for claim in spec.get("resourceClaims").items() {
        let name = claim.get("name");
        if name.str().is_empty() {
            name.required(errors, "");
        } else if !names.insert(name.str()) {
            name.duplicate(errors);
        } else {
            name.each_invalid(errors, format::dns_label(name.str()));
        }
        let (own, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (own.present(), template.present()) {
            (true, true) => claim.invalid(
                errors,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => claim.invalid(
                errors,
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            _ => {}
        }
    }
    for kind in ["containers", "initContainers"] {
        for container in spec.get(kind).items() {
            for claim in container.get("resources.claims").items() {
                let name = claim.get("name");
                if name.str().is_empty() {
                    name.required(errors, "");
                } else if !names.contains(name.str()) {
                    name.not_found(errors);
                }
            }
        }
    }
}

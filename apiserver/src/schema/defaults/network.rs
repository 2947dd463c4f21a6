//! Defaults of networking, discovery, policy and RBAC.

use serde_json::{Value, json};

use super::{Rules, Tree, inner, is_empty, made, put, put_pointer, text};

pub(super) const RULES: Rules = &[
    ("discovery/v1.EndpointPort", endpoint_port),
    ("networking/v1.NetworkPolicy", network_policy),
    ("networking/v1.NetworkPolicyPort", |s| put_pointer(s, "protocol", "TCP")),
    ("networking/v1.IngressClass", ingress_class),
    ("rbac/v1.RoleBinding", role_reference),
    ("rbac/v1.ClusterRoleBinding", role_reference),
    ("rbac/v1.Subject", subject),
];

fn endpoint_port(port: &mut Tree) {
    put_pointer(port, "name", "");
    put_pointer(port, "protocol", "TCP");
}

fn network_policy(policy: &mut Tree) {
    let spec = made(policy, "spec");
    if is_empty(spec, "policyTypes") {
        let types = if is_empty(spec, "egress") {
            json!(["Ingress"])
        } else {
            json!(["Ingress", "Egress"])
        };
        spec.insert("policyTypes".into(), types);
    }
}

fn ingress_class(class: &mut Tree) {
    if let Some(parameters) = inner(class, "spec").and_then(|s| inner(s, "parameters")) {
        put_pointer(parameters, "scope", "Cluster");
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn role_reference(binding: &mut Tree) {
    put(made(binding, "roleRef"), "apiGroup", RBAC);
}

fn subject(subject: &mut Tree) {
    if let "User" | "Group" = text(subject, "kind") {
        put(subject, "apiGroup", Value::from(RBAC));
    }
}

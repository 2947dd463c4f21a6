//! What a pod may be but had better not (kubernetes/pkg/api/pod/warnings.go, 1.36).

use std::collections::{BTreeMap, BTreeSet};

use super::super::field::Field;
use super::super::resources::quantity;
use crate::object::Object;

/// Node labels that are on their way out: old name, since when, new name.
const OLD_NODE_LABELS: &[(&str, &str)] = &[
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];

pub(super) fn of_pod(pod: &Object) -> Vec<String> {
    of_spec(&Field::root(pod, "spec"))
}

/// Warnings of a PodSpec, with the path at which it stands.
pub(in super::super) fn of_spec(spec: &Field) -> Vec<String> {
    let mut out = Vec::new();
    for (label, _) in spec.get("nodeSelector").entries() {
        if let Some((_, why)) = OLD_NODE_LABELS.iter().find(|(old, _)| *old == label) {
            let at = spec.get("nodeSelector");
            out.push(format!("{}: {why}", at.key(label).path()));
        }
    }
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.number() < 0 {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            grace.path()
        ));
    }
    for volume in spec.get("volumes").items() {
        for (kind, why) in [
            ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
            ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
            ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
            ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
            ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
            ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ] {
            if volume.get(kind).present() {
                out.push(format!("{}: {why}", volume.get(kind).path()));
            }
        }
    }
    let mut seen_aliases = BTreeSet::new();
    for alias in spec.get("hostAliases").items() {
        if !seen_aliases.insert(alias.get("ip").str()) {
            out.push(format!("{}: duplicates another ip", alias.get("ip").path()));
        }
    }
    let mut secrets = BTreeSet::new();
    for secret in spec.get("imagePullSecrets").items() {
        let name = secret.get("name").str();
        if name.is_empty() {
            out.push(format!("{}: invalid empty name \"\"", secret.path()));
        } else if !secrets.insert(name) {
            out.push(format!("{}: duplicates another entry", secret.path()));
        }
    }
    for kind in ["initContainers", "containers"] {
        for container in spec.get(kind).items() {
            of_container(&container, &mut out);
        }
    }
    out
}

fn of_container(container: &Field, out: &mut Vec<String>) {
    let mut variables = BTreeSet::new();
    for variable in container.get("env").items() {
        let name = variable.get("name").str();
        if !name.is_empty() && !variables.insert(name) {
            out.push(format!(
                "{}: hides previous definition of \"{name}\", which may be dropped when using apply",
                variable.path()
            ));
        }
    }
    let mut ports: BTreeMap<(&str, i64), String> = BTreeMap::new();
    for port in container.get("ports").items() {
        if port.get("hostPort").number() != 0 {
            continue;
        }
        let key = (port.get("protocol").str(), port.get("containerPort").number());
        match ports.get(&key) {
            Some(first) => {
                out.push(format!("{}: duplicate port definition with {first}", port.path()));
            }
            None => {
                ports.insert(key, port.path().to_string());
            }
        }
    }
    for kind in ["limits", "requests"] {
        let list = container.get("resources");
        let list = list.get(kind);
        for name in ["memory", "ephemeral-storage"] {
            let amount = list.key(name);
            if quantity(&amount).is_some_and(|q| q.exact_i64().is_none()) {
                out.push(format!(
                    "{}: fractional byte value \"{}\" is invalid, must be an integer",
                    amount.path(),
                    amount.str()
                ));
            }
        }
    }
}

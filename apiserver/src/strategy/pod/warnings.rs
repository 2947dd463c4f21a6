//! What a pod may be but had better not be (kubernetes/pkg/api/pod/warnings.go, 1.36).

use std::collections::{BTreeMap, BTreeSet};

use super::super::field::Field;
use super::super::resources::quantity;
use crate::object::Object;

/// Node labels that are on their way out, and what to do instead.
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
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];

const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

const OLD_VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

pub(super) fn of_pod(pod: &Object) -> Vec<String> {
    of_spec(&Field::root(pod, "metadata.annotations"), &Field::root(pod, "spec"))
}

/// Warnings of a PodSpec and the annotations beside it, with the paths at which they stand.
pub(in super::super) fn of_spec(annotations: &Field, spec: &Field) -> Vec<String> {
    let mut out = Vec::new();
    placement(spec, &mut out);
    for (key, why) in OLD_ANNOTATIONS {
        if annotations.key(key).present() {
            out.push(format!("{}: {why}", annotations.key(key).path()));
        }
    }
    for volume in spec.get("volumes").items() {
        for (kind, why) in OLD_VOLUMES {
            if volume.get(kind).present() {
                out.push(format!("{}: {why}", volume.get(kind).path()));
            }
        }
    }
    repeated(&spec.get("hostAliases"), "ip", &mut out);
    let secrets = spec.get("imagePullSecrets");
    repeated(&secrets, "name", &mut out);
    for secret in secrets.items() {
        let name = secret.get("name");
        if name.str().is_empty() {
            out.push(format!("{}: invalid empty name \"\"", name.path()));
        }
    }
    fractional(&spec.get("overhead"), &mut out);
    let lists = ["initContainers", "containers", "ephemeralContainers"].map(|list| spec.get(list));
    let mut ports = Ports::new();
    for list in &lists {
        for container in list.items() {
            let resources = container.get("resources");
            for kind in ["limits", "requests"] {
                fractional(&resources.get(kind), &mut out);
            }
            variables(&container.get("env"), &mut out);
            container_ports(&container.get("ports"), &mut ports, &mut out);
        }
    }
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.number() < 0 {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            grace.path()
        ));
    }
    out
}

fn old_label(key: &str) -> Option<&'static str> {
    OLD_NODE_LABELS.iter().find(|(old, _)| *old == key).map(|(_, why)| *why)
}

fn placement(spec: &Field, out: &mut Vec<String>) {
    for (label, field) in spec.get("nodeSelector").entries() {
        if let Some(why) = old_label(label) {
            out.push(format!("{}: {why}", field.path()));
        }
    }
    let mut key = |field: &Field| {
        if let Some(why) = old_label(field.str()) {
            out.push(format!("{}: {} is {why}", field.path(), field.str()));
        }
    };
    let affinity = spec.get("affinity.nodeAffinity");
    for term in affinity
        .get("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms")
        .items()
    {
        term.get("matchExpressions")
            .items()
            .for_each(|expression| key(&expression.get("key")));
    }
    for term in affinity.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        term.get("preference.matchExpressions")
            .items()
            .for_each(|expression| key(&expression.get("key")));
    }
    let constraints = spec.get("topologySpreadConstraints");
    constraints
        .items()
        .for_each(|constraint| key(&constraint.get("topologyKey")));

    let mut selector = |field: &Field| {
        if !field.present() {
            out.push(format!(
                "{}: a null labelSelector results in matching no pod",
                field.path()
            ));
        }
    };
    constraints
        .items()
        .for_each(|constraint| selector(&constraint.get("labelSelector")));
    for kind in ["affinity.podAffinity", "affinity.podAntiAffinity"] {
        let pods = spec.get(kind);
        for term in pods.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            selector(&term.get("labelSelector"));
        }
        for term in pods.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            selector(&term.get("podAffinityTerm.labelSelector"));
        }
    }
}

/// Items whose `name` came before.
fn repeated(list: &Field, name: &str, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for item in list.items() {
        let field = item.get(name);
        if !seen.insert(field.str()) {
            out.push(format!("{}: duplicate {name} {:?}", field.path(), field.str()));
        }
    }
}

/// Bytes come whole.
fn fractional(list: &Field, out: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let amount = list.key(name);
        if quantity(&amount).is_some_and(|q| q.exact_i64().is_none()) {
            out.push(format!(
                "{}: fractional byte value {:?} is invalid, must be an integer",
                amount.path(),
                amount.str()
            ));
        }
    }
}

fn variables(list: &Field, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for variable in list.items() {
        let name = variable.get("name").str();
        if seen.insert(name) {
            continue;
        }
        // Building on the previous value is what a second definition is good for.
        let (value, own) = (variable.get("value").str(), format!("$({name})"));
        if variable.get("valueFrom").present() || value == own || !value.contains(&own) {
            out.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                variable.path()
            ));
        }
    }
}

/// By number and protocol: who defined it, with which host address and port.
type Ports<'v> = BTreeMap<(i64, &'v str), Vec<(String, &'v str, i64)>>;

fn container_ports<'v>(list: &Field<'v, '_>, all: &mut Ports<'v>, out: &mut Vec<String>) {
    for port in list.items() {
        let (ip, host) = (port.get("hostIP").str(), port.get("hostPort").number());
        let path = port.path().to_string();
        if !ip.is_empty() && host == 0 {
            out.push(format!("{path}: hostIP set without hostPort: {}", port.shown()));
        }
        let others = all
            .entry((port.get("containerPort").number(), port.get("protocol").str()))
            .or_default();
        for (other, other_ip, other_host) in others.iter() {
            let what = if (ip, host) == (*other_ip, *other_host) {
                "duplicate"
            } else if host == 0 || *other_host == 0 {
                "overlapping"
            } else if host == *other_host && ip.is_empty() != other_ip.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{path}: {what} port definition with {other}"));
        }
        others.push((path, ip, host));
    }
}

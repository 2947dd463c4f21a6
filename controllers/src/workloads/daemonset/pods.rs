//! Words about the pods of a DaemonSet: which node one is for, which nodes want one, what it looks like.
//! Upstream: daemon/daemon_controller.go and daemon/util/daemonset_util.go (1.36).

use api::names::well_known::{
    CONTROLLER_REVISION_HASH, DAEMON_SET_TEMPLATE_GENERATION, POD_TEMPLATE_GENERATION, TAINT_DISK_PRESSURE,
    TAINT_MEMORY_PRESSURE, TAINT_NETWORK_UNAVAILABLE, TAINT_NOT_READY, TAINT_PID_PRESSURE, TAINT_UNREACHABLE,
    TAINT_UNSCHEDULABLE,
};
use api::node::{first_untolerated, is_wanted_by};
use api::owner::controller_reference;
use api::pod;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::pods::from_template;

/// Whether a node is to have a pod, and whether one that is there may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) run: bool,
    pub(super) stay: bool,
}

/// What every pod of a DaemonSet puts up with: it belongs to its node, in whatever state that is.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let exists = |key: &str, effect: &str| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Default::default()
    };
    let mut all = vec![
        exists(TAINT_NOT_READY, "NoExecute"),
        exists(TAINT_UNREACHABLE, "NoExecute"),
        exists(TAINT_DISK_PRESSURE, "NoSchedule"),
        exists(TAINT_MEMORY_PRESSURE, "NoSchedule"),
        exists(TAINT_PID_PRESSURE, "NoSchedule"),
        exists(TAINT_UNSCHEDULABLE, "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        all.push(exists(TAINT_NETWORK_UNAVAILABLE, "NoSchedule"));
    }
    all
}

fn tolerate(spec: &mut PodSpec) {
    for toleration in tolerations(spec) {
        let all = spec.tolerations.get_or_insert_default();
        let same = |other: &&mut Toleration| {
            let alike = other.key == toleration.key && other.effect == toleration.effect;
            alike
                && other.operator.as_deref().unwrap_or("Equal") == "Exists"
                && other.value.as_deref().unwrap_or("").is_empty()
        };
        match all.iter_mut().find(same) {
            Some(other) => *other = toleration,
            None => all.push(toleration),
        }
    }
}

/// What a DaemonSet wants of a node.
pub(super) fn wish(set: &DaemonSet, node: &Node) -> Wish {
    let no = Wish {
        run: false,
        stay: false,
    };
    let Some(template) = set.spec.as_ref().map(|spec| &spec.template) else {
        return no;
    };
    let Some(mut spec) = template.spec.clone() else {
        return no;
    };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if spec
        .node_name
        .as_deref()
        .is_some_and(|wanted| !wanted.is_empty() && wanted != name)
    {
        return no;
    }
    let labels = node.metadata.labels.clone().unwrap_or_default();
    if !is_wanted_by(&spec, name, &labels) {
        return no;
    }
    tolerate(&mut spec);
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let repels = |effects: &[&str]| first_untolerated(taints, tolerations, effects).is_some();
    Wish {
        run: !repels(&["NoSchedule", "NoExecute"]),
        stay: !repels(&["NoExecute"]),
    }
}

/// The node that a pod is for: the one it is on, or the one that its affinity names.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = pod::node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required
        .node_selector_terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten());
    fields
        .filter(|field| field.key == "metadata.name" && field.operator == "In")
        .find_map(|field| field.values.as_ref()?.first().map(String::as_str))
}

pub(super) fn generation(set: &DaemonSet) -> Option<&str> {
    let annotations = set.metadata.annotations.as_ref()?;
    annotations.get(DAEMON_SET_TEMPLATE_GENERATION).map(String::as_str)
}

fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

pub(super) fn hash(pod: &Pod) -> &str {
    label(pod, CONTROLLER_REVISION_HASH).unwrap_or("")
}

/// Whether the pod has the present template.
pub(super) fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let of_generation = generation(set).is_some_and(|number| label(pod, POD_TEMPLATE_GENERATION) == Some(number));
    of_generation || (!hash.is_empty() && self::hash(pod) == hash)
}

/// A pod for a node. The scheduler binds it there, and nowhere else.
pub(super) fn new_pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let template = set.spec.clone().unwrap_or_default().template;
    let mut pod = from_template(&template, name, namespace, controller_reference(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    if let Some(number) = generation(set) {
        labels.insert(POD_TEMPLATE_GENERATION.to_owned(), number.to_owned());
    }
    labels.insert(CONTROLLER_REVISION_HASH.to_owned(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    tolerate(spec);
    let this_node = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: "metadata.name".to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node.to_owned()]),
        }]),
        ..Default::default()
    };
    let affinity = spec
        .affinity
        .get_or_insert_default()
        .node_affinity
        .get_or_insert_default();
    // The template's own terms have chosen the node already.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![this_node],
    });
    pod
}

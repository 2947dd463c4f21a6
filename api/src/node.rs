//! Facts of a node: its taints against a pod's tolerations, its conditions and addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, PodSpec, Taint, Toleration};

use crate::condition;
use crate::selector::{Operator, Requirement};

/// Whether one toleration covers one taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    if toleration
        .effect
        .as_deref()
        .is_some_and(|e| !e.is_empty() && e != taint.effect)
    {
        return false;
    }
    let key = toleration.key.as_deref().unwrap_or("");
    if !key.is_empty() && key != taint.key {
        return false;
    }
    let have = taint.value.as_deref().unwrap_or("");
    let want = toleration.value.as_deref().unwrap_or("");
    match toleration.operator.as_deref().unwrap_or("") {
        "Exists" => true,
        // An empty key only means "every key" together with Exists.
        "" | "Equal" => !key.is_empty() && have == want,
        "Lt" => integers(have, want).is_some_and(|(have, want)| have < want),
        "Gt" => integers(have, want).is_some_and(|(have, want)| have > want),
        _ => false,
    }
}

fn integers(have: &str, want: &str) -> Option<(i64, i64)> {
    have.parse().ok().zip(want.parse().ok())
}

/// Whether some toleration covers the taint.
pub fn is_tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

/// The first taint with one of these effects that no toleration covers.
pub fn first_untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration], effects: &[&str]) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|t| effects.contains(&t.effect.as_str()))
        .find(|t| !is_tolerated(tolerations, t))
}

/// How long a pod may stay on a node with these `NoExecute` taints: `Err` is "not at all", `Ok(None)` is "for ever", else seconds.
pub fn eviction_after(taints: &[Taint], tolerations: &[Toleration]) -> Result<Option<u64>, &'static str> {
    let mut shortest: Option<u64> = None;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let mut covering = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if covering.peek().is_none() {
            return Err("a taint is not tolerated");
        }
        for seconds in covering.filter_map(|t| t.toleration_seconds) {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            shortest = Some(shortest.map_or(seconds, |s| s.min(seconds)));
        }
    }
    Ok(shortest)
}

/// Whether two taints are the same one: key and effect decide, the value does not.
pub fn same_taint(a: &Taint, b: &Taint) -> bool {
    a.key == b.key && a.effect == b.effect
}

/// Whether the node says that it is ready.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref());
    condition::is(conditions, "Ready", "True")
}

/// The node's addresses of a type (`InternalIP`, `ExternalIP`, `Hostname`), in the order of the status.
pub fn addresses<'a>(node: &'a Node, kind: &'a str) -> impl Iterator<Item = &'a str> {
    let all = node
        .status
        .as_ref()
        .and_then(|s| s.addresses.as_deref())
        .unwrap_or_default();
    all.iter().filter(move |a| a.type_ == kind).map(|a| a.address.as_str())
}

/// The address at which the node is reached by its peers.
pub fn internal_ip(node: &Node) -> Option<IpAddr> {
    addresses(node, "InternalIP").find_map(|a| a.parse().ok())
}

/// The address ranges of the node's pods.
pub fn pod_cidrs(node: &Node) -> Vec<&str> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let several = spec.pod_cidrs.as_deref().unwrap_or_default();
    if several.is_empty() {
        spec.pod_cidr.as_deref().into_iter().collect()
    } else {
        several.iter().map(String::as_str).collect()
    }
}

/// One way for a node to be right: all of its expressions hold.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeTerm {
    /// `None`: the term is malformed, and such a term matches nothing.
    expressions: Option<Vec<Requirement>>,
    /// `metadata.name` is the only field that nodes can be chosen by.
    names: Vec<(Operator, Vec<String>)>,
}

impl NodeTerm {
    /// Reads a term; one that cannot be read matches nothing.
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let expressions = term
            .match_expressions
            .iter()
            .flatten()
            .map(|e| {
                Requirement::new(
                    e.key.clone(),
                    operator(&e.operator)?,
                    e.values.clone().unwrap_or_default(),
                )
                .ok()
            })
            .collect::<Option<Vec<_>>>();
        let names = term
            .match_fields
            .iter()
            .flatten()
            .filter_map(|field| Some((operator(&field.operator)?, field.values.clone().unwrap_or_default())))
            .collect::<Vec<_>>();
        // A term without anything in it matches no node (nodeaffinity.go, isEmptyNodeSelectorTerm).
        let empty = term.match_expressions.iter().flatten().next().is_none() && names.is_empty();
        NodeTerm {
            expressions: if empty { None } else { expressions },
            names,
        }
    }

    /// Whether a node with this name and these labels is right.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let Some(expressions) = &self.expressions else {
            return false;
        };
        expressions
            .iter()
            .all(|e| e.matches(labels.get(&e.key).map(String::as_str)))
            && self.names.iter().all(|(operator, names)| {
                let listed = names.iter().any(|n| n == name);
                if *operator == Operator::NotIn { !listed } else { listed }
            })
    }
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    })
}

/// Whether the pod asks, by its node selector or its required affinity, for a node like this one.
pub fn is_wanted_by(pod: &PodSpec, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let selected = pod
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let affinity = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required.is_none_or(|required| {
            let terms = &required.node_selector_terms;
            terms.iter().any(|term| NodeTerm::new(term).matches(name, labels))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint {
            key: key.into(),
            value: Some(value.into()),
            effect: effect.into(),
            time_added: None,
        }
    }

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn tolerations_cover_taints() {
        for (key, operator, value, effect, want) in [
            ("", "Exists", "", "", true),
            ("", "Exists", "", "NoExecute", false),
            ("", "", "v", "", false),
            ("k", "Exists", "", "", true),
            ("k", "", "v", "", true),
            ("k", "Equal", "v", "NoSchedule", true),
            ("k", "Equal", "w", "", false),
            ("x", "Exists", "", "", false),
            ("k", "Near", "v", "", false),
        ] {
            let have = tolerates(
                &toleration(key, operator, value, effect),
                &taint("k", "v", "NoSchedule"),
            );
            assert_eq!(have, want, "{key} {operator} {value} {effect}");
        }
        assert!(tolerates(
            &toleration("k", "Lt", "5", ""),
            &taint("k", "4", "NoSchedule")
        ));
        assert!(!tolerates(
            &toleration("k", "Gt", "5", ""),
            &taint("k", "4", "NoSchedule")
        ));
    }

    #[test]
    fn eviction_waits_for_the_shortest_toleration() {
        let taints = [
            taint("a", "", "NoExecute"),
            taint("b", "", "NoExecute"),
            taint("c", "", "NoSchedule"),
        ];
        let forever = [toleration("a", "Exists", "", ""), toleration("b", "Exists", "", "")];
        assert_eq!(eviction_after(&taints, &forever), Ok(None));
        assert!(eviction_after(&taints, &forever[..1]).is_err());
        let timed = forever.clone().map(|t| Toleration {
            toleration_seconds: Some(if t.key.as_deref() == Some("a") { 300 } else { 30 }),
            ..t
        });
        assert_eq!(eviction_after(&taints, &timed), Ok(Some(30)));
        let first = first_untolerated(&taints, &forever, &["NoSchedule", "NoExecute"]);
        assert_eq!(first.map(|t| t.key.as_str()), Some("c"));
    }
}

//! What a pod says about its neighbours, its node and the spread of its kind, parsed once.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::selector::{Labels, Operator, Requirement};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::LabelMap;

/// One way for a node to be right: all of its expressions hold.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeTerm {
    /// `None`: the term is malformed or empty, and such a term matches nothing.
    expressions: Option<Vec<Requirement>>,
    /// `metadata.name` is the only field that nodes can be chosen by.
    names: Vec<(Operator, Vec<String>)>,
}

impl NodeTerm {
    pub fn new(term: &core::NodeSelectorTerm) -> Self {
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
    pub fn matches(&self, name: &str, labels: &LabelMap) -> bool {
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

    /// The nodes that the term names one by one, where it does.
    pub fn names(&self) -> Option<BTreeSet<&str>> {
        let mut named: Option<BTreeSet<&str>> = None;
        for (_, names) in self.names.iter().filter(|(operator, _)| *operator == Operator::In) {
            let these: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            named = Some(match named {
                None => these,
                Some(have) => have.intersection(&these).copied().collect(),
            });
        }
        named
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

/// Which pods are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Whom {
    pub namespaces: BTreeSet<Arc<str>>,
    /// Also those in namespaces with such labels.
    pub namespace_selector: Option<Labels>,
    pub selector: Labels,
}

impl Whom {
    /// `namespace` gives the labels of the pod's namespace.
    pub fn matches(&self, namespace: &str, labels: &LabelMap, namespace_labels: Option<&LabelMap>) -> bool {
        let inside = self.namespaces.contains(namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                selector.matches(|key| namespace_labels.and_then(|l| l.get(key)).map(String::as_str))
            });
        inside && self.selector.matches(|key| labels.get(key).map(String::as_str))
    }
}

/// A term of affinity or anti-affinity: these pods, in the same domain of that label of nodes.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Term {
    pub whom: Whom,
    pub topology_key: Box<str>,
}

/// Affinity and anti-affinity to pods.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Neighbours {
    pub near: Vec<Arc<Term>>,
    pub far: Vec<Arc<Term>>,
    pub rather_near: Vec<(i64, Arc<Term>)>,
    pub rather_far: Vec<(i64, Arc<Term>)>,
}

impl Neighbours {
    pub fn new(affinity: Option<&core::Affinity>, namespace: &str, labels: &LabelMap) -> Self {
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let term = |term: &core::PodAffinityTerm| Arc::new(Term::new(term, namespace, labels));
        let weighted = |term: &core::WeightedPodAffinityTerm| {
            (
                i64::from(term.weight),
                Arc::new(Term::new(&term.pod_affinity_term, namespace, labels)),
            )
        };
        Neighbours {
            near: near
                .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(term)
                .collect(),
            far: far
                .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(term)
                .collect(),
            rather_near: near
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(weighted)
                .collect(),
            rather_far: far
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(weighted)
                .collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.near.is_empty() && self.far.is_empty() && self.rather_near.is_empty() && self.rather_far.is_empty()
    }
}

impl Term {
    fn new(term: &core::PodAffinityTerm, namespace: &str, labels: &LabelMap) -> Self {
        let mut selector = selector(term.label_selector.as_ref());
        if term.label_selector.is_some() {
            with_own(&mut selector, term.match_label_keys.as_deref(), labels, Operator::In);
            with_own(
                &mut selector,
                term.mismatch_label_keys.as_deref(),
                labels,
                Operator::NotIn,
            );
        }
        let listed: BTreeSet<Arc<str>> = term
            .namespaces
            .iter()
            .flatten()
            .map(|name| name.as_str().into())
            .collect();
        // Neither a list nor a selector: the pod's own namespace.
        let namespaces = if listed.is_empty() && term.namespace_selector.is_none() {
            BTreeSet::from([namespace.into()])
        } else {
            listed
        };
        Term {
            whom: Whom {
                namespaces,
                namespace_selector: term.namespace_selector.as_ref().map(|s| self::selector(Some(s))),
                selector,
            },
            topology_key: term.topology_key.as_str().into(),
        }
    }
}

/// A selector that the API would not have taken matches nothing.
pub fn selector(selector: Option<&LabelSelector>) -> Labels {
    Labels::from_structured(selector).unwrap_or_else(|_| Labels::nothing())
}

/// The API server writes these into the selector too; the same requirement twice is one.
fn with_own(selector: &mut Labels, keys: Option<&[String]>, labels: &LabelMap, operator: Operator) {
    for key in keys.into_iter().flatten() {
        let Some(value) = labels.get(key) else { continue };
        let requirement = Requirement {
            key: key.clone(),
            operator,
            values: vec![value.clone()],
        };
        if !selector.requirements.contains(&requirement) {
            selector.requirements.push(requirement);
        }
    }
}

/// How evenly pods are to be spread over the domains of a label of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    pub topology_key: Box<str>,
    pub max_skew: i64,
    /// `DoNotSchedule`; else it only costs points.
    pub strict: bool,
    pub selector: Labels,
    pub min_domains: i64,
    /// Only nodes that the pod's node selector and affinity allow are domains.
    pub honor_affinity: bool,
    /// Only nodes whose taints the pod tolerates are domains.
    pub honor_taints: bool,
}

impl Spread {
    pub fn new(constraint: &core::TopologySpreadConstraint, labels: &LabelMap) -> Self {
        let mut selector = selector(constraint.label_selector.as_ref());
        if constraint.label_selector.is_some() {
            with_own(
                &mut selector,
                constraint.match_label_keys.as_deref(),
                labels,
                Operator::In,
            );
        }
        Spread {
            topology_key: constraint.topology_key.as_str().into(),
            max_skew: i64::from(constraint.max_skew),
            strict: constraint.when_unsatisfiable == "DoNotSchedule",
            selector,
            min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

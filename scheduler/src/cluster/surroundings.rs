//! Objects beside nodes and pods that rules ask about: labels of namespaces, budgets of disruption, and selectors of
//! what pods belong to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::selector::Labels;

use crate::pod::{LabelMap, Pod};

/// How many pods of a kind may be disrupted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    pub selector: Labels,
    pub allowed: i64,
    /// Names of pods whose eviction it has already counted.
    pub disrupted: HashSet<String>,
}

#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    namespaces: HashMap<Arc<str>, LabelMap>,
    budgets: BTreeMap<(Arc<str>, Arc<str>), Budget>,
    /// By namespace and name.
    services: BTreeMap<(Arc<str>, Arc<str>), LabelMap>,
    /// By kind, namespace and name.
    owners: HashMap<(&'static str, Arc<str>, Arc<str>), Labels>,
}

impl Surroundings {
    pub fn namespace(&self, name: &str) -> Option<&LabelMap> {
        self.namespaces.get(name)
    }

    pub(super) fn set_namespace(&mut self, name: &str, labels: Option<LabelMap>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.into(), labels),
            None => self.namespaces.remove(name),
        };
    }

    pub fn set_budget(&mut self, namespace: &Arc<str>, name: &Arc<str>, budget: Option<Budget>) {
        let key = (namespace.clone(), name.clone());
        match budget {
            Some(budget) => self.budgets.insert(key, budget),
            None => self.budgets.remove(&key),
        };
    }

    /// Every budget, with its namespace.
    pub fn budgets(&self) -> impl Iterator<Item = (&str, &Budget)> {
        self.budgets
            .iter()
            .map(|((namespace, _), budget)| (&**namespace, budget))
    }

    pub fn set_service(&mut self, namespace: &Arc<str>, name: &Arc<str>, selector: Option<LabelMap>) {
        let key = (namespace.clone(), name.clone());
        match selector.filter(|selector| !selector.is_empty()) {
            Some(selector) => self.services.insert(key, selector),
            None => self.services.remove(&key),
        };
    }

    pub fn set_owner(&mut self, kind: &'static str, namespace: &Arc<str>, name: &Arc<str>, selector: Option<Labels>) {
        let key = (kind, namespace.clone(), name.clone());
        match selector {
            Some(selector) => self.owners.insert(key, selector),
            None => self.owners.remove(&key),
        };
    }

    /// What the pods of this one's services and owner have in common; `None` where it has neither.
    /// Follows pkg/scheduler/framework/plugins/helper/spread.go, DefaultSelector (1.36).
    pub fn kind_of(&self, pod: &Pod) -> Option<Labels> {
        let from = (pod.namespace.clone(), Arc::from(""));
        let inside = self.services.range(from..);
        let mut pairs = LabelMap::new();
        for (_, selector) in inside.take_while(|((namespace, _), _)| *namespace == pod.namespace) {
            if selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)) {
                pairs.extend(selector.clone());
            }
        }
        let mut selector = Labels::equal(pairs);
        if let Some(owner) = &pod.owner {
            let kind = ["ReplicaSet", "StatefulSet", "ReplicationController"]
                .into_iter()
                .find(|kind| **kind == *owner.kind);
            let name: Arc<str> = (*owner.name).into();
            let owned = kind.and_then(|kind| self.owners.get(&(kind, pod.namespace.clone(), name)));
            for requirement in owned.iter().flat_map(|labels| &labels.requirements) {
                if !selector.requirements.contains(requirement) {
                    selector.requirements.push(requirement.clone());
                }
            }
        }
        (!selector.is_everything()).then_some(selector)
    }
}

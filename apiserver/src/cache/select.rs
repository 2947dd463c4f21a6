//! A filter made ready for one resource.

use std::sync::Arc;

use super::{Filter, Item, Spec};

/// [`Filter`] with its field names resolved.
#[derive(Debug, Clone)]
pub(super) struct Matcher {
    pub(super) namespace: Option<Arc<str>>,
    pub(super) name: Option<Arc<str>>,
    pub(super) labels: api::selector::Labels,
    fields: Vec<(Place, bool, Box<str>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Namespace,
    Name,
    Field(usize),
    /// Not a field of this resource.
    Nowhere,
}

impl Matcher {
    pub(super) fn new(filter: &Filter, spec: &Spec) -> Self {
        let fields: Vec<(Place, bool, Box<str>)> = filter
            .fields
            .terms
            .iter()
            .map(|term| {
                let place = match term.field.as_str() {
                    "metadata.namespace" => Place::Namespace,
                    "metadata.name" => Place::Name,
                    other => match spec.fields.iter().position(|f| *f.name == *other) {
                        Some(at) => Place::Field(at),
                        None => Place::Nowhere,
                    },
                };
                (place, term.equal, term.value.as_str().into())
            })
            .collect();
        let demanded = |wanted: Place| {
            fields
                .iter()
                .find(|(place, equal, _)| *place == wanted && *equal)
                .map(|(_, _, value)| (&**value).into())
        };
        Matcher {
            namespace: filter
                .namespace
                .clone()
                .filter(|n| !n.is_empty())
                .or_else(|| demanded(Place::Namespace).filter(|_| spec.namespaced)),
            name: filter.name.clone().or_else(|| demanded(Place::Name)),
            labels: filter.labels.clone(),
            fields,
        }
    }

    pub(super) fn matches(&self, item: &Item) -> bool {
        let facts = &item.facts;
        self.namespace.as_ref().is_none_or(|n| *n == facts.namespace)
            && self.name.as_ref().is_none_or(|n| *n == facts.name)
            && self.labels.matches(|key| item.label(key))
            && self.fields.iter().all(|(place, equal, value)| {
                let found = match place {
                    Place::Namespace => &facts.namespace,
                    Place::Name => &facts.name,
                    Place::Field(at) => &facts.fields[*at],
                    Place::Nowhere => return false,
                };
                (**found == **value) == *equal
            })
    }

    /// Whether there is nothing to look at beyond the key.
    pub(super) fn by_key_alone(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty() && self.name.is_none()
    }

    /// The fields that must have one exact value.
    pub(super) fn field_equalities(&self) -> impl Iterator<Item = (usize, &str)> {
        self.fields.iter().filter_map(|(place, equal, value)| match place {
            Place::Field(at) if *equal => Some((*at, &**value)),
            _ => None,
        })
    }
}

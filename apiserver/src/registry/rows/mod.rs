//! The table of built-in resources: data only, one file per API group, one expression per group-resource.
//! Goes out: [`rows`], which routes, discovery, storage, selectors, tables and tests all read.
//! A row stands here only when its schema check, its defaults and its hand-written validation are in; what upstream
//! serves beside is named in [`NOT_YET_SERVED`], which may only shrink.

mod apps;
mod authorization;
mod autoscaling;
mod batch;
pub mod cells;
mod cluster;
mod coordination;
mod core;
mod discovery;
mod events;
mod networking;
#[cfg(test)]
mod parity;
mod policy;
mod rbac;
mod storage;
mod usage;

pub use usage::{nano, usage};

use std::sync::Arc;

use super::row::{Cells, Column, Columns, Convert, Resource, Scope, SelectableField, Subresource};
use crate::store::Durability;
use crate::strategy::format::{self, NameRule};
use crate::strategy::{Plain, Shape, Strategy};

/// Every built-in group-resource, in discovery order.
pub fn rows() -> Vec<Resource> {
    [
        core::rows(),
        apps::rows(),
        events::rows(),
        authorization::rows(),
        autoscaling::rows(),
        batch::rows(),
        cluster::certificates(),
        networking::rows(),
        policy::rows(),
        rbac::rows(),
        storage::rows(),
        cluster::extensions(),
        policy::scheduling(),
        coordination::rows(),
        cluster::node(),
        discovery::rows(),
        cluster::flow_control(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A rule that is accepted and then enforced by nobody would be worse than one that is refused.
const UNENFORCED: &str = "admission calls no webhooks and evaluates no policies yet";
const NO_DEVICES: &str = "dynamic resource allocation is not built";

/// What a 1.36 server serves by default and this one does not yet, or not to write, with the reason.
pub const NOT_YET_SERVED: &[(&str, &str)] = &[
    (
        "componentstatuses",
        "deprecated since 1.19; asks parts that may run elsewhere for their health",
    ),
    ("apiservices.apiregistration.k8s.io", "aggregation is not built"),
    (
        "customresourcedefinitions.apiextensions.k8s.io",
        "custom resources are not built; the empty list is there, because kubectl reads it before it refuses a kind",
    ),
    ("mutatingadmissionpolicies.admissionregistration.k8s.io", UNENFORCED),
    (
        "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
        UNENFORCED,
    ),
    ("mutatingwebhookconfigurations.admissionregistration.k8s.io", UNENFORCED),
    ("validatingadmissionpolicies.admissionregistration.k8s.io", UNENFORCED),
    (
        "validatingadmissionpolicybindings.admissionregistration.k8s.io",
        UNENFORCED,
    ),
    (
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        UNENFORCED,
    ),
    ("deviceclasses.resource.k8s.io", NO_DEVICES),
    ("resourceclaims.resource.k8s.io", NO_DEVICES),
    ("resourceclaimtemplates.resource.k8s.io", NO_DEVICES),
    ("resourceslices.resource.k8s.io", NO_DEVICES),
];

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const CREATE: &[&str] = &["create"];
const READ: &[&str] = &["get", "list", "watch"];

/// A resource in a namespace, served and stored in `versions`' first.
fn namespaced(group: &str, versions: &str, kind: &str, plural: &str) -> Resource {
    resource(Scope::Namespaced, group, versions, kind, plural)
}
/// A resource of the whole cluster.
fn cluster(group: &str, versions: &str, kind: &str, plural: &str) -> Resource {
    resource(Scope::Cluster, group, versions, kind, plural)
}

fn resource(scope: Scope, group: &str, versions: &str, kind: &str, plural: &str) -> Resource {
    let versions = words(versions);
    let first = &versions[0];
    Resource {
        group: group.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: kind.to_lowercase().into(),
        short: Vec::new(),
        categories: Vec::new(),
        scope,
        storage: 0,
        stored_as: if group.is_empty() {
            first.clone()
        } else {
            format!("{group}/{first}").into()
        },
        versions,
        verbs: VERBS,
        subresources: Vec::new(),
        columns: columns("Name, Created At:date", cells::created_at),
        fields: Vec::new(),
        prefix: plural.into(),
        durability: Durability::Durable,
        lazy_in: None,
        time_to_live: None,
        returns_deleted: false,
        convert: None,
        computed: false,
        create_on_update: false,
        unconditional_update: true,
        names: format::subdomain_name,
        strategy: Arc::new(Plain(Shape::PLAIN)),
    }
}

fn words(list: &str) -> Vec<Arc<str>> {
    list.split_whitespace().map(Arc::from).collect()
}

/// `Name, Ready, Count:integer, Node*`: a colon gives the type (string where there is none) and a slash its format, a
/// star says `-o wide`.
fn columns(list: &str, cells: Cells) -> Columns {
    let column = |text: &str| {
        let (text, priority) = match text.strip_suffix('*') {
            Some(text) => (text, 1),
            None => (text, 0),
        };
        let (name, kind) = text.split_once(':').unwrap_or((text, "string"));
        let (kind, format) = kind
            .split_once('/')
            .unwrap_or((kind, if name == "Name" { "name" } else { "" }));
        Column {
            name: name.into(),
            kind: kind.into(),
            format: format.into(),
            description: "".into(),
            priority,
        }
    };
    Columns {
        columns: list.split(", ").map(column).collect(),
        cells: Some(cells),
    }
}

/// The words of a row, read left to right.
impl Resource {
    fn short(mut self, names: &str) -> Self {
        self.short = words(names);
        self
    }
    fn category(mut self, name: &str) -> Self {
        self.categories.push(name.into());
        self
    }
    /// `kubectl get all` shows it.
    fn all(self) -> Self {
        self.category("all")
    }
    fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.verbs = verbs;
        self
    }
    fn subresources(mut self, subresources: &[Subresource]) -> Self {
        self.subresources = subresources.to_vec();
        self
    }
    fn status(self) -> Self {
        self.subresources(&[Subresource::Status])
    }
    fn columns(mut self, list: &str, cells: Cells) -> Self {
        self.columns = columns(list, cells);
        self
    }
    /// Selectable fields: `spec.nodeName`, with `=word` for what a missing value is, `@path` for where else it stands
    /// and `|path` for where to look next.
    fn fields(mut self, list: &str) -> Self {
        let way = |text: &str| text.split('.').filter(|step| !step.is_empty()).map(Arc::from).collect();
        let field = |text: &str| {
            let (text, missing) = text.split_once('=').unwrap_or((text, ""));
            let (text, otherwise) = text.split_once('|').unwrap_or((text, ""));
            let (name, path) = text.split_once('@').unwrap_or((text, text));
            SelectableField {
                name: name.into(),
                path: way(path),
                otherwise: way(otherwise),
                missing: missing.into(),
            }
        };
        self.fields = list.split_whitespace().map(field).collect();
        self
    }
    fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.into();
        self
    }
    fn names(mut self, rule: NameRule) -> Self {
        self.names = rule;
        self
    }
    fn time_to_live(mut self, life: std::time::Duration) -> Self {
        self.time_to_live = Some(life);
        self
    }
    fn returns_deleted(mut self) -> Self {
        self.returns_deleted = true;
        self
    }
    fn lazy(mut self) -> Self {
        self.durability = Durability::Lazy;
        self
    }
    fn lazy_in(mut self, namespace: &str) -> Self {
        self.lazy_in = Some(namespace.into());
        self
    }
    fn create_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }
    fn conditional_update(mut self) -> Self {
        self.unconditional_update = false;
        self
    }
    fn stored_as(mut self, api_version: &str) -> Self {
        self.stored_as = api_version.into();
        self
    }
    fn convert(mut self, convert: Convert) -> Self {
        self.convert = Some(convert);
        self
    }
    fn strategy(mut self, strategy: impl Strategy + 'static) -> Self {
        self.strategy = Arc::new(strategy);
        self
    }
}

//! A row: what the generic code must know about a group-resource. Constants are columns here; behaviour is the
//! [`Strategy`]. `Arc<str>` and not `&'static str`, because a CustomResourceDefinition makes a row at run time.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::object::Object;
use crate::status::{About, Errors};
use crate::store::Durability;
use crate::strategy::format::NameRule;
use crate::strategy::{Context, Reset, Strategy, meta};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A group-resource with its served versions.
#[derive(Debug)]
pub struct Resource {
    /// Empty for the core group.
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// `pods`.
    pub plural: Arc<str>,
    /// `pod`.
    pub singular: Arc<str>,
    pub short: Vec<Arc<str>>,
    /// `all`, `api-extensions` …
    pub categories: Vec<Arc<str>>,
    pub scope: Scope,
    /// In order of preference.
    pub versions: Vec<Arc<str>>,
    /// Index into `versions` of the one that is stored.
    pub storage: usize,
    /// The `apiVersion` of what is stored: `group/version` of `storage`, but that of another row where two rows share
    /// a store (events.k8s.io is stored as core events).
    pub stored_as: Arc<str>,
    pub verbs: &'static [&'static str],
    pub subresources: Vec<Subresource>,
    pub columns: Columns,
    /// Field selectors it answers beside `metadata.name` and `metadata.namespace`, with the way to each value.
    pub fields: Vec<SelectableField>,
    /// Under `/registry/`, upstream's word: `pods`, `minions`, `services/specs`.
    pub prefix: Arc<str>,
    pub durability: Durability,
    /// A namespace whose objects are written lazily though the row is durable.
    pub lazy_in: Option<Arc<str>>,
    /// Entries vanish so long after they were last written (Events).
    pub time_to_live: Option<std::time::Duration>,
    /// PUT to a name that does not exist creates it (Leases, Events …: upstream's AllowCreateOnUpdate).
    pub create_on_update: bool,
    /// PUT without a resourceVersion overwrites.
    pub unconditional_update: bool,
    /// A delete answers with the deleted object and not with a Status (upstream's ReturnDeletedObject).
    pub returns_deleted: bool,
    /// To and from what is stored, where a version differs from the storage version or the store is another row's.
    pub convert: Option<Convert>,
    /// Made when somebody asks, of what other rows and other parts say: metrics.k8s.io.
    pub computed: bool,
    /// What a name may be.
    pub names: NameRule,
    pub strategy: Arc<dyn Strategy>,
}

/// Both set apiVersion and kind too.
#[derive(Debug, Clone, Copy)]
pub struct Convert {
    /// From a served version (read it from the object) to what is stored.
    pub to_storage: fn(&mut Object),
    /// From what is stored to the served version.
    pub from_storage: fn(&mut Object, version: &str),
}

impl Resource {
    pub fn about(&self) -> About<'_> {
        About {
            group: &self.group,
            resource: &self.plural,
        }
    }
    /// `v1`, `apps/v1`.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() {
            version.into()
        } else {
            format!("{}/{version}", self.group)
        }
    }
    /// Whether objects of it are kept: reviews and bindings are only asked, and some are computed.
    pub fn is_stored(&self) -> bool {
        !self.computed && self.verbs.contains(&"get")
    }
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }
    /// Whether `version` is served in another form than the stored one: its bytes must be rendered anew.
    pub fn converts(&self, version: &str) -> bool {
        self.api_version(version) != *self.stored_as
    }
    /// From a served version (decoded, with that version's type defaults) to the stored form. Defaulting, admission,
    /// strategies and validation work on the stored form.
    pub fn to_stored(&self, object: &mut Object) {
        if let Some(convert) = self.convert {
            (convert.to_storage)(object);
        }
    }
    /// From the stored form to a served version.
    pub fn from_stored(&self, object: &mut Object, version: &str) {
        if let Some(convert) = self.convert {
            (convert.from_storage)(object, version);
        }
    }
    /// What a write through `subresource` cannot change.
    pub fn reset(&self, subresource: &str) -> Reset {
        if subresource.is_empty() && !self.has(Subresource::Status) {
            return Reset::NOTHING;
        }
        self.strategy.reset(subresource)
    }
    /// How the write of an object in `namespace` is kept.
    pub fn durability_in(&self, namespace: &str) -> Durability {
        if self.lazy_in.as_deref() == Some(namespace) {
            Durability::Lazy
        } else {
            self.durability
        }
    }

    // The order within a write is that of apiserver/pkg/registry/rest/{create,update}.go (1.36).

    /// What a new object gets and loses. The name from generateName and the namespace are the caller's.
    pub fn prepare_create(&self, context: &Context<'_>, new: &mut Object, uid: &str) {
        meta::prepare_create(new, uid, context.now);
        self.strategy.prepare_create(context, new);
    }
    pub fn validate_create(&self, context: &Context<'_>, new: &Object) -> Errors {
        let mut errors = Errors::default();
        meta::validate(new, self.namespaced(), self.names, &mut errors);
        self.strategy.validate(context, new, &mut errors);
        errors
    }
    pub fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        meta::prepare_update(new, old);
        self.strategy.prepare_update(context, new, old);
    }
    pub fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object) -> Errors {
        let mut errors = Errors::default();
        meta::validate_update(new, old, &mut errors);
        self.strategy.validate_update(context, new, old, &mut errors);
        errors
    }
}

/// A field that a selector may name.
#[derive(Debug, Clone)]
pub struct SelectableField {
    /// `spec.nodeName`.
    pub name: Arc<str>,
    /// The way through the JSON tree of the stored form; true and false are words, numbers are decimal.
    pub path: Vec<Arc<str>>,
    /// Where to look when there is nothing at `path`.
    pub otherwise: Vec<Arc<str>>,
    /// What a missing value is: "", mostly.
    pub missing: Arc<str>,
}

impl SelectableField {
    /// The value of this field in a stored object.
    pub fn read<'a>(&'a self, object: &'a serde_json::Map<String, Value>) -> Cow<'a, str> {
        let find = |path: &[Arc<str>]| {
            let (first, rest) = path.split_first()?;
            let found = rest.iter().try_fold(object.get(&**first)?, |value, step| match value {
                Value::Array(items) => items.get(step.parse::<usize>().ok()?),
                other => other.get(&**step),
            })?;
            match found {
                Value::String(s) if !s.is_empty() => Some(Cow::Borrowed(s.as_str())),
                Value::Bool(_) | Value::Number(_) => Some(Cow::Owned(found.to_string())),
                _ => None,
            }
        };
        find(&self.path)
            .or_else(|| find(&self.otherwise))
            .unwrap_or(Cow::Borrowed(&self.missing))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subresource {
    Status,
    Scale,
    Binding,
    Eviction,
    EphemeralContainers,
    Resize,
    Log,
    Exec,
    Attach,
    PortForward,
    Proxy,
    Token,
    Approval,
    Finalize,
}

/// Kinds that a subresource speaks when it is not the resource's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaks {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
}

impl Subresource {
    pub const ALL: [Subresource; 14] = [
        Subresource::Approval,
        Subresource::Attach,
        Subresource::Binding,
        Subresource::EphemeralContainers,
        Subresource::Eviction,
        Subresource::Exec,
        Subresource::Finalize,
        Subresource::Log,
        Subresource::PortForward,
        Subresource::Proxy,
        Subresource::Resize,
        Subresource::Scale,
        Subresource::Status,
        Subresource::Token,
    ];

    /// Its step of the path.
    pub fn name(self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Scale => "scale",
            Subresource::Binding => "binding",
            Subresource::Eviction => "eviction",
            Subresource::EphemeralContainers => "ephemeralcontainers",
            Subresource::Resize => "resize",
            Subresource::Log => "log",
            Subresource::Exec => "exec",
            Subresource::Attach => "attach",
            Subresource::PortForward => "portforward",
            Subresource::Proxy => "proxy",
            Subresource::Token => "token",
            Subresource::Approval => "approval",
            Subresource::Finalize => "finalize",
        }
    }
    pub fn parse(name: &str) -> Option<Subresource> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
    /// In discovery's order.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Subresource::Binding | Subresource::Eviction | Subresource::Token => &["create"],
            Subresource::Finalize => &["update"],
            Subresource::Log => &["get"],
            Subresource::Exec | Subresource::Attach | Subresource::PortForward => &["create", "get"],
            Subresource::Proxy => &["create", "delete", "get", "patch", "update"],
            Subresource::Status
            | Subresource::Scale
            | Subresource::EphemeralContainers
            | Subresource::Resize
            | Subresource::Approval => &["get", "patch", "update"],
        }
    }
    /// The kind that `kind/<this>` speaks; `None` is the resource's own kind.
    pub fn speaks(self, kind: &str) -> Option<Speaks> {
        let core = |kind| {
            Some(Speaks {
                group: "",
                version: "v1",
                kind,
            })
        };
        match (self, kind) {
            (Subresource::Scale, _) => Some(Speaks {
                group: "autoscaling",
                version: "v1",
                kind: "Scale",
            }),
            (Subresource::Eviction, _) => Some(Speaks {
                group: "policy",
                version: "v1",
                kind: "Eviction",
            }),
            (Subresource::Token, _) => Some(Speaks {
                group: "authentication.k8s.io",
                version: "v1",
                kind: "TokenRequest",
            }),
            (Subresource::Binding, _) => core("Binding"),
            (Subresource::Exec, _) => core("PodExecOptions"),
            (Subresource::Attach, _) => core("PodAttachOptions"),
            (Subresource::PortForward, _) => core("PodPortForwardOptions"),
            (Subresource::Proxy, "Node") => core("NodeProxyOptions"),
            (Subresource::Proxy, "Service") => core("ServiceProxyOptions"),
            (Subresource::Proxy, _) => core("PodProxyOptions"),
            _ => None,
        }
    }
}

/// What `kubectl get` prints.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    pub columns: Vec<Column>,
    /// One cell for each column, in order, from the stored form. The time is now, for ages.
    pub cells: Option<Cells>,
}

pub type Cells = fn(&Object, jiff::Timestamp) -> Vec<Value>;

#[derive(Debug, Clone)]
pub struct Column {
    pub name: Arc<str>,
    /// `string`, `integer`, `date` …
    pub kind: Arc<str>,
    pub format: Arc<str>,
    pub description: Arc<str>,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

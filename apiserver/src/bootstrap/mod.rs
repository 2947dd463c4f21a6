//! What a cluster is born with.
//! Comes in: the caches as they were loaded, and the server's own addresses and authorities. Goes out: puts for what is
//! missing, all at once, so that they share a commit; on a restart nothing is written. Never takes away what a person made.

mod aggregate;
pub mod keep;
mod objects;
mod plan;
pub mod rbac;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::join_all;
use serde_json::Value;

use crate::authn::front_proxy::FrontProxy;
use crate::object::Object;
use crate::registry::{Registry, Row, fields};
use crate::store::{self, Expect, Options, Revision};
use crate::strategy::meta;
use plan::Step;

pub use objects::NAMESPACES;

/// What the objects speak of.
#[derive(Debug, Clone)]
pub struct Parameters {
    pub now: jiff::Timestamp,
    pub advertise_address: IpAddr,
    pub port: u16,
    pub service_cidrs: Vec<String>,
    /// The address of the `kubernetes` Service.
    pub service_address: IpAddr,
    /// PEM bundles, as others shall know them.
    pub client_ca: Option<String>,
    pub front_proxy_ca: Option<String>,
    pub front_proxy: FrontProxy,
}

/// The store did not take an object; the start is tried again by the supervisor.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {key}")]
pub struct Error {
    key: Arc<str>,
    #[source]
    source: store::Error,
}

/// How far an object that is there is kept as wanted. Roles and bindings have rules of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Existence,
    Content,
}

/// One object that shall be there.
#[derive(Debug, Clone)]
pub struct Wanted {
    group: &'static str,
    plural: &'static str,
    keep: Keep,
    object: Value,
}

impl Wanted {
    fn new(group: &'static str, plural: &'static str, object: Value) -> Wanted {
        Wanted {
            group,
            plural,
            keep: Keep::Existence,
            object,
        }
    }
    fn kept(group: &'static str, plural: &'static str, object: Value) -> Wanted {
        Wanted {
            keep: Keep::Content,
            ..Wanted::new(group, plural, object)
        }
    }
    fn text(&self, field: &str) -> &str {
        self.object["metadata"][field].as_str().unwrap_or_default()
    }
}

/// Who owns what is made here.
const MANAGER: &str = "kube-apiserver";

/// Everything that a cluster is born with.
pub fn wanted(parameters: &Parameters) -> Vec<Wanted> {
    let mut all = objects::wanted(parameters);
    let mut roles = rbac::wanted();
    aggregate::fill(&mut roles);
    all.extend(roles);
    all
}

/// Brings the store to what is wanted; the caches must have loaded. Returns how many objects were written.
pub async fn reconcile(registry: &Registry, wanted: &[Wanted], now: jiff::Timestamp) -> Result<usize, Error> {
    let table = registry.table();
    let mut writes = Vec::new();
    for wanted in wanted {
        let Some(row) = table.find(wanted.group, wanted.plural) else {
            // The table of rows says what is not served yet; an object of such a kind has nowhere to be.
            tracing::debug!(
                resource = wanted.plural,
                name = wanted.text("name"),
                "kind is not served"
            );
            continue;
        };
        let Ok(cache) = row.cache() else { continue };
        let item = cache.get(wanted.text("namespace"), wanted.text("name"));
        let have = item.as_ref().map(|item| Value::Object(item.object().0));
        let step = plan::plan(wanted, have.as_ref());
        if step != Step::Nothing {
            let key = cache.key(wanted.text("namespace"), wanted.text("name"));
            let revision = item.map(|item| item.revision);
            writes.push(perform(registry, row.clone(), key, step, revision, now));
        }
    }
    let count = writes.len();
    for outcome in join_all(writes).await {
        outcome?;
    }
    Ok(count)
}

async fn perform(
    registry: &Registry,
    row: Arc<Row>,
    key: Arc<str>,
    step: Step,
    have: Option<Revision>,
    now: jiff::Timestamp,
) -> Result<(), Error> {
    let store = registry.store();
    let create = |value: Value| {
        let mut object = tree(value);
        let uid = uuid::Uuid::new_v4().hyphenated().to_string();
        meta::prepare_create(&mut object, &uid, now);
        fields::born(&row, MANAGER, now, &mut object);
        (object, Expect::Absent)
    };
    let (mut object, expect) = match (step, have) {
        (Step::Nothing, _) => return Ok(()),
        (Step::Update(value), Some(revision)) => (tree(value), Expect::At(revision)),
        (Step::Replace(value), Some(revision)) => {
            match store.delete(&key, revision).await {
                Ok(_) | Err(store::Error::Conflict { .. }) => {}
                Err(source) => return Err(Error { key, source }),
            }
            create(value)
        }
        (Step::Create(value) | Step::Update(value) | Step::Replace(value), _) => create(value),
    };
    let namespace = object.namespace().to_owned();
    let options = Options::from(row.durability_in(&namespace));
    match store.put(&key, object.to_stored(), expect, options).await {
        // Another server was faster, or somebody changed it meanwhile: the next start looks again.
        Ok(_) | Err(store::Error::Conflict { .. }) => Ok(()),
        Err(source) => Err(Error { key, source }),
    }
}

fn tree(value: Value) -> Object {
    match value {
        Value::Object(map) => Object(map),
        _ => Object::default(),
    }
}

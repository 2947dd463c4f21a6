//! What the cluster says about a write before it is stored: first the mutators in order, then the validators.
//! Comes in: the attributes of the request and the object. Goes out: the object changed, or a refusal. Reads the cluster
//! through the registry's caches; never writes an object of its own but reservations, which it undoes when the write fails.

pub mod addresses;
mod certificates;
pub mod chain;
mod escalation;
mod limits;
mod namespace;
mod node;
mod owners;
mod pod_security;
mod pods;
mod priority;
mod quota;
mod service_account;
mod sources;
mod volumes;

use std::sync::Mutex;

use futures::future::BoxFuture;
use rand::Rng as _;
use serde_json::Value;

use crate::identity::User;
use crate::object::Object;
use crate::registry::row::Resource;
use crate::status::Status;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What is known of a write.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    pub user: &'a User,
    pub operation: Operation,
    pub resource: &'a Resource,
    pub version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// May be empty on a create with generateName.
    pub name: &'a str,
    pub dry_run: bool,
    /// What the client is told in Warning headers though the write goes on.
    pub warnings: &'a Mutex<Vec<String>>,
}

impl Attributes<'_> {
    /// Whether this is about `plural` of `group` itself, not about a subresource.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.is_any(group, plural) && self.subresource.is_empty()
    }
    /// Whether this is about `plural` of `group` or a subresource of it.
    pub fn is_any(&self, group: &str, plural: &str) -> bool {
        *self.resource.group == *group && *self.resource.plural == *plural
    }
    pub fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().expect("nothing panics while it holds this");
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    /// 403 as admission.NewForbidden (1.36) words it: an object that has no name yet is called by its prefix.
    pub fn forbidden(&self, object: Option<&Object>, why: &str) -> Status {
        let named = object.map(|object| match object.name() {
            "" => object.generate_name(),
            name => name,
        });
        let name = match (self.name, named) {
            ("", Some("") | None) => "Unknown!",
            ("", Some(name)) => name,
            (name, _) => name,
        };
        Status::forbidden(self.resource.about(), name, why)
    }
}

/// One admission rule. Both run again on every retry of an update, so both must be idempotent.
pub trait Admit: Send + Sync + std::fmt::Debug {
    fn mutate<'a>(
        &'a self,
        _attributes: &'a Attributes<'a>,
        _new: &'a mut Object,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn validate<'a>(
        &'a self,
        _attributes: &'a Attributes<'a>,
        _new: Option<&'a Object>,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// The end of every write whose `mutate` succeeded, and of every delete (`object` is what was deleted). `stored` false:
    /// it failed or was a dry run, so what was reserved is given back.
    fn finish<'a>(
        &'a self,
        _attributes: &'a Attributes<'a>,
        _object: &'a Object,
        _old: Option<&'a Object>,
        _stored: bool,
    ) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A rule that others hold too.
impl<T: Admit> Admit for std::sync::Arc<T> {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        T::mutate(self, attributes, new, old)
    }
    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        T::validate(self, attributes, new, old)
    }
    fn finish<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        object: &'a Object,
        old: Option<&'a Object>,
        stored: bool,
    ) -> BoxFuture<'a, ()> {
        T::finish(self, attributes, object, old, stored)
    }
}

/// The chain, in order.
#[derive(Debug, Default)]
pub struct Chain {
    pub rules: Vec<Box<dyn Admit>>,
}

/// The elements of a list; none where there is no list.
fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

/// Five letters as upstream's generated names end.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5)
        .map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]))
        .collect()
}

//! What the cluster says about a write before it is stored: first the mutators in order, then the validators.
//! Comes in: the attributes of the request and the object. Goes out: the object changed, or a refusal. Reads the cluster
//! through the registry's caches; never writes an object of its own but reservations, which it undoes when the write fails.

use futures::future::BoxFuture;

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
    /// The write that `mutate` prepared failed or was a dry run: gives back what it reserved. `stored` is false then;
    /// true tells that the write is done, for rules that keep accounts.
    fn finish<'a>(&'a self, _attributes: &'a Attributes<'a>, _object: &'a Object, _stored: bool) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The chain, in order.
#[derive(Debug, Default)]
pub struct Chain {
    pub rules: Vec<Box<dyn Admit>>,
}

//! The admission chain, bound to one request, as the registry's [`Gate`].

use std::sync::Mutex;

use futures::future::BoxFuture;

use crate::admission::{Attributes, Chain, Operation};
use crate::authz;
use crate::identity::User;
use crate::object::Object;
use crate::registry::row::Resource;
use crate::registry::write::{Gate, Write};
use crate::status::Status;

/// What admission is told of this request beside the object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission<'a> {
    pub(super) chain: &'a Chain,
    pub(super) user: &'a User,
    pub(super) resource: &'a Resource,
    pub(super) version: &'a str,
    pub(super) subresource: &'a str,
    pub(super) namespace: &'a str,
    pub(super) dry_run: bool,
    pub(super) warnings: &'a Mutex<Vec<String>>,
    /// `None`: as the presence of the old and the new object says.
    pub(super) operation: Option<Operation>,
}

impl Admission<'_> {
    fn attributes<'a>(&'a self, name: &'a str, has_new: bool, has_old: bool) -> Attributes<'a> {
        let operation = self.operation.unwrap_or(match (has_new, has_old) {
            (true, false) => Operation::Create,
            (true, true) => Operation::Update,
            (false, _) => Operation::Delete,
        });
        Attributes {
            user: self.user,
            operation,
            resource: self.resource,
            version: self.version,
            subresource: self.subresource,
            namespace: self.namespace,
            name,
            dry_run: self.dry_run,
            warnings: self.warnings,
        }
    }
}

impl Gate for Admission<'_> {
    fn mutate<'a>(
        &'a self,
        name: &'a str,
        new: &'a mut Object,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let attributes = self.attributes(name, true, old.is_some());
            for (at, rule) in self.chain.rules.iter().enumerate() {
                if let Err(status) = rule.mutate(&attributes, new, old).await {
                    // What the rules before this one reserved is given back.
                    for done in &self.chain.rules[..at] {
                        done.finish(&attributes, new, old, false).await;
                    }
                    return Err(status);
                }
            }
            Ok(())
        })
    }

    fn validate<'a>(
        &'a self,
        name: &'a str,
        new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let attributes = self.attributes(name, new.is_some(), old.is_some());
            for rule in &self.chain.rules {
                rule.validate(&attributes, new, old).await?;
            }
            Ok(())
        })
    }

    fn finish<'a>(
        &'a self,
        object: &'a Object,
        old: Option<&'a Object>,
        write: Write,
        stored: bool,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let attributes = self.attributes(object.name(), write != Write::Delete, write != Write::Create);
            for rule in &self.chain.rules {
                rule.finish(&attributes, object, old, stored).await;
            }
        })
    }
}

/// Admission for a write that makes the object where there is none: that takes the right to create.
/// Upstream: withAuthorization in endpoints/handlers/update.go (1.36).
pub(super) struct Creating<'a> {
    pub(super) admission: Admission<'a>,
    pub(super) authz: &'a authz::Chain,
    pub(super) request: authz::Request<'a>,
}

impl Gate for Creating<'_> {
    fn mutate<'a>(
        &'a self,
        name: &'a str,
        new: &'a mut Object,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        self.admission.mutate(name, new, old)
    }

    fn validate<'a>(
        &'a self,
        name: &'a str,
        new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if old.is_none() {
                self.authz.require(&self.request).await?;
            }
            self.admission.validate(name, new, old).await
        })
    }

    fn finish<'a>(
        &'a self,
        object: &'a Object,
        old: Option<&'a Object>,
        write: Write,
        stored: bool,
    ) -> BoxFuture<'a, ()> {
        self.admission.finish(object, old, write, stored)
    }
}

//! OwnerReferencesPermissionEnforcement: who changes owners must be allowed to delete the object, and who blocks an
//! owner's deletion must be allowed to set that owner's finalizers. After plugin/pkg/admission/gc (1.36). Off by default.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use super::{Admit, Attributes, Operation, items};
use crate::authz::{Chain, Decision, Request, Target};
use crate::object::Object;
use crate::registry::Registry;
use crate::status::Status;

#[derive(Debug)]
pub(super) struct OwnerReferences {
    pub(super) registry: Arc<Registry>,
    pub(super) authz: Arc<Chain>,
}

impl OwnerReferences {
    async fn may(&self, attributes: &Attributes<'_>, verb: &str, target: Target<'_>) -> Result<(), String> {
        let request = Request {
            user: attributes.user,
            verb,
            target,
        };
        match self.authz.authorize(&request).await {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) | Decision::Deny(reason) => Err(reason),
        }
    }
}

fn owners(object: Option<&Object>) -> Vec<&Value> {
    items(object.and_then(|object| object.at(&["metadata", "ownerReferences"]))).collect()
}

fn blocks(owner: &Value) -> bool {
    owner["blockOwnerDeletion"] == true
}

impl Admit for OwnerReferences {
    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            // Pods are made by their controllers, who set owners all the time; upstream exempts their bindings.
            if new.is_none() || attributes.subresource == "binding" {
                return Ok(());
            }
            let (before, after) = (owners(old), owners(new));
            if before == after {
                return Ok(());
            }
            let resource = attributes.resource;
            if attributes.operation == Operation::Update {
                let target = Target::Resource {
                    group: &resource.group,
                    version: attributes.version,
                    resource: &resource.plural,
                    subresource: attributes.subresource,
                    namespace: attributes.namespace,
                    name: attributes.name,
                    fields: None,
                };
                if let Err(reason) = self.may(attributes, "delete", target).await {
                    let why = format!("cannot set an ownerRef on a resource you can't delete: {reason}");
                    return Err(attributes.forbidden(new, &why));
                }
            }
            let added = after
                .iter()
                .filter(|owner| blocks(owner) && !before.iter().any(|old| old["uid"] == owner["uid"] && blocks(old)));
            for owner in added {
                let text = |field: &str| owner[field].as_str().unwrap_or_default();
                let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
                let table = self.registry.table();
                let row = table
                    .rows
                    .iter()
                    .find(|row| *row.group == *group && *row.kind == *text("kind"));
                let Some(row) = row else {
                    let why = format!(
                        "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {} Kind {}",
                        text("apiVersion"),
                        text("kind")
                    );
                    return Err(attributes.forbidden(new, &why));
                };
                let target = Target::Resource {
                    group,
                    version,
                    resource: &row.plural,
                    subresource: "finalizers",
                    namespace: if row.namespaced() { attributes.namespace } else { "" },
                    name: text("name"),
                    fields: None,
                };
                if let Err(reason) = self.may(attributes, "update", target).await {
                    let why = format!(
                        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {reason}"
                    );
                    return Err(attributes.forbidden(new, &why));
                }
            }
            Ok(())
        })
    }
}

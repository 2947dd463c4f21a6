//! NamespaceLifecycle: nothing is made in a namespace that is not there or goes away; some namespaces stay.
//! After apiserver/pkg/admission/plugin/namespace/lifecycle (1.36).

use futures::future::BoxFuture;

use super::sources::Source;
use super::{Admit, Attributes, Operation};
use crate::object::Object;
use crate::status::{About, Cause, Status};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

#[derive(Debug)]
pub(super) struct NamespaceLifecycle {
    pub(super) namespaces: Source,
}

impl Admit for NamespaceLifecycle {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if attributes.namespace.is_empty() || attributes.is_any("", "namespaces") || is_access_review(attributes) {
                return Ok(());
            }
            let namespace = attributes.namespace;
            let Some(found) = self.namespaces.get("", namespace).await? else {
                let about = About {
                    group: "",
                    resource: "namespaces",
                };
                return Err(Status::not_found(about, namespace));
            };
            if attributes.operation != Operation::Create || found.str_at(&["status", "phase"]) != "Terminating" {
                return Ok(());
            }
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut status = attributes.forbidden(Some(new), &why);
            if let Some(details) = &mut status.details {
                details.causes.push(Cause {
                    reason: "NamespaceTerminating",
                    message: format!("namespace {namespace} is being terminated"),
                    field: "metadata.namespace".into(),
                });
            }
            Err(status)
        })
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        _new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let refused = attributes.operation == Operation::Delete
            && attributes.is("", "namespaces")
            && IMMORTAL.contains(&attributes.name);
        Box::pin(std::future::ready(if refused {
            Err(attributes.forbidden(old, "this namespace may not be deleted"))
        } else {
            Ok(())
        }))
    }
}

/// Questions may be asked about namespaces that are not there.
fn is_access_review(attributes: &Attributes<'_>) -> bool {
    *attributes.resource.group == *"authorization.k8s.io"
        && matches!(&*attributes.resource.plural, "localsubjectaccessreviews")
}

//! Nobody grants what he does not hold, unless he may `escalate` roles or `bind` the one in question.
//! Upstream has this in the storage of the four kinds (pkg/registry/rbac/*/policybased, 1.36).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use super::{Admit, Attributes, Operation};
use crate::authz::rbac::{BindingObject, GROUP, Rbac, Refused, RoleObject};
use crate::authz::rules::Rule;
use crate::authz::{Chain, Decision, Request, Target};
use crate::identity::MASTERS;
use crate::object::Object;
use crate::status::{About, Status};

#[derive(Debug)]
pub(super) struct Escalation {
    pub(super) rbac: Rbac,
    pub(super) authz: Arc<Chain>,
}

impl Escalation {
    async fn may(&self, attributes: &Attributes<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let request = Request {
            user: attributes.user,
            verb,
            target: Target::Resource {
                group: GROUP,
                version: "*",
                resource,
                subresource: "",
                namespace: attributes.namespace,
                name,
                fields: None,
            },
        };
        matches!(self.authz.authorize(&request).await, Decision::Allow(_))
    }

    async fn check_role(&self, attributes: &Attributes<'_>, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        let aggregates = |role: &Object| role.at(&["aggregationRule"]).cloned();
        let same = |old: &Object| old.at(&["rules"]) == new.at(&["rules"]) && aggregates(old) == aggregates(new);
        if old.is_some_and(same) {
            return Ok(());
        }
        let name = if attributes.operation == Operation::Create {
            ""
        } else {
            new.name()
        };
        if self
            .may(attributes, "escalate", &attributes.resource.plural, name)
            .await
        {
            return Ok(());
        }
        let forbidden = |why: &str| Status::forbidden(attributes.resource.about(), new.name(), why);
        if aggregates(new).is_some() {
            let everything = [Rule::all_resources(), Rule::all_urls()];
            if self
                .rbac
                .confirm_holds(attributes.user, attributes.namespace, &everything)
                .is_err()
            {
                return Err(forbidden(
                    "must have cluster-admin privileges to use an aggregationRule",
                ));
            }
        }
        let role: RoleObject = serde_json::from_value(Value::Object(new.0.clone())).unwrap_or_default();
        self.confirm(attributes, new, &role.rules)
    }

    async fn check_binding(&self, attributes: &Attributes<'_>, new: &Object) -> Result<(), Status> {
        // Validation refuses what does not read.
        let Ok(binding) = serde_json::from_value::<BindingObject>(Value::Object(new.0.clone())) else {
            return Ok(());
        };
        let resource = if &*binding.role_ref.kind == "Role" {
            "roles"
        } else {
            "clusterroles"
        };
        if self.may(attributes, "bind", resource, &binding.role_ref.name).await {
            return Ok(());
        }
        match self.rbac.role(attributes.namespace, &binding.role_ref) {
            Ok(rules) => self.confirm(attributes, new, &rules),
            Err(refused) => Err(told(attributes, new, refused)),
        }
    }

    fn confirm(&self, attributes: &Attributes<'_>, new: &Object, rules: &[Rule]) -> Result<(), Status> {
        self.rbac
            .confirm_holds(attributes.user, attributes.namespace, rules)
            .map_err(|refused| told(attributes, new, refused))
    }
}

fn told(attributes: &Attributes<'_>, new: &Object, refused: Refused) -> Status {
    match refused {
        Refused::Escalation(why) => Status::forbidden(attributes.resource.about(), new.name(), &why),
        Refused::NoRole { plural, name } => Status::not_found(
            About {
                group: GROUP,
                resource: plural,
            },
            &name,
        ),
    }
}

impl Admit for Escalation {
    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(new) = new else { return Ok(()) };
            if *attributes.resource.group != *GROUP || attributes.user.in_group(MASTERS) {
                return Ok(());
            }
            match &*attributes.resource.plural {
                "roles" | "clusterroles" => self.check_role(attributes, new, old).await,
                _ => {
                    let same = |old: &Object| {
                        old.at(&["roleRef"]) == new.at(&["roleRef"]) && old.at(&["subjects"]) == new.at(&["subjects"])
                    };
                    // What only lets go of the object, as the garbage collector does, grants nothing.
                    if old.is_some_and(same) {
                        return Ok(());
                    }
                    self.check_binding(attributes, new).await
                }
            }
        })
    }
}

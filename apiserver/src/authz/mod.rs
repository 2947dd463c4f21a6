//! May they? Comes in: who, and the verb on what. Goes out: a decision with its reason. Asks nobody over the network.
//! Knows the roles and the graph of nodes from what the caches tell, never from the store. Members of `system:masters`
//! may do everything, also before the caches have synced.

mod cover;
pub mod feed;
pub mod node;
pub mod rbac;
pub mod rules;

use futures::future::BoxFuture;

use crate::identity::{MASTERS, User};
use crate::status::{About, Status};

/// What is asked for, as `authorization.k8s.io` describes it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub user: &'a User,
    /// `get`, `list`, `create` …; for a path that is no resource the lower-case HTTP method.
    pub verb: &'a str,
    pub target: Target<'a>,
}

#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    Resource {
        group: &'a str,
        version: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
        /// What a list or watch is narrowed to.
        fields: Option<&'a api::selector::Fields>,
    },
    Path(&'a str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    /// Nobody allowed it; the reason may be empty.
    NoOpinion(String),
    Deny(String),
}

/// One authorizer of the chain (Node, RBAC).
pub trait Authorizer: Send + Sync + std::fmt::Debug {
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Decision>;
    /// All that `user` may do in `namespace`, as far as this authorizer can list it.
    fn rules_for(&self, _user: &User, _namespace: &str) -> Rules {
        Rules::default()
    }
}

/// What a user may do, and why the list may be incomplete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    pub rules: Vec<rules::Rule>,
    pub errors: Vec<String>,
}

/// The authorizers in order. The first that allows or denies decides.
#[derive(Debug, Default)]
pub struct Chain {
    pub authorizers: Vec<Box<dyn Authorizer>>,
}

impl Chain {
    pub async fn authorize(&self, request: &Request<'_>) -> Decision {
        if request.user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        for authorizer in &self.authorizers {
            match authorizer.authorize(request).await {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided @ (Decision::Allow(_) | Decision::Deny(_)) => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    pub fn rules_for(&self, user: &User, namespace: &str) -> Rules {
        let mut all = Rules::default();
        for authorizer in &self.authorizers {
            let Rules { rules, errors } = authorizer.rules_for(user, namespace);
            all.rules.extend(rules);
            all.errors.extend(errors);
        }
        all
    }

    /// Allowed, or the 403 that says what was asked.
    pub async fn require(&self, request: &Request<'_>) -> Result<(), Status> {
        match self.authorize(request).await {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) | Decision::Deny(reason) => Err(forbidden(request, &reason)),
        }
    }
}

/// The refusal, worded as apiserver/pkg/endpoints/handlers/responsewriters/errors.go (1.36) does.
pub fn forbidden(request: &Request<'_>, reason: &str) -> Status {
    let user = &request.user.name;
    let verb = request.verb;
    let suffix = if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    };
    match request.target {
        Target::Path(path) => {
            Status::forbidden_path(format!("forbidden: User {user:?} cannot {verb} path {path:?}{suffix}"))
        }
        Target::Resource {
            group,
            resource,
            subresource,
            namespace,
            name,
            ..
        } => {
            let what = if subresource.is_empty() {
                resource.to_owned()
            } else {
                format!("{resource}/{subresource}")
            };
            let place = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {namespace:?}")
            };
            let why = format!("User {user:?} cannot {verb} resource {what:?} in API group {group:?} {place}{suffix}");
            Status::forbidden(About { group, resource }, name, &why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refusals_read_as_upstreams() {
        let user = User::new("bob", &[]);
        let check = |verb, target, want: &'static str| {
            let user = user.clone();
            async move {
                let request = Request {
                    user: &user,
                    verb,
                    target,
                };
                let status = Chain::default().require(&request).await.unwrap_err();
                assert_eq!((status.code, status.message.as_str()), (403, want));
            }
        };
        let pods = |namespace, name, subresource| Target::Resource {
            group: "",
            version: "v1",
            resource: "pods",
            subresource,
            namespace,
            name,
            fields: None,
        };
        check(
            "list",
            pods("default", "", ""),
            r#"pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default""#,
        )
        .await;
        check(
            "get",
            pods("", "p", "log"),
            r#"pods "p" is forbidden: User "bob" cannot get resource "pods/log" in API group "" at the cluster scope"#,
        )
        .await;
        check(
            "get",
            Target::Path("/metrics"),
            r#"forbidden: User "bob" cannot get path "/metrics""#,
        )
        .await;
    }

    #[tokio::test]
    async fn masters_may_do_everything() {
        let user = User::apiserver();
        let request = Request {
            user: &user,
            verb: "get",
            target: Target::Path("/"),
        };
        assert_eq!(
            Chain::default().authorize(&request).await,
            Decision::Allow(String::new())
        );
    }
}

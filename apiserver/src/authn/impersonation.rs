//! Acting as somebody else: the `Impersonate-…` headers, each of which the caller must be allowed to use.
//! After apiserver/pkg/endpoints/filters/impersonation (1.36).

use http::HeaderMap;

use super::front_proxy::extra;
use crate::authz::{Chain, Request, Target};
use crate::identity::{ANONYMOUS, AUTHENTICATED, SERVICE_ACCOUNTS, UNAUTHENTICATED, User};
use crate::status::Status;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user that the request is to be served as. `None`: no such header.
pub async fn apply(caller: &User, headers: &HeaderMap, authz: &Chain) -> Result<Option<User>, Status> {
    let Some(mut user) = requested(headers)? else {
        return Ok(None);
    };
    for check in checks(&user) {
        authz
            .require(&Request {
                user: caller,
                verb: "impersonate",
                target: check.target(),
            })
            .await?;
    }
    if let Some((namespace, _)) = user.as_service_account()
        && user.groups.is_empty()
    {
        user.groups = vec![SERVICE_ACCOUNTS.into(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
    }
    let group = if user.name == ANONYMOUS {
        UNAUTHENTICATED
    } else {
        AUTHENTICATED
    };
    if !user.in_group(AUTHENTICATED) && !user.in_group(UNAUTHENTICATED) {
        user.add_group(group);
    }
    Ok(Some(user))
}

/// What must be allowed for one header.
struct Check<'a> {
    group: &'static str,
    resource: &'static str,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Check<'a> {
    fn target(&self) -> Target<'a> {
        Target::Resource {
            group: self.group,
            version: "v1",
            resource: self.resource,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            fields: None,
        }
    }
}

fn checks(user: &User) -> Vec<Check<'_>> {
    let mut checks = vec![match user.as_service_account() {
        Some((namespace, name)) => Check {
            group: "",
            resource: "serviceaccounts",
            subresource: "",
            namespace,
            name,
        },
        None => Check {
            group: "",
            resource: "users",
            subresource: "",
            namespace: "",
            name: &user.name,
        },
    }];
    checks.extend(user.groups.iter().map(|name| Check {
        group: "",
        resource: "groups",
        subresource: "",
        namespace: "",
        name,
    }));
    for (key, values) in &user.extra {
        checks.extend(values.iter().map(|name| Check {
            group: "authentication.k8s.io",
            resource: "userextras",
            subresource: key,
            namespace: "",
            name,
        }));
    }
    if !user.uid.is_empty() {
        checks.push(Check {
            group: "authentication.k8s.io",
            resource: "uids",
            subresource: "",
            namespace: "",
            name: &user.uid,
        });
    }
    checks
}

fn requested(headers: &HeaderMap) -> Result<Option<User>, Status> {
    let one = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut user = User {
        name: one(USER).to_owned(),
        uid: one(UID).to_owned(),
        groups: headers
            .get_all(GROUP)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .map(str::to_owned)
            .collect(),
        ..User::default()
    };
    extra(headers, EXTRA, &mut user);
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user == User::default() {
        return Ok(None);
    }
    Err(Status::internal("requested attributes without impersonating a user"))
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;

    use super::*;
    use crate::authz::{Authorizer, Decision};

    /// Allows what its list holds: `resource/subresource namespace name`.
    #[derive(Debug)]
    struct Only(&'static [&'static str]);
    impl Authorizer for Only {
        fn authorize<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Decision> {
            let Target::Resource {
                resource,
                subresource,
                namespace,
                name,
                ..
            } = request.target
            else {
                unreachable!("impersonation asks for resources")
            };
            let line = format!("{resource}/{subresource} {namespace} {name}");
            Box::pin(std::future::ready(if self.0.contains(&line.as_str()) {
                Decision::Allow(String::new())
            } else {
                Decision::NoOpinion(String::new())
            }))
        }
    }

    async fn check(
        allowed: &'static [&'static str],
        headers: &[(&'static str, &str)],
        want: Result<Option<&str>, u16>,
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let chain = Chain {
            authorizers: vec![Box::new(Only(allowed))],
        };
        let got = apply(&User::new("caller", &[]), &map, &chain).await;
        let got = got.map(|user| user.map(|u| format!("{} {}", u.name, u.groups.join(","))));
        match (&got, want) {
            (Ok(have), Ok(want)) => assert_eq!(have.as_deref(), want),
            (Err(status), Err(code)) => assert_eq!(status.code, code),
            _ => panic!("{got:?} is not {want:?}"),
        }
    }

    #[tokio::test]
    async fn every_header_must_be_allowed() {
        check(&[], &[], Ok(None)).await;
        check(&[], &[("impersonate-user", "bob")], Err(403)).await;
        check(
            &["users/  bob"],
            &[("impersonate-user", "bob")],
            Ok(Some("bob system:authenticated")),
        )
        .await;
        check(
            &["users/  bob"],
            &[("impersonate-user", "bob"), ("impersonate-group", "dev")],
            Err(403),
        )
        .await;
        check(
            &["users/  bob", "groups/  dev"],
            &[("impersonate-user", "bob"), ("impersonate-group", "dev")],
            Ok(Some("bob dev,system:authenticated")),
        )
        .await;
        check(
            &["users/  bob", "userextras/scope  one"],
            &[("impersonate-user", "bob"), ("impersonate-extra-scope", "one")],
            Ok(Some("bob system:authenticated")),
        )
        .await;
        check(
            &["serviceaccounts/ ns sa"],
            &[("impersonate-user", "system:serviceaccount:ns:sa")],
            Ok(Some(
                "system:serviceaccount:ns:sa system:serviceaccounts,system:serviceaccounts:ns,system:authenticated",
            )),
        )
        .await;
        check(&["groups/  dev"], &[("impersonate-group", "dev")], Err(500)).await;
    }
}

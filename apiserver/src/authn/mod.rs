//! Who is it? Comes in: the connection's [`Peer`] and the request's head. Goes out: a [`User`], or 401.
//! It knows credentials and no permissions; only `impersonation` asks what the caller may do. A credential that is
//! presented and wrong is 401, never anonymous.

pub mod front_proxy;
pub mod impersonation;
pub mod jws;
pub mod lookup;
pub mod service_account;
pub mod x509;

use std::sync::Arc;

use futures::future::BoxFuture;
use http::header::AUTHORIZATION;

use crate::identity::{ANONYMOUS, AUTHENTICATED, Peer, UNAUTHENTICATED, User};
use crate::status::Status;

/// The key of `extra` that names the credential.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub user: User,
    /// The audiences for which it is good, out of those that were asked for.
    pub audiences: Vec<String>,
}

/// One kind of bearer token. `Ok(None)`: this is none of mine, ask the next. `Err` is a reason for the log and for
/// TokenReview; a request is only told 401.
pub trait Tokens: Send + Sync + std::fmt::Debug {
    fn verify<'a>(&'a self, token: &'a str, audiences: &'a [String])
    -> BoxFuture<'a, Result<Option<Verified>, String>>;
}

/// All the ways to know a caller, in upstream's order: front proxy, client certificate, bearer token, anonymous.
#[derive(Debug, Clone, Default)]
pub struct Authn {
    pub front_proxy: front_proxy::FrontProxy,
    pub tokens: Vec<Arc<dyn Tokens>>,
    /// For whom a token must be meant to be good here.
    pub audiences: Vec<String>,
    /// Whether a request without credentials is `system:anonymous`, who may what the roles say.
    pub anonymous: bool,
}

impl Authn {
    pub async fn authenticate(&self, peer: &Peer, head: &http::request::Parts) -> Result<User, Status> {
        let mut user = self.find(peer, head).await?;
        if user.name == ANONYMOUS {
            user.add_group(UNAUTHENTICATED);
        } else {
            user.add_group(AUTHENTICATED);
        }
        Ok(user)
    }

    async fn find(&self, peer: &Peer, head: &http::request::Parts) -> Result<User, Status> {
        if let Peer::Internal(user) = peer {
            return Ok(User::clone(user));
        }
        if let Some(user) = self.front_proxy.authenticate(peer, &head.headers) {
            return Ok(user);
        }
        let certificate = x509::authenticate(peer, jiff::Timestamp::now());
        if let Ok(Some(user)) = certificate {
            return Ok(user);
        }
        let mut presented = certificate.is_err();
        if let Some(token) = bearer(&head.headers) {
            presented = true;
            match self.verify(token, &self.audiences).await {
                Ok(Some(verified)) => return Ok(verified.user),
                Ok(None) => {}
                Err(reason) => tracing::debug!(reason, "bearer token refused"),
            }
        }
        if presented || !self.anonymous {
            return Err(Status::unauthorized());
        }
        Ok(User::anonymous())
    }

    /// Whose token it is. `Ok(None)`: nobody's that we know.
    pub async fn verify(&self, token: &str, audiences: &[String]) -> Result<Option<Verified>, String> {
        let mut reasons = Vec::new();
        for tokens in &self.tokens {
            match tokens.verify(token, audiences).await {
                Ok(Some(verified)) => return Ok(Some(verified)),
                Ok(None) => {}
                Err(reason) => reasons.push(reason),
            }
        }
        if reasons.is_empty() {
            Ok(None)
        } else {
            Err(reasons.join(", "))
        }
    }
}

fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Certificate, Certified};

    #[derive(Debug)]
    struct Table;
    impl Tokens for Table {
        fn verify<'a>(&'a self, token: &'a str, _: &'a [String]) -> BoxFuture<'a, Result<Option<Verified>, String>> {
            let answer = match token {
                "good" => Ok(Some(Verified {
                    user: User {
                        name: "tom".into(),
                        ..User::default()
                    },
                    audiences: Vec::new(),
                })),
                "expired" => Err("expired".into()),
                _ => Ok(None),
            };
            Box::pin(std::future::ready(answer))
        }
    }

    async fn check(certificate: Certificate, authorization: &str, anonymous: bool, want: Result<&str, u16>) {
        let authn = Authn {
            tokens: vec![Arc::new(Table)],
            anonymous,
            ..Authn::default()
        };
        let peer = Peer::Tls {
            certificate,
            address: ([127, 0, 0, 1], 1).into(),
        };
        let mut request = http::Request::get("/api");
        if !authorization.is_empty() {
            request = request.header(AUTHORIZATION, authorization);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let got = authn.authenticate(&peer, &head).await;
        match got {
            Ok(user) => {
                assert_eq!(Ok(user.name.as_str()), want, "{authorization}");
                assert_eq!(user.in_group(AUTHENTICATED), user.name != ANONYMOUS);
            }
            Err(status) => assert_eq!(Err(status.code), want, "{authorization}"),
        }
    }

    #[tokio::test]
    async fn a_wrong_credential_is_never_anonymous() {
        let client = || {
            let user = User {
                name: "carla".into(),
                ..User::default()
            };
            let expires = jiff::Timestamp::MAX;
            Certificate::Verified {
                client: Some(Arc::new(Certified { user, expires })),
                front_proxy: None,
            }
        };
        let proxy = Certificate::Verified {
            client: None,
            front_proxy: Some("front-proxy-client".into()),
        };
        check(proxy, "", true, Err(401)).await;
        check(Certificate::None, "", true, Ok(ANONYMOUS)).await;
        check(Certificate::None, "", false, Err(401)).await;
        check(Certificate::None, "Bearer good", true, Ok("tom")).await;
        check(Certificate::None, "bearer  good", true, Ok("tom")).await;
        check(Certificate::None, "Bearer expired", true, Err(401)).await;
        check(Certificate::None, "Bearer unknown", true, Err(401)).await;
        check(client(), "", true, Ok("carla")).await;
        check(client(), "Bearer expired", true, Ok("carla")).await;
        check(Certificate::Refused, "", true, Err(401)).await;
        check(Certificate::Refused, "Bearer good", true, Ok("tom")).await;
    }
}

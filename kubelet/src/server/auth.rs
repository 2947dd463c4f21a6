//! Who asks the node for something, and whether the API server lets them: client certificates, TokenReview, SubjectAccessReview.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use http::{HeaderMap, Method};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::api::{Api, PostParams};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use crate::config::{Authorization, Server};

/// How long answers are believed; upstream's defaults.
const TOKENS: Duration = Duration::from_secs(120);
const ALLOWED: Duration = Duration::from_secs(300);
const DENIED: Duration = Duration::from_secs(30);
/// More than the clients of one node; the rest is asked for anew.
const REMEMBERED: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 401.
    Unauthenticated,
    /// 403, in upstream's words.
    Forbidden(String),
    /// 500: the API server could not be asked.
    Unknown(String),
}

/// Answers, and until when they are believed.
type Remembered<K, V> = Mutex<HashMap<K, (V, Instant)>>;

pub struct Gate {
    client: kube::Client,
    server: Server,
    node: String,
    tokens: Remembered<[u8; 32], Option<User>>,
    /// By user, verb and subresource.
    decisions: Remembered<(User, String, String), bool>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    pub fn new(client: kube::Client, server: Server, node: String) -> Self {
        Gate {
            client,
            server,
            node,
            tokens: Mutex::default(),
            decisions: Mutex::default(),
        }
    }

    pub async fn pass(
        &self,
        certificate: Option<&CertificateDer<'_>>,
        headers: &HeaderMap,
        method: &Method,
        path: &str,
    ) -> Result<User, Refusal> {
        let user = self.who(certificate, headers).await?;
        if self.server.authorization == Authorization::AlwaysAllow {
            return Ok(user);
        }
        let verb = verb(method);
        let mut subresources = subresources(path);
        let last = subresources.pop().unwrap_or("proxy");
        for subresource in subresources {
            if self.may(&user, verb, subresource).await? {
                return Ok(user);
            }
        }
        if self.may(&user, verb, last).await? {
            return Ok(user);
        }
        Err(Refusal::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{last}])",
            user.name
        )))
    }

    async fn who(&self, certificate: Option<&CertificateDer<'_>>, headers: &HeaderMap) -> Result<User, Refusal> {
        if let Some(user) = certificate.and_then(of_certificate) {
            return Ok(user);
        }
        let token = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = token.and_then(|t| t.strip_prefix("Bearer ").or_else(|| t.strip_prefix("bearer ")));
        if let Some(token) = token.filter(|_| self.server.webhook_authentication) {
            return self.of_token(token).await?.ok_or(Refusal::Unauthenticated);
        }
        if self.server.anonymous && token.is_none() {
            let groups = vec!["system:unauthenticated".to_owned()];
            return Ok(User {
                name: "system:anonymous".to_owned(),
                uid: String::new(),
                groups,
            });
        }
        Err(Refusal::Unauthenticated)
    }

    async fn of_token(&self, token: &str) -> Result<Option<User>, Refusal> {
        let mut key = [0; 32];
        key.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref());
        let known = lock(&self.tokens)
            .get(&key)
            .filter(|(_, until)| *until > Instant::now())
            .cloned();
        if let Some((user, _)) = known {
            return Ok(user);
        }
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let spec = TokenReviewSpec {
            token: token.to_owned(),
            audiences: None,
        };
        let review = TokenReview {
            spec,
            ..TokenReview::default()
        };
        let answer = reviews.create(&PostParams::default(), &review).await.map_err(unknown)?;
        let status = answer.status.unwrap_or_default();
        let user = status
            .user
            .filter(|_| status.authenticated == Some(true))
            .map(|u| User {
                name: u.username.unwrap_or_default(),
                uid: u.uid.unwrap_or_default(),
                groups: u.groups.unwrap_or_default(),
            });
        let until = Instant::now() + TOKENS;
        remember(&self.tokens, key, (user.clone(), until));
        Ok(user)
    }

    async fn may(&self, user: &User, verb: &str, subresource: &str) -> Result<bool, Refusal> {
        let key = (user.clone(), verb.to_owned(), subresource.to_owned());
        if let Some((allowed, _)) = lock(&self.decisions)
            .get(&key)
            .filter(|(_, until)| *until > Instant::now())
        {
            return Ok(*allowed);
        }
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()).filter(|u| !u.is_empty()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = reviews.create(&PostParams::default(), &review).await.map_err(unknown)?;
        let allowed = answer.status.is_some_and(|s| s.allowed);
        let until = Instant::now() + if allowed { ALLOWED } else { DENIED };
        remember(&self.decisions, key, (allowed, until));
        Ok(allowed)
    }
}

fn unknown(error: kube::Error) -> Refusal {
    Refusal::Unknown(daemon::chain(&error))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

fn remember<K: std::hash::Hash + Eq, V>(map: &Remembered<K, V>, key: K, value: (V, Instant)) {
    let mut map = lock(map);
    if map.len() >= REMEMBERED {
        let now = Instant::now();
        map.retain(|_, (_, until)| *until > now);
        if map.len() >= REMEMBERED {
            map.clear();
        }
    }
    map.insert(key, value);
}

fn of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    let name = parsed.subject().iter_common_name().next().and_then(text)?;
    let mut groups: Vec<String> = parsed.subject().iter_organization().filter_map(text).collect();
    groups.push("system:authenticated".to_owned());
    Some(User {
        name,
        uid: String::new(),
        groups,
    })
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// What of `nodes` a path stands for: any one suffices, and the broad one is asked for last.
fn subresources(path: &str) -> Vec<&'static str> {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "checkpoint" => vec!["checkpoint"],
        "healthz" => vec!["healthz", "proxy"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "configz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_parts_of_nodes() {
        for (path, want) in [
            ("/stats/summary", &["stats"][..]),
            ("/metrics/resource", &["metrics"]),
            ("/logs/x", &["log"]),
            ("/pods", &["pods", "proxy"]),
            ("/exec/a/b/c", &["proxy"]),
            ("/containerLogs/a/b/c", &["proxy"]),
        ] {
            assert_eq!(subresources(path), want, "{path}");
        }
        assert_eq!((verb(&Method::POST), verb(&Method::GET)), ("create", "get"));
    }
}

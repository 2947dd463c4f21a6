//! Service account tokens bound to pods, asked for through the API and asked for again before they end.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::api::{Api, PostParams};
use tokio::time::Instant;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    pub namespace: String,
    pub account: String,
    pub pod: String,
    pub uid: String,
    /// Empty: the API server's own.
    pub audience: String,
    pub seconds: i64,
}

#[derive(Debug, Clone)]
pub struct Token {
    pub text: String,
    pub refresh: Instant,
}

/// Kept until they are due, so that a pod that is looked at often asks once.
pub struct Tokens {
    client: kube::Client,
    held: Mutex<HashMap<Request, Token>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    pub fn new(client: kube::Client) -> Self {
        Tokens {
            client,
            held: Mutex::default(),
        }
    }

    pub async fn get(&self, request: &Request) -> Result<Token, kube::Error> {
        if let Some(token) = self.lock().get(request).filter(|t| t.refresh > Instant::now()) {
            return Ok(token.clone());
        }
        let token = self.ask(request).await?;
        self.lock().insert(request.clone(), token.clone());
        Ok(token)
    }

    pub fn forget(&self, uid: &str) {
        self.lock().retain(|request, _| request.uid != uid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Request, Token>> {
        self.held.lock().expect("no holder of this lock panics")
    }

    async fn ask(&self, request: &Request) -> Result<Token, kube::Error> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &request.namespace);
        let body = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![request.audience.clone()]).filter(|a| !a[0].is_empty()),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(request.pod.clone()),
                    uid: Some(request.uid.clone()),
                }),
                expiration_seconds: Some(request.seconds),
            }),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(&request.account, &PostParams::default(), &body)
            .await?;
        let status = answer.status.unwrap_or_default();
        let ends = status
            .expiration_timestamp
            .map(|t| t.0.duration_since(jiff::Timestamp::now()));
        // Without an end, or with one in the past by this node's clock, it is asked for again soon.
        let life = ends.and_then(|d| Duration::try_from(d).ok()).unwrap_or(Duration::ZERO);
        Ok(Token {
            text: status.token.unwrap_or_default(),
            refresh: Instant::now() + refresh_after(life),
        })
    }
}

/// At four fifths of its life, and at least daily. A token that is already over is asked for again soon, not at once.
fn refresh_after(life: Duration) -> Duration {
    life.mul_f64(0.8)
        .min(Duration::from_secs(24 * 3600))
        .max(Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_at_four_fifths_of_their_life_and_daily() {
        let s = Duration::from_secs;
        assert_eq!(refresh_after(s(3600)), s(2880));
        assert_eq!(refresh_after(s(3600 * 24 * 365)), s(24 * 3600));
        assert_eq!(refresh_after(s(0)), s(10));
    }
}

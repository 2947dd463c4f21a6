//! How a part reaches the API: under its own identity and, for controllers, under those of their service accounts.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::client::Body;
use kube::config::{AuthInfo, Config, KubeConfigOptions, Kubeconfig};
use tokio::sync::Mutex as AsyncMutex;
use tracing::debug;

use crate::BoxError;

/// How a part reaches the API. In one process with the API server the clients are in-memory connections.
pub trait Clients: Send + Sync + 'static {
    /// The client with the part's own identity.
    fn own(&self) -> kube::Client;
    /// The client that acts as a service account.
    fn service_account(&self, namespace: &str, name: &str) -> kube::Client;
}

/// Clients over the network, from a kubeconfig file. Service accounts are reached with tokens that the part's own
/// identity requests for them and renews before they end.
pub struct KubeconfigClients {
    own: kube::Client,
    /// The same server without an identity: each service account adds its token to it.
    bare: kube::Client,
    accounts: Mutex<HashMap<(String, String), kube::Client>>,
}

/// The kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the kubeconfig")]
    Read(#[source] kube::config::KubeconfigError),
    #[error("making a client from the kubeconfig")]
    Client(#[source] Box<kube::Error>),
}

impl fmt::Debug for KubeconfigClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KubeconfigClients")
    }
}

impl KubeconfigClients {
    /// Clients for the current context of a kubeconfig file. `agent` is what the part calls itself: the manager of what
    /// it writes.
    pub async fn new(path: &Path, agent: &'static str) -> Result<Self, Error> {
        let file = Kubeconfig::read_from(path).map_err(Error::Read)?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options).await;
        let mut config = config.map_err(Error::Read)?;
        config
            .headers
            .push((header::USER_AGENT, HeaderValue::from_static(agent)));
        Self::from_config(config)
    }

    pub fn from_config(mut config: Config) -> Result<Self, Error> {
        // Watches are long and quiet; their ends are counted by the informers.
        config.read_timeout = None;
        let client = |config: Config| kube::Client::try_from(config).map_err(|error| Error::Client(Box::new(error)));
        let own = client(config.clone())?;
        config.auth_info = AuthInfo::default();
        Ok(KubeconfigClients {
            own,
            bare: client(config)?,
            accounts: Mutex::default(),
        })
    }
}

impl Clients for KubeconfigClients {
    fn own(&self) -> kube::Client {
        self.own.clone()
    }

    fn service_account(&self, namespace: &str, name: &str) -> kube::Client {
        let mut accounts = self.accounts.lock().expect("no holder of this lock panics");
        accounts
            .entry((namespace.to_owned(), name.to_owned()))
            .or_insert_with(|| as_account(self.own.clone(), self.bare.clone(), namespace, name))
            .clone()
    }
}

/// A client that sends what it is given through `bare` with a token that `own` requests for the account.
fn as_account(own: kube::Client, bare: kube::Client, namespace: &str, name: &str) -> kube::Client {
    let account = Arc::new(Account {
        own,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        token: AsyncMutex::new(None),
    });
    let service = tower::service_fn(move |mut request: Request<Body>| {
        let (account, bare) = (account.clone(), bare.clone());
        async move {
            let token = account.token().await?;
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
            let answer = bare.send(request).await?;
            if answer.status() == StatusCode::UNAUTHORIZED {
                account.reject(&token).await;
            }
            Ok::<_, BoxError>(answer)
        }
    });
    kube::Client::new(service, namespace)
}

struct Account {
    own: kube::Client,
    namespace: String,
    name: String,
    /// Held while a token is requested, so that many callers cause one request.
    token: AsyncMutex<Option<Token>>,
}

struct Token {
    header: HeaderValue,
    renew: Timestamp,
}

#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("requesting a token")]
    Request(#[source] Box<kube::Error>),
    #[error("the answer to a token request holds no usable token")]
    Missing,
}

impl Account {
    async fn token(&self) -> Result<HeaderValue, TokenError> {
        let mut held = self.token.lock().await;
        if let Some(token) = &*held
            && Timestamp::now() < token.renew
        {
            return Ok(token.header.clone());
        }
        let now = Timestamp::now();
        let answer = self.request().await?;
        let status = answer.status.ok_or(TokenError::Missing)?;
        let (Some(text), Some(ends)) = (status.token, status.expiration_timestamp) else {
            return Err(TokenError::Missing);
        };
        let mut header = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| TokenError::Missing)?;
        header.set_sensitive(true);
        // At four fifths of its life, as a projected token is renewed.
        let life = ends.0.duration_since(now).unsigned_abs();
        let renew = now + Duration::from_secs(life.as_secs() / 5 * 4);
        *held = Some(Token {
            header: header.clone(),
            renew,
        });
        Ok(header)
    }

    async fn request(&self) -> Result<TokenRequest, TokenError> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.own.clone(), &self.namespace);
        let asked = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(3600),
                ..Default::default()
            }),
            ..Default::default()
        };
        let params = PostParams::default();
        match accounts.create_token_request(&self.name, &params, &asked).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // The accounts of controllers are made by who needs them, as upstream does.
                debug!(
                    namespace = self.namespace,
                    name = self.name,
                    "making the service account"
                );
                let account = ServiceAccount {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        namespace: Some(self.namespace.clone()),
                        ..Default::default()
                    },
                    ..Default::default()
                };
                match accounts.create(&params, &account).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    other => drop(other.map_err(|error| TokenError::Request(Box::new(error)))?),
                }
                let again = accounts.create_token_request(&self.name, &params, &asked).await;
                again.map_err(|error| TokenError::Request(Box::new(error)))
            }
            other => other.map_err(|error| TokenError::Request(Box::new(error))),
        }
    }

    /// Forgets a token that was refused: the account may have been made anew.
    async fn reject(&self, header: &HeaderValue) {
        let mut held = self.token.lock().await;
        if held.as_ref().is_some_and(|token| token.header == header) {
            *held = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use http::Response;
    use k8s_openapi::api::core::v1::Namespace;

    use super::*;

    /// A server that gives out numbered tokens for one account and refuses the first of them.
    fn server(tokens: Arc<AtomicU32>) -> kube::Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let tokens = tokens.clone();
            async move {
                let answer = |code: u16, body: String| {
                    Ok::<_, BoxError>(
                        Response::builder()
                            .status(code)
                            .body(Body::from(body.into_bytes()))
                            .unwrap(),
                    )
                };
                if request.uri().path().ends_with("/serviceaccounts/a/token") {
                    let n = tokens.fetch_add(1, Ordering::SeqCst);
                    let ends = Timestamp::now() + Duration::from_secs(3600);
                    return answer(
                        201,
                        format!(
                            r#"{{"metadata":{{}},"spec":{{"audiences":[]}},"status":{{"token":"t{n}","expirationTimestamp":"{ends}"}}}}"#
                        ),
                    );
                }
                match request.headers()[header::AUTHORIZATION].to_str().unwrap() {
                    "Bearer t0" => answer(401, r#"{"kind":"Status","status":"Failure","code":401}"#.into()),
                    _ => answer(
                        200,
                        r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"x"}}"#.into(),
                    ),
                }
            }
        });
        kube::Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_token_is_kept_until_it_is_refused() {
        let tokens = Arc::new(AtomicU32::new(0));
        let client = server(tokens.clone());
        let account = as_account(client.clone(), client, "n", "a");
        let namespaces: Api<Namespace> = Api::all(account);
        assert!(namespaces.get("x").await.is_err());
        for _ in 0..3 {
            namespaces.get("x").await.unwrap();
        }
        assert_eq!(tokens.load(Ordering::SeqCst), 2);
    }
}

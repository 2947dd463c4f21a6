//! What a process answers about itself: /healthz, /livez, /readyz for everybody, /metrics for who may read them.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::metrics::Registry;

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// The checks and metrics of one process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<Vec<(&'static str, Check)>>>,
    metrics: Registry,
    /// Asks the API server who may read the metrics; without one nobody may.
    reviewer: Option<kube::Client>,
}

#[derive(Clone)]
struct Check {
    live: bool,
    test: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Health")
    }
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Live,
    Ready,
}

impl Health {
    pub fn new(metrics: Registry) -> Self {
        Health {
            metrics,
            ..Health::default()
        }
    }

    /// Whoever `client`'s server lets read /metrics may.
    pub fn reviewed_by(mut self, client: kube::Client) -> Self {
        self.reviewer = Some(client);
        self
    }

    /// A test that has to pass for the process to be ready. It runs at each question and must not block.
    pub fn ready(&self, name: &'static str, test: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.add(name, false, Arc::new(test));
    }

    /// A test that has to pass for the process to be alive, and ready.
    pub fn live(&self, name: &'static str, test: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.add(name, true, Arc::new(test));
    }

    fn add(&self, name: &'static str, live: bool, test: Arc<dyn Fn() -> Result<(), String> + Send + Sync>) {
        let mut checks = self.checks.lock().expect("no holder of this lock panics");
        checks.push((name, Check { live, test }));
    }

    /// The routes, for a process that has a server already.
    pub fn router(&self) -> Router {
        Router::new()
            .route(
                "/healthz",
                get(|State(health): State<Health>, query| health.whole(About::Ready, "healthz", query)),
            )
            .route(
                "/livez",
                get(|State(health): State<Health>, query| health.whole(About::Live, "livez", query)),
            )
            .route(
                "/readyz",
                get(|State(health): State<Health>, query| health.whole(About::Ready, "readyz", query)),
            )
            .route("/healthz/{check}", get(one))
            .route("/livez/{check}", get(one))
            .route("/readyz/{check}", get(one))
            .route("/metrics", get(metrics))
            .with_state(self.clone())
    }

    // As k8s.io/apiserver/pkg/server/healthz prints it.
    async fn whole(self, about: About, name: &'static str, Query(query): Query<HashMap<String, String>>) -> Response {
        let checks = self.checks.lock().expect("no holder of this lock panics").clone();
        let excluded = query.get("exclude").map(String::as_str);
        let mut lines = String::from("[+]ping ok\n");
        let mut failed = false;
        for (check, Check { live, test }) in checks {
            if about == About::Live && !live || excluded == Some(check) {
                continue;
            }
            match test() {
                Ok(()) => lines.push_str(&format!("[+]{check} ok\n")),
                Err(reason) => {
                    debug!(check, reason, "check failed");
                    failed = true;
                    lines.push_str(&format!("[-]{check} failed: reason withheld\n"));
                }
            }
        }
        if failed {
            let text = format!("{lines}{name} check failed\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        } else if query.contains_key("verbose") {
            format!("{lines}{name} check passed\n").into_response()
        } else {
            "ok".into_response()
        }
    }

    /// Serves over TLS until `stop`.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let acceptor = TlsAcceptor::from(tls);
        let router = self.router();
        let limit = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let permit = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                permit = limit.clone().acquire_owned() => permit.expect("nobody closes the semaphore"),
            };
            let socket = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => socket,
                    // Out of descriptors, or a client that left: the next one may fare better.
                    Err(error) => {
                        debug!(%error, "accept failed");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
            connections.spawn(async move {
                let _permit = permit;
                let handshake = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(socket));
                let Ok(Ok(stream)) = handshake.await else { return };
                let builder = Builder::new(TokioExecutor::new());
                if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                    debug!(%error, "connection ended");
                }
            });
        }
        connections.shutdown().await;
        Ok(())
    }
}

async fn one(State(health): State<Health>, Path(name): Path<String>) -> Response {
    if name == "ping" {
        return "ok".into_response();
    }
    let checks = health.checks.lock().expect("no holder of this lock panics").clone();
    match checks.into_iter().find(|(check, _)| *check == name) {
        None => StatusCode::NOT_FOUND.into_response(),
        Some((_, check)) => match (check.test)() {
            Ok(()) => "ok".into_response(),
            Err(reason) => {
                let text = format!("internal server error: {reason}\n");
                (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
            }
        },
    }
}

async fn metrics(State(health): State<Health>, headers: HeaderMap) -> Response {
    match permitted(health.reviewer.as_ref(), &headers).await {
        Ok(()) => {
            let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            (kind, health.metrics.render()).into_response()
        }
        Err(code) => code.into_response(),
    }
}

/// Asks the API server who the caller is and whether it may read the metrics.
async fn permitted(reviewer: Option<&kube::Client>, headers: &HeaderMap) -> Result<(), StatusCode> {
    let client = reviewer.ok_or(StatusCode::FORBIDDEN)?;
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or(StatusCode::UNAUTHORIZED)?;
    let unavailable = |error: kube::Error| {
        debug!(error = %crate::chain(&error), "review failed");
        StatusCode::SERVICE_UNAVAILABLE
    };
    let params = PostParams::default();
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: token.to_owned(),
            ..Default::default()
        },
        ..Default::default()
    };
    let review = Api::<TokenReview>::all(client.clone())
        .create(&params, &review)
        .await
        .map_err(unavailable)?;
    let user: UserInfo = review
        .status
        .filter(|status| status.authenticated == Some(true))
        .and_then(|status| status.user)
        .ok_or(StatusCode::UNAUTHORIZED)?;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some("/metrics".to_owned()),
                verb: Some("get".to_owned()),
            }),
            ..Default::default()
        },
        ..Default::default()
    };
    let review = Api::<SubjectAccessReview>::all(client.clone())
        .create(&params, &review)
        .await
        .map_err(unavailable)?;
    if review.status.is_some_and(|status| status.allowed) {
        Ok(())
    } else {
        Err(StatusCode::FORBIDDEN)
    }
}

/// Opens the listener of [`Health::serve`].
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn ask(health: &Health, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = health.router().oneshot(request).await.unwrap();
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_process_that_is_not_ready_is_still_alive() {
        let health = Health::default();
        health.ready("informers", || Err("not synced".into()));
        assert_eq!(ask(&health, "/livez").await, (200, "ok".into()));
        let (code, text) = ask(&health, "/readyz").await;
        assert_eq!(code, 500);
        assert_eq!(
            text,
            "[+]ping ok\n[-]informers failed: reason withheld\nreadyz check failed\n"
        );
        assert_eq!(ask(&health, "/readyz?exclude=informers").await.0, 200);
        assert_eq!(ask(&health, "/readyz/informers").await.0, 500);
        assert_eq!(ask(&health, "/readyz/none").await.0, 404);
    }

    #[tokio::test]
    async fn metrics_are_not_for_strangers() {
        assert_eq!(ask(&Health::default(), "/metrics").await.0, 403);
    }
}

//! A server on a memory store, and requests to it as one line each.

use std::net::SocketAddr;
use std::sync::Arc;

use apiserver::admission;
use apiserver::authn::Authn;
use apiserver::authz;
use apiserver::identity::{Certificate, Certified, Peer, User};
use apiserver::registry::{Registry, rows};
use apiserver::store::Memory;
use apiserver::{ApiServer, Parts};
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) struct Kit {
    pub(crate) server: ApiServer,
    user: Arc<User>,
    internal: bool,
    _tasks: JoinSet<()>,
}

/// An answer with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
    #[track_caller]
    pub(crate) fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.json()
    }
    /// The message of a refusal with `code`.
    #[track_caller]
    pub(crate) fn refused(self, code: u16) -> String {
        let status = self.expect(code);
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["code"], code);
        status["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Kit {
    pub(crate) async fn new() -> Kit {
        Kit::with(|_| {}).await
    }

    /// A server whose parts are changed before it is built.
    pub(crate) async fn with(change: impl FnOnce(&mut Parts)) -> Kit {
        let registry = Registry::new(rows::rows(), Arc::new(Memory::default())).await.unwrap();
        let mut parts = Parts::new(
            registry,
            Authn::default(),
            authz::Chain::default(),
            admission::Chain::default(),
        );
        change(&mut parts);
        let server = apiserver::build(parts);
        let mut tasks = JoinSet::new();
        let running = server.clone();
        tasks.spawn(async move { running.run(CancellationToken::new()).await.unwrap() });
        server.registry().caches().loaded().await;
        Kit {
            server,
            user: Arc::new(User::new("admin", &["system:masters"])),
            internal: false,
            _tasks: tasks,
        }
    }

    /// From now on requests come from inside the process.
    pub(crate) fn internal(&mut self) {
        self.internal = true;
    }

    pub(crate) fn act_as(&mut self, user: User) {
        self.user = Arc::new(user);
    }

    /// The router as one connection of this user sees it.
    pub(crate) fn router(&self) -> axum::Router {
        self.server.router().layer(axum::Extension(self.peer()))
    }

    fn peer(&self) -> Peer {
        if self.internal {
            return Peer::Internal(self.user.clone());
        }
        Peer::Tls {
            certificate: Certificate::Verified {
                client: Some(Arc::new(Certified {
                    user: User::clone(&self.user),
                    expires: jiff::Timestamp::MAX,
                })),
                front_proxy: None,
            },
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
        }
    }

    pub(crate) async fn send(&self, mut request: Request<Body>) -> http::Response<Body> {
        request.extensions_mut().insert(self.peer());
        self.server.router().oneshot(request).await.unwrap()
    }

    pub(crate) async fn whole(&self, request: Request<Body>) -> Answer {
        let (head, body) = self.send(request).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            code: head.status,
            headers: head.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap_or_else(|e| format!("{} binary bytes", e.as_bytes().len())),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.whole(Request::get(path).body(Body::empty()).unwrap()).await
    }
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.whole(Request::get(path).header("accept", accept).body(Body::empty()).unwrap())
            .await
    }
    pub(crate) async fn post(&self, path: &str, object: &Value) -> Answer {
        self.whole(Request::post(path).body(Body::from(object.to_string())).unwrap())
            .await
    }
    pub(crate) async fn put(&self, path: &str, object: &Value) -> Answer {
        self.whole(Request::put(path).body(Body::from(object.to_string())).unwrap())
            .await
    }
    /// `kind` is `json`, `merge` or `strategic-merge`.
    pub(crate) async fn patch(&self, path: &str, kind: &str, patch: &Value) -> Answer {
        let request = Request::patch(path)
            .header("content-type", format!("application/{kind}-patch+json"))
            .body(Body::from(patch.to_string()));
        self.whole(request.unwrap()).await
    }
    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.whole(Request::delete(path).body(Body::empty()).unwrap()).await
    }
    pub(crate) async fn delete_with(&self, path: &str, options: &Value) -> Answer {
        self.whole(Request::delete(path).body(Body::from(options.to_string())).unwrap())
            .await
    }
    pub(crate) async fn watch(&self, path: &str) -> Events {
        let response = self.send(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        Events::of(response.into_body())
    }
}

/// A watch, event by event.
pub(crate) struct Events {
    body: Body,
    buffer: Vec<u8>,
}

impl Events {
    pub(crate) fn of(body: Body) -> Self {
        Events {
            body,
            buffer: Vec::new(),
        }
    }
    /// `None` where the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer.extend_from_slice(&frame.into_data().unwrap());
        }
    }
    /// The next frame as it is.
    pub(crate) async fn frame(&mut self) -> Option<bytes::Bytes> {
        Some(self.body.frame().await?.unwrap().into_data().unwrap())
    }
}

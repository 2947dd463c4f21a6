//! How the parts in this process reach the API server in this process: connections in memory, each opened with a fixed
//! identity. No header and no network peer can open one.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};

use apiserver::identity::User;
use apiserver::server;
use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use daemon::clients::Clients;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use tower::Service;

/// The API server that runs now. A restarted one takes its predecessor's place; connections find it by themselves.
#[derive(Clone, Default)]
pub(crate) struct Gateway(Arc<RwLock<Option<Router>>>);

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gateway")
    }
}

impl Gateway {
    pub(crate) fn open(&self, router: Router) {
        *self.0.write().expect("no holder of the lock panics") = Some(router);
    }

    /// Clients of a part that acts as `user`.
    pub(crate) fn clients(&self, name: &str, groups: &[&str]) -> Arc<dyn Clients> {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Arc::new(PartClients {
            gateway: self.clone(),
            user: User {
                name: name.to_owned(),
                groups,
                ..User::default()
            },
        })
    }
}

struct PartClients {
    gateway: Gateway,
    user: User,
}

impl PartClients {
    fn client(&self, user: User, namespace: &str) -> kube::Client {
        kube::Client::new(
            Connection {
                gateway: self.gateway.clone(),
                user,
            },
            namespace,
        )
    }
}

impl Clients for PartClients {
    fn own(&self) -> kube::Client {
        self.client(self.user.clone(), "default")
    }
    fn service_account(&self, namespace: &str, name: &str) -> kube::Client {
        let groups = [
            "system:serviceaccounts",
            &format!("system:serviceaccounts:{namespace}"),
            "system:authenticated",
        ];
        let user = User {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: groups.map(str::to_owned).to_vec(),
            ..User::default()
        };
        self.client(user, namespace)
    }
}

/// One part's way to whichever API server runs.
#[derive(Debug, Clone)]
struct Connection {
    gateway: Gateway,
    user: User,
}

impl Service<Request<kube::client::Body>> for Connection {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let router = self.gateway.0.read().expect("no holder of the lock panics").clone();
        match router {
            Some(router) => server::internal(router, self.user.clone()).call(request),
            // Between two lives of the server; the caller tries again as it would over the network.
            None => {
                async { Ok((StatusCode::SERVICE_UNAVAILABLE, "the API server is starting").into_response()) }.boxed()
            }
        }
    }
}

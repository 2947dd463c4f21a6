//! How the parts in this process reach the API server in this process: connections in memory, each opened with a fixed
//! identity. No header and no network peer can open one.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use apiserver::identity::User;
use apiserver::server;
use axum::Router;
use axum::body::Body;
use daemon::clients::Clients;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response};
use tokio::sync::watch;
use tower::Service;

/// The API server that runs now. A request that comes before the first one is ready waits for it; a restarted server
/// takes its predecessor's place, and connections find it by themselves.
#[derive(Clone)]
pub(crate) struct Gateway(Arc<watch::Sender<Option<Router>>>);

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gateway")
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway(Arc::new(watch::Sender::new(None)))
    }
}

impl Gateway {
    /// One that leads to `router` from the start.
    pub(crate) fn opened(router: Router) -> Self {
        Gateway(Arc::new(watch::Sender::new(Some(router))))
    }

    pub(crate) fn open(&self, router: Router) {
        self.0.send_replace(Some(router));
    }

    /// Closes the gateway when it is dropped.
    pub(crate) fn closing(&self) -> impl Drop + Send + use<> {
        struct Closing(Gateway);
        impl Drop for Closing {
            fn drop(&mut self) {
                self.0.0.send_replace(None);
            }
        }
        Closing(self.clone())
    }

    /// Clients of a part that acts as `user`.
    pub(crate) fn clients(&self, name: &str, groups: &[&str]) -> Arc<dyn Clients> {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Arc::new(PartClients {
            gateway: self.clone(),
            agent: agent(name),
            user: User {
                name: name.to_owned(),
                groups,
                ..User::default()
            },
        })
    }
}

/// What the part that acts as `user` calls itself: upstream's name of it, under which managedFields keep what it wrote.
fn agent(user: &str) -> HeaderValue {
    let name = match user.rsplit(':').next() {
        _ if user.starts_with("system:node:") => "kubelet",
        Some(name) => name,
        None => user,
    };
    HeaderValue::from_str(name).unwrap_or(HeaderValue::from_static("coracle"))
}

struct PartClients {
    gateway: Gateway,
    agent: HeaderValue,
    user: User,
}

impl PartClients {
    fn client(&self, user: User, namespace: &str) -> kube::Client {
        kube::Client::new(
            Connection {
                gateway: self.gateway.clone(),
                agent: self.agent.clone(),
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
    agent: HeaderValue,
    user: User,
}

impl Service<Request<kube::client::Body>> for Connection {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<kube::client::Body>) -> Self::Future {
        request
            .headers_mut()
            .entry(USER_AGENT)
            .or_insert_with(|| self.agent.clone());
        let (gateway, user) = (self.gateway.clone(), self.user.clone());
        async move {
            let mut routers = gateway.0.subscribe();
            let router = routers
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|router| router.clone());
            let router = router.expect("the gateway is held by the connection and waited for to be open");
            server::internal(router, user).call(request).await
        }
        .boxed()
    }
}

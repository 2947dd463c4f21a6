//! Bytes to verbs and back: one path for every verb over every row.
//! Comes in: requests with the [`Peer`] that their connection set. Goes out: answers; refusals as Status objects. It knows
//! every verb and no kind (but `review` and `usage`, the kinds that are never stored), and neither store nor strategy.
//! Holds: no verb runs before the caller is known and allowed; a read sends the cache's bytes as they are.

mod apply;
mod body;
mod connect;
mod create;
mod delete;
mod discovery;
mod drain;
mod gate;
mod get;
mod health;
pub mod info;
mod list;
mod messages;
mod metrics;
mod negotiate;
mod openapi;
mod options;
mod patch;
mod render;
mod respond;
mod review;
mod table;
mod update;
mod usage;
mod watch;

pub use connect::KubeletAccess;
pub use health::Checks;

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use futures::FutureExt;
use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::admission;
use crate::authn::{Authn, impersonation, service_account};
use crate::authz;
use crate::identity::{Peer, User};
use crate::registry::row::Subresource;
use crate::registry::{Registry, Row, fields, write};
use crate::status::{Reason, Status};
use gate::Admission;
use info::{Info, Target, Verb};

/// What the router serves from.
#[derive(Debug)]
pub struct Api {
    pub registry: Arc<Registry>,
    pub authn: Authn,
    pub authz: authz::Chain,
    pub admission: admission::Chain,
    /// Signs service account tokens; without it TokenRequest is refused.
    pub issuer: Option<service_account::Issuer>,
    /// The way to the kubelets; without it logs, exec and the like are refused.
    pub kubelet: Option<KubeletAccess>,
    pub checks: Checks,
    /// For everything that does not last by nature.
    pub request_timeout: Duration,
    /// Connections to kubelets and what they carry.
    tunnels: TaskTracker,
    metrics: metrics::Metrics,
    discovery: discovery::Documents,
    openapi: openapi::Documents,
    usage: usage::Readings,
}

impl Api {
    pub fn new(parts: crate::Parts) -> Self {
        let crate::Parts {
            registry,
            authn,
            authz,
            admission,
            issuer,
            kubelet,
            checks,
            request_timeout,
        } = parts;
        Api {
            registry,
            authn,
            authz,
            admission,
            issuer,
            kubelet: kubelet.map(KubeletAccess::over_http1),
            checks,
            request_timeout,
            tunnels: TaskTracker::new(),
            metrics: metrics::Metrics::default(),
            discovery: discovery::Documents::default(),
            openapi: openapi::Documents::default(),
            usage: usage::Readings::default(),
        }
    }
}

/// Everything is one fallback: paths are data here, not routes.
pub fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(serve).with_state(api)
}

/// One request on its way through the layers.
struct Call<'a> {
    api: &'a Api,
    head: &'a Parts,
    query: &'a str,
    target: Target<'a>,
    user: &'a User,
    warnings: &'a Mutex<Vec<String>>,
    now: jiff::Timestamp,
    /// Who owns what a write changes, where the request does not say: what its user agent calls itself.
    agent: Cow<'a, str>,
}

impl Call<'_> {
    /// Whether the client is a part of this process: it takes the cache's bytes as they are.
    fn is_internal(&self) -> bool {
        matches!(self.head.extensions.get::<Peer>(), Some(Peer::Internal(_)))
    }
    fn write(&self, dry_run: bool) -> write::Context<'_> {
        self.write_by(fields::By::Manager(&self.agent), dry_run)
    }
    /// A write in the name of the manager that the request names, if it names one.
    fn write_as<'c>(&'c self, options: &'c options::Write) -> write::Context<'c> {
        self.write_by(fields::By::Manager(self.manager(options)), options.dry_run)
    }
    fn manager<'c>(&'c self, options: &'c options::Write) -> &'c str {
        match &*options.manager {
            "" => &self.agent,
            manager => manager,
        }
    }
    fn write_by<'c>(&'c self, by: fields::By<'c>, dry_run: bool) -> write::Context<'c> {
        write::Context {
            user: self.user,
            version: self.target.version,
            subresource: self.target.subresource,
            namespace: self.target.namespace,
            dry_run,
            now: self.now,
            by,
            warnings: self.warnings,
        }
    }
    /// A gate that asks whether the user may create, where a write that need not be one comes to be one.
    fn creating_gate<'a>(&'a self, row: &'a Row, dry_run: bool) -> gate::Creating<'a> {
        gate::Creating {
            admission: self.gate(row, dry_run),
            authz: &self.api.authz,
            request: authz::Request {
                user: self.user,
                verb: Verb::Create.as_str(),
                target: authz::Target::Resource {
                    group: self.target.group,
                    version: self.target.version,
                    resource: self.target.resource,
                    subresource: self.target.subresource,
                    namespace: self.target.namespace,
                    name: &self.target.name,
                    fields: None,
                },
            },
        }
    }
    fn gate<'a>(&'a self, row: &'a Row, dry_run: bool) -> Admission<'a> {
        Admission {
            chain: &self.api.admission,
            user: self.user,
            resource: row,
            version: self.target.version,
            subresource: self.target.subresource,
            namespace: self.target.namespace,
            dry_run,
            warnings: self.warnings,
            operation: None,
        }
    }
}

// The outermost layer catches panics, so that one request's bug is that request's 500; it also counts, because a
// refusal by any layer below is a request too.
async fn serve(State(api): State<Arc<Api>>, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let mut label = metrics::Label::default();
    let answered = AssertUnwindSafe(answer(&api, request, &mut label)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        tracing::error!("a request panicked");
        respond::refusal(&Status::internal("the server panicked while it served this request"))
    });
    let audit_id = uuid::Uuid::new_v4().hyphenated().to_string();
    if let Ok(value) = HeaderValue::from_str(&audit_id) {
        response.headers_mut().entry("audit-id").or_insert(value);
    }
    api.metrics.count(&label, response.status(), started.elapsed());
    response
}

/// The layers below the panic guard, in order: what is asked, who asks, as whom, may they, for how long, do it.
async fn answer(api: &Arc<Api>, request: Request<Body>, label: &mut metrics::Label) -> Response<Body> {
    let (head, body) = request.into_parts();
    let (body, rest) = drain::shared(body);
    let uri = head.uri.clone();
    let query = uri.query().unwrap_or("");
    let Some(path) = info::decode(uri.path()) else {
        return respond::refusal(&Status::bad_request("the path is not UTF-8"));
    };
    let info = info::info(&head.method, &path, query);
    label.of(&info, &head.method);
    let warnings = Mutex::new(Vec::new());
    let outcome = async {
        let user = identify(api, &head).await?;
        authorize(api, &user, &head.method, &info, query).await?;
        // Audit records what the layers above let through; its place is here.
        match info {
            Info::Path(path) => with_timeout(api.request_timeout, self::path(api, &head, path, query, body)).await,
            Info::Resource(target) => {
                let lasts = lasts(&target, query);
                let call = Call {
                    api,
                    head: &head,
                    query,
                    target,
                    user: &user,
                    warnings: &warnings,
                    now: jiff::Timestamp::now(),
                    agent: options::agent(&head.headers),
                };
                // Boxed: the verbs' futures are large, and each connection would hold the largest.
                let verb = Box::pin(verb(&call, body));
                if lasts {
                    verb.await
                } else {
                    with_timeout(api.request_timeout, verb).await
                }
            }
        }
    }
    .await;
    let mut response = match outcome {
        Ok(response) => response,
        Err(status) => {
            if let Some(rest) = rest {
                rest.drain().await;
            }
            respond::refusal(&status)
        }
    };
    let warnings = warnings.into_inner().unwrap_or_default();
    respond::warn(response.headers_mut(), &warnings);
    if head.method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    if let Some(id) = head.headers.get("audit-id") {
        response.headers_mut().insert("audit-id", id.clone());
    }
    response
}

/// The caller, or whom the caller is allowed to act as.
async fn identify(api: &Api, head: &Parts) -> Result<Arc<User>, Status> {
    let Some(peer) = head.extensions.get::<Peer>() else {
        tracing::error!("a connection without a peer");
        return Err(Status::unauthorized());
    };
    let user = match peer {
        Peer::Internal(user) => user.clone(),
        Peer::Tls { .. } => Arc::new(api.authn.authenticate(peer, head).await?),
    };
    match impersonation::apply(&user, &head.headers, &api.authz).await? {
        Some(other) => Ok(Arc::new(other)),
        None => Ok(user),
    }
}

async fn authorize(api: &Api, user: &User, method: &Method, info: &Info<'_>, query: &str) -> Result<(), Status> {
    let lower;
    let fields;
    let (verb, target) = match info {
        Info::Path(path) => {
            lower = method.as_str().to_ascii_lowercase();
            (lower.as_str(), authz::Target::Path(path))
        }
        Info::Resource(target) => {
            let narrowed = matches!(target.verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
            fields = if narrowed && query.contains("fieldSelector") {
                options::pairs(query)
                    .find(|(key, _)| key == "fieldSelector")
                    .and_then(|(_, value)| value.parse().ok())
            } else {
                None
            };
            let target_of = authz::Target::Resource {
                group: target.group,
                version: target.version,
                resource: target.resource,
                subresource: target.subresource,
                namespace: target.namespace,
                name: &target.name,
                fields: fields.as_ref(),
            };
            (target.verb.as_str(), target_of)
        }
    };
    api.authz.require(&authz::Request { user, verb, target }).await
}

async fn with_timeout(
    limit: Duration,
    work: impl Future<Output = Result<Response<Body>, Status>>,
) -> Result<Response<Body>, Status> {
    match tokio::time::timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Status::timeout(
            "Timeout: request did not complete within the allotted timeout",
            0,
        )),
    }
}

/// Requests that last as long as their client wants.
fn lasts(target: &Target<'_>, query: &str) -> bool {
    target.verb == Verb::Watch
        || matches!(target.subresource, "exec" | "attach" | "portforward" | "proxy")
        || (target.subresource == "log" && query.contains("follow"))
}

/// Paths that are no resource.
async fn path(api: &Arc<Api>, head: &Parts, path: &str, query: &str, body: Body) -> Result<Response<Body>, Status> {
    drop(body);
    if head.method != Method::GET && head.method != Method::HEAD {
        return Err(not_found());
    }
    if let Some(response) = health::answer(api, path, query).await {
        return Ok(response);
    }
    if let Some(response) = discovery::answer(api, head, path)? {
        return Ok(response);
    }
    if let Some(response) = openapi::answer(api, head, path)? {
        return Ok(response);
    }
    match path {
        "/metrics" => Ok(respond::bytes(
            StatusCode::OK,
            "text/plain; version=0.0.4",
            api.metrics.text(),
        )),
        "/" => Ok(discovery::paths(api)),
        path => review::path(api, path).unwrap_or_else(|| Err(not_found())),
    }
}

fn not_found() -> Status {
    Status::no_such_resource()
}

/// A verb on a row, or on a part of one object of it.
async fn verb(call: &Call<'_>, body: Body) -> Result<Response<Body>, Status> {
    let target = &call.target;
    let table = call.api.registry.table();
    let row = table
        .find(target.group, target.resource)
        .filter(|row| row.versions.iter().any(|v| **v == *target.version))
        .ok_or_else(not_found)?;
    // A cluster-scoped resource in a namespace's path is no resource; a Namespace's own path says its name twice.
    let is_own_name = target.named && *target.namespace == *target.name;
    if !row.namespaced() && !target.namespace.is_empty() && !is_own_name {
        return Err(not_found());
    }
    if row.namespaced() && target.namespace.is_empty() && target.named {
        return Err(not_found());
    }
    if !target.subresource.is_empty() {
        return part(call, row, body).await;
    }
    if !row.verbs.contains(&target.verb.as_str()) {
        return Err(not_allowed());
    }
    // The old watch paths ask to watch whatever the method is.
    let reads = matches!(target.verb, Verb::Get | Verb::List | Verb::Watch);
    if reads && !matches!(call.head.method, Method::GET | Method::HEAD) {
        return Err(not_allowed());
    }
    let needs_name = matches!(target.verb, Verb::Get | Verb::Update | Verb::Patch | Verb::Delete);
    if needs_name != target.named && target.verb != Verb::Watch {
        return Err(not_allowed());
    }
    match target.verb {
        Verb::Get | Verb::List if row.computed => usage::answer(call, &row).await,
        Verb::Get => get::get(row, call, None).await,
        Verb::List => list::list(row, call).await,
        Verb::Watch => watch::watch(row, call).await,
        // The one kind that is posted, acted on and not kept.
        Verb::Create if &*row.plural == "bindings" => create::bind(call, &row, body).await,
        Verb::Create if !row.is_stored() => review::create(call, &row, body).await,
        Verb::Create if row.namespaced() && target.namespace.is_empty() => Err(not_allowed()),
        Verb::Create => create::create(call, &row, body).await,
        Verb::Update => update::update(call, &row, body).await,
        Verb::Patch => patch::patch(call, &row, None, body).await,
        Verb::Delete => delete::delete(call, &row, body).await,
        // Only lists and watches reach across namespaces.
        Verb::DeleteCollection if row.namespaced() && target.namespace.is_empty() => Err(not_allowed()),
        Verb::DeleteCollection => delete::collection(call, row, body).await,
        Verb::Other => Err(not_allowed()),
    }
}

/// A verb on a subresource.
async fn part(call: &Call<'_>, row: Arc<Row>, body: Body) -> Result<Response<Body>, Status> {
    let target = &call.target;
    let part = discovery::subresource(target.subresource)
        .filter(|part| row.has(*part))
        .ok_or_else(not_found)?;
    if !target.named {
        return Err(not_found());
    }
    use Subresource::*;
    match (part, target.verb) {
        (Status | Scale | EphemeralContainers | Resize | Approval, Verb::Get) => get::get(row, call, Some(part)).await,
        (Scale, Verb::Update) => update::scale(call, &row, body).await,
        (Status | Finalize | EphemeralContainers | Resize | Approval, Verb::Update) => {
            update::update(call, &row, body).await
        }
        (Status | Scale | EphemeralContainers | Resize | Approval, Verb::Patch) => {
            patch::patch(call, &row, Some(part), body).await
        }
        (Binding, Verb::Create) => create::bind(call, &row, body).await,
        (Eviction, Verb::Create) => delete::evict(call, &row, body).await,
        (Token, Verb::Create) => review::token(call, &row, body).await,
        (Log, Verb::Get) => connect::log(call, &row).await,
        (Exec | Attach | PortForward, Verb::Get | Verb::Create) => connect::upgrade(call, &row, part).await,
        (Proxy, _) => connect::proxy(call, &row, body).await,
        _ => Err(not_allowed()),
    }
}

// Upstream answers what no route matches with this sentence and without the kind.
fn not_allowed() -> Status {
    let mut status = Status::no_such_resource();
    status.code = 405;
    status.reason = Reason::MethodNotAllowed;
    status.message = "the server does not allow this method on the requested resource".into();
    status
}

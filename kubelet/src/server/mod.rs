//! The node's own HTTPS endpoint: requests about pods of this node come in, logs, streams and facts go out.
//! Nothing here changes a pod, and nothing is answered before the caller is known and allowed.
//! Invariant: a session belongs to its connection and ends with it.

pub mod auth;
mod facts;
pub mod logs;
pub mod rotate;
pub mod spdy;
pub mod stream;
pub mod tls;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use daemon::wire::Socket;
use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::auth::{Gate, Refusal};
use crate::{
    config::Server,
    pods::{
        observed::{Observed, Seen, observe},
        shared::Shared,
        translate::log_path,
    },
    runtime::{AttachRequest, ExecRequest},
};

/// Ends the part: the address is taken, or the certificate unusable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("cannot serve TLS")]
    Tls(#[from] tls::Error),
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer that is not the wanted one: a code and a sentence.
#[derive(Debug)]
struct Failure(StatusCode, String);

type Answer = Result<Response<Body>, Failure>;

#[derive(Debug)]
struct Context {
    shared: Arc<Shared>,
    gate: Gate,
    tasks: TaskTracker,
}

pub async fn run(server: Server, shared: Arc<Shared>, stop: CancellationToken) -> Result<(), Error> {
    let mut names = vec![shared.config.node_name.clone()];
    names.extend(shared.node.borrow().host_ips.iter().cloned());
    let acceptor = TlsAcceptor::from(Arc::new(tls::config(&server, names)?));
    let address = SocketAddr::new(server.address, server.port);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| Error::Listen(address, e))?;
    let gate = Gate::new(shared.client.clone(), server, shared.config.node_name.clone());
    let context = Arc::new(Context {
        shared,
        gate,
        tasks: TaskTracker::new(),
    });
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: a moment may bring some back.
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (context, acceptor, stop) = (context.clone(), acceptor.clone(), stop.clone());
        let tasks = context.tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = connection(context, acceptor, stream) => {}
            }
        });
    }
}

async fn connection(context: Arc<Context>, acceptor: TlsAcceptor, stream: TcpStream) {
    let shake = async {
        let stream = Socket::new(stream)?;
        let peer = stream.peer();
        Ok::<_, io::Error>((acceptor.accept(stream).await?, peer))
    };
    let (stream, peer) = match tokio::time::timeout(Duration::from_secs(10), shake).await {
        Ok(Ok(shaken)) => shaken,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
        Err(_) => return,
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|c| c.first())
        .map(|c| c.clone().into_owned());
    let certificate = Arc::new(certificate);
    let service = service_fn(move |mut request: Request<Incoming>| {
        // For sessions, which outlive their request.
        request.extensions_mut().insert(peer.clone());
        let (context, certificate) = (context.clone(), certificate.clone());
        async move { Ok::<_, Infallible>(respond(&context, certificate.as_ref().as_ref(), request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = served.await {
        tracing::debug!(%error, "connection ended");
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

async fn respond(
    context: &Arc<Context>,
    certificate: Option<&CertificateDer<'_>>,
    request: Request<Incoming>,
) -> Response<Body> {
    let passed = context
        .gate
        .pass(certificate, request.headers(), request.method(), request.uri().path())
        .await;
    let answer = match passed {
        Ok(_) => route(context, request).await,
        Err(Refusal::Unauthenticated) => Err(Failure(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())),
        Err(Refusal::Forbidden(why)) => Err(Failure(StatusCode::FORBIDDEN, why)),
        Err(Refusal::Unknown(why)) => Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, why)),
    };
    answer.unwrap_or_else(|Failure(status, why)| text(status, why))
}

async fn route(context: &Arc<Context>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let get = request.method() == Method::GET;
    match parts.as_slice() {
        ["healthz" | "healthz/ping"] | ["healthz", "ping"] => Ok(text(StatusCode::OK, "ok")),
        ["pods"] if get => Ok(pods(context)),
        ["runningpods"] if get => facts::running_pods(context).await,
        ["stats", "summary"] => facts::summary(context, &query(&request)).await,
        ["metrics"] if get => facts::own_metrics(context).await,
        ["metrics", "resource"] if get => Ok(facts::resource_metrics(context).await),
        ["metrics", "cadvisor"] if get => facts::cadvisor_metrics(context).await,
        ["containerLogs", namespace, pod, container] if get => logs(context, &request, namespace, pod, container).await,
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            let (namespace, pod, container) = ((*namespace).to_owned(), (*pod).to_owned(), (*container).to_owned());
            exec(context, request, &namespace, &pod, &container).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            let (namespace, pod, container) = ((*namespace).to_owned(), (*pod).to_owned(), (*container).to_owned());
            attach(context, request, &namespace, &pod, &container).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            let (namespace, pod) = ((*namespace).to_owned(), (*pod).to_owned());
            port_forward(context, request, &namespace, &pod).await
        }
        ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
            if request.method() == Method::POST =>
        {
            run_command(context, &request, namespace, pod, container).await
        }
        _ => Err(Failure(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())),
    }
}

/// The pods of this node as the API has them.
fn pods(context: &Context) -> Response<Body> {
    let mut list = BytesMut::from(&br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#[..]);
    for (position, entry) in context.shared.entries().iter().enumerate() {
        if position > 0 {
            list.put_u8(b',');
        }
        list.extend_from_slice(&entry.bytes());
    }
    list.extend_from_slice(b"]}");
    let mut response = Response::new(full(list.freeze()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn query(request: &Request<Incoming>) -> Vec<(String, String)> {
    let pairs = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty());
    pairs
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(k, v)| (decoded(k), decoded(v)))
        .collect()
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn flag(query: &[(String, String)], name: &str) -> bool {
    query
        .iter()
        .any(|(k, v)| k == name && matches!(v.as_str(), "1" | "true" | "t" | "T" | "True" | "TRUE"))
}

fn find(context: &Context, namespace: &str, name: &str) -> Result<(Arc<Pod>, String), Failure> {
    let entry = context.shared.entry(namespace, name);
    let entry = entry.ok_or_else(|| Failure(StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist")))?;
    let pod = entry
        .typed()
        .map_err(|e| Failure(StatusCode::INTERNAL_SERVER_ERROR, daemon::chain(&e)))?;
    Ok((pod, entry.uid.to_string()))
}

async fn look(context: &Context, uid: &str) -> Result<Observed, Failure> {
    let wall = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    let observed = observe(&*context.shared.runtime, uid, wall).await;
    observed.map_err(|e| Failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

async fn running(context: &Context, namespace: &str, pod: &str, container: &str) -> Result<Seen, Failure> {
    let (_, uid) = find(context, namespace, pod)?;
    let observed = look(context, &uid).await?;
    let seen = observed
        .containers
        .into_iter()
        .find(|c| c.name == container && c.running());
    // The code is upstream's, which knows of no better one.
    seen.ok_or_else(|| {
        Failure(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("container not found (\"{container}\")"),
        )
    })
}

fn session<B>(
    context: &Arc<Context>,
    joined: Result<(Response<http_body_util::Empty<Bytes>>, B), stream::Error>,
) -> Answer
where
    B: Future<Output = ()> + Send + 'static,
{
    let (response, carry) = joined.map_err(|error| {
        let status = match &error {
            stream::Error::NotAnUpgrade => StatusCode::BAD_REQUEST,
            stream::Error::Refused { status, .. } => *status,
            stream::Error::Address(_) | stream::Error::Connect(_) | stream::Error::Http(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Failure(status, daemon::chain(&error))
    })?;
    context.tasks.spawn(carry);
    Ok(response.map(|_| full(Bytes::new())))
}

async fn exec(
    context: &Arc<Context>,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Answer {
    let seen = running(context, namespace, pod, container).await?;
    let query = query(&request);
    let cmd: Vec<String> = query
        .iter()
        .filter(|(k, _)| k == "command")
        .map(|(_, v)| v.clone())
        .collect();
    let streams = streams(&query)?;
    let asked = ExecRequest {
        container_id: seen.id,
        cmd,
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    let url = context
        .shared
        .runtime
        .exec(asked)
        .await
        .map_err(|e| Failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    session(context, stream::join(request, &url, Some(streams)).await)
}

async fn attach(
    context: &Arc<Context>,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Answer {
    let seen = running(context, namespace, pod, container).await?;
    let streams = streams(&query(&request))?;
    let asked = AttachRequest {
        container_id: seen.id,
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    let url = context
        .shared
        .runtime
        .attach(asked)
        .await
        .map_err(|e| Failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    session(context, stream::join(request, &url, Some(streams)).await)
}

/// Names of the parameters: this endpoint's own, and those of the API.
fn streams(query: &[(String, String)]) -> Result<stream::Streams, Failure> {
    let either = |a: &str, b: &str| flag(query, a) || flag(query, b);
    let tty = flag(query, "tty");
    let streams = stream::Streams {
        stdin: either("input", "stdin"),
        stdout: either("output", "stdout"),
        // With a terminal there is one output.
        stderr: either("error", "stderr") && !tty,
        tty,
    };
    if !(streams.stdin || streams.stdout || streams.stderr) {
        let why = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(Failure(StatusCode::BAD_REQUEST, why.to_owned()));
    }
    Ok(streams)
}

async fn port_forward(context: &Arc<Context>, request: Request<Incoming>, namespace: &str, pod: &str) -> Answer {
    let (_, uid) = find(context, namespace, pod)?;
    let observed = look(context, &uid).await?;
    let missing = || Failure(StatusCode::NOT_FOUND, format!("pod \"{pod}\" has no running sandbox"));
    let sandbox = observed.current().ok_or_else(missing)?.id.clone();
    let named = query(&request);
    let ports = named
        .iter()
        .filter(|(k, _)| k == "port" || k == "ports")
        .flat_map(|(_, v)| v.split(','));
    let ports = ports.filter_map(|p| p.parse().ok()).collect();
    let url = context.shared.runtime.port_forward(&sandbox, ports).await;
    let url = url.map_err(|e| Failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    session(context, stream::join(request, &url, None).await)
}

async fn run_command(
    context: &Context,
    request: &Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Answer {
    let seen = running(context, namespace, pod, container).await?;
    let query = query(request);
    let command = query
        .iter()
        .find(|(k, _)| k == "cmd")
        .map(|(_, v)| v.split(' ').map(str::to_owned).collect())
        .unwrap_or_default();
    let answer = context
        .shared
        .runtime
        .exec_sync(&seen.id, command, Duration::ZERO)
        .await;
    let answer = answer.map_err(|e| Failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(text(StatusCode::OK, [answer.stdout, answer.stderr].concat()))
}

async fn logs(
    context: &Arc<Context>,
    request: &Request<Incoming>,
    namespace: &str,
    name: &str,
    container: &str,
) -> Answer {
    let options = log_options(&query(request))?;
    let (pod, uid) = find(context, namespace, name)?;
    let bad = |why: String| Failure(StatusCode::BAD_REQUEST, why);
    if crate::pods::sync::definition(&pod, container).is_none() {
        return Err(bad(format!("container {container} is not valid for pod {name}")));
    }
    let observed = look(context, &uid).await?;
    let seen = if options.previous {
        observed.previous(container)
    } else {
        observed.latest(container)
    };
    let Some(seen) = seen.filter(|s| s.started > 0) else {
        if options.previous {
            return Err(bad(format!(
                "previous terminated container \"{container}\" in pod \"{name}\" not found"
            )));
        }
        let waiting = pod
            .status
            .iter()
            .flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses).flatten())
            .find(|s| s.name == container)
            .and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone());
        let why = waiting.unwrap_or_else(|| "ContainerCreating".to_owned());
        let text = match why.as_str() {
            "ErrImagePull" | "ImagePullBackOff" => {
                format!(
                    "container \"{container}\" in pod \"{name}\" is waiting to start: trying and failing to pull image"
                )
            }
            why => format!("container \"{container}\" in pod \"{name}\" is waiting to start: {why}"),
        };
        return Err(bad(text));
    };
    let path = context
        .shared
        .config
        .pod_logs(namespace, name, &uid)
        .join(log_path(container, seen.attempt));
    if !path.exists() {
        return Err(Failure(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the log of container \"{container}\" is not there"),
        ));
    }
    let options = logs::Options {
        follow: options.follow && seen.running(),
        ..options
    };
    // Four parts of 32 KiB; then the reader sets the pace.
    let (out, body) = mpsc::channel(4);
    let ending = Running {
        context: context.clone(),
        id: seen.id.clone(),
        watch: EndWatch::new(context.shared.post.exits()),
    };
    context.tasks.spawn(logs::send(path, options, ending, out));
    let body = StreamBody::new(ReceiverStream::new(body).map(|part| part.map(Frame::data)));
    let mut response = Response::new(BodyExt::boxed_unsync(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn log_options(query: &[(String, String)]) -> Result<logs::Options, Failure> {
    let value = |name: &str| {
        query
            .iter()
            .find(|(k, v)| k == name && !v.is_empty())
            .map(|(_, v)| v.as_str())
    };
    let number = |name: &str| {
        let parsed = value(name).map(str::parse::<u64>).transpose();
        parsed.map_err(|_| Failure(StatusCode::BAD_REQUEST, format!("{name} is not a number")))
    };
    let since_time = value("sinceTime").map(str::parse::<Timestamp>).transpose();
    let since_time = since_time.map_err(|_| Failure(StatusCode::BAD_REQUEST, "sinceTime is not a time".to_owned()))?;
    let since_seconds = number("sinceSeconds")?.map(|s| {
        let span = jiff::SignedDuration::from_secs(i64::try_from(s).unwrap_or(i64::MAX));
        Timestamp::now().checked_sub(span).unwrap_or(Timestamp::MIN)
    });
    Ok(logs::Options {
        follow: flag(query, "follow"),
        previous: flag(query, "previous"),
        timestamps: flag(query, "timestamps"),
        since: since_time.or(since_seconds),
        tail: number("tailLines")?,
        limit: number("limitBytes")?,
        stream: match value("stream") {
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            _ => None,
        },
    })
}

/// Ends with the container: by the runtime's event, and looked up where events were lost.
struct Running {
    context: Arc<Context>,
    id: String,
    watch: EndWatch,
}

#[async_trait::async_trait]
impl logs::Ending for Running {
    async fn ended(&mut self) {
        let (context, id) = (self.context.clone(), self.id.clone());
        let look = move || {
            let (context, id) = (context.clone(), id.clone());
            let look = async move {
                match context.shared.runtime.container_status(&id).await {
                    Ok(status) => status.finished_at != 0,
                    // A container that nobody knows any more has ended.
                    Err(_) => true,
                }
            };
            look.boxed()
        };
        self.watch.ended(&self.id, look).await;
    }
}

/// Looks that follow an event: CRI shows the end a moment after it, and then the log is complete.
const LOOKS: u32 = 40;

/// What is left to do before a container is known to have ended. It is kept here and not in the future that waits, which
/// is dropped each time the log grows.
#[derive(Debug)]
struct EndWatch {
    exits: tokio::sync::broadcast::Receiver<String>,
    looks: u32,
}

impl EndWatch {
    /// The container may have ended before its exits were listened to, so that the first look needs no event.
    fn new(exits: tokio::sync::broadcast::Receiver<String>) -> Self {
        EndWatch { exits, looks: 1 }
    }

    /// Resolves once `look` has found that the container ended. May be dropped and called again at any time.
    async fn ended(&mut self, container: &str, look: impl Fn() -> BoxFuture<'static, bool> + Send) {
        use tokio::sync::broadcast::error::RecvError;
        loop {
            while self.looks > 0 {
                if look().await {
                    return;
                }
                self.looks -= 1;
                if self.looks > 0 {
                    let done = LOOKS - self.looks;
                    tokio::time::sleep(Duration::from_millis(10 << done.min(7)).min(Duration::from_secs(1))).await;
                }
            }
            match self.exits.recv().await {
                Ok(id) if id != container => {}
                Ok(_) | Err(RecvError::Lagged(_)) => self.looks = LOOKS,
                Err(RecvError::Closed) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_told_while_the_log_grows_is_not_lost() {
        let (tell, exits) = tokio::sync::broadcast::channel(4);
        let mut watch = EndWatch::new(exits);
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let state = over.clone();
        let look = || std::future::ready(state.load(std::sync::atomic::Ordering::SeqCst)).boxed();
        tell.send("c".to_owned()).unwrap();
        // The event is taken, CRI still shows the container running, and then the log grows.
        let interrupted = tokio::time::timeout(Duration::from_millis(5), watch.ended("c", &look)).await;
        assert!(interrupted.is_err());
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        let ended = tokio::time::timeout(Duration::from_secs(5), watch.ended("c", &look)).await;
        assert!(ended.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_before_anybody_listened_is_found() {
        let (_tell, exits) = tokio::sync::broadcast::channel(4);
        EndWatch::new(exits)
            .ended("c", || std::future::ready(true).boxed())
            .await;
    }

    #[test]
    fn parameters_are_decoded() {
        assert_eq!(decoded("a%20b+c%2Fd%zz"), "a b c/d%zz");
    }

    #[test]
    fn log_options_are_those_of_the_api() {
        let pairs = |text: &str| -> Vec<(String, String)> {
            text.split('&')
                .filter_map(|p| p.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect()
        };
        let options = log_options(&pairs(
            "follow=true&tailLines=5&timestamps=1&sinceTime=2026-11-21T00:00:00Z",
        ))
        .unwrap();
        assert_eq!(
            (options.follow, options.tail, options.timestamps),
            (true, Some(5), true)
        );
        assert_eq!(options.since, Some("2026-11-21T00:00:00Z".parse().unwrap()));
        assert!(log_options(&pairs("tailLines=x")).is_err());
    }

    #[test]
    fn a_terminal_has_one_output() {
        let pairs = [("input", "1"), ("output", "1"), ("error", "1"), ("tty", "1")];
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(!streams(&pairs).unwrap().stderr);
        assert!(streams(&[]).is_err());
    }
}

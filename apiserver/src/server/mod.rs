//! Connections: over TLS from the network, and in memory from this process.
//! Comes in: a listener, keys, the router. Goes out: answered requests, each with its connection's [`Peer`]. Knows
//! nothing of the API. A panic in one request is that request's 500 and nobody else's failure.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use daemon::wire::Socket;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};
use tracing::{debug, error, warn};

use crate::authn::x509;
use crate::identity::{ANONYMOUS, AUTHENTICATED, Certificate, Peer, User};
use crate::status::Status;

/// A listener that fails is not repaired here: the supervisor starts the part again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("the serving certificate and key do not fit")]
    Pair(#[source] rustls::Error),
    #[error("{0} holds no usable authority")]
    Authority(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Bounds of the network side.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Further connections wait in the kernel's queue.
    pub connections: usize,
    /// Concurrent requests on one HTTP/2 connection (upstream's --http2-max-streams-per-connection default).
    pub streams: u32,
    pub handshake: Duration,
    /// How long a stop waits for requests that are under way.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 4096,
            streams: 250,
            handshake: Duration::from_secs(10),
            drain: Duration::from_secs(8),
        }
    }
}

/// Where the keys are.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whose client certificates are users.
    pub client_ca: Option<PathBuf>,
    /// Whose client certificates are front proxies.
    pub front_proxy_ca: Option<PathBuf>,
}

/// The keys in use, read again when their files change: looked at when a connection comes, so nothing polls.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
struct State {
    stamp: Vec<Option<(SystemTime, u64)>>,
    keys: Arc<Keys>,
}

#[derive(Debug)]
struct Keys {
    config: Arc<rustls::ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    proxies: Option<Arc<dyn ClientCertVerifier>>,
}

impl Tls {
    pub fn new(files: TlsFiles) -> Result<Tls, Error> {
        let state = State {
            stamp: stamp(&files),
            keys: Arc::new(read_keys(&files)?),
        };
        Ok(Tls {
            files,
            state: Mutex::new(state),
        })
    }

    fn keys(&self) -> Arc<Keys> {
        let mut state = self.state.lock().expect("nothing panics while it holds this");
        let now = stamp(&self.files);
        if state.stamp != now {
            match read_keys(&self.files) {
                Ok(keys) => {
                    *state = State {
                        stamp: now,
                        keys: Arc::new(keys),
                    }
                }
                // Half-written or a pair that does not fit yet: the old keys serve until the files are whole.
                Err(error) => warn!(error = %error, "keys changed but cannot be used"),
            }
        }
        state.keys.clone()
    }
}

fn stamp(files: &TlsFiles) -> Vec<Option<(SystemTime, u64)>> {
    let TlsFiles {
        certificate,
        key,
        client_ca,
        front_proxy_ca,
    } = files;
    [
        Some(certificate),
        Some(key),
        client_ca.as_ref(),
        front_proxy_ca.as_ref(),
    ]
    .into_iter()
    .map(|path| {
        let metadata = std::fs::metadata(path?).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
    .collect()
}

fn read_keys(files: &TlsFiles) -> Result<Keys, Error> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| Error::Read(files.key.clone(), e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = files.client_ca.as_deref().map(verifier).transpose()?;
    let proxies = files.front_proxy_ca.as_deref().map(verifier).transpose()?;
    let asks = clients.is_some() || proxies.is_some();
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(Error::Pair)?;
    let builder = if asks {
        builder.with_client_cert_verifier(Arc::new(Ask { provider }))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).map_err(Error::Pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A session ticket is a client's state here of no use to kubectl and to long connections.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Keys {
        config: Arc::new(config),
        clients,
        proxies,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect())
        .map_err(|e| Error::Read(path.to_owned(), e))
}

fn verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let unusable = |e: Box<dyn std::error::Error + Send + Sync>| Error::Authority(path.to_owned(), e);
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| unusable(e.into()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|e| unusable(e.into()))
}

/// Asks for a certificate and takes any whose key the client holds. The chain is verified after the handshake, because a
/// client with a stale certificate is told 401 by the API and not a TLS alert, as upstream does.
#[derive(Debug)]
struct Ask {
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ClientCertVerifier for Ask {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<rustls::server::danger::ClientCertVerified, rustls::Error> {
        Ok(rustls::server::danger::ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Keys {
    fn classify(&self, chain: &[CertificateDer<'_>]) -> Certificate {
        let Some((leaf, rest)) = chain.split_first() else {
            return Certificate::None;
        };
        let now = UnixTime::now();
        let verifies = |verifier: &Option<Arc<dyn ClientCertVerifier>>| {
            verifier
                .as_ref()
                .is_some_and(|verifier| verifier.verify_client_cert(leaf, rest, now).is_ok())
        };
        let front_proxy = if verifies(&self.proxies) {
            x509::common_name(leaf)
        } else {
            None
        };
        let client = if verifies(&self.clients) {
            x509::read(leaf)
        } else {
            None
        };
        if front_proxy.is_none() && client.is_none() {
            return Certificate::Refused;
        }
        Certificate::Verified {
            client: client.map(Arc::new),
            front_proxy: front_proxy.map(Into::into),
        }
    }
}

/// Listens. Separate from [`serve`], so that a port in use is told before anything else starts.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|e| Error::Listen(address, e))
}

/// Accepts until `stop`, then lets requests under way finish within `limits.drain`.
pub async fn serve(listener: TcpListener, tls: Arc<Tls>, router: Router, limits: Limits, stop: CancellationToken) {
    let slots = Arc::new(tokio::sync::Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let abandon = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = async {
                let slot = slots.clone().acquire_owned().await.expect("never closed");
                (slot, listener.accept().await)
            } => accepted,
        };
        let (slot, (stream, address)) = match accepted {
            (slot, Ok(connection)) => (slot, connection),
            (_, Err(error)) => {
                // Out of descriptors, or a peer that was gone at once. Neither ends the listener; the first needs a pause.
                warn!(error = %error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (tls, router, limits) = (tls.clone(), router.clone(), limits.clone());
        let (stop, abandon) = (stop.clone(), abandon.clone());
        connections.spawn(async move {
            tokio::select! {
                biased;
                () = abandon.cancelled() => {}
                () = connection(stream, address, &tls, router, &limits, stop) => {}
            }
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "requests were cut off");
        abandon.cancel();
        connections.wait().await;
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    tls: &Tls,
    router: Router,
    limits: &Limits,
    stop: CancellationToken,
) {
    let stream = match Socket::new(stream) {
        Ok(stream) => stream,
        Err(error) => return debug!(%address, %error, "the connection was gone at once"),
    };
    let client = stream.peer();
    let keys = tls.keys();
    let acceptor = tokio_rustls::TlsAcceptor::from(keys.config.clone());
    let stream = match tokio::time::timeout(limits.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%address, error = %error, "TLS handshake failed"),
        Err(_) => return debug!(%address, "TLS handshake took too long"),
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = Peer::Tls {
        certificate: keys.classify(chain),
        address,
    };
    drop(keys);
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(client.clone());
        answer(router.clone(), request.map(Body::new)).map(Ok::<_, Infallible>)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%address, error = %error, "connection ended");
    }
}

/// One request. A panic becomes its answer.
async fn answer(router: Router, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match AssertUnwindSafe(router.oneshot(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => {
            error!(path, "a request panicked");
            let status = Status::internal("the request panicked; the log of the API server says where");
            let body = serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": status.message, "reason": status.reason, "code": status.code,
            });
            let mut response = Response::new(Body::from(body.to_string()));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response.headers_mut().insert(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static("application/json"),
            );
            response
        }
    }
}

/// A connection within this process: requests are answered by `router` in the caller's task, as `user`, and bodies pass
/// as the frames they are made of. Nothing that a request carries can change who asks.
pub fn internal(router: Router, mut user: User) -> Internal {
    if user.name != ANONYMOUS {
        user.add_group(AUTHENTICATED);
    }
    Internal {
        router,
        peer: Peer::Internal(Arc::new(user)),
    }
}

/// See [`internal`]. `kube::Client::new` takes it.
#[derive(Debug, Clone)]
pub struct Internal {
    router: Router,
    peer: Peer,
}

impl<B> Service<Request<B>> for Internal
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.peer.clone());
        answer(self.router.clone(), request).map(Ok).boxed()
    }
}

#[cfg(test)]
mod tests;

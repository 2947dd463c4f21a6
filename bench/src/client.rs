//! A load client of its own: HTTP/2 over TLS with a client certificate, as client-go connects. It decodes nothing, so
//! that what is measured is the server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How to reach a server.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Target {
    /// `authority` signed the server; `certificate` and `key` say who asks. All are PEM files.
    pub(crate) fn new(address: SocketAddr, authority: &Path, certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authority)? {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Target {
            address,
            tls: Arc::new(tls),
        })
    }

    /// Opens a connection. It lives as long as the client.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").context("a plain name")?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        let (send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            // As Go's HTTP/2 transport has them.
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(1 << 30)
            .handshake(TokioIo::new(stream))
            .await?;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            // An error of the connection is seen by the requests on it.
            let _ = connection.await;
        });
        Ok(Client {
            send,
            address: self.address,
            _connection: Arc::new(tasks),
        })
    }
}

/// One connection. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    send: SendRequest<Full<Bytes>>,
    address: SocketAddr,
    _connection: Arc<tokio::task::JoinSet<()>>,
}

impl Client {
    /// Sends a request; the body of the answer is still to be read.
    pub(crate) async fn open(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address))
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(Full::new(body))?;
        Ok(self.send.send_request(request).await?)
    }

    /// Sends a request and counts the answer's bytes. A refusal is an error.
    pub(crate) async fn exchange(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<usize> {
        let response = self.open(method, path, body).await?;
        count(path, response).await
    }

    /// The same with a request of the caller's making.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<usize> {
        let path = request.uri().path().to_owned();
        let response = self.send.send_request(request).await?;
        count(&path, response).await
    }
}

async fn count(path: &str, response: Response<Incoming>) -> anyhow::Result<usize> {
    let status = response.status();
    if !status.is_success() {
        let text = response.into_body().collect().await?.to_bytes();
        bail!("{path}: {status} {}", String::from_utf8_lossy(&text));
    }
    let mut body = response.into_body();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        count += frame?.data_ref().map_or(0, Bytes::len);
    }
    ensure!(count > 0, "{path} answers nothing");
    Ok(count)
}

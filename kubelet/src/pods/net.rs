//! The small requests that probes and hooks make to a container: an HTTP GET and a TCP connection. Texts are upstream's.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use k8s_openapi::{api::core::v1::Container, apimachinery::pkg::util::intstr::IntOrString};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// What is read of an answer at most.
const MAX_BODY: usize = 10 << 10;

#[derive(Debug, Clone)]
pub struct Get {
    pub https: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub agent: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// Where a redirection leads.
    pub location: Option<String>,
    pub body: String,
}

impl Get {
    /// The request that a redirection asks for; none when it leads to another host.
    pub fn redirected(&self, location: &str) -> Option<Get> {
        let mut next = self.clone();
        let rest = match location.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => {
                next.https = scheme == "https";
                rest
            }
            Some(_) => return None,
            None => match location.strip_prefix("//") {
                Some(rest) => rest,
                None => {
                    let base = self.path.split(['?', '#']).next().unwrap_or("/");
                    let folder = base.rsplit_once('/').map_or("", |(f, _)| f);
                    next.path = match location.chars().next() {
                        Some('/') => location.to_owned(),
                        Some('?') => format!("{base}{location}"),
                        _ => format!("{folder}/{location}"),
                    };
                    return Some(next);
                }
            },
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let uri: http::uri::Authority = rest[..at].parse().ok()?;
        if uri.host().trim_matches(['[', ']']) != self.host {
            return None;
        }
        next.port = uri.port_u16().unwrap_or(if next.https { 443 } else { 80 });
        next.path = if rest[at..].starts_with('/') {
            rest[at..].to_owned()
        } else {
            format!("/{}", &rest[at..])
        };
        Some(next)
    }

    pub fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", authority(&self.host, self.port), self.path)
    }

    /// The status code, where it points elsewhere, and the beginning of the body.
    pub async fn send(&self, timeout: Duration) -> Result<Reply, String> {
        match tokio::time::timeout(timeout, self.exchange()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("Get \"{}\": {error}", self.url())),
            Err(_) => Err(format!(
                "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                self.url()
            )),
        }
    }

    async fn exchange(&self) -> Result<Reply, String> {
        let stream = dial(&self.host, self.port).await?;
        if !self.https {
            return self.over(stream).await;
        }
        // A probe asks whether the container answers, not who it is: certificates of pods are not checked, as upstream.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        self.over(stream).await
    }

    async fn over(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) -> Result<Reply, String> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        let mut request = Request::get(if self.path.is_empty() { "/" } else { &self.path })
            .header("Connection", "close")
            .header("User-Agent", self.agent)
            .header("Accept", "*/*");
        let named = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        if !named {
            request = request.header("Host", authority(&self.host, self.port));
        }
        let overrides = request.headers_mut().ok_or("the path is not one")?;
        for (name, value) in &self.headers {
            let name = http::HeaderName::try_from(name).map_err(|e| e.to_string())?;
            overrides.insert(name, http::HeaderValue::try_from(value).map_err(|e| e.to_string())?);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|e| daemon::chain(&e))?;
            let status = answer.status().as_u16();
            let location = answer
                .headers()
                .get("location")
                .and_then(|l| l.to_str().ok())
                .map(str::to_owned);
            let mut body = answer.into_body();
            let mut text = Vec::new();
            while text.len() < MAX_BODY {
                match body.frame().await {
                    Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d)),
                    Some(Err(error)) => return Err(daemon::chain(&error)),
                    None => break,
                }
            }
            text.truncate(MAX_BODY);
            Ok(Reply {
                status,
                location: location.filter(|l| !l.is_empty() && matches!(status, 301 | 302 | 303 | 307 | 308)),
                body: String::from_utf8_lossy(&text).into_owned(),
            })
        };
        tokio::pin!(connection);
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = &mut connection => {
                ended.map_err(|e| daemon::chain(&e))?;
                exchange.await
            }
        }
    }
}

pub async fn connect(host: &str, port: u16, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, dial(host, port)).await {
        Ok(result) => result.map(drop),
        Err(_) => Err(format!("dial tcp {}: i/o timeout", authority(host, port))),
    }
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
            std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {}: connect: {why}", authority(host, port))
    })
}

pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A port by number, or by the name it has in the container.
pub fn port(wanted: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|&n| n > 0)
        .ok_or_else(|| match wanted {
            IntOrString::Int(number) => format!("invalid port number: {number}"),
            IntOrString::String(name) => format!("couldn't find port: {name}"),
        })
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_stay_on_their_host() {
        let get = Get {
            https: false,
            host: "10.0.0.9".into(),
            port: 8080,
            path: "/a/b?x".into(),
            headers: Vec::new(),
            agent: "t",
        };
        let url = |to: &str| get.redirected(to).map(|g| g.url());
        for (to, want) in [
            ("/ok", Some("http://10.0.0.9:8080/ok")),
            ("c", Some("http://10.0.0.9:8080/a/c")),
            ("?y=1", Some("http://10.0.0.9:8080/a/b?y=1")),
            ("https://10.0.0.9/x", Some("https://10.0.0.9:443/x")),
            ("http://10.0.0.9:81", Some("http://10.0.0.9:81/")),
            ("http://example.com/", None),
        ] {
            assert_eq!(url(to).as_deref(), want, "{to}");
        }
    }
}

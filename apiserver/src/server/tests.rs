use std::time::Duration;

use axum::Extension;
use axum::routing::get;
use daemon::pki::{Authority, Leaf, Signer};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;

use super::*;

fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

async fn who(Extension(peer): Extension<Peer>) -> String {
    match peer {
        Peer::Internal(user) => format!("internal {}", user.name),
        Peer::Tls { certificate, .. } => match certificate {
            Certificate::None => "nobody".into(),
            Certificate::Verified { client, front_proxy } => {
                let client = client.map(|c| format!("client {} {:?}", c.user.name, c.user.groups));
                let proxy = front_proxy.map(|name| format!("proxy {name}"));
                [client, proxy].into_iter().flatten().collect::<Vec<_>>().join(" ")
            }
            Certificate::Refused => "refused".into(),
        },
    }
}

fn router() -> Router {
    async fn fall() -> String {
        panic!("on purpose")
    }
    Router::new().route("/who", get(who)).route("/panic", get(fall))
}

struct Bench {
    address: SocketAddr,
    authority: Authority,
    proxies: Authority,
    directory: tempfile::TempDir,
    stop: CancellationToken,
    served: tokio::task::JoinSet<()>,
}

impl Bench {
    async fn start() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let (authority, pair) = Authority::generate("ca", now()).unwrap();
        let (proxies, proxy_pair) = Authority::generate("front-proxy-ca", now()).unwrap();
        std::fs::write(directory.path().join("ca.crt"), &pair.certificate).unwrap();
        std::fs::write(directory.path().join("proxy.crt"), &proxy_pair.certificate).unwrap();
        write_pair(&authority, directory.path(), "localhost");
        let files = TlsFiles {
            certificate: directory.path().join("tls.crt"),
            key: directory.path().join("tls.key"),
            client_ca: Some(directory.path().join("ca.crt")),
            front_proxy_ca: Some(directory.path().join("proxy.crt")),
        };
        let tls = Arc::new(Tls::new(files).unwrap());
        let listener = listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut served = tokio::task::JoinSet::new();
        served.spawn(serve(listener, tls, router(), Limits::default(), stop.clone()));
        Bench {
            address,
            authority,
            proxies,
            directory,
            stop,
            served,
        }
    }

    async fn connect(&self, client: Option<&daemon::pki::Pair>) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority.certificate().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(pair) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect("localhost".try_into().unwrap(), stream)
            .await
            .unwrap()
    }

    async fn get(&self, path: &str, client: Option<&daemon::pki::Pair>) -> (u16, String) {
        let stream = self.connect(client).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(connection);
        let request = Request::get(format!("https://localhost{path}"))
            .body(Body::empty())
            .unwrap();
        let response = send.send_request(request).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }
}

fn write_pair(authority: &Authority, directory: &Path, name: &str) {
    let leaf = Leaf::server(Signer::Cluster, name, vec!["localhost".into()]);
    let pair = authority.issue(&leaf, Duration::from_secs(3600), now()).unwrap();
    std::fs::write(directory.join("tls.key"), pair.key).unwrap();
    std::fs::write(directory.join("tls.crt"), pair.certificate).unwrap();
}

fn client(authority: &Authority, name: &str, group: &str) -> daemon::pki::Pair {
    let leaf = Leaf::client(Signer::Cluster, name, Some(group));
    authority.issue(&leaf, Duration::from_secs(3600), now()).unwrap()
}

#[tokio::test]
async fn a_connection_knows_its_peer_by_the_certificate() {
    let bench = Bench::start().await;
    let (stranger, _) = Authority::generate("ca", now()).unwrap();
    let cases = [
        (None, "nobody"),
        (Some(client(&bench.authority, "alice", "dev")), "client alice [\"dev\"]"),
        (
            Some(client(&bench.proxies, "front-proxy-client", "x")),
            "proxy front-proxy-client",
        ),
        (Some(client(&stranger, "alice", "system:masters")), "refused"),
    ];
    for (pair, want) in cases {
        let (code, body) = bench.get("/who", pair.as_ref()).await;
        assert_eq!((code, body.as_str()), (200, want));
    }
}

#[tokio::test]
async fn a_panic_is_one_requests_500() {
    let bench = Bench::start().await;
    let (code, body) = bench.get("/panic", None).await;
    assert_eq!(code, 500);
    assert!(body.contains("\"reason\":\"InternalError\""), "{body}");
    assert_eq!(bench.get("/who", None).await.0, 200);
}

#[tokio::test]
async fn a_changed_certificate_is_served_to_the_next_connection() {
    let bench = Bench::start().await;
    let leaf = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        let der = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        x509::common_name(&der).unwrap()
    };
    assert_eq!(leaf(&bench.connect(None).await), "localhost");
    write_pair(&bench.authority, bench.directory.path(), "renewed-with-another-length");
    assert_eq!(leaf(&bench.connect(None).await), "renewed-with-another-length");
    std::fs::write(bench.directory.path().join("tls.key"), "half").unwrap();
    assert_eq!(leaf(&bench.connect(None).await), "renewed-with-another-length");
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_returns() {
    let mut bench = Bench::start().await;
    let stream = bench.connect(None).await;
    let (_send, connection) =
        hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(connection);
    bench.stop.cancel();
    bench.served.join_next().await.unwrap().unwrap();
    assert!(TcpStream::connect(bench.address).await.is_err());
}

#[tokio::test]
async fn an_internal_connection_has_the_identity_it_was_opened_with() {
    let service = internal(router(), User::new("system:kube-scheduler", &[]));
    let request = Request::get("/who").body(Body::empty()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&body[..], b"internal system:kube-scheduler");
}

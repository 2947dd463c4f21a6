//! Long answers and what passes through: compressed lists, logs, and upgrades to a kubelet (one of the test's own, on
//! loopback).

use std::io::Read;
use std::sync::Arc;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::kit::Kit;

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

async fn fill(kit: &Kit, count: usize) {
    for i in 0..count {
        let object = json!({"metadata": {"name": format!("m{i:03}")}, "data": {"k": "x".repeat(1000)}});
        kit.post(MAPS, &object).await.expect(201);
    }
}

#[tokio::test]
async fn a_large_list_is_compressed_for_who_wants_it() {
    let kit = Kit::new().await;
    fill(&kit, 200).await;
    let plain = kit.get(MAPS).await;
    assert_eq!(plain.json()["items"].as_array().unwrap().len(), 200);
    let length: usize = plain
        .headers
        .get("content-length")
        .map_or(plain.text.len(), |v| v.to_str().unwrap().parse().unwrap());
    assert_eq!(length, plain.text.len());
    let request = Request::get(MAPS)
        .header("accept-encoding", "gzip")
        .body(Body::empty())
        .unwrap();
    let response = kit.send(request).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert!(bytes.len() < plain.text.len() / 4);
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, plain.text);
    // A short one is not worth it.
    let request = Request::get(format!("{MAPS}?limit=2"))
        .header("accept-encoding", "gzip")
        .body(Body::empty())
        .unwrap();
    assert!(!kit.send(request).await.headers().contains_key("content-encoding"));
}

#[tokio::test]
async fn inside_the_process_a_list_is_the_same_bytes() {
    let mut kit = Kit::new().await;
    fill(&kit, 3).await;
    let over_the_network = kit.get(MAPS).await.text;
    kit.internal();
    assert_eq!(kit.get(MAPS).await.text, over_the_network);
}

/// A kubelet that answers logs, and echoes what comes through an upgrade until its end, then says goodbye.
async fn kubelet(tasks: &mut JoinSet<()>) -> (u16, Arc<rustls::ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    // Kubelets speak HTTP/2 too, and clients usually offer it.
    let protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    server.alpn_protocols.clone_from(&protocols);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = protocols;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let first = head.lines().next().unwrap().to_owned();
            if first.contains("/containerLogs/") {
                let line = format!("{first}\n");
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{line}",
                    line.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            } else if first.contains("/metrics/resource") {
                // Half a core, and a container that has just begun.
                let now = jiff::Timestamp::now().as_millisecond();
                let of = |name: &str, labels: &str, value: f64| format!("{name}{labels} {value} {now}\n");
                let container = "{container=\"c\",namespace=\"a\",pod=\"p\"}";
                let text = [
                    of(
                        "node_cpu_usage_seconds_total",
                        "",
                        (now % 1_000_000_000) as f64 / 2000.0,
                    ),
                    of("node_memory_working_set_bytes", "", 4096.0),
                    of(
                        "container_cpu_usage_seconds_total",
                        container,
                        (now % 1_000_000_000) as f64 / 4000.0,
                    ),
                    of("container_memory_working_set_bytes", container, 2048.0),
                    format!("container_start_time_seconds{container} 1\n"),
                ]
                .concat();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{text}",
                    text.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            } else if first.contains("/attach/") {
                stream
                    .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nno!")
                    .await
                    .unwrap();
            } else {
                assert!(
                    head.to_lowercase().contains("upgrade: spdy/3.1") && !head.to_lowercase().contains("authorization")
                );
                stream
                    .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n")
                    .await
                    .unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(&all).await.unwrap();
                stream.write_all(first.as_bytes()).await.unwrap();
            }
            stream.shutdown().await.unwrap();
        }
    });
    (port, Arc::new(client))
}

async fn running_pod() -> (Kit, JoinSet<()>) {
    let mut tasks = JoinSet::new();
    let (port, tls) = kubelet(&mut tasks).await;
    let kit = Kit::with(|parts| {
        parts.kubelet = Some(apiserver::http::KubeletAccess {
            tls,
            addresses: Vec::new(),
        })
    })
    .await;
    kit.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}}))
        .await
        .expect(201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    kit.patch("/api/v1/nodes/n/status", "merge", &status).await.expect(200);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}});
    kit.post("/api/v1/namespaces/a/pods", &pod).await.expect(201);
    (kit, tasks)
}

#[tokio::test]
async fn logs_come_from_the_pods_kubelet() {
    let (kit, _tasks) = running_pod().await;
    let log = kit
        .get("/api/v1/namespaces/a/pods/p/log?container=c&tailLines=5&follow=true")
        .await;
    assert_eq!(log.text, "GET /containerLogs/a/p/c?tailLines=5&follow=true HTTP/1.1\n");
    assert_eq!(
        kit.get("/api/v1/namespaces/a/pods/p/log").await.refused(400),
        "a container name must be specified for pod p, choose one of: [c d]"
    );
    assert_eq!(
        kit.get("/api/v1/namespaces/a/pods/p/log?container=x")
            .await
            .refused(400),
        "container x is not valid for pod p"
    );
    kit.get("/api/v1/namespaces/a/pods/p/exec?container=c")
        .await
        .refused(400);
}

#[tokio::test]
async fn what_nodes_and_pods_use_is_asked_of_their_kubelets() {
    let (kit, _tasks) = running_pod().await;
    for row in apiserver::registry::rows::usage() {
        kit.server.registry().add(row).await.unwrap();
    }
    let nodes = kit.get("/apis/metrics.k8s.io/v1beta1/nodes").await.expect(200);
    assert_eq!(
        (&nodes["kind"], &nodes["items"][0]["metadata"]["name"]),
        (&json!("NodeMetricsList"), &json!("n"))
    );
    let usage = &nodes["items"][0]["usage"];
    assert_eq!(
        (usage["cpu"].as_str(), usage["memory"].as_str()),
        (Some("500m"), Some("4Ki"))
    );
    let pods = "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods";
    let pod = kit.get(&format!("{pods}/p")).await.expect(200);
    assert_eq!(pod["containers"][0]["name"], "c");
    assert_eq!(pod["containers"][0]["usage"]["memory"], "2Ki");
    assert_eq!(pod["kind"], "PodMetrics");
    let none = kit.get(&format!("{pods}?labelSelector=a%3Db")).await.expect(200);
    assert_eq!(none["items"], json!([]));
    assert_eq!(
        kit.get(&format!("{pods}/q")).await.refused(404),
        "podmetrics.metrics.k8s.io \"a/q\" not found"
    );
    kit.get(&format!("{pods}?watch=true")).await.refused(405);
    let listed = kit.get("/apis/metrics.k8s.io/v1beta1").await.expect(200);
    assert_eq!(listed["resources"][0]["verbs"], json!(["get", "list"]));
}

#[tokio::test]
async fn an_upgrade_is_a_tunnel_that_keeps_half_closes() {
    let (kit, mut tasks) = running_pod().await;
    let (near, far) = tokio::io::duplex(64 * 1024);
    let router = kit.router();
    tasks.spawn(async move {
        let service = hyper_util::service::TowerToHyperService::new(router);
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(far), service)
            .with_upgrades()
            .await
            .unwrap();
    });
    let mut near = near;
    let ask = "POST /api/v1/namespaces/a/pods/p/exec?container=c&command=ls&command=-l&stdin=true&stdout=true&tty=false HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n";
    near.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.to_lowercase().contains("upgrade: spdy/3.1"),
        "{head}"
    );
    near.write_all(b"hello").await.unwrap();
    near.shutdown().await.unwrap();
    let mut back = String::new();
    near.read_to_string(&mut back).await.unwrap();
    assert_eq!(
        back,
        "helloPOST /exec/a/p/c?command=ls&command=-l&input=1&output=1 HTTP/1.1"
    );
}

#[tokio::test]
async fn a_far_end_that_is_not_there_is_the_servers_error() {
    let kit = Kit::new().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    kit.post("/api/v1/namespaces/a/pods", &pod).await.expect(201);
    assert_eq!(
        kit.get("/api/v1/namespaces/a/pods/p/log").await.refused(400),
        "pod p does not have a host assigned"
    );
    let there = kit.get("/api/v1/namespaces/a/pods/p/proxy").await;
    assert_eq!(there.code, 301);
    assert_eq!(there.headers["location"], "/api/v1/namespaces/a/pods/p/proxy/");
}

//! The whole part: from what the API says to an answer on a socket.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use http::{Request, Response};
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::*;

/// A server that lists `first` and then tells what comes through `changes`; both are (resource, event).
struct Api {
    first: Vec<(&'static str, Value)>,
    changes: broadcast::Sender<(&'static str, Value)>,
}

impl Api {
    fn client(self: &Arc<Self>) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            let changes = api.changes.subscribe();
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            let end = json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "10", "annotations": annotations}}});
            let first: Vec<Value> = api
                .first
                .iter()
                .filter(|(of, _)| path.ends_with(of))
                .map(|(_, e)| e.clone())
                .chain([end])
                .collect();
            let line = |event: &Value| Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(format!("{event}\n"))));
            let start = futures::stream::iter(first.into_iter().map(move |e| line(&e)).collect::<Vec<_>>());
            let later = futures::stream::unfold((changes, path), move |(mut changes, path)| async move {
                loop {
                    let (of, event) = changes.recv().await.ok()?;
                    if path.ends_with(of) {
                        return Some((line(&event), (changes, path)));
                    }
                }
            });
            let frames = futures::StreamExt::chain(start, later);
            async move { Ok::<_, Infallible>(Response::new(BoxBody::new(StreamBody::new(frames)))) }
        });
        kube::Client::new(service, "default")
    }
}

struct One(kube::Client);

impl Clients for One {
    fn own(&self) -> kube::Client {
        self.0.clone()
    }

    fn service_account(&self, _: &str, _: &str) -> kube::Client {
        self.0.clone()
    }
}

fn service(kind: &str, revision: u32, name: &str, ip: &str) -> (&'static str, Value) {
    let meta = json!({"name": name, "namespace": "a", "uid": name, "resourceVersion": revision.to_string()});
    (
        "/services",
        json!({"type": kind, "object": {"metadata": meta, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}}}),
    )
}

async fn ask(server: SocketAddr, name: &str) -> String {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    // The server may not be there yet.
    if socket.send(&message.to_vec().unwrap()).await.is_err() {
        return String::new();
    }
    let mut buffer = [0; 1500];
    match tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await {
        Ok(Ok(length)) => {
            let response = Message::from_vec(&buffer[..length]).unwrap();
            match response.metadata.response_code {
                ResponseCode::NoError => response
                    .answers
                    .iter()
                    .map(|r| r.data.to_string())
                    .collect::<Vec<_>>()
                    .join(" "),
                code => format!("{code:?}"),
            }
        }
        _ => String::new(),
    }
}

async fn until(server: SocketAddr, name: &str, want: &str) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while ask(server, name).await != want {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the answer comes");
}

#[tokio::test]
async fn names_follow_the_api() {
    let (changes, _) = broadcast::channel(16);
    let slice = json!({"type": "ADDED", "object": {
        "metadata": {"name": "db-1", "namespace": "a", "uid": "s", "resourceVersion": "3", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.0.5"], "hostname": "db-0"}], "ports": []}});
    let api = Arc::new(Api {
        first: vec![
            service("ADDED", 1, "web", "10.96.0.7"),
            service("ADDED", 2, "db", "None"),
            ("/endpointslices", slice.clone()),
        ],
        changes,
    });
    let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = held.local_addr().unwrap();
    drop(held);
    let nowhere = Files {
        main: "/nonexistent".into(),
        behind_stub: "/nonexistent".into(),
    };
    let config = Config {
        listen,
        own_address: false,
        resolv: nowhere,
        ..Config::default()
    };
    let stop = CancellationToken::new();
    let clients: Arc<dyn Clients> = Arc::new(One(api.client()));
    let mut part = tokio::task::JoinSet::new();
    part.spawn(run(config, clients, stop.clone()));

    until(listen, "web.a.svc.cluster.local.", "10.96.0.7").await;
    assert_eq!(ask(listen, "db-0.db.a.svc.cluster.local.").await, "10.244.0.5");
    assert_eq!(ask(listen, "new.a.svc.cluster.local.").await, "NXDomain");
    assert_eq!(ask(listen, "example.com.").await, "ServFail");
    api.changes.send(service("ADDED", 11, "new", "10.96.0.8")).unwrap();
    until(listen, "new.a.svc.cluster.local.", "10.96.0.8").await;
    api.changes.send(service("DELETED", 12, "web", "10.96.0.7")).unwrap();
    until(listen, "web.a.svc.cluster.local.", "NXDomain").await;
    let mut gone = slice;
    gone["type"] = json!("DELETED");
    gone["object"]["metadata"]["resourceVersion"] = json!("13");
    api.changes.send(("/endpointslices", gone)).unwrap();
    until(listen, "db.a.svc.cluster.local.", "NXDomain").await;
    stop.cancel();
    part.join_next().await.unwrap().unwrap().unwrap();
}

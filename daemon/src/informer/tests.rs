//! Informers against a scripted API server, with the clock paused.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::StreamBody;
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;

/// What the server does with the next request.
enum Answer {
    /// A status with a body.
    Refuse(u16, &'static str),
    /// A body that is complete.
    Whole(String),
    /// Frames until the sender is dropped.
    Stream(mpsc::Receiver<Bytes>),
}

#[derive(Clone, Default)]
struct Server {
    script: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn then(&self, answer: Answer) -> &Self {
        self.script.lock().unwrap().push_back(answer);
        self
    }

    fn stream(&self) -> mpsc::Sender<Bytes> {
        let (sender, receiver) = mpsc::channel(64);
        self.then(Answer::Stream(receiver));
        sender
    }

    fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                server.asked.lock().unwrap().push(request.uri().to_string());
                let answer = server.script.lock().unwrap().pop_front();
                let frames = |receiver: mpsc::Receiver<Bytes>| {
                    let stream = futures::stream::unfold(receiver, |mut receiver| async {
                        let frame = receiver.recv().await?;
                        Some((Ok::<_, Infallible>(http_body::Frame::data(frame)), receiver))
                    });
                    StreamBody::new(Box::pin(stream))
                };
                let (code, receiver) = match answer {
                    None => std::future::pending().await,
                    Some(Answer::Stream(receiver)) => (200, receiver),
                    Some(Answer::Whole(text)) => (200, one(text)),
                    Some(Answer::Refuse(code, text)) => (code, one(text.to_owned())),
                };
                Ok::<_, Infallible>(Response::builder().status(code).body(frames(receiver)).unwrap())
            }
        });
        kube::Client::new(service, "default")
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn one(text: String) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(1);
    sender.try_send(text.into()).unwrap();
    receiver
}

fn pod(name: &str, uid: &str, revision: u64) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"n","resourceVersion":"{revision}","uid":"{uid}"}}}}"#
    )
}

fn event(what: &str, object: &str) -> Bytes {
    format!("{{\"type\":\"{what}\",\"object\":{object}}}\n").into()
}

fn bookmark(revision: u64, end: bool) -> Bytes {
    let annotations = if end {
        r#","annotations":{"k8s.io/initial-events-end":"true"}"#
    } else {
        ""
    };
    event(
        "BOOKMARK",
        &format!(r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"resourceVersion":"{revision}"{annotations}}}}}"#),
    )
}

type Log = Arc<Mutex<Vec<String>>>;

/// Informers that run, and a log of their changes.
fn run(server: &Server) -> (Lister<Pod>, Log, CancellationToken) {
    let informers = Informers::new(server.client());
    let pods = informers.of::<Pod>(Options::default());
    let log: Log = Arc::default();
    let into = log.clone();
    pods.on_change(move |change| {
        into.lock().unwrap().push(match change {
            Change::Applied { old: None, new } => format!("+{}@{}", new.name, new.revision),
            Change::Applied { old: Some(_), new } => format!("~{}@{}", new.name, new.revision),
            Change::Deleted { old } => format!("-{}@{}", old.name, old.revision),
        });
    });
    let stop = CancellationToken::new();
    let run = informers.run(stop.clone());
    let mut set = JoinSet::new();
    set.spawn(run);
    set.detach_all();
    (pods, log, stop)
}

/// Lets everything happen that can happen now, and a little later.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

fn take(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_list_by_watch_then_changes_then_on_from_the_last_bookmark() {
    let server = Server::default();
    let stream = server.stream();
    let (pods, log, _stop) = run(&server);
    stream.send(event("ADDED", &pod("a", "1", 3))).await.unwrap();
    settle().await;
    assert!(!pods.has_synced(), "the list may not be complete");
    stream.send(bookmark(10, true)).await.unwrap();
    pods.synced().await;
    stream.send(event("MODIFIED", &pod("a", "1", 11))).await.unwrap();
    stream.send(event("DELETED", &pod("a", "1", 12))).await.unwrap();
    stream.send(bookmark(20, false)).await.unwrap();
    settle().await;
    assert_eq!(take(&log), ["+a@3", "~a@11", "-a@12"]);
    let next = server.stream();
    drop(stream);
    settle().await;
    next.send(event("ADDED", &pod("b", "2", 21))).await.unwrap();
    settle().await;
    assert_eq!(take(&log), ["+b@21"]);
    let asked = server.asked();
    assert!(
        asked[0].starts_with("/api/v1/pods?watch=1&allowWatchBookmarks=true&timeoutSeconds="),
        "{}",
        asked[0]
    );
    assert!(
        asked[0].ends_with("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
        "{}",
        asked[0]
    );
    assert!(asked[1].ends_with("&resourceVersion=20"), "{}", asked[1]);
}

#[tokio::test(start_paused = true)]
async fn after_410_a_new_list_tells_the_difference() {
    let server = Server::default();
    let stream = server.stream();
    let (pods, log, _stop) = run(&server);
    for (name, uid) in [("gone", "1"), ("same", "2"), ("anew", "3"), ("newer", "4")] {
        stream.send(event("ADDED", &pod(name, uid, 5))).await.unwrap();
    }
    stream.send(bookmark(5, true)).await.unwrap();
    pods.synced().await;
    take(&log);
    let next = server.stream();
    let status = r#"{"kind":"Status","status":"Failure","reason":"Expired","code":410}"#;
    stream.send(event("ERROR", status)).await.unwrap();
    drop(stream);
    for object in [
        pod("same", "2", 5),
        pod("anew", "33", 8),
        pod("newer", "4", 9),
        pod("born", "6", 9),
    ] {
        next.send(event("ADDED", &object)).await.unwrap();
    }
    next.send(bookmark(9, true)).await.unwrap();
    settle().await;
    assert_eq!(take(&log), ["-anew@5", "+anew@8", "~newer@9", "+born@9", "-gone@5"]);
    assert_eq!(pods.len(), 4);
    let asked = server.asked();
    assert!(asked[1].contains("sendInitialEvents"), "{}", asked[1]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_deletes_nothing() {
    let server = Server::default();
    let stream = server.stream();
    let (pods, log, _stop) = run(&server);
    stream.send(event("ADDED", &pod("a", "1", 1))).await.unwrap();
    stream.send(event("ADDED", &pod("b", "2", 2))).await.unwrap();
    let next = server.stream();
    drop(stream);
    settle().await;
    assert!(!pods.has_synced());
    next.send(event("ADDED", &pod("b", "2", 2))).await.unwrap();
    settle().await;
    assert_eq!(pods.len(), 2);
    next.send(bookmark(3, true)).await.unwrap();
    settle().await;
    assert_eq!(take(&log), ["+a@1", "+b@2", "-a@1"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_watch_list_is_listed_in_pages() {
    let server = Server::default();
    server
        .then(Answer::Refuse(
            422,
            r#"{"kind":"Status","code":422,"message":"sendInitialEvents is forbidden"}"#,
        ))
        .then(Answer::Whole(format!(
            r#"{{"kind":"PodList","metadata":{{"resourceVersion":"7","continue":"a b"}},"items":[{}]}}"#,
            pod("a", "1", 3)
        )))
        .then(Answer::Whole(format!(
            r#"{{"kind":"PodList","metadata":{{"resourceVersion":"7"}},"items":[{}]}}"#,
            pod("b", "2", 4)
        )));
    let stream = server.stream();
    let (pods, log, _stop) = run(&server);
    pods.synced().await;
    settle().await;
    stream.send(event("MODIFIED", &pod("b", "2", 8))).await.unwrap();
    settle().await;
    assert_eq!(take(&log), ["+a@3", "+b@4", "~b@8"]);
    let asked = server.asked();
    assert_eq!(asked[1], "/api/v1/pods?limit=500");
    assert_eq!(asked[2], "/api/v1/pods?limit=500&continue=a%20b");
    assert!(asked[3].ends_with("&resourceVersion=7"), "{}", asked[3]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_is_waited_for_with_growing_pauses() {
    let server = Server::default();
    for _ in 0..4 {
        server.then(Answer::Refuse(503, ""));
    }
    let stream = server.stream();
    let (pods, ..) = run(&server);
    let began = tokio::time::Instant::now();
    stream.send(bookmark(1, true)).await.unwrap();
    pods.synced().await;
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(1500) && took < Duration::from_millis(1900),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_says_nothing_past_its_end_is_given_up() {
    let server = Server::default();
    let stream = server.stream();
    let (pods, ..) = run(&server);
    stream.send(bookmark(5, true)).await.unwrap();
    pods.synced().await;
    let _next = server.stream();
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn shared_frames_are_kept_and_read() {
    let server = Server::default();
    let stream = server.stream();
    let (pods, ..) = run(&server);
    let head = Bytes::from(
        br#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"x"},"name":"a","namespace":"n","#.to_vec(),
    );
    let tail = Bytes::from(br#""uid":"u"},"spec":{"containers":[],"nodeName":"n1"}}"#.to_vec());
    let frames = [
        Bytes::from_static(b"{\"type\":\"ADDED\",\"object\":"),
        head.clone(),
        Bytes::from_static(b"\"resourceVersion\":\"42\","),
        tail.clone(),
        Bytes::from_static(b"}\n"),
        bookmark(42, true),
    ];
    for frame in frames {
        stream.send(frame).await.unwrap();
    }
    pods.synced().await;
    pods.index("node", |pod| {
        #[derive(serde::Deserialize)]
        struct View {
            spec: Spec,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec {
            node_name: Option<String>,
        }
        pod.view::<View>().unwrap().spec.node_name.into_iter().collect()
    });
    let entry = pods.by("node", "n1").pop().unwrap();
    assert_eq!(entry.labels.get("app"), Some("x"));
    let typed = entry.typed().unwrap();
    assert_eq!(typed.metadata.resource_version.as_deref(), Some("42"));
    assert!(
        Arc::ptr_eq(&typed, &entry.typed().unwrap()),
        "decoded once for all who hold it"
    );
    assert!(!head.is_unique() && !tail.is_unique(), "the bytes are shared");
    assert_eq!(entry.bytes().len(), head.len() + tail.len() + 23);
}

#[tokio::test(start_paused = true)]
async fn facts_alone_keep_no_bytes_and_tell_when_complete() {
    let server = Server::default();
    let stream = server.stream();
    let informers = Informers::new(server.client());
    let log: Log = Arc::default();
    let into = log.clone();
    let pods = informers.census(&Pod::resource());
    pods.tell(move |told| {
        into.lock().unwrap().push(match told {
            Told::Applied { new, .. } => format!("+{}", new.name),
            Told::Deleted { old } => format!("-{}", old.name),
            Told::Synced => "synced".to_owned(),
        });
    });
    let stop = CancellationToken::new();
    let script = async {
        stream.send(event("ADDED", &pod("a", "1", 1))).await.unwrap();
        stream.send(bookmark(1, true)).await.unwrap();
        stream.send(event("DELETED", &pod("a", "1", 2))).await.unwrap();
        pods.synced().await;
        settle().await;
        assert!(pods.get("n", "a").is_none());
        stop.cancel();
    };
    let (end, ()) = tokio::join!(informers.clone().run(stop.clone()), script);
    end.unwrap();
    assert_eq!(take(&log), ["+a", "synced", "-a"]);
}

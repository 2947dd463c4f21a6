//! As much of an API server as a node agent meets, in memory: objects by path, watches, status patches, deletion with grace.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use daemon::clients::Clients;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    revision: u64,
    /// By full path, as `/api/v1/namespaces/default/pods/web`.
    objects: BTreeMap<String, Value>,
    watchers: Vec<Watcher>,
}

struct Watcher {
    resource: String,
    namespace: Option<String>,
    fields: HashMap<String, String>,
    out: mpsc::Sender<Bytes>,
}

struct Path {
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
    sub: Option<String>,
}

impl Path {
    fn parse(path: &str) -> Path {
        let mut parts = path.trim_matches('/').split('/');
        let base = if parts.next() == Some("api") { 1 } else { 2 };
        let mut rest: Vec<&str> = parts.skip(base).collect();
        let mut namespace = None;
        if rest[0] == "namespaces" && rest.len() > 2 {
            namespace = Some(rest[1].to_owned());
            rest.drain(..2);
        }
        let at = |n: usize| rest.get(n).map(|s| (*s).to_owned());
        Path {
            resource: rest[0].to_owned(),
            namespace,
            name: at(1),
            sub: at(2),
        }
    }
}

impl Clients for Api {
    fn own(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        kube::Client::new(service, "default")
    }

    fn service_account(&self, _namespace: &str, _name: &str) -> kube::Client {
        self.own()
    }
}

fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

impl Api {
    pub(crate) fn create_pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(30);
        }
        let meta = json!({"name": name, "namespace": "default", "uid": format!("uid-{name}")});
        self.put(
            &pod_path(name),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}),
        );
    }

    pub(crate) fn create(&self, path: &str, object: Value) {
        self.put(path, object);
    }

    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        self.get(&pod_path(name))
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    pub(crate) fn delete_pod(&self, name: &str, grace: u64) {
        self.delete(&pod_path(name), Some(grace));
    }

    /// Reasons of the events of a pod, in order of their names, which is the order of their making.
    pub(crate) fn events(&self) -> Vec<String> {
        let state = self.lock();
        let events = state.objects.iter().filter(|(path, _)| path.contains("/events/"));
        events
            .map(|(_, e)| e["reason"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while holding the lock")
    }

    fn put(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.lock();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let known = state.objects.insert(path.to_owned(), object.clone()).is_some();
        state.tell(path, if known { "MODIFIED" } else { "ADDED" }, &object);
        object
    }

    fn delete(&self, path: &str, grace: Option<u64>) -> Option<Value> {
        let mut object = self.get(path)?;
        let default = object["spec"]["terminationGracePeriodSeconds"].as_u64();
        match grace.or(default).filter(|_| path.contains("/pods/")) {
            Some(seconds) if seconds > 0 => {
                object["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
                object["metadata"]["deletionGracePeriodSeconds"] = json!(seconds);
                Some(self.put(path, object))
            }
            _ => {
                let mut state = self.lock();
                state.revision += 1;
                object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
                state.objects.remove(path);
                state.tell(path, "DELETED", &object);
                Some(object)
            }
        }
    }

    async fn serve(&self, request: Request<Body>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let query: HashMap<String, String> = head
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.replace("%3D", "=").replace("%2C", ",")))
            .collect();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let parsed = Path::parse(&path);
        let found = |object: Option<Value>| match object {
            Some(object) => answer(StatusCode::OK, &object),
            None => answer(StatusCode::NOT_FOUND, &status(404, "NotFound")),
        };
        match head.method {
            Method::GET if parsed.name.is_some() => found(self.get(&path)),
            Method::GET => self.watch(&parsed, &query),
            Method::POST if parsed.sub.as_deref() == Some("token") => {
                let ends = "2999-01-01T00:00:00Z";
                let mut token = body;
                token["status"] = json!({"token": "secret", "expirationTimestamp": ends});
                answer(StatusCode::CREATED, &token)
            }
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let path = format!("{path}/{name}");
                match self.get(&path) {
                    Some(_) => answer(StatusCode::CONFLICT, &status(409, "AlreadyExists")),
                    None => answer(StatusCode::CREATED, &self.put(&path, body)),
                }
            }
            Method::PUT => found(Some(self.put(&path, body))),
            Method::PATCH => {
                let path = path.trim_end_matches("/status");
                let patched = self.get(path).map(|mut object| {
                    merge(&mut object, body);
                    self.put(path, object)
                });
                found(patched)
            }
            Method::DELETE => found(self.delete(&path, body["gracePeriodSeconds"].as_u64())),
            _ => answer(StatusCode::METHOD_NOT_ALLOWED, &status(405, "MethodNotAllowed")),
        }
    }

    fn watch(&self, path: &Path, query: &HashMap<String, String>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        // What a test does between two looks of a watcher fits.
        let (out, events) = mpsc::channel(1000);
        let selector = query.get("fieldSelector").map(String::as_str).unwrap_or_default();
        let fields = selector
            .split(',')
            .filter_map(|t| t.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        let watcher = Watcher {
            resource: path.resource.clone(),
            namespace: path.namespace.clone(),
            fields,
            out,
        };
        let mut state = self.lock();
        for (path, object) in &state.objects {
            watcher.tell(path, "ADDED", object);
        }
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        let meta = json!({"resourceVersion": state.revision.to_string(), "annotations": annotations});
        watcher.send("BOOKMARK", &json!({"kind": "X", "apiVersion": "v1", "metadata": meta}));
        state.watchers.push(watcher);
        let body = StreamBody::new(ReceiverStream::new(events).map(|bytes| Ok(Frame::data(bytes))));
        Response::new(BodyExt::boxed_unsync(body))
    }
}

impl State {
    fn tell(&mut self, path: &str, kind: &str, object: &Value) {
        for watcher in &self.watchers {
            watcher.tell(path, kind, object);
        }
    }
}

impl Watcher {
    fn tell(&self, path: &str, kind: &str, object: &Value) {
        let path = Path::parse(path);
        let here = path.resource == self.resource && (self.namespace.is_none() || path.namespace == self.namespace);
        let selected = self.fields.iter().all(|(field, want)| {
            let value = field.split('.').fold(object, |v, part| &v[part]);
            value.as_str() == Some(want)
        });
        if here && selected {
            self.send(kind, object);
        }
    }

    fn send(&self, kind: &str, object: &Value) {
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        // A watcher that has gone misses nothing.
        let _ = self.out.try_send(line.into());
    }
}

fn answer(code: StatusCode, object: &Value) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let body = http_body_util::Full::new(Bytes::from(object.to_string())).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code})
}

/// A merge patch that joins conditions by type and heeds the directives that a node agent sends.
fn merge(into: &mut Value, patch: Value) {
    let (Some(target), Value::Object(patch)) = (into.as_object_mut(), patch) else {
        return;
    };
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.remove(&key)),
            Value::Object(_) if target.get(&key).is_some_and(Value::is_object) => merge(&mut target[&key], value),
            Value::Array(list) if key == "conditions" => {
                let all = target.entry(key).or_insert_with(|| json!([]));
                let all = all.as_array_mut().expect("conditions are a list");
                for condition in list {
                    match all.iter_mut().find(|c| c["type"] == condition["type"]) {
                        Some(had) => merge(had, condition),
                        None => all.push(condition),
                    }
                }
            }
            Value::Array(list) => {
                let list: Vec<Value> = list.into_iter().filter(|v| v.get("$patch").is_none()).collect();
                target.insert(key, list.into());
            }
            other => drop(target.insert(key, other)),
        }
    }
}

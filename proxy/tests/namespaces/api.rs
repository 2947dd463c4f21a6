//! As much of an API server as a watch needs: lists, then changes as they are told.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use daemon::Clients;
use http::{Request, Response};
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Objects by resource and name, and who watches them.
#[derive(Default)]
pub(crate) struct Api {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<(&'static str, String), Value>,
    watchers: Vec<(String, mpsc::Sender<Bytes>)>,
}

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

impl Api {
    /// Creates or replaces an object.
    pub(crate) fn put(&self, resource: &'static str, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let revision = state.revision.to_string();
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.insert("resourceVersion".into(), json!(revision));
        let name = meta["name"].as_str().unwrap().to_owned();
        meta.entry("uid").or_insert_with(|| json!(name));
        let old = state.objects.insert((resource, name), object.clone());
        state.tell(
            resource,
            &line(if old.is_some() { "MODIFIED" } else { "ADDED" }, &object),
        );
    }

    pub(crate) fn delete(&self, resource: &'static str, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let mut object = state.objects.remove(&(resource, name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        state.tell(resource, &line("DELETED", &object));
    }

    fn watch(&self, path: &str) -> mpsc::Receiver<Bytes> {
        let resource = path.rsplit('/').next().unwrap().to_owned();
        let mut state = self.state.lock().unwrap();
        let (told, changes) = mpsc::channel(1024);
        for object in state
            .objects
            .iter()
            .filter(|((of, _), _)| *of == resource)
            .map(|(_, o)| o)
        {
            told.try_send(line("ADDED", object)).unwrap();
        }
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        let end = json!({"metadata": {"resourceVersion": state.revision.to_string(), "annotations": annotations}});
        told.try_send(line("BOOKMARK", &end)).unwrap();
        state.watchers.push((resource, told));
        changes
    }

    /// A part's way here.
    pub(crate) fn clients(self: &Arc<Self>) -> Arc<dyn Clients> {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let changes = api.watch(request.uri().path());
            async move {
                let frames = ReceiverStream::new(changes).map(|b| Ok::<_, Infallible>(http_body::Frame::data(b)));
                Ok::<_, Infallible>(Response::new(BoxBody::new(StreamBody::new(frames))))
            }
        });
        Arc::new(One(kube::Client::new(service, "default")))
    }
}

impl State {
    fn tell(&mut self, resource: &str, line: &Bytes) {
        self.watchers
            .retain(|(of, told)| of != resource || told.try_send(line.clone()).is_ok());
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

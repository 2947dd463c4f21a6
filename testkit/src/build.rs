//! Objects for tests, with what validation asks for and nothing else.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// An object in the making.
#[derive(Debug, Clone)]
pub struct Builder(Value);

impl Builder {
    pub fn name(self, name: &str) -> Self {
        self.set("/metadata/name", json!(name))
    }

    pub fn namespace(self, namespace: &str) -> Self {
        self.set("/metadata/namespace", json!(namespace))
    }

    pub fn label(self, key: &str, value: &str) -> Self {
        let at = format!("/metadata/labels/{}", key.replace('~', "~0").replace('/', "~1"));
        self.set(&at, json!(value))
    }

    /// The node that a pod is bound to.
    pub fn on(self, node: &str) -> Self {
        self.set("/spec/nodeName", json!(node))
    }

    /// The image of the only container, of a pod or of a template. [`crate::FakeNode`] reads its name.
    pub fn image(self, image: &str) -> Self {
        let spec = if self.0.pointer("/spec/template").is_some() {
            "/spec/template/spec"
        } else {
            "/spec"
        };
        self.set(&format!("{spec}/containers/0/image"), json!(image))
    }

    pub fn replicas(self, replicas: i32) -> Self {
        self.set("/spec/replicas", json!(replicas))
    }

    /// Puts a value where a JSON pointer says; objects on the way are made.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut at = &mut self.0;
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            at = match at {
                Value::Array(items) => {
                    let index: usize = part.parse().expect("an index into a list");
                    &mut items[index]
                }
                other => {
                    if other.is_null() {
                        *other = json!({});
                    }
                    &mut other[part]
                }
            };
        }
        *at = value;
        self
    }

    /// The object.
    pub fn build<K: DeserializeOwned>(self) -> K {
        serde_json::from_value(self.0).expect("the builder makes what is asked for")
    }

    pub fn pod(self) -> Pod {
        self.build()
    }

    pub fn deployment(self) -> Deployment {
        self.build()
    }

    pub fn job(self) -> Job {
        self.build()
    }

    pub fn service(self) -> Service {
        self.build()
    }

    pub fn node(self) -> Node {
        self.build()
    }

    pub fn namespace_object(self) -> Namespace {
        self.build()
    }
}

/// A pod with one container.
pub fn pod(name: &str) -> Builder {
    Builder(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "serve"}]},
    }))
}

/// A Deployment of one pod, labelled `app: name`.
pub fn deployment(name: &str) -> Builder {
    Builder(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "serve"}]}}},
    }))
}

/// A Job of one pod that never restarts its container.
pub fn job(name: &str) -> Builder {
    Builder(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "succeed"}]}}},
    }))
}

/// A Service of the pods labelled `app: name`, on port 80.
pub fn service(name: &str) -> Builder {
    Builder(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }))
}

/// A node that has room for much.
pub fn node(name: &str) -> Builder {
    let room = json!({"cpu": "64", "memory": "256Gi", "pods": "1000"});
    Builder(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"capacity": room, "allocatable": room},
    }))
}

pub fn namespace(name: &str) -> Builder {
    Builder(json!({"metadata": {"name": name}}))
}

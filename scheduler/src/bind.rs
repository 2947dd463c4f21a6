//! The only writer: bindings, the PodScheduled condition, events.

use std::sync::Arc;

use daemon::events::{EventType, Recorder};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::pod::Pod;
use crate::volumes::{self, Choice};

/// Writes what was decided.
#[derive(Clone)]
pub struct Binder {
    client: kube::Client,
    events: Recorder,
    volumes: volumes::Writer,
}

impl std::fmt::Debug for Binder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Binder")
    }
}

/// Why a pod was not bound.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod is gone or was bound by somebody else: the watch tells.
    #[error("the pod changed")]
    Overtaken,
    /// May be tried again.
    #[error("the API did not take the binding")]
    Api(#[source] Box<kube::Error>),
    /// May be decided again.
    #[error("the pod's claims were not served")]
    Volumes(#[from] volumes::Error),
}

impl Binder {
    pub fn new(client: kube::Client, events: Recorder, volumes: volumes::Writer) -> Self {
        Binder {
            client,
            events,
            volumes,
        }
    }

    /// Has the pod's claims served on the node, then binds it.
    pub async fn place(&self, pod: &Pod, node: &str, choices: &[Choice]) -> Result<(), Error> {
        self.volumes.serve(pod, node, choices).await?;
        self.bind(pod, node).await
    }

    /// Binds the pod to the node.
    pub async fn bind(&self, pod: &Pod, node: &str) -> Result<(), Error> {
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": &*pod.name, "namespace": &*pod.namespace, "uid": &*pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let request = Request::post(format!(
            "/api/v1/namespaces/{}/pods/{}/binding",
            pod.namespace, pod.name
        ))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&body).expect("a JSON tree serializes"))
        .expect("names of pods are path segments");
        match self.client.request::<Value>(request).await {
            Ok(_) => {
                let message = format!("Successfully assigned {} to {node}", pod.key());
                self.events
                    .publish(&reference(pod), EventType::Normal, "Scheduled", &message);
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Err(Error::Overtaken),
            Err(error) => Err(Error::Api(Box::new(error))),
        }
    }

    /// Tells the pod why it has no place; what it was already told is not written again.
    pub async fn refuse(&self, pod: &Arc<Pod>, message: &str) -> Result<(), kube::Error> {
        self.events
            .publish(&reference(pod), EventType::Warning, "FailedScheduling", message);
        if pod.told.as_deref() == Some(message) {
            return Ok(());
        }
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        });
        if pod.told.is_none() {
            condition["lastTransitionTime"] = json!(Timestamp::now().round(jiff::Unit::Second).unwrap_or_default());
        }
        let patch = json!({"metadata": {"uid": &*pod.uid}, "status": {"conditions": [condition]}});
        let pods: Api<core::Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        match pods
            .patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            // A pod that is gone needs no telling.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.map(drop),
        }
    }
}

fn reference(pod: &Pod) -> core::ObjectReference {
    core::ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.name.to_string()),
        namespace: Some(pod.namespace.to_string()),
        uid: Some(pod.uid.to_string()),
        ..core::ObjectReference::default()
    }
}

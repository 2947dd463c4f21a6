//! The only writer: bindings, the end of pods that make room, the PodScheduled condition, events.

use std::sync::Arc;

use daemon::events::{EventType, Recorder};
use futures::future::try_join_all;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use crate::cycle::Nowhere;
use crate::pod::{PREEMPTED, Pod};
use crate::preempt::Room;
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

/// Why a write did not take place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod is gone or was bound by somebody else: the watch tells.
    #[error("the pod changed")]
    Overtaken,
    /// May be decided again.
    #[error("the pod's claims were not served")]
    Volumes(#[from] volumes::Error),
    /// May be tried again.
    #[error("the API did not take the write")]
    Api(#[source] Box<kube::Error>),
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
    pub async fn bind(&self, pod: &Pod, node: &str, choices: &[Choice]) -> Result<(), Error> {
        self.volumes.serve(pod, node, choices).await?;
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

    /// Has the less important pods go, as gracefully as they ask for.
    pub async fn make_room(&self, pod: &Pod, room: &Room) -> Result<(), Error> {
        let gone = room.victims.iter().filter(|victim| !victim.deleting);
        try_join_all(gone.map(|victim| self.evict(pod, victim, &room.node))).await?;
        let outranked = room.outranked.iter();
        try_join_all(outranked.map(|other| self.patch(other, json!({"nominatedNodeName": null})))).await?;
        Ok(())
    }

    async fn evict(&self, pod: &Pod, victim: &Pod, node: &str) -> Result<(), Error> {
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": PREEMPTED,
            "message": format!("{}: preempting to accommodate a higher priority pod", pod.shape.scheduler),
            "lastTransitionTime": now(),
        });
        self.patch(victim, json!({"conditions": [condition]})).await?;
        let only_this = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(victim.uid.to_string()),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        };
        let pods: Api<core::Pod> = Api::namespaced(self.client.clone(), &victim.namespace);
        match pods.delete(&victim.name, &only_this).await {
            // Gone, or another pod of that name: there is room.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(Error::Api(Box::new(error))),
            Ok(_) => {
                let message = format!("Preempted by pod {} on node {node}", pod.uid);
                self.events
                    .publish(&reference(victim), EventType::Normal, "Preempted", &message);
                Ok(())
            }
        }
    }

    /// Tells the pod why it has no place, and where room is being made; what it was already told is not written again.
    pub async fn refuse(&self, pod: &Arc<Pod>, nowhere: &Nowhere, reason: &str) -> Result<(), Error> {
        let message = &nowhere.message;
        self.events
            .publish(&reference(pod), EventType::Warning, "FailedScheduling", message);
        let mut status = json!({});
        if pod.told.as_deref() != Some(message) {
            let mut condition = json!({
                "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            });
            if pod.told.is_none() {
                condition["lastTransitionTime"] = now();
            }
            status["conditions"] = json!([condition]);
        }
        match &nowhere.room {
            Some(room) if pod.nominated.as_ref() != Some(&room.node) => {
                status["nominatedNodeName"] = json!(&*room.node)
            }
            None if nowhere.give_up && pod.nominated.is_some() => status["nominatedNodeName"] = Value::Null,
            _ => {}
        }
        if status == json!({}) {
            return Ok(());
        }
        self.patch(pod, status).await
    }

    async fn patch(&self, pod: &Pod, status: Value) -> Result<(), Error> {
        let patch = json!({"metadata": {"uid": &*pod.uid}, "status": status});
        let pods: Api<core::Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        match pods
            .patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            // A pod that is gone needs no telling.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(Error::Api(Box::new(error))),
            Ok(_) => Ok(()),
        }
    }
}

fn now() -> Value {
    json!(Timestamp::now().round(jiff::Unit::Second).unwrap_or_default())
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

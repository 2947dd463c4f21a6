//! What every controller of pods does with them: make them from a template, in batches that grow; take in orphans; let
//! go of what fits no longer; delete.

use api::owner::Claim;
use api::selector::Labels;
use daemon::events::EventType;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use crate::context::{Context, Key};
use crate::guard::Guard;
use crate::{Error, is_conflict, is_gone, is_terminating};

/// The most pods that one reconciliation makes or deletes. Upstream: replicaset.BurstReplicas.
pub const BURST: usize = 500;

/// A pod made from a template.
pub fn from_template(template: &PodTemplateSpec, owner: &str, namespace: &str, reference: OwnerReference) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    // The server appends five characters, and cuts the base so that they fit.
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{owner}-")),
            namespace: Some(namespace.to_owned()),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![reference]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Performs what a plan says of pods, in the name of one owner.
#[derive(Debug)]
pub struct Hands<'a> {
    pub context: &'a Context,
    pub guard: &'a Guard,
    /// The owner's key, for the guard.
    pub key: &'a Key,
    /// The owner, as events speak of it.
    pub owner: &'a ObjectReference,
}

impl Hands<'_> {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.context.client.clone(), &self.key.namespace)
    }

    /// Makes pods: one, then two, then four at a time, and no more after a failure, so that a template that is refused
    /// costs one request and not five hundred. Says how many were made.
    pub async fn create(&self, pods: Vec<Pod>) -> (usize, Option<Error>) {
        let api = self.pods();
        let (mut made, mut batch) = (0, 1);
        let mut rest = pods.into_iter().take(BURST).peekable();
        while rest.peek().is_some() {
            let requests: Vec<_> = rest.by_ref().take(batch).collect();
            let params = PostParams::default();
            let answers = join_all(requests.iter().map(|pod| api.create(&params, pod))).await;
            let mut failure = None;
            for answer in answers {
                match answer {
                    Ok(pod) => {
                        made += 1;
                        self.guard.wrote(self.key, &pod.metadata);
                        let name = pod.metadata.name.unwrap_or_default();
                        self.say(EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                    }
                    Err(error) if is_terminating(&error) => failure = failure.or(Some(None)),
                    Err(error) => {
                        self.say(
                            EventType::Warning,
                            "FailedCreate",
                            format!("Error creating: {}", message(&error)),
                        );
                        failure = Some(Some(error));
                    }
                }
            }
            if let Some(failure) = failure {
                return (made, failure.map(Error::Api));
            }
            batch *= 2;
        }
        (made, None)
    }

    /// Deletes pods, all at once.
    pub async fn delete<'p>(&self, pods: impl IntoIterator<Item = &'p Pod>) -> Result<(), Error> {
        let api = self.pods();
        let deletions = pods.into_iter().map(async |pod| {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let answer = api.delete(&name, &this_one(&pod.metadata)).await;
            (name, answer)
        });
        let mut failure = Ok(());
        for (name, answer) in join_all(deletions).await {
            match answer {
                Ok(answer) => {
                    if let Some(pod) = answer.left() {
                        self.guard.wrote(self.key, &pod.metadata);
                    }
                    self.say(EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                }
                // It is gone, or the name is another pod's by now.
                Err(error) if is_gone(&error) || is_conflict(&error) => {}
                Err(error) => {
                    let text = format!("Error deleting: {}", message(&error));
                    self.say(EventType::Warning, "FailedDelete", text);
                    failure = Err(Error::Api(error));
                }
            }
        }
        failure
    }

    /// Makes an orphan ours.
    pub async fn adopt(&self, pod: &Pod, reference: &OwnerReference) -> Result<(), Error> {
        let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
        owners.push(reference.clone());
        let change = json!({"metadata": {"uid": pod.metadata.uid, "ownerReferences": owners}});
        self.patch(pod, change).await
    }

    /// Lets go of a pod that does not match any more.
    pub async fn release(&self, pod: &Pod, owner_uid: &str) -> Result<(), Error> {
        let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
        owners.retain(|owner| owner.uid != owner_uid);
        let change = json!({"metadata": {"uid": pod.metadata.uid, "ownerReferences": owners}});
        self.patch(pod, change).await
    }

    /// Patches a pod as it was seen: lists are replaced whole, so the revision has to match.
    pub async fn patch(&self, pod: &Pod, mut change: serde_json::Value) -> Result<(), Error> {
        change["metadata"]["resourceVersion"] = json!(pod.metadata.resource_version);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match self
            .pods()
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await
        {
            Ok(pod) => {
                self.guard.wrote(self.key, &pod.metadata);
                Ok(())
            }
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn say(&self, kind: EventType, reason: &str, message: String) {
        self.context.recorder.publish(self.owner, kind, reason, message);
    }
}

/// Deletes this object and no other of its name.
pub fn this_one(metadata: &ObjectMeta) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: metadata.uid.clone(),
            resource_version: None,
        }),
        ..Default::default()
    }
}

/// The sentence of an error that is meant for people.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => daemon::chain(other),
    }
}

/// What to do with a pod that an owner with this selector may have: the rule of adoption.
pub fn claim(pod: &Pod, selector: &Labels, owner_uid: &str, owner_deleting: bool) -> Claim {
    api::owner::claim(
        &pod.metadata,
        matches(selector, &pod.metadata),
        owner_uid,
        owner_deleting,
    )
}

/// Whether an object's labels match.
pub fn matches(selector: &Labels, metadata: &ObjectMeta) -> bool {
    let labels = metadata.labels.as_ref();
    selector.matches(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
}

/// Whether an entry's labels match.
pub fn selects<K>(selector: &Labels, entry: &daemon::Entry<K>) -> bool {
    selector.matches(|key| entry.labels.get(key))
}

//! Writes what was chosen for a pod's claims, and waits until they have their volumes: only then may the pod be bound.

use std::time::Duration;

use api::volume::{SELECTED_NODE, annotation, is_fully_bound, keep};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::{Choice, Listed, Source};
use crate::pod::Pod;

/// Upstream's bindTimeoutSeconds.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why a pod's claims were not served. All mean that the pod is decided again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API did not take a choice of volume")]
    Api(#[from] kube::Error),
    #[error("the claim {0} is gone")]
    Gone(String),
    #[error("the claim {0} cannot be served on the chosen node")]
    Withdrawn(String),
    #[error("binding volumes: context deadline exceeded")]
    Slow,
}

/// Performs choices.
#[derive(Clone)]
pub struct Writer {
    client: kube::Client,
    listed: Listed,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    pub fn new(client: kube::Client, listed: Listed) -> Self {
        Writer { client, listed }
    }

    /// Returns when all claims of the pod have their volumes.
    pub async fn serve(&self, pod: &Pod, node: &str, choices: &[Choice]) -> Result<(), Error> {
        if choices.is_empty() {
            return Ok(());
        }
        let mut changes = self.listed.changes();
        for choice in choices {
            match choice {
                Choice::Take(claim, volume) => self.take(claim, volume).await?,
                Choice::Make(claim) => self.make(claim, node).await?,
            }
        }
        let served = async {
            loop {
                changes.borrow_and_update();
                if self.is_served(pod, node, choices)? {
                    return Ok(());
                }
                // The sender lives as long as the listers, which this holds.
                if changes.changed().await.is_err() {
                    return Err(Error::Slow);
                }
            }
        };
        tokio::time::timeout(PATIENCE, served).await.map_err(|_| Error::Slow)?
    }

    async fn take(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), Error> {
        let Some(kept) = keep(volume, claim) else { return Ok(()) };
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        volumes.replace(name, &PostParams::default(), &kept).await?;
        Ok(())
    }

    async fn make(&self, claim: &PersistentVolumeClaim, node: &str) -> Result<(), Error> {
        if annotation(&claim.metadata, SELECTED_NODE) == Some(node) {
            return Ok(());
        }
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let change = json!({"metadata": {
            "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
            "annotations": {SELECTED_NODE: node},
        }});
        claims
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await?;
        Ok(())
    }

    fn is_served(&self, pod: &Pod, node: &str, choices: &[Choice]) -> Result<bool, Error> {
        let mut all = true;
        for choice in choices {
            let (before, made) = match choice {
                Choice::Take(claim, _) => (claim, false),
                Choice::Make(claim) => (claim, true),
            };
            let name = before.metadata.name.as_deref().unwrap_or_default();
            let gone = || Error::Gone(name.to_owned());
            let claim = self.listed.claim(&pod.namespace, name).ok_or_else(gone)?;
            if claim.metadata.uid != before.metadata.uid {
                return Err(gone());
            }
            if is_fully_bound(&claim) {
                continue;
            }
            all = false;
            // A provisioner that cannot make it there takes the choice back.
            let seen = claim.metadata.resource_version != before.metadata.resource_version;
            if made && seen && annotation(&claim.metadata, SELECTED_NODE) != Some(node) {
                return Err(Error::Withdrawn(name.to_owned()));
            }
        }
        Ok(all)
    }
}

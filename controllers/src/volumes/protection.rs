//! Claims and volumes stay while they are used: a finalizer on each, taken off when no pod uses the claim, when the
//! volume is bound to none.

use std::sync::Arc;

use daemon::informer::{Change, Lister};
use daemon::{Next, Queue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PostParams};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key, enqueue_each};
use crate::{Error, is_conflict, is_gone};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// What is to be done with a finalizer.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Add,
    Remove,
    Nothing,
}

fn plan(metadata: &ObjectMeta, finalizer: &str, used: bool) -> Step {
    let has = metadata.finalizers.iter().flatten().any(|have| have == finalizer);
    match (metadata.deletion_timestamp.is_some(), has) {
        (false, false) => Step::Add,
        (true, true) if !used => Step::Remove,
        _ => Step::Nothing,
    }
}

fn apply(metadata: &mut ObjectMeta, finalizer: &str, step: &Step) {
    let list = metadata.finalizers.get_or_insert_default();
    match step {
        Step::Add => list.push(finalizer.to_owned()),
        Step::Remove => list.retain(|have| have != finalizer),
        Step::Nothing => {}
    }
}

/// Whether a pod holds a claim. One without a node does not: no node would start it on a claim that is going.
// Follows podUsesPVC of pkg/controller/volume/pvcprotection (1.36): an ended pod still holds a claim of others, not its own.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    if api::pod::node_name(pod).is_none() {
        return false;
    }
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let claims = api::volume::claims(pod);
    claims.iter().any(|(have, own)| {
        have == name && (!own || !api::pod::is_terminal(pod) && api::volume::is_owned_by(claim, &pod.metadata))
    })
}

/// Has pods indexed by the claims that they name.
pub fn index_claims(pods: &Lister<Pod>) {
    pods.index("claim", |pod| {
        let Ok(typed) = pod.view::<Pod>() else {
            return Vec::new();
        };
        let claims = api::volume::claims(&typed).into_iter();
        claims.map(|(name, _)| format!("{}/{name}", pod.namespace)).collect()
    });
}

struct Claims {
    client: kube::Client,
    claims: Lister<PersistentVolumeClaim>,
    pods: Lister<Pod>,
}

pub async fn start_claims(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let (claims, pods) = (context.all::<PersistentVolumeClaim>(), context.all::<Pod>());
    index_claims(&pods);
    claims.synced().await;
    pods.synced().await;
    enqueue_each(&claims, &queue);
    let (into, known) = (queue.clone(), claims.clone());
    pods.on_change(move |change| {
        let pod = match change {
            Change::Applied { new, .. } => new,
            Change::Deleted { old } => old,
        };
        // Nearly always no claim of the namespace is going.
        if !known.in_namespace(&pod.namespace).iter().any(|claim| claim.deleting) {
            return;
        }
        let Ok(typed) = pod.typed() else { return };
        for (name, _) in api::volume::claims(&typed) {
            into.add(Key::new(&pod.namespace, &name));
        }
    });
    let controller = Arc::new(Claims {
        client: context.client.clone(),
        claims,
        pods,
    });
    context
        .work(queue, stop, move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(&key).await }
        })
        .await
}

impl Claims {
    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(entry) = self.claims.get(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let claim = entry.typed()?;
        let step = plan(&claim.metadata, CLAIM, false);
        if step == Step::Nothing || (step == Step::Remove && self.is_used(&claim, key).await?) {
            return Ok(Next::Done);
        }
        let mut changed = (*claim).clone();
        apply(&mut changed.metadata, CLAIM, &step);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        settled(api.replace(&key.name, &PostParams::default(), &changed).await)
    }

    /// What the lister does not show yet is asked of the API before data is let go.
    async fn is_used(&self, claim: &PersistentVolumeClaim, key: &Key) -> Result<bool, Error> {
        for pod in self.pods.by("claim", &key.to_string()) {
            if uses(&*pod.typed()?, claim) {
                return Ok(true);
            }
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let pods = api.list(&ListParams::default()).await?;
        Ok(pods.items.iter().any(|pod| uses(pod, claim)))
    }
}

pub async fn start_volumes(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let volumes = context.all::<PersistentVolume>();
    enqueue_each(&volumes, &queue);
    volumes.synced().await;
    let client = context.client.clone();
    context
        .work(queue, stop, move |key| volume(client.clone(), volumes.clone(), key))
        .await
}

async fn volume(client: kube::Client, volumes: Lister<PersistentVolume>, key: Key) -> Result<Next, Error> {
    let Some(entry) = volumes.get("", &key.name) else {
        return Ok(Next::Done);
    };
    let volume = entry.typed()?;
    let used = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let step = plan(&volume.metadata, VOLUME, used);
    if step == Step::Nothing {
        return Ok(Next::Done);
    }
    let mut changed = (*volume).clone();
    apply(&mut changed.metadata, VOLUME, &step);
    let api: Api<PersistentVolume> = Api::all(client);
    settled(api.replace(&key.name, &PostParams::default(), &changed).await)
}

/// Whatever changed in between comes back with that change.
fn settled<K>(answer: Result<K, kube::Error>) -> Result<Next, Error> {
    match answer {
        Err(error) if is_gone(&error) || is_conflict(&error) => Ok(Next::Done),
        answer => answer.map(|_| Next::Done).map_err(Error::from),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_finalizer_goes_when_the_object_does_and_nothing_uses_it() {
        let metadata = |going: bool, finalizers: &[&str]| ObjectMeta {
            deletion_timestamp: going.then(crate::context::now),
            finalizers: Some(finalizers.iter().map(|it| (*it).to_owned()).collect()),
            ..Default::default()
        };
        assert_eq!(plan(&metadata(false, &[]), CLAIM, true), Step::Add);
        assert_eq!(plan(&metadata(false, &[CLAIM]), CLAIM, false), Step::Nothing);
        assert_eq!(plan(&metadata(true, &[CLAIM]), CLAIM, true), Step::Nothing);
        assert_eq!(plan(&metadata(true, &[CLAIM]), CLAIM, false), Step::Remove);
        assert_eq!(plan(&metadata(true, &[]), CLAIM, false), Step::Nothing);
    }

    #[test]
    fn only_pods_with_a_node_hold_a_claim_and_ended_ones_not_their_own() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "p-own",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]}}))
        .unwrap();
        let pod = |node: &str, phase: &str, volume: serde_json::Value| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": "p", "uid": "u"}, "status": {"phase": phase},
                "spec": {"nodeName": node, "containers": [], "volumes": [volume]}}),
            )
            .unwrap()
        };
        let named = || json!({"name": "v", "persistentVolumeClaim": {"claimName": "p-own"}});
        let own = || json!({"name": "own", "ephemeral": {}});
        assert!(uses(&pod("n", "Running", named()), &claim));
        assert!(!uses(&pod("", "Pending", named()), &claim));
        assert!(uses(&pod("n", "Succeeded", named()), &claim));
        assert!(uses(&pod("n", "Running", own()), &claim));
        assert!(!uses(&pod("n", "Succeeded", own()), &claim));
    }
}

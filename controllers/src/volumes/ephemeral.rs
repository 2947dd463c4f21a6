//! Claims for the generic ephemeral volumes of pods: made with the pod, owned by it, and gone with it.

use std::sync::Arc;

use api::volume::is_owned_by;
use daemon::events::{EventType, reference};
use daemon::informer::{Change, Lister};
use daemon::{Next, Queue};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key};
use crate::pods::message;
use crate::{Error, is_terminating};

struct Controller {
    context: Context,
    pods: Lister<Pod>,
    claims: Lister<PersistentVolumeClaim>,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let (pods, claims) = (context.all::<Pod>(), context.all::<PersistentVolumeClaim>());
    pods.synced().await;
    claims.synced().await;
    let into = queue.clone();
    pods.on_change(move |change| {
        if let Change::Applied { old: None, new } = change
            && !new.deleting
            && new.typed().is_ok_and(|pod| own(&pod).next().is_some())
        {
            into.add(Key::of(new));
        }
    });
    let into = queue.clone();
    claims.on_change(move |change| {
        if let Change::Deleted { old } = change
            && let Some(owner) = old.owner().filter(|owner| &*owner.kind == "Pod")
        {
            into.add(Key::new(&old.namespace, &owner.name));
        }
    });
    let controller = Arc::new(Controller {
        context: context.clone(),
        pods,
        claims,
    });
    context
        .work(queue, stop, move |key| reconcile(controller.clone(), key))
        .await
}

/// The pod's volumes that want a claim of their own.
fn own(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some())
}

/// The claim for one volume of a pod.
fn claim_for(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let metadata = template.metadata.clone().unwrap_or_default();
    let (name, _) = api::volume::claim_of(pod.metadata.name.as_deref()?, volume)?;
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: pod.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: pod.metadata.name.clone().unwrap_or_default(),
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..Default::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<Next, Error> {
    let Controller { context, pods, claims } = &*controller;
    let Some(entry) = pods.get(&key.namespace, &key.name).filter(|pod| !pod.deleting) else {
        return Ok(Next::Done);
    };
    let pod = entry.typed()?;
    if api::pod::is_terminal(&pod) {
        return Ok(Next::Done);
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
    for volume in own(&pod) {
        let Some(claim) = claim_for(&pod, volume) else { continue };
        let name = claim.metadata.name.clone().unwrap_or_default();
        if let Some(have) = claims.get(&key.namespace, &name) {
            if !is_owned_by(&*have.typed()?, &pod.metadata) {
                let text = format!(
                    "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                    key.namespace, key.namespace, key.name
                );
                return Err(Error::Plan(text));
            }
            continue;
        }
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => {}
            Err(error) if is_terminating(&error) => return Ok(Next::Done),
            Err(error) => {
                let text = format!("PVC creation failed: {}", message(&error));
                let about = reference(&*pod);
                context
                    .recorder
                    .publish(&about, EventType::Warning, "EphemeralVolumeCreationFailed", text);
                return Err(error.into());
            }
        }
    }
    Ok(Next::Done)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_bears_the_names_of_pod_and_volume_and_is_the_pods() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}}]}}))
        .unwrap();
        let claim = claim_for(&pod, own(&pod).next().unwrap()).unwrap();
        assert_eq!(claim.metadata.name.as_deref(), Some("p-scratch"));
        assert!(is_owned_by(&claim, &pod.metadata));
        assert_eq!(claim.metadata.labels.unwrap()["a"], "b");
    }
}

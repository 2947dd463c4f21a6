use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use testkit::{Cluster, FakeNode};

use super::cluster;

pub(crate) fn stateful_set(name: &str, spec: Value) -> StatefulSet {
    let mut set = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": 3, "serviceName": name, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "serve"}]}}},
    });
    for (key, value) in spec.as_object().expect("a spec is an object") {
        set["spec"][key] = value.clone();
    }
    serde_json::from_value(set).expect("the set is well formed")
}

fn complete(set: &StatefulSet, replicas: i32) -> bool {
    set.status.as_ref().is_some_and(|status| {
        status.replicas == replicas
            && status.available_replicas == Some(replicas)
            && status.updated_replicas.unwrap_or(0) == replicas
            && status.current_revision == status.update_revision
            && status.observed_generation == set.metadata.generation
    })
}

async fn patch(cluster: &Cluster, name: &str, change: Value) {
    let api: Api<StatefulSet> = Api::namespaced(cluster.client(), "default");
    api.patch(name, &PatchParams::default(), &Patch::Strategic(change))
        .await
        .expect("the change is valid");
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

async fn images(cluster: &Cluster) -> Vec<(String, String)> {
    let pods = cluster.listed::<Pod>().await.list();
    let image = |pod: &Pod| {
        pod.spec.clone().unwrap_or_default().containers[0]
            .image
            .clone()
            .unwrap_or_default()
    };
    pods.iter()
        .map(|pod| (pod.name.to_string(), image(&pod.typed().expect("a pod is readable"))))
        .collect()
}

async fn revisions(cluster: &Cluster) -> Vec<i64> {
    let revisions = cluster.listed::<ControllerRevision>().await.list();
    let mut numbers: Vec<_> = revisions
        .iter()
        .map(|revision| revision.typed().expect("a revision is readable").revision)
        .collect();
    numbers.sort_unstable();
    numbers
}

/// [sig-apps] StatefulSet should perform rolling updates and roll backs of template modifications.
#[tokio::test(start_paused = true)]
async fn a_stateful_set_updates_and_goes_back_to_an_earlier_revision() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(stateful_set("db", json!({}))).await;
    let first = cluster
        .until_one("it is there", "default", "db", |set: &StatefulSet| complete(set, 3))
        .await;
    let first = first.status.as_ref().unwrap().current_revision.clone().unwrap();
    patch(&cluster, "db", image("serve:v2")).await;
    let second = |set: &StatefulSet| complete(set, 3) && set.metadata.generation == Some(2);
    cluster.until_one("it is updated", "default", "db", second).await;
    assert_eq!(revisions(&cluster).await, [1, 2]);
    // What `kubectl rollout undo` does: it sends the revision's data as a patch.
    let api: Api<ControllerRevision> = Api::namespaced(cluster.client(), "default");
    let data = api.get(&first).await.unwrap().data.unwrap().0;
    patch(&cluster, "db", data).await;
    let third = |set: &StatefulSet| complete(set, 3) && set.metadata.generation == Some(3);
    let back = cluster.until_one("it is as it was", "default", "db", third).await;
    assert_eq!(back.status.as_ref().unwrap().update_revision.as_ref(), Some(&first));
    assert_eq!(
        revisions(&cluster).await,
        [2, 3],
        "the old revision is the newest again"
    );
    let all = images(&cluster).await;
    assert!(all.iter().all(|(_, image)| image == "serve"), "{all:?}");
}

/// [sig-apps] StatefulSet should perform canary updates and phased rolling updates of template modifications.
#[tokio::test(start_paused = true)]
async fn a_partition_makes_a_canary() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let update = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 3}});
    cluster
        .create(stateful_set("db", json!({"updateStrategy": update})))
        .await;
    cluster
        .until_one("it is there", "default", "db", |set: &StatefulSet| complete(set, 3))
        .await;
    patch(&cluster, "db", image("serve:v2")).await;
    patch(
        &cluster,
        "db",
        json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}}}}),
    )
    .await;
    let canary = |set: &StatefulSet| {
        let status = set.status.as_ref().unwrap();
        status.updated_replicas == Some(1) && status.available_replicas == Some(3)
    };
    cluster.until_one("one is updated", "default", "db", canary).await;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "default");
    let before = pods.get("db-0").await.unwrap().metadata.uid;
    for name in ["db-0", "db-2"] {
        pods.delete(name, &DeleteParams::default()).await.unwrap();
    }
    cluster
        .until_one("it is made again", "default", "db-0", |pod: &Pod| {
            pod.metadata.uid != before && api::pod::is_ready(pod)
        })
        .await;
    cluster.until_one("all are back", "default", "db", canary).await;
    let want = [("db-0", "serve"), ("db-1", "serve"), ("db-2", "serve:v2")];
    assert_eq!(
        images(&cluster).await,
        want.map(|(name, image)| (name.to_owned(), image.to_owned()))
    );
    patch(
        &cluster,
        "db",
        json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}),
    )
    .await;
    cluster
        .until_one("all are updated", "default", "db", |set: &StatefulSet| complete(set, 3))
        .await;
}

/// [sig-apps] StatefulSet Should recreate evicted statefulset.
#[tokio::test(start_paused = true)]
async fn an_evicted_pod_of_a_stateful_set_is_made_again_under_its_name() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(stateful_set("db", json!({"replicas": 1}))).await;
    cluster
        .until_one("it is there", "default", "db", |set: &StatefulSet| complete(set, 1))
        .await;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "default");
    let before = pods.get("db-0").await.unwrap().metadata.uid;
    let evicted = Patch::Merge(json!({"status": {"phase": "Failed", "reason": "Evicted"}}));
    pods.patch_status("db-0", &PatchParams::default(), &evicted)
        .await
        .unwrap();
    let again = |pod: &Pod| pod.metadata.uid != before && api::pod::is_ready(pod);
    cluster.until_one("it is made again", "default", "db-0", again).await;
}

#[tokio::test(start_paused = true)]
async fn claims_outlive_pods_and_go_with_the_set_when_asked_to() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let spec = json!({
        "replicas": 2, "volumeClaimTemplates": [claim], "podManagementPolicy": "Parallel",
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"},
    });
    cluster.create(stateful_set("db", spec)).await;
    cluster
        .until_one("it is there", "default", "db", |set: &StatefulSet| complete(set, 2))
        .await;
    patch(&cluster, "db", json!({"spec": {"replicas": 1}})).await;
    cluster.until_gone::<Pod>("default", "db-1").await;
    let claims = cluster.listed::<PersistentVolumeClaim>().await;
    assert_eq!(claims.len(), 2);
    let api: Api<StatefulSet> = Api::namespaced(cluster.client(), "default");
    api.delete("db", &DeleteParams::default()).await.unwrap();
    // The claims are in no use: nothing holds them but the collector's pace.
    cluster
        .until(
            "the claims are being deleted",
            |claims: &daemon::Lister<PersistentVolumeClaim>| {
                claims.list().iter().all(|claim| claim.deleting).then_some(())
            },
        )
        .await;
    cluster
        .until("what was done is told", |events: &daemon::Lister<Event>| {
            let text = "create Claim data-db-0 Pod db-0 in StatefulSet db success";
            let said =
                |event: &std::sync::Arc<daemon::Entry<Event>>| event.typed().unwrap().message.as_deref() == Some(text);
            events.list().iter().any(said).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_history_of_a_stateful_set_is_kept_within_its_limit() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster
        .create(stateful_set("db", json!({"replicas": 1, "revisionHistoryLimit": 2})))
        .await;
    cluster
        .until_one("it is there", "default", "db", |set: &StatefulSet| complete(set, 1))
        .await;
    for version in 2..=5 {
        patch(&cluster, "db", image(&format!("serve:v{version}"))).await;
        let done = |set: &StatefulSet| complete(set, 1) && set.metadata.generation == Some(version);
        cluster.until_one("it is updated", "default", "db", done).await;
    }
    cluster
        .until(
            "the oldest are gone",
            |revisions: &daemon::Lister<ControllerRevision>| (revisions.len() == 3).then_some(()),
        )
        .await;
    assert_eq!(revisions(&cluster).await, [3, 4, 5]);
}

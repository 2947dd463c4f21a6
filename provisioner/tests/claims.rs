//! Claims from their making to the end of their data, with all that takes part: API server, binder, scheduler, provisioner
//! and a node, on a paused clock.

use std::path::Path;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use testkit::{Cluster, FakeNode, pod};

async fn cluster(directory: &Path) -> Cluster {
    let mut cluster = Cluster::start().await;
    let group: &[&str] = &["system:authenticated"];
    let clients = cluster.clients("system:kube-controller-manager", group);
    cluster.spawn(|stop| controllers::run(controllers::Config::default(), clients, stop));
    let clients = cluster.clients("system:kube-scheduler", group);
    cluster.spawn(|stop| scheduler::run(scheduler::Config::default(), clients, stop));
    let clients = cluster.clients("provisioner", &["system:masters"]);
    let config = provisioner::Config {
        node_name: "n1".to_owned(),
        directory: directory.to_owned(),
    };
    cluster.spawn(|stop| provisioner::run(config, clients, stop));
    FakeNode::start_scheduled(&mut cluster, "n1").await;
    cluster.until_one("the node is there", "", "n1", |_: &Node| true).await;
    cluster
}

fn standard() -> StorageClass {
    serde_json::from_value(json!({
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": provisioner::plan::NAME, "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true}))
    .expect("a literal object is what it says")
}

fn claim(name: &str, spec: Value) -> PersistentVolumeClaim {
    let mut value = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    for (key, content) in spec.as_object().expect("a literal object is what it says") {
        value["spec"][key] = content.clone();
    }
    serde_json::from_value(value).expect("a literal object is what it says")
}

fn using(name: &str, claim: &str) -> Pod {
    pod(name)
        .set(
            "/spec/volumes",
            json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]),
        )
        .pod()
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn volume_phase(volume: &PersistentVolume) -> &str {
    volume
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn running(pod: &Pod) -> bool {
    api::pod::phase(pod) == "Running"
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

#[tokio::test(start_paused = true)]
async fn a_claim_gets_a_directory_with_its_first_pod_and_loses_it_at_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = cluster(directory.path()).await;
    // The class comes later than the claim, which gets it all the same.
    cluster.create(claim("data", json!({}))).await;
    cluster.create_global(standard()).await;
    let classed = |claim: &PersistentVolumeClaim| api::volume::class_of_claim(claim) == "standard";
    let waiting = cluster
        .until_one("it has the default class", "default", "data", classed)
        .await;
    assert_eq!(phase(&waiting), "Pending");
    assert_eq!(entries(directory.path()), 0);

    cluster.create(using("writer", "data")).await;
    cluster.until_one("its pod runs", "default", "writer", running).await;
    let bound = cluster
        .until_one("it is bound", "default", "data", |claim: &PersistentVolumeClaim| {
            phase(claim) == "Bound"
        })
        .await;
    assert_eq!(entries(directory.path()), 1);
    let volume = api::volume::volume_name(&bound).unwrap().to_owned();

    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client(), "default");
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    claims
        .patch("data", &PatchParams::default(), &Patch::Merge(more))
        .await
        .unwrap();
    let grown = |claim: &PersistentVolumeClaim| {
        let status = claim.status.as_ref();
        status.is_some_and(|status| status.capacity.as_ref().is_some_and(|it| it["storage"].0 == "2Gi"))
    };
    cluster.until_one("it has grown", "default", "data", grown).await;

    // Used by a pod it stays, however often it is deleted.
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    cluster
        .until_one("it is going", "default", "data", |claim: &PersistentVolumeClaim| {
            claim.metadata.deletion_timestamp.is_some()
        })
        .await;
    assert_eq!(entries(directory.path()), 1);
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "default");
    pods.delete("writer", &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<PersistentVolumeClaim>("default", "data").await;
    cluster.until_gone::<PersistentVolume>("", &volume).await;
    assert_eq!(entries(directory.path()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pods_own_claim_comes_and_goes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = cluster(directory.path()).await;
    cluster.create_global(standard()).await;
    let scratch = json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {
        "accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "1Mi"}}}}}}]);
    cluster.create(pod("p").set("/spec/volumes", scratch).pod()).await;
    cluster.until_one("it runs", "default", "p", running).await;
    assert_eq!(entries(directory.path()), 1);
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "default");
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    cluster
        .until_gone::<PersistentVolumeClaim>("default", "p-scratch")
        .await;
    cluster
        .until("no volume is left", |volumes: &daemon::Lister<PersistentVolume>| {
            volumes.is_empty().then_some(())
        })
        .await;
    assert_eq!(entries(directory.path()), 0);
}

#[tokio::test(start_paused = true)]
async fn volumes_that_people_made_are_bound_by_size_and_kept_after_their_claim() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = cluster(directory.path()).await;
    let volume = |name: &str, size: &str| -> PersistentVolume {
        serde_json::from_value(
            json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/mnt"}, "storageClassName": "hand"}}),
        )
        .unwrap()
    };
    cluster.create_global(volume("large", "5Gi")).await;
    cluster.create_global(volume("small", "2Gi")).await;
    let free = |volume: &PersistentVolume| volume_phase(volume) == "Available";
    cluster.until_one("it is available", "", "large", free).await;
    cluster.until_one("it is available", "", "small", free).await;
    cluster.create(claim("data", json!({"storageClassName": "hand"}))).await;
    cluster.create(using("p", "data")).await;
    cluster.until_one("its pod runs", "default", "p", running).await;
    let bound = |claim: &PersistentVolumeClaim| phase(claim) == "Bound";
    let bound = cluster.until_one("it is bound", "default", "data", bound).await;
    assert_eq!(api::volume::volume_name(&bound), Some("small"));
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "default");
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client(), "default");
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    let released = |volume: &PersistentVolume| volume_phase(volume) == "Released";
    cluster.until_one("it is released", "", "small", released).await;
    // Its successor of the same name does not get what the first one wrote.
    cluster.create(claim("data", json!({"storageClassName": "hand"}))).await;
    let second = |claim: &PersistentVolumeClaim| phase(claim) == "Bound";
    let second = cluster.until_one("the next is bound", "default", "data", second).await;
    assert_eq!(api::volume::volume_name(&second), Some("large"));
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_volume_is_torn_away_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = cluster(directory.path()).await;
    cluster
        .create(claim("data", json!({"volumeName": "v", "storageClassName": ""})))
        .await;
    let pending = |claim: &PersistentVolumeClaim| phase(claim) == "Pending";
    cluster
        .until_one("it waits for its volume", "default", "data", pending)
        .await;
    let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/mnt"}}}))
    .unwrap();
    cluster.create_global(volume).await;
    let bound = |claim: &PersistentVolumeClaim| phase(claim) == "Bound";
    cluster.until_one("it is bound", "default", "data", bound).await;
    let volumes: Api<PersistentVolume> = Api::all(cluster.client());
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    let torn = json!({"metadata": {"finalizers": null}});
    volumes
        .patch("v", &PatchParams::default(), &Patch::Merge(torn))
        .await
        .unwrap();
    let lost = |claim: &PersistentVolumeClaim| phase(claim) == "Lost";
    cluster.until_one("it is lost", "default", "data", lost).await;
}

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use testkit::{Cluster, FakeNode};

use super::cluster;

pub(crate) fn daemon_set(name: &str, spec: Value) -> DaemonSet {
    let mut set = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "serve"}]}}},
    });
    for (key, value) in spec.as_object().expect("a spec is an object") {
        set["spec"][key] = value.clone();
    }
    serde_json::from_value(set).expect("the set is well formed")
}

fn complete(set: &DaemonSet, nodes: i32) -> bool {
    set.status.as_ref().is_some_and(|status| {
        status.desired_number_scheduled == nodes
            && status.current_number_scheduled == nodes
            && status.number_available.unwrap_or(0) == nodes
            && status.updated_number_scheduled.unwrap_or(0) == nodes
            && status.observed_generation == set.metadata.generation
    })
}

async fn patch(cluster: &Cluster, name: &str, change: Value) {
    let api: Api<DaemonSet> = Api::namespaced(cluster.client(), "default");
    api.patch(name, &PatchParams::default(), &Patch::Strategic(change))
        .await
        .expect("the change is valid");
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

async fn pods(cluster: &Cluster) -> Vec<Arc<Pod>> {
    cluster
        .listed::<Pod>()
        .await
        .list()
        .iter()
        .map(|pod| pod.typed().expect("a pod is readable"))
        .collect()
}

/// [sig-apps] Daemon set should run and stop complex daemon.
#[tokio::test(start_paused = true)]
async fn a_daemon_runs_where_the_selector_says_and_follows_labels() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let template = json!({"metadata": {"labels": {"app": "d"}},
        "spec": {"nodeSelector": {"color": "blue"}, "containers": [{"name": "c", "image": "serve"}]}});
    cluster.create(daemon_set("d", json!({"template": template}))).await;
    cluster
        .until_one("nothing is wanted", "default", "d", |set: &DaemonSet| complete(set, 0))
        .await;
    let nodes: Api<Node> = Api::all(cluster.client());
    let color = |color: &str| Patch::Merge(json!({"metadata": {"labels": {"color": color}}}));
    nodes
        .patch("n1", &PatchParams::default(), &color("blue"))
        .await
        .unwrap();
    cluster
        .until_one("it runs", "default", "d", |set: &DaemonSet| complete(set, 1))
        .await;
    nodes
        .patch("n1", &PatchParams::default(), &color("green"))
        .await
        .unwrap();
    cluster
        .until("it is stopped", |pods: &daemon::Lister<Pod>| {
            pods.is_empty().then_some(())
        })
        .await;
    let stopped = |set: &DaemonSet| complete(set, 0) && set.status.as_ref().unwrap().number_misscheduled == 0;
    cluster.until_one("the status says so", "default", "d", stopped).await;
}

/// [sig-apps] Daemon set should rollback without unnecessary restarts.
#[tokio::test(start_paused = true)]
async fn an_undone_update_restarts_only_what_was_updated() {
    let mut cluster = cluster().await;
    for name in ["n1", "n2", "n3"] {
        FakeNode::start(&mut cluster, name).await;
    }
    // These nodes bind what they see; what an earlier one took is for another by its affinity, and is moved by nobody.
    cluster.create(daemon_set("d", json!({}))).await;
    cluster
        .until_one("it runs", "default", "d", |set: &DaemonSet| {
            set.status.as_ref().is_some_and(|s| s.desired_number_scheduled == 3)
        })
        .await;
    cluster
        .until_one("it is available", "default", "d", |set: &DaemonSet| complete(set, 3))
        .await;
    let before = pods(&cluster).await;
    patch(&cluster, "d", image("broken")).await;
    let stuck = |set: &DaemonSet| set.status.as_ref().unwrap().updated_number_scheduled == Some(1);
    cluster.until_one("one is updated", "default", "d", stuck).await;
    let api: Api<ControllerRevision> = Api::namespaced(cluster.client(), "default");
    let all = api.list(&kube::api::ListParams::default()).await.unwrap();
    let first = all.items.iter().find(|revision| revision.revision == 1).unwrap();
    patch(&cluster, "d", first.data.clone().unwrap().0).await;
    let back = |set: &DaemonSet| complete(set, 3) && set.metadata.generation == Some(3);
    cluster.until_one("it is as it was", "default", "d", back).await;
    let after = pods(&cluster).await;
    let kept = after
        .iter()
        .filter(|pod| before.iter().any(|old| old.metadata.uid == pod.metadata.uid));
    assert_eq!(kept.count(), 2);
}

/// [sig-apps] Daemon set should retry creating failed daemon pods.
#[tokio::test(start_paused = true)]
async fn a_failed_daemon_pod_is_replaced() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(daemon_set("d", json!({}))).await;
    cluster
        .until_one("it runs", "default", "d", |set: &DaemonSet| complete(set, 1))
        .await;
    let first = pods(&cluster).await[0].clone();
    let name = first.metadata.name.clone().unwrap();
    let api: Api<Pod> = Api::namespaced(cluster.client(), "default");
    let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    api.patch_status(&name, &PatchParams::default(), &failed).await.unwrap();
    cluster.until_gone::<Pod>("default", &name).await;
    cluster
        .until_one("another runs", "default", "d", |set: &DaemonSet| complete(set, 1))
        .await;
}

/// [sig-apps] ControllerRevision should manage the lifecycle of a ControllerRevision.
#[tokio::test(start_paused = true)]
async fn a_second_revision_of_the_same_template_takes_its_place_without_restarts() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(daemon_set("d", json!({}))).await;
    cluster
        .until_one("it runs", "default", "d", |set: &DaemonSet| complete(set, 1))
        .await;
    let before = pods(&cluster).await[0].metadata.uid.clone();
    let api: Api<ControllerRevision> = Api::namespaced(cluster.client(), "default");
    let all = api.list(&kube::api::ListParams::default()).await.unwrap();
    let mut twin = all.items[0].clone();
    let first = twin.metadata.name.replace("d-twin".to_owned()).unwrap();
    twin.metadata.resource_version = None;
    twin.metadata.uid = None;
    twin.metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("controller-revision-hash".into(), "twin".into());
    twin.revision += 1;
    api.create(&PostParams::default(), &twin).await.unwrap();
    cluster.until_gone::<ControllerRevision>("default", &first).await;
    patch(&cluster, "d", image("serve:v2")).await;
    let updated = |set: &DaemonSet| complete(set, 1) && set.metadata.generation == Some(2);
    cluster.until_one("it is updated", "default", "d", updated).await;
    assert_ne!(pods(&cluster).await[0].metadata.uid, before);
    let all = api.list(&kube::api::ListParams::default()).await.unwrap();
    assert_eq!(all.items.iter().map(|revision| revision.revision).max(), Some(3));
}

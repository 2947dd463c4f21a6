use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use testkit::{Cluster, FakeNode, deployment, pod};

use super::cluster;

async fn patch(cluster: &Cluster, name: &str, change: Value) {
    let api: Api<Deployment> = Api::namespaced(cluster.client(), "default");
    api.patch(name, &PatchParams::default(), &Patch::Strategic(change))
        .await
        .expect("the change is valid");
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn complete(deployment: &Deployment, replicas: i32) -> bool {
    deployment.status.as_ref().is_some_and(|status| {
        status.updated_replicas == Some(replicas)
            && status.available_replicas == Some(replicas)
            && status.replicas == Some(replicas)
            && status.observed_generation == deployment.metadata.generation
    })
}

/// The sizes that the sets are asked for, by the revision.
fn sizes(sets: &daemon::Lister<ReplicaSet>) -> Vec<(i64, i32)> {
    let of = |set: &Arc<daemon::Entry<ReplicaSet>>| {
        let set = set.typed().expect("a set is readable");
        let annotations = set.metadata.annotations.clone().unwrap_or_default();
        let revision = annotations.get("deployment.kubernetes.io/revision")?.parse().ok()?;
        Some((revision, set.spec.as_ref()?.replicas?))
    };
    let mut sizes: Vec<_> = sets.list().iter().filter_map(of).collect();
    sizes.sort_unstable();
    sizes
}

/// [sig-apps] Deployment deployment should support proportional scaling.
#[tokio::test(start_paused = true)]
async fn a_rollout_that_is_stuck_is_scaled_in_proportion() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let update = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    let web = deployment("web").replicas(10).set("/spec/strategy", update);
    cluster.create(web.deployment()).await;
    cluster
        .until_one("it is available", "default", "web", |web: &Deployment| {
            complete(web, 10)
        })
        .await;
    patch(&cluster, "web", image("broken")).await;
    cluster
        .until("it is stuck", |sets| (sizes(sets) == [(1, 8), (2, 5)]).then_some(()))
        .await;
    patch(&cluster, "web", json!({"spec": {"replicas": 30}})).await;
    cluster
        .until("both have grown", |sets| {
            (sizes(sets) == [(1, 20), (2, 13)]).then_some(())
        })
        .await;
}

/// [sig-apps] Deployment deployment should support rollover.
#[tokio::test(start_paused = true)]
async fn a_rollout_can_be_overtaken_by_the_next() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(deployment("web").replicas(4).deployment()).await;
    cluster
        .until_one("it is available", "default", "web", |web: &Deployment| complete(web, 4))
        .await;
    patch(&cluster, "web", image("broken")).await;
    cluster
        .until("it is under way", |sets| {
            sizes(sets).get(1).is_some_and(|(_, size)| *size > 0).then_some(())
        })
        .await;
    patch(&cluster, "web", image("serve:v3")).await;
    let done = |web: &Deployment| complete(web, 4) && web.metadata.generation == Some(3);
    cluster.until_one("the third is there", "default", "web", done).await;
    cluster
        .until("the others have nothing", |sets| {
            (sizes(sets) == [(1, 0), (2, 0), (3, 4)]).then_some(())
        })
        .await;
}

/// [sig-apps] Deployment deployment should delete old replica sets.
#[tokio::test(start_paused = true)]
async fn old_sets_beyond_the_history_are_removed() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let web = deployment("web").set("/spec/revisionHistoryLimit", json!(1));
    cluster.create(web.deployment()).await;
    for version in 2..=4 {
        patch(&cluster, "web", image(&format!("serve:v{version}"))).await;
        let done = |web: &Deployment| complete(web, 1) && web.metadata.generation == Some(version);
        cluster.until_one("it is updated", "default", "web", done).await;
    }
    cluster
        .until("two are left", |sets| (sizes(sets) == [(3, 0), (4, 1)]).then_some(()))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_deployment_scales_but_rolls_nothing_out() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(deployment("web").replicas(2).deployment()).await;
    cluster
        .until_one("it is available", "default", "web", |web: &Deployment| complete(web, 2))
        .await;
    patch(&cluster, "web", json!({"spec": {"paused": true, "replicas": 3}})).await;
    patch(&cluster, "web", image("serve:v2")).await;
    let scaled = |web: &Deployment| {
        let status = web.status.as_ref().unwrap();
        status.available_replicas == Some(3)
            && status.updated_replicas.is_none()
            && status.observed_generation == Some(3)
    };
    cluster.until_one("it has grown", "default", "web", scaled).await;
    assert_eq!(cluster.listed::<ReplicaSet>().await.len(), 1);
    patch(&cluster, "web", json!({"spec": {"paused": false}})).await;
    cluster
        .until_one("it goes on", "default", "web", |web: &Deployment| complete(web, 3))
        .await;
}

fn controller(name: &str, replicas: i32) -> ReplicationController {
    let template =
        json!({"metadata": {"labels": {"name": name}}, "spec": {"containers": [{"name": "c", "image": "serve"}]}});
    let controller = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"name": name}, "template": template},
    });
    serde_json::from_value(controller).expect("the controller is well formed")
}

/// [sig-apps] ReplicationController should adopt matching pods on creation; should release no longer matching pods.
#[tokio::test(start_paused = true)]
async fn a_replication_controller_adopts_and_releases_pods() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(pod("orphan").label("name", "rc").pod()).await;
    cluster.create(controller("rc", 1)).await;
    let owned = |pod: &Pod| {
        pod.metadata
            .owner_references
            .as_ref()
            .is_some_and(|owners| owners[0].name == "rc")
    };
    cluster.until_one("it is adopted", "default", "orphan", owned).await;
    let ready = |rc: &ReplicationController| {
        rc.status
            .as_ref()
            .is_some_and(|status| status.available_replicas == Some(1))
    };
    cluster.until_one("it counts", "default", "rc", ready).await;
    assert_eq!(cluster.listed::<Pod>().await.len(), 1);
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "default");
    let free = Patch::Merge(json!({"metadata": {"labels": {"name": "free"}}}));
    pods.patch("orphan", &PatchParams::default(), &free).await.unwrap();
    let released = |pod: &Pod| pod.metadata.owner_references.as_ref().is_none_or(Vec::is_empty);
    cluster.until_one("it is released", "default", "orphan", released).await;
    cluster
        .until("another takes its place", |pods: &daemon::Lister<Pod>| {
            (pods.len() == 2).then_some(())
        })
        .await;
}

/// Scale subresources of all kinds that have one, as `kubectl scale` and the conformance tests use them.
#[tokio::test(start_paused = true)]
async fn every_workload_is_scaled_by_its_subresource() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(deployment("web").replicas(1).deployment()).await;
    cluster.create(controller("rc", 1)).await;
    let api: Api<Deployment> = Api::namespaced(cluster.client(), "default");
    let scale = api.get_scale("web").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(1));
    let two = Patch::Merge(json!({"spec": {"replicas": 2}}));
    api.patch_scale("web", &PatchParams::default(), &two).await.unwrap();
    cluster
        .until_one("it has grown", "default", "web", |web: &Deployment| complete(web, 2))
        .await;
    let api: Api<ReplicationController> = Api::namespaced(cluster.client(), "default");
    api.patch_scale("rc", &PatchParams::default(), &two).await.unwrap();
    let grown = |rc: &ReplicationController| {
        rc.status
            .as_ref()
            .is_some_and(|status| status.available_replicas == Some(2))
    };
    cluster.until_one("it has grown", "default", "rc", grown).await;
    assert_eq!(api.get_scale("rc").await.unwrap().status.unwrap().replicas, 2);
}

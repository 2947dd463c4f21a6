use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use testkit::{Cluster, FakeNode, deployment, job};

use super::cluster;

fn complete(deployment: &Deployment, replicas: i32) -> bool {
    deployment.status.as_ref().is_some_and(|status| {
        status.updated_replicas == Some(replicas)
            && status.available_replicas == Some(replicas)
            && status.replicas == Some(replicas)
            && status.observed_generation == deployment.metadata.generation
    })
}

async fn patch(cluster: &Cluster, name: &str, change: serde_json::Value) {
    let api: Api<Deployment> = Api::namespaced(cluster.client(), "default");
    api.patch(name, &PatchParams::default(), &Patch::Strategic(change))
        .await
        .expect("the change is valid");
}

fn image(image: &str) -> serde_json::Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

#[tokio::test(start_paused = true)]
async fn a_deployment_rolls_out_updates_undoes_and_scales() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(deployment("web").replicas(3).deployment()).await;
    cluster
        .until_one("it is available", "default", "web", |web: &Deployment| complete(web, 3))
        .await;

    patch(&cluster, "web", image("serve:v2")).await;
    let updated = cluster
        .until_one("it is updated", "default", "web", |web: &Deployment| {
            complete(web, 3) && web.metadata.generation == Some(2)
        })
        .await;
    assert_eq!(
        updated.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"],
        "2"
    );
    let sets = cluster.listed::<ReplicaSet>().await.list();
    assert_eq!(sets.len(), 2);

    patch(&cluster, "web", image("broken")).await;
    let stuck = cluster
        .until_one("the deadline is told", "default", "web", |web: &Deployment| {
            let conditions = web.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions
                .into_iter()
                .any(|condition| condition.reason.as_deref() == Some("ProgressDeadlineExceeded"))
        })
        .await;
    assert_eq!(
        stuck.status.as_ref().unwrap().available_replicas,
        Some(3),
        "a broken rollout costs nothing"
    );

    patch(&cluster, "web", image("serve:v2")).await;
    let undone = cluster
        .until_one("it is undone", "default", "web", |web: &Deployment| {
            complete(web, 3) && web.metadata.generation == Some(4)
        })
        .await;
    assert_eq!(
        undone.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"],
        "4"
    );

    patch(&cluster, "web", json!({"spec": {"replicas": 5}})).await;
    cluster
        .until_one("it has grown", "default", "web", |web: &Deployment| complete(web, 5))
        .await;
    patch(&cluster, "web", json!({"spec": {"replicas": 1}})).await;
    cluster
        .until_one("it has shrunk", "default", "web", |web: &Deployment| complete(web, 1))
        .await;
    cluster
        .until("one pod is left", |pods: &daemon::Lister<Pod>| {
            (pods.len() == 1).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_replaced_and_an_orphan_adopted() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(deployment("web").replicas(2).deployment()).await;
    cluster
        .until_one("it is available", "default", "web", |web: &Deployment| complete(web, 2))
        .await;
    let first = cluster.listed::<Pod>().await.list()[0].clone();
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "default");
    pods.delete(&first.name, &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<Pod>("default", &first.name).await;
    cluster
        .until_one("it is whole again", "default", "web", |web: &Deployment| {
            complete(web, 2)
        })
        .await;

    // Without the label the pod is its own, and another takes its place.
    let second = cluster.listed::<Pod>().await.list()[0].clone();
    let free = json!({"metadata": {"labels": {"app": "free"}}});
    pods.patch(&second.name, &PatchParams::default(), &Patch::Merge(free))
        .await
        .unwrap();
    let released = |pod: &Pod| pod.metadata.owner_references.as_ref().is_none_or(Vec::is_empty);
    cluster
        .until_one("it is released", "default", &second.name, released)
        .await;
    cluster
        .until("there are three", |pods: &daemon::Lister<Pod>| {
            (pods.len() == 3).then_some(())
        })
        .await;
    // With it, it is one too many.
    let back = json!({"metadata": {"labels": {"app": "web"}}});
    pods.patch(&second.name, &PatchParams::default(), &Patch::Merge(back))
        .await
        .unwrap();
    cluster
        .until("there are two", |pods: &daemon::Lister<Pod>| {
            (pods.len() == 2).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_recreates_never_has_both() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster
        .create(
            deployment("db")
                .replicas(2)
                .set("/spec/strategy", json!({"type": "Recreate"}))
                .deployment(),
        )
        .await;
    cluster
        .until_one("it is available", "default", "db", |db: &Deployment| complete(db, 2))
        .await;
    patch(&cluster, "db", image("serve:v2")).await;
    let done = |db: &Deployment| complete(db, 2) && db.metadata.generation == Some(2);
    cluster.until_one("it is updated", "default", "db", done).await;
    let images: Vec<_> = cluster
        .listed::<Pod>()
        .await
        .list()
        .iter()
        .map(|pod| {
            pod.typed().unwrap().spec.as_ref().unwrap().containers[0]
                .image
                .clone()
                .unwrap()
        })
        .collect();
    assert_eq!(images, ["serve:v2", "serve:v2"]);
}

fn ended(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

#[tokio::test(start_paused = true)]
async fn a_job_completes_and_is_removed_in_time() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let spec = job("sum")
        .set("/spec/completions", json!(3))
        .set("/spec/parallelism", json!(2));
    cluster
        .create(spec.set("/spec/ttlSecondsAfterFinished", json!(60)).job())
        .await;
    let done = cluster
        .until_one("it completes", "default", "sum", |job: &Job| ended(job, "Complete"))
        .await;
    let status = done.status.as_ref().unwrap();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(3), None, None));
    assert!(status.completion_time.is_some());
    assert_eq!(cluster.listed::<Pod>().await.len(), 3);
    cluster.until_gone::<Job>("default", "sum").await;
    cluster
        .until("its pods are gone", |pods: &daemon::Lister<Pod>| {
            pods.is_empty().then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_is_tried_again_until_its_limit() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster
        .create(job("bad").image("fail").set("/spec/backoffLimit", json!(2)).job())
        .await;
    let began = tokio::time::Instant::now();
    let done = cluster
        .until_one("it fails", "default", "bad", |job: &Job| ended(job, "Failed"))
        .await;
    assert_eq!(done.status.as_ref().unwrap().failed, Some(3));
    assert!(
        began.elapsed() >= Duration::from_secs(28),
        "pauses of ten and twenty seconds: {:?}",
        began.elapsed()
    );
    let reason = |event: &daemon::Entry<Event>| event.typed().unwrap().reason.clone().unwrap_or_default();
    cluster
        .until("the failure is told", |events: &daemon::Lister<Event>| {
            events
                .list()
                .iter()
                .any(|event| reason(event) == "BackoffLimitExceeded")
                .then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_indexed_job_does_each_index_once() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let spec = job("parts")
        .set("/spec/completions", json!(4))
        .set("/spec/parallelism", json!(3));
    cluster
        .create(spec.set("/spec/completionMode", json!("Indexed")).job())
        .await;
    let done = cluster
        .until_one("it completes", "default", "parts", |job: &Job| ended(job, "Complete"))
        .await;
    assert_eq!(done.status.as_ref().unwrap().completed_indexes.as_deref(), Some("0-3"));
    let mut hosts: Vec<_> = cluster
        .listed::<Pod>()
        .await
        .list()
        .iter()
        .map(|pod| pod.typed().unwrap().spec.as_ref().unwrap().hostname.clone().unwrap())
        .collect();
    hosts.sort();
    assert_eq!(hosts, ["parts-0", "parts-1", "parts-2", "parts-3"]);
}

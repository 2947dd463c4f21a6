use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ReplicationController, ResourceQuota};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use testkit::{Cluster, FakeNode, deployment, job, pod};

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
    cluster
        .until_one("it is there", "default", "web", |web: &Deployment| complete(web, 1))
        .await;
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

/// [sig-apps] ReplicationController should surface a failure condition on a common issue like exceeded quota.
#[tokio::test(start_paused = true)]
async fn a_quota_that_is_used_up_shows_in_the_status() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let quota = json!({"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": {"pods": "2"}}});
    let quota: ResourceQuota = serde_json::from_value(quota).expect("the quota is well formed");
    cluster.create(quota).await;
    let quotas: Api<ResourceQuota> = Api::namespaced(cluster.client(), "default");
    let counted = Patch::Merge(json!({"status": {"hard": {"pods": "2"}, "used": {"pods": "0"}}}));
    quotas
        .patch_status("q", &PatchParams::default(), &counted)
        .await
        .unwrap();
    cluster.create(controller("rc", 3)).await;
    let failing = |rc: &ReplicationController| {
        let conditions = rc
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default();
        conditions.iter().any(|condition| {
            condition.type_ == "ReplicaFailure"
                && condition.status == "True"
                && condition.reason.as_deref() == Some("FailedCreate")
        })
    };
    let told = cluster.until_one("it is told", "default", "rc", failing).await;
    let message = told.status.as_ref().unwrap().conditions.as_ref().unwrap()[0]
        .message
        .clone()
        .unwrap();
    assert!(message.contains("exceeded quota: q"), "{message}");
    let api: Api<ReplicationController> = Api::namespaced(cluster.client(), "default");
    let two = Patch::Merge(json!({"spec": {"replicas": 2}}));
    api.patch_scale("rc", &PatchParams::default(), &two).await.unwrap();
    let well =
        |rc: &ReplicationController| !failing(rc) && rc.status.as_ref().is_some_and(|status| status.replicas == 2);
    cluster.until_one("it is well", "default", "rc", well).await;
}

/// [sig-apps] Job should adopt matching orphans and release non-matching pods.
#[tokio::test(start_paused = true)]
async fn a_job_adopts_orphans_and_releases_strangers() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let spec = job("work").image("serve").set("/spec/parallelism", json!(2));
    cluster.create(spec.set("/spec/completions", json!(2)).job()).await;
    let running = |job: &Job| job.status.as_ref().is_some_and(|status| status.ready == Some(2));
    cluster.until_one("both run", "default", "work", running).await;
    let name = cluster.listed::<Pod>().await.list()[0].name.to_string();
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "default");
    let orphan = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    pods.patch(&name, &PatchParams::default(), &orphan).await.unwrap();
    let owned = |pod: &Pod| {
        pod.metadata
            .owner_references
            .as_ref()
            .is_some_and(|owners| owners[0].name == "work")
    };
    cluster.until_one("it is adopted again", "default", &name, owned).await;
    let stranger = Patch::Merge(json!({"metadata": {"labels": null}}));
    pods.patch(&name, &PatchParams::default(), &stranger).await.unwrap();
    let released = |pod: &Pod| pod.metadata.owner_references.as_ref().is_none_or(Vec::is_empty);
    cluster.until_one("it is released", "default", &name, released).await;
    cluster
        .until_one("another takes its place", "default", "work", running)
        .await;
}

/// [sig-apps] Job should manage the lifecycle of a job: begun suspended, it starts nothing; resumed, it runs; suspended
/// again, it has no pods and no failures.
#[tokio::test(start_paused = true)]
async fn a_job_is_suspended_and_resumed() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let spec = job("work").image("serve").set("/spec/suspend", json!(true));
    cluster.create(spec.job()).await;
    let condition = |job: &Job, status: &str| {
        let conditions = job
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition.type_ == "Suspended" && condition.status == status)
    };
    cluster
        .until_one("it is suspended", "default", "work", |job: &Job| condition(job, "True"))
        .await;
    assert!(cluster.listed::<Pod>().await.is_empty());
    let jobs: Api<Job> = Api::namespaced(cluster.client(), "default");
    let suspend = |suspend: bool| Patch::Merge(json!({"spec": {"suspend": suspend}}));
    jobs.patch("work", &PatchParams::default(), &suspend(false))
        .await
        .unwrap();
    let running =
        |job: &Job| condition(job, "False") && job.status.as_ref().is_some_and(|status| status.ready == Some(1));
    let resumed = cluster.until_one("it runs", "default", "work", running).await;
    assert!(resumed.status.as_ref().unwrap().start_time.is_some());
    jobs.patch("work", &PatchParams::default(), &suspend(true))
        .await
        .unwrap();
    cluster
        .until("its pod is gone", |pods: &daemon::Lister<Pod>| {
            pods.is_empty().then_some(())
        })
        .await;
    let still =
        |job: &Job| condition(job, "True") && job.status.as_ref().is_some_and(|status| status.terminating == Some(0));
    let stopped = cluster.until_one("it rests", "default", "work", still).await;
    let status = stopped.status.clone().unwrap();
    assert_eq!((status.active, status.failed), (None, None));
}

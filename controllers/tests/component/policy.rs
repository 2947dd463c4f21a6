use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use testkit::{Cluster, FakeNode, deployment, pod};

use super::cluster;

async fn serving(cluster: &mut Cluster, replicas: i32) {
    FakeNode::start(cluster, "n1").await;
    cluster.create(deployment("web").replicas(replicas).deployment()).await;
    let ready = move |web: &Deployment| {
        web.status
            .as_ref()
            .is_some_and(|status| status.available_replicas == Some(replicas))
    };
    cluster.until_one("it is available", "default", "web", ready).await;
}

fn allowed(budget: &PodDisruptionBudget) -> Option<i32> {
    budget.status.as_ref().and_then(|status| status.disruptions_allowed)
}

async fn evict(cluster: &Cluster, name: &str) -> Result<(), kube::Error> {
    let eviction: Eviction =
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}})).expect("an eviction");
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "default");
    let params = PostParams::default();
    let answer = pods.create_subresource::<_, Value>("eviction", name, &params, &eviction);
    answer.await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_budget_allows_what_owners_can_spare_and_eviction_obeys_it() {
    let mut cluster = cluster().await;
    serving(&mut cluster, 3).await;
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"maxUnavailable": "34%", "selector": {"matchLabels": {"app": "web"}}}}))
    .expect("a budget");
    cluster.create(budget).await;
    let spare = cluster
        .until_one("it is counted", "default", "web", |it: &PodDisruptionBudget| {
            allowed(it) == Some(2)
        })
        .await;
    let status = spare.status.as_ref().expect("it was counted");
    assert_eq!((status.expected_pods, status.desired_healthy), (Some(3), Some(1)));

    let budgets: Api<PodDisruptionBudget> = Api::namespaced(cluster.client(), "default");
    let strict = json!({"spec": {"maxUnavailable": 0}});
    budgets
        .patch("web", &PatchParams::default(), &Patch::Merge(strict))
        .await
        .expect("the budget changes");
    cluster
        .until_one("nothing is spared", "default", "web", |it: &PodDisruptionBudget| {
            allowed(it) == Some(0)
        })
        .await;
    let victim = cluster.listed::<Pod>().await.list()[0].name.to_string();
    match evict(&cluster, &victim).await {
        Err(kube::Error::Api(status)) => {
            assert_eq!(status.code, 429);
            let causes = status.details.as_ref().map(|details| details.causes[0].reason.clone());
            assert_eq!(causes.as_deref(), Some("DisruptionBudget"));
        }
        other => panic!("it was not refused: {other:?}"),
    }
    let loose = json!({"spec": {"maxUnavailable": 1}});
    budgets
        .patch("web", &PatchParams::default(), &Patch::Merge(loose))
        .await
        .expect("the budget changes");
    cluster
        .until_one("one is spared", "default", "web", |it: &PodDisruptionBudget| {
            allowed(it) == Some(1)
        })
        .await;
    evict(&cluster, &victim).await.expect("the eviction is allowed");
    cluster.until_gone::<Pod>("default", &victim).await;
    cluster
        .until_one("it is whole again", "default", "web", |it: &PodDisruptionBudget| {
            allowed(it) == Some(1) && it.status.as_ref().is_some_and(|status| status.disrupted_pods.is_none())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_of_pods_that_nobody_scales_fails_safe() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "own", "uid": "", "controller": true}]);
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "own", "namespace": "default"}})).expect("a map");
    let map = cluster.create(map).await;
    let mut owner = owner;
    owner[0]["uid"] = json!(map.metadata.uid);
    cluster
        .create(
            pod("p")
                .label("app", "odd")
                .set("/metadata/ownerReferences", owner)
                .pod(),
        )
        .await;
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "metadata": {"name": "odd", "namespace": "default"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "odd"}}}}))
    .expect("a budget");
    cluster.create(budget).await;
    let failed = |it: &PodDisruptionBudget| {
        let conditions = it.status.as_ref().and_then(|status| status.conditions.clone());
        conditions.is_some_and(|conditions| conditions[0].reason == "SyncFailed")
    };
    let failed = cluster
        .until_one("it says that it cannot count", "default", "odd", failed)
        .await;
    assert_eq!(allowed(&failed).unwrap_or(0), 0);
}

#[tokio::test(start_paused = true)]
async fn an_autoscaler_without_metrics_says_so_and_keeps_the_scale_within_its_range() {
    let mut cluster = cluster().await;
    serving(&mut cluster, 1).await;
    let autoscaler: HorizontalPodAutoscaler = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"minReplicas": 2, "maxReplicas": 5,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}}))
    .expect("an autoscaler");
    cluster.create(autoscaler).await;
    let inactive = |it: &HorizontalPodAutoscaler| {
        let conditions = it.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut inactive = conditions.filter(|it| it.type_ == "ScalingActive" && it.status == "False");
        inactive.any(|it| it.reason.as_deref() == Some("FailedGetResourceMetric"))
    };
    let said = cluster
        .until_one("it says what it lacks", "default", "web", inactive)
        .await;
    let status = said.status.as_ref().expect("it was looked at");
    assert!(status.last_scale_time.is_some());
    let grown = |web: &Deployment| web.spec.as_ref().is_some_and(|spec| spec.replicas == Some(2));
    cluster.until_one("the least is there", "default", "web", grown).await;
}

#[tokio::test(start_paused = true)]
async fn a_quota_whose_account_is_wrong_is_put_right() {
    let mut cluster = cluster().await;
    let quota: ResourceQuota = serde_json::from_value(json!({
        "metadata": {"name": "q", "namespace": "default"},
        "spec": {"hard": {"pods": "5", "requests.cpu": "2", "count/configmaps": "9"}}}))
    .expect("a quota");
    cluster.create(quota).await;
    let asking = pod("p").set("/spec/containers/0/resources", json!({"requests": {"cpu": "500m"}}));
    cluster.create(asking.pod()).await;
    let used = |quota: &ResourceQuota, name: &str| {
        let used = quota
            .status
            .as_ref()
            .and_then(|status| status.used.as_ref()?.get(name).cloned());
        used.map(|used| used.0).unwrap_or_default()
    };
    cluster
        .until_one("it is charged", "default", "q", |quota| {
            used(quota, "requests.cpu") == "500m"
        })
        .await;
    let quotas: Api<ResourceQuota> = Api::namespaced(cluster.client(), "default");
    let wrong = json!({"status": {"used": {"pods": "4", "requests.cpu": "1900m"}}});
    quotas
        .patch_status("q", &PatchParams::default(), &Patch::Merge(wrong))
        .await
        .expect("the account is forged");
    let right = move |quota: &ResourceQuota| used(quota, "pods") == "1" && used(quota, "requests.cpu") == "500m";
    cluster.until_one("it is counted anew", "default", "q", right).await;
    cluster.pass(Duration::from_secs(60)).await;
}

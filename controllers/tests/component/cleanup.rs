use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PropagationPolicy};
use serde_json::json;
use testkit::{Cluster, FakeNode, deployment, namespace, pod};

use super::cluster;

async fn delete(cluster: &Cluster, name: &str, propagation: PropagationPolicy) {
    let api: Api<Deployment> = Api::namespaced(cluster.client(), "default");
    let params = DeleteParams {
        propagation_policy: Some(propagation),
        ..DeleteParams::default()
    };
    api.delete(name, &params).await.expect("the owner is there");
}

async fn running(cluster: &mut Cluster) {
    FakeNode::start(cluster, "n1").await;
    cluster.create(deployment("web").replicas(2).deployment()).await;
    let ready = |web: &Deployment| {
        web.status
            .as_ref()
            .is_some_and(|status| status.available_replicas == Some(2))
    };
    cluster.until_one("it is available", "default", "web", ready).await;
}

#[tokio::test(start_paused = true)]
async fn dependents_follow_their_owner_in_the_background() {
    let mut cluster = cluster().await;
    running(&mut cluster).await;
    delete(&cluster, "web", PropagationPolicy::Background).await;
    cluster.until_gone::<Deployment>("default", "web").await;
    cluster
        .until("the sets are gone", |sets: &daemon::Lister<ReplicaSet>| {
            sets.is_empty().then_some(())
        })
        .await;
    cluster
        .until("the pods are gone", |pods: &daemon::Lister<Pod>| {
            pods.is_empty().then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_waits_for_its_dependents_in_the_foreground() {
    let mut cluster = cluster().await;
    running(&mut cluster).await;
    delete(&cluster, "web", PropagationPolicy::Foreground).await;
    cluster.until_gone::<Deployment>("default", "web").await;
    let sets: Api<ReplicaSet> = Api::namespaced(cluster.client(), "default");
    assert!(
        sets.list(&Default::default()).await.unwrap().items.is_empty(),
        "the owner went last"
    );
}

#[tokio::test(start_paused = true)]
async fn orphans_stay() {
    let mut cluster = cluster().await;
    running(&mut cluster).await;
    delete(&cluster, "web", PropagationPolicy::Orphan).await;
    cluster.until_gone::<Deployment>("default", "web").await;
    let free = |sets: &daemon::Lister<ReplicaSet>| {
        let sets = sets.list();
        (sets.len() == 1 && sets[0].owners.is_empty()).then(|| sets[0].name.to_string())
    };
    cluster.until("the set is free", free).await;
    assert_eq!(cluster.listed::<Pod>().await.len(), 2);
    // The same Deployment takes them in again.
    cluster.create(deployment("web").replicas(2).deployment()).await;
    let owned = |sets: &daemon::Lister<ReplicaSet>| (sets.len() == 1 && sets.list()[0].owner().is_some()).then_some(());
    cluster.until("the set is adopted", owned).await;
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_owner_never_was_is_collected() {
    let mut cluster = cluster().await;
    let owner =
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "ghost", "uid": "00000000-0000-0000-0000-000000000001"}]);
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "left", "namespace": "default", "ownerReferences": owner},
    }))
    .unwrap();
    cluster.create(map).await;
    cluster.until_gone::<ConfigMap>("default", "left").await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_is_emptied_and_goes() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create_global(namespace("shop").namespace_object()).await;
    cluster
        .until_one("it has its account", "shop", "default", |_: &ServiceAccount| true)
        .await;
    let map = cluster
        .until_one("it has the CA", "shop", "kube-root-ca.crt", |_: &ConfigMap| true)
        .await;
    assert!(map.data.as_ref().unwrap()["ca.crt"].starts_with("-----BEGIN"));
    cluster
        .create(deployment("web").namespace("shop").replicas(2).deployment())
        .await;
    let ready = |web: &Deployment| {
        web.status
            .as_ref()
            .is_some_and(|status| status.available_replicas == Some(2))
    };
    cluster.until_one("it is available", "shop", "web", ready).await;
    let held = pod("held")
        .namespace("shop")
        .set("/metadata/finalizers", json!(["example.com/hold"]));
    cluster.create(held.pod()).await;

    let api: Api<Namespace> = Api::all(cluster.client());
    api.delete("shop", &DeleteParams::default()).await.unwrap();
    let told = |namespace: &Namespace| {
        let conditions = namespace
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let mut held = conditions
            .into_iter()
            .filter(|condition| condition.type_ == "NamespaceFinalizersRemaining");
        held.any(|condition| condition.status == "True")
    };
    cluster.until_one("it says what holds it", "", "shop", told).await;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "shop");
    let free = json!({"metadata": {"finalizers": null}});
    pods.patch("held", &PatchParams::default(), &Patch::Merge(free))
        .await
        .unwrap();
    cluster.until_gone::<Namespace>("", "shop").await;
    assert!(cluster.listed::<ReplicaSet>().await.in_namespace("shop").is_empty());
}

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use testkit::{FakeNode, deployment, service};

use super::cluster;

fn ready(slices: &daemon::Lister<EndpointSlice>) -> usize {
    let slices = slices.list();
    let ours = slices
        .iter()
        .filter(|slice| slice.labels.get("kubernetes.io/service-name") == Some("web"));
    let typed = ours.map(|slice| slice.typed().expect("a slice is readable"));
    let endpoints = typed.flat_map(|slice| slice.endpoints.clone().unwrap_or_default());
    endpoints
        .filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|all| all.ready == Some(true)))
        .count()
}

#[tokio::test(start_paused = true)]
async fn slices_follow_pods_and_go_with_their_service() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(service("web").service()).await;
    let empty = |slices: &daemon::Lister<EndpointSlice>| {
        slices
            .list()
            .iter()
            .any(|slice| slice.labels.get("kubernetes.io/service-name") == Some("web"))
            .then_some(())
    };
    cluster.until("there is an empty slice", empty).await;
    cluster.create(deployment("web").replicas(3).deployment()).await;
    cluster
        .until("three are ready", |slices| (ready(slices) == 3).then_some(()))
        .await;
    let addresses = |endpoints: &Endpoints| {
        let subsets = endpoints.subsets.iter().flatten();
        subsets
            .map(|subset| subset.addresses.iter().flatten().count())
            .sum::<usize>()
            == 3
    };
    cluster
        .until_one("the old kind says the same", "default", "web", addresses)
        .await;

    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), "default");
    let fewer = Patch::Merge(json!({"spec": {"replicas": 1}}));
    deployments.patch("web", &PatchParams::default(), &fewer).await.unwrap();
    cluster
        .until("one is ready", |slices| (ready(slices) == 1).then_some(()))
        .await;

    let services: Api<Service> = Api::namespaced(cluster.client(), "default");
    services.delete("web", &DeleteParams::default()).await.unwrap();
    let none = |slices: &daemon::Lister<EndpointSlice>| {
        let mut all = slices.list().into_iter();
        (!all.any(|slice| slice.labels.get("kubernetes.io/service-name") == Some("web"))).then_some(())
    };
    cluster.until("the slices are gone", none).await;
    cluster.until_gone::<Endpoints>("default", "web").await;
}

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams};
use testkit::{FakeNode, deployment, pod};

use super::cluster;

fn tainted(node: &Node, key: &str, effect: &str) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints
        .into_iter()
        .any(|taint| taint.key == format!("node.kubernetes.io/{key}") && taint.effect == effect)
}

#[tokio::test(start_paused = true)]
async fn nodes_get_networks_that_do_not_meet() {
    let mut cluster = cluster().await;
    for name in ["n1", "n2"] {
        FakeNode::start(&mut cluster, name).await;
    }
    let mut parts = Vec::new();
    for name in ["n1", "n2"] {
        let part = |node: &Node| node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some());
        let node = cluster.until_one("it has a network", "", name, part).await;
        parts.push(node.spec.as_ref().unwrap().pod_cidr.clone().unwrap());
    }
    parts.sort();
    assert_eq!(parts, ["10.244.0.0/24", "10.244.1.0/24"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_unknown_and_its_pods_move() {
    let mut cluster = cluster().await;
    let quiet = FakeNode::start(&mut cluster, "quiet").await;
    cluster.create(deployment("web").replicas(2).deployment()).await;
    let available = |count: i32| {
        move |web: &Deployment| {
            web.status
                .as_ref()
                .is_some_and(|status| status.available_replicas == Some(count))
        }
    };
    cluster
        .until_one("it is available", "default", "web", available(2))
        .await;
    FakeNode::start(&mut cluster, "other").await;
    let healthy = |node: &Node| !tainted(node, "not-ready", "NoSchedule") && api::node::is_ready(node);
    cluster.until_one("the other is ready", "", "other", healthy).await;
    cluster.pass(Duration::from_secs(300)).await;
    cluster.until_one("it lives on its Leases", "", "quiet", healthy).await;

    let began = tokio::time::Instant::now();
    quiet.fall_silent();
    cluster
        .until_one("it is unreachable", "", "quiet", |node: &Node| {
            tainted(node, "unreachable", "NoExecute")
        })
        .await;
    assert!(began.elapsed() < Duration::from_secs(75), "{:?}", began.elapsed());
    let unready = |web: &Deployment| {
        web.status
            .as_ref()
            .is_some_and(|status| status.ready_replicas.is_none())
    };
    cluster
        .until_one("its pods are not ready", "default", "web", unready)
        .await;
    // Pods tolerate that for five minutes unless they say otherwise; then others take their place.
    cluster.until_one("they moved", "default", "web", available(2)).await;
    assert!(began.elapsed() > Duration::from_secs(300), "{:?}", began.elapsed());

    quiet.wake();
    cluster.until_one("it is back", "", "quiet", healthy).await;
    let two = |pods: &daemon::Lister<Pod>| (pods.len() == 2).then_some(());
    cluster.until("the old pods are gone", two).await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_node_that_is_gone_are_removed() {
    let mut cluster = cluster().await;
    let node = FakeNode::start(&mut cluster, "n1").await;
    cluster.create(pod("p").pod()).await;
    let running = |pod: &Pod| api::pod::phase(pod) == "Running";
    cluster.until_one("it runs", "default", "p", running).await;
    node.fall_silent();
    let nodes: Api<Node> = Api::all(cluster.client());
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<Pod>("default", "p").await;
}

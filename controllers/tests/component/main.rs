//! The controllers against a whole API server in the test's own thread, with the clock paused: everything they may do
//! is what upstream's bootstrap roles let them.

mod certificates;
mod cleanup;
mod crons;
mod daemons;
mod network;
mod nodes;
mod policy;
mod rollouts;
mod stateful;
mod workloads;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use daemon::informer::Kind;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Endpoints, Event, Namespace, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use testkit::{Cluster, FakeNode, deployment, job, service};

/// A cluster with all controllers.
async fn cluster() -> Cluster {
    let mut cluster = Cluster::start().await;
    let clients = cluster.clients("system:kube-controller-manager", &["system:authenticated"]);
    let config = controllers::Config {
        root_ca: Some("-----BEGIN CERTIFICATE-----\n".to_owned()),
        ..controllers::Config::default()
    };
    cluster.spawn(|stop| controllers::run(config, clients, stop));
    cluster
}

/// Counts changes of a kind from now on.
async fn count<K: Kind>(cluster: &Cluster, changes: &Arc<AtomicUsize>) {
    let lister = cluster.listed::<K>().await;
    let changes = changes.clone();
    lister.on_change(move |_| {
        changes.fetch_add(1, Ordering::SeqCst);
    });
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_where_nothing_happens() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster.create(deployment("web").replicas(3).deployment()).await;
    cluster.create(service("web").service()).await;
    cluster.create(job("once").job()).await;
    cluster
        .create(stateful::stateful_set("db", serde_json::json!({})))
        .await;
    cluster
        .create(daemons::daemon_set("agent", serde_json::json!({})))
        .await;
    let never = serde_json::json!({"schedule": "0 0 1 1 *"});
    cluster.create(crons::cron_job("yearly", "succeed", never)).await;
    cluster.pass(Duration::from_secs(60)).await;
    let changes = Arc::default();
    count::<Deployment>(&cluster, &changes).await;
    count::<ReplicaSet>(&cluster, &changes).await;
    count::<Job>(&cluster, &changes).await;
    count::<StatefulSet>(&cluster, &changes).await;
    count::<DaemonSet>(&cluster, &changes).await;
    count::<ControllerRevision>(&cluster, &changes).await;
    count::<CronJob>(&cluster, &changes).await;
    count::<Pod>(&cluster, &changes).await;
    count::<Node>(&cluster, &changes).await;
    count::<Namespace>(&cluster, &changes).await;
    count::<Endpoints>(&cluster, &changes).await;
    count::<EndpointSlice>(&cluster, &changes).await;
    count::<Event>(&cluster, &changes).await;
    let before = changes.load(Ordering::SeqCst);
    assert!(before > 10, "everything is there: {before}");
    // Events end after an hour, which is a change.
    cluster.pass(Duration::from_secs(1800)).await;
    assert_eq!(changes.load(Ordering::SeqCst), before);
}

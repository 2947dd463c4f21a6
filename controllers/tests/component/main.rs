//! The controllers against a whole API server in the test's own thread, with the clock paused: everything they may do
//! is what upstream's bootstrap roles let them.

mod cleanup;
mod network;
mod nodes;
mod workloads;

use testkit::Cluster;

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

//! Flags → configuration → run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use daemon::args::{Connection, Logging};
use daemon::clients::KubeconfigClients;
use daemon::process;
use dns::{Config, Files, Range};

/// Answers the names of the cluster.
#[derive(Debug, Parser)]
#[command(name = "dns", version)]
struct Flags {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    logging: Logging,
    /// Where to answer.
    #[arg(long, default_value = "10.96.0.10:53")]
    listen: SocketAddr,
    /// The address is there already: do not put it on the loopback interface.
    #[arg(long)]
    keep_addresses: bool,
    /// The cluster's domain.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Addresses of Services.
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cluster_ip_range: Range,
    /// Addresses of pods.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: Range,
    /// Where the host's resolvers are named.
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
}

fn main() -> ExitCode {
    let Flags {
        connection,
        logging,
        listen,
        keep_addresses,
        cluster_domain,
        service_cluster_ip_range,
        cluster_cidr,
        resolv_conf,
    } = Flags::parse();
    if let Err(error) = logging.init() {
        tracing::error!(%error, "logs");
        return ExitCode::FAILURE;
    }
    let config = Config {
        listen,
        own_address: !keep_addresses,
        domain: cluster_domain,
        ranges: vec![service_cluster_ip_range, cluster_cidr],
        resolv: Files {
            main: resolv_conf,
            ..Files::default()
        },
    };
    process::run("dns", |stop| async move {
        let clients = KubeconfigClients::new(&connection.kubeconfig, "coredns").await?;
        dns::run(config, Arc::new(clients), stop)
            .await
            .map_err(daemon::BoxError::from)
    })
}

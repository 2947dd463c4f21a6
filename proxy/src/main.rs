//! Flags → configuration → run.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use daemon::args::{Connection, Logging};
use daemon::clients::KubeconfigClients;
use daemon::process;
use proxy::Config;
use proxy::cidr::Cidr;

/// Routes Services in the kernel of one node.
#[derive(Debug, Parser)]
#[command(name = "proxy", version)]
struct Flags {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    logging: Logging,
    /// Name of the Node that this is; the host's name when empty.
    #[arg(long)]
    hostname_override: Option<String>,
    /// Addresses of pods.
    #[arg(long)]
    cluster_cidr: Option<Cidr>,
    /// Addresses of Services. They get a route to the bridge, and unknown ones are refused.
    #[arg(long)]
    service_cluster_ip_range: Option<Cidr>,
    /// Bridge of this node's pods, made when missing.
    #[arg(long)]
    bridge: Option<String>,
    /// Where to answer health checks.
    #[arg(long, default_value = "0.0.0.0:10256")]
    healthz_bind_address: SocketAddr,
    /// Remove the rules and routes of this program and exit.
    #[arg(long)]
    cleanup: bool,
}

fn main() -> ExitCode {
    let Flags {
        connection,
        logging,
        hostname_override,
        cluster_cidr,
        service_cluster_ip_range,
        bridge,
        healthz_bind_address,
        cleanup,
    } = Flags::parse();
    if let Err(error) = logging.init() {
        tracing::error!(%error, "logs");
        return ExitCode::FAILURE;
    }
    if cleanup {
        return match proxy::cleanup() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(error = %daemon::chain(&error), "cleanup");
                ExitCode::FAILURE
            }
        };
    }
    let config = Config {
        node: hostname_override.unwrap_or_else(process::host_name),
        services: service_cluster_ip_range,
        cluster: cluster_cidr,
        bridge,
        health: Some(healthz_bind_address),
    };
    process::run("proxy", |stop| async move {
        let clients = KubeconfigClients::new(&connection.kubeconfig, "kube-proxy").await?;
        proxy::run(config, Arc::new(clients), stop)
            .await
            .map_err(daemon::BoxError::from)
    })
}

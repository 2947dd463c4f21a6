//! The controllers as a process of their own: flags → config → run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use controllers::nodes::ipam::Cidr;
use daemon::args::{Connection, Election, Logging, Serving, duration};
use daemon::clients::{Clients, KubeconfigClients};
use daemon::health::{self, Health};
use daemon::lead::{End, lead};
use daemon::metrics::Registry;
use daemon::tasks::Tasks;
use tokio_util::sync::CancellationToken;

/// Brings what is there to what is asked for.
#[derive(Debug, Parser)]
#[command(name = "controllers", version)]
struct Flags {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    logging: Logging,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    election: Election,
    /// Which controllers run: * is all that are on by default, foo turns one on, -foo turns one off.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Give nodes parts of the cluster's pod network.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    allocate_node_cidrs: bool,
    /// The cluster's pod network.
    #[arg(long, requires = "allocate_node_cidrs")]
    cluster_cidr: Option<Cidr>,
    /// Length of the prefix of a node's part of it.
    #[arg(long, default_value_t = 24)]
    node_cidr_mask_size: u8,
    /// Certificates that pods are to trust, published in every namespace.
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// Authority that signs approved certificate requests, and its key.
    #[arg(long, requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    #[arg(long, requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// How long what is signed lives at most.
    #[arg(long, default_value = "8760h", value_parser = duration)]
    cluster_signing_duration: Duration,
    /// How long a node may say nothing before it is unknown.
    #[arg(long, default_value = "50s", value_parser = duration)]
    node_monitor_grace_period: Duration,
    /// How many ended pods may stay.
    #[arg(long, default_value_t = 12500)]
    terminated_pod_gc_threshold: usize,
    /// Use a service account for each controller. Always so; the flag is there for upstream's manifests.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    use_service_account_credentials: Option<bool>,
}

/// Upstream's port.
const PORT: u16 = 10257;

fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    flags.logging.init()?;
    Ok(daemon::process::run("controllers", |stop| run(flags, stop)))
}

async fn run(flags: Flags, stop: CancellationToken) -> anyhow::Result<()> {
    let Flags {
        connection,
        logging: _,
        serving,
        election,
        controllers,
        allocate_node_cidrs,
        cluster_cidr,
        node_cidr_mask_size,
        root_ca_file,
        cluster_signing_cert_file,
        cluster_signing_key_file,
        cluster_signing_duration,
        node_monitor_grace_period,
        terminated_pod_gc_threshold,
        use_service_account_credentials: _,
    } = flags;
    let root_ca = root_ca_file
        .map(std::fs::read_to_string)
        .transpose()
        .context("cannot read --root-ca-file")?;
    let read = |path: Option<PathBuf>| path.map(std::fs::read_to_string).transpose();
    let signing = read(cluster_signing_cert_file)
        .context("cannot read --cluster-signing-cert-file")?
        .zip(read(cluster_signing_key_file).context("cannot read --cluster-signing-key-file")?)
        .map(|(certificate, key)| daemon::pki::Pair { certificate, key });
    let config = controllers::Config {
        controllers,
        cluster_cidr: cluster_cidr.filter(|_| allocate_node_cidrs),
        node_cidr_mask_size,
        root_ca,
        signing,
        signing_duration: cluster_signing_duration,
        node_monitor_grace_period,
        terminated_pod_threshold: terminated_pod_gc_threshold,
        ..controllers::Config::default()
    };
    let clients: Arc<dyn Clients> =
        Arc::new(KubeconfigClients::new(&connection.kubeconfig, "kube-controller-manager").await?);
    let mut tasks = Tasks::under(&stop);
    let port = serving.secure_port.unwrap_or(PORT);
    if port != 0 {
        let health = Health::new(Registry::default()).reviewed_by(clients.own());
        let listener = health::listen(SocketAddr::new(serving.bind_address, port))
            .await
            .context("cannot listen")?;
        let tls = Arc::new(serving.tls()?);
        tasks.spawn("health", |stop| health.serve(listener, tls, stop));
    }
    let identity = format!("{}_{}", daemon::process::host_name(), std::process::id());
    tasks.spawn("controllers", move |stop| async move {
        let Some(lease) = election.config("kube-controller-manager", identity) else {
            return anyhow::Ok(controllers::run(config, clients, stop).await?);
        };
        let work = |stop| controllers::run(config.clone(), clients.clone(), stop);
        match lead(clients.own(), lease, stop, work).await {
            End::Ended(result) => Ok(result?),
            // Another one leads: this process starts over as a candidate.
            End::Lost => anyhow::bail!("the Lease is lost"),
            End::Stopped => Ok(()),
        }
    });
    Ok(tasks.run(stop.cancelled()).await?)
}

//! The scheduler as a process of its own: flags → config → run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use daemon::args::{Election, Logging, Serving};
use daemon::clients::{Clients, KubeconfigClients};
use daemon::health::{self, Health};
use daemon::lead::{self, End, lead};
use daemon::tasks::Tasks;
use scheduler::config::{File, Leading};
use tokio_util::sync::CancellationToken;

/// Binds pods to nodes.
#[derive(Debug, Parser)]
#[command(name = "scheduler", version)]
struct Flags {
    /// Kubeconfig file with the server's address and the scheduler's identity; may also be named by --config.
    #[arg(long, required_unless_present = "config")]
    kubeconfig: Option<PathBuf>,
    /// A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1).
    #[arg(long)]
    config: Option<PathBuf>,
    /// Taken for upstream's manifests: the identity of --kubeconfig asks who may read the metrics.
    #[arg(long, hide = true)]
    authentication_kubeconfig: Option<PathBuf>,
    /// As --authentication-kubeconfig.
    #[arg(long, hide = true)]
    authorization_kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    logging: Logging,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    election: Election,
}

/// Upstream's port.
const PORT: u16 = 10259;

fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    flags.logging.init()?;
    Ok(daemon::process::run("scheduler", |stop| run(flags, stop)))
}

async fn run(flags: Flags, stop: CancellationToken) -> anyhow::Result<()> {
    let Flags {
        kubeconfig,
        config,
        authentication_kubeconfig: _,
        authorization_kubeconfig: _,
        logging: _,
        serving,
        election,
    } = flags;
    let file = match &config {
        None => File::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            File::parse(&text).with_context(|| format!("cannot use {}", path.display()))?
        }
    };
    let File {
        config,
        kubeconfig: named,
        leader_election,
    } = file;
    let kubeconfig = kubeconfig
        .or(named)
        .context("neither --kubeconfig nor clientConnection.kubeconfig of --config names a kubeconfig")?;
    let clients: Arc<dyn Clients> = Arc::new(KubeconfigClients::new(&kubeconfig, "kube-scheduler").await?);
    let mut tasks = Tasks::under(&stop);
    let port = serving.secure_port.unwrap_or(PORT);
    if port != 0 {
        let health = Health::new(config.metrics.clone()).reviewed_by(clients.own());
        let listener = health::listen(SocketAddr::new(serving.bind_address, port))
            .await
            .context("cannot listen")?;
        let tls = Arc::new(serving.tls()?);
        tasks.spawn("health", |stop| health.serve(listener, tls, stop));
    }
    let identity = format!("{}_{}", daemon::process::host_name(), std::process::id());
    tasks.spawn("schedule", move |stop| async move {
        let Some(lease) = lease(&election, leader_election, identity) else {
            return anyhow::Ok(scheduler::run(config, clients, stop).await?);
        };
        let work = |stop| scheduler::run(config.clone(), clients.clone(), stop);
        match lead(clients.own(), lease, stop, work).await {
            End::Ended(result) => Ok(result?),
            // Another one leads: this process starts over as a candidate.
            End::Lost => anyhow::bail!("the Lease is lost"),
            End::Stopped => Ok(()),
        }
    });
    Ok(tasks.run(stop.cancelled()).await?)
}

/// What to lead: as the file has it, else as the flags do. Nothing where the process is the only one.
fn lease(flags: &Election, file: Leading, identity: String) -> Option<lead::Config> {
    let Leading {
        lead,
        namespace,
        name,
        lease,
        renew,
        retry,
    } = file;
    let election = Election {
        leader_elect: lead.unwrap_or(flags.leader_elect),
        leader_elect_resource_namespace: namespace.unwrap_or_else(|| flags.leader_elect_resource_namespace.clone()),
        leader_elect_lease_duration: lease.unwrap_or(flags.leader_elect_lease_duration),
        leader_elect_renew_deadline: renew.unwrap_or(flags.leader_elect_renew_deadline),
        leader_elect_retry_period: retry.unwrap_or(flags.leader_elect_retry_period),
    };
    election.config(name.as_deref().unwrap_or("kube-scheduler"), identity)
}

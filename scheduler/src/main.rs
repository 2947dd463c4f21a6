//! The scheduler as a process of its own: flags → config → run.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use daemon::args::{Connection, Election, Logging, Serving};
use daemon::clients::{Clients, KubeconfigClients};
use daemon::health::{self, Health};
use daemon::lead::{End, lead};
use daemon::metrics::Registry;
use daemon::tasks::Tasks;
use tokio_util::sync::CancellationToken;

/// Binds pods to nodes.
#[derive(Debug, Parser)]
#[command(name = "scheduler", version)]
struct Flags {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    logging: Logging,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    election: Election,
    /// Pods with this spec.schedulerName are scheduled.
    #[arg(long, default_value = "default-scheduler")]
    scheduler_name: String,
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
        connection,
        logging: _,
        serving,
        election,
        scheduler_name,
    } = flags;
    let clients: Arc<dyn Clients> = Arc::new(KubeconfigClients::new(&connection.kubeconfig, "kube-scheduler").await?);
    let config = scheduler::Config {
        scheduler_name,
        ..scheduler::Config::default()
    };
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
    tasks.spawn("schedule", move |stop| async move {
        let Some(lease) = election.config("kube-scheduler", identity) else {
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

//! The provisioner of one node as a process of its own: flags → config → run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use daemon::args::{Connection, Logging};
use daemon::clients::KubeconfigClients;

/// Makes directories of this node for claims.
#[derive(Debug, Parser)]
#[command(name = "provisioner", version)]
struct Flags {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    logging: Logging,
    /// The node that this is.
    #[arg(long)]
    node_name: String,
    /// Where directories are made.
    #[arg(long, default_value = "/var/lib/coracle/volumes")]
    directory: PathBuf,
}

fn main() -> ExitCode {
    let Flags {
        connection,
        logging,
        node_name,
        directory,
    } = Flags::parse();
    if let Err(error) = logging.init() {
        tracing::error!(%error, "logs");
        return ExitCode::FAILURE;
    }
    let config = provisioner::Config { node_name, directory };
    daemon::process::run("provisioner", |stop| async move {
        let clients = Arc::new(KubeconfigClients::new(&connection.kubeconfig, "coracle-provisioner").await?);
        provisioner::run(config, clients, stop)
            .await
            .map_err(daemon::BoxError::from)
    })
}

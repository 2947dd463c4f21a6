//! Runs the rows of the table: one set of informers, a client and a task for each.

use std::sync::Arc;

use daemon::{Clients, Informers, Recorder, Tasks};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::Config;
use crate::context::Context;
use crate::table::TABLE;

/// Runs all enabled controllers until `stop`. The first that ends ends them all.
pub async fn run(
    config: Config,
    clients: Arc<dyn Clients>,
    stop: CancellationToken,
) -> Result<(), daemon::tasks::Error> {
    let config = Arc::new(config);
    let informers = Informers::new(clients.own());
    let mut tasks = Tasks::under(&stop);
    let mut names = Vec::new();
    for row in TABLE.iter().filter(|row| config.enables(row.name, row.on)) {
        let client = clients.service_account("kube-system", row.account);
        let context = Context {
            informers: informers.clone(),
            recorder: Recorder::new(client.clone(), row.component, ""),
            client,
            config: config.clone(),
        };
        tasks.spawn(row.name, |stop| (row.start)(context, stop));
        names.push(row.name);
    }
    // Those that ask for their listers later find the watches running.
    tasks.spawn("informers", |stop| informers.run(stop));
    info!(controllers = ?names, "started");
    tasks.run(stop.cancelled()).await
}

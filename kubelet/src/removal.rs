//! The way back: every pod off the runtime, and nothing of them left on the node. For commands that take a node away;
//! the node agent itself never calls this.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::runtime::{Error, Runtime};

/// Stops every container within `grace`, then removes every sandbox with its network. Says how many pods there were.
pub async fn remove_pods(runtime: Arc<dyn Runtime>, grace: Duration) -> Result<usize, Error> {
    let containers = runtime.containers(None).await?;
    for stopped in join_all(
        containers
            .iter()
            .map(|container| runtime.stop_container(&container.id, grace)),
    )
    .await
    {
        stopped.or_else(absent_is_fine)?;
    }
    let sandboxes = runtime.sandboxes(None).await?;
    let removed = join_all(sandboxes.iter().map(async |sandbox| {
        runtime.stop_sandbox(&sandbox.id).await.or_else(absent_is_fine)?;
        runtime.remove_sandbox(&sandbox.id).await.or_else(absent_is_fine)
    }));
    for one in removed.await {
        one?;
    }
    Ok(sandboxes.len())
}

/// What is gone already needs no removing.
fn absent_is_fine(error: Error) -> Result<(), Error> {
    if error.is_absent() { Ok(()) } else { Err(error) }
}

//! Tasks that must all outlive their part, or end it.

use std::future::Future;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::BoxError;

/// How long tasks may take to end after they were told to.
pub const DRAIN: Duration = Duration::from_secs(10);

/// The tasks of one part. A task that ends before the part does, well or badly, is a failure of the part.
#[derive(Debug)]
pub struct Tasks {
    stop: CancellationToken,
    set: JoinSet<(&'static str, Result<(), BoxError>)>,
    drain: Duration,
}

/// All are final: the part has stopped, and may be started again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{name} ended early")]
    Early { name: &'static str },
    #[error("{name} failed")]
    Failed {
        name: &'static str,
        #[source]
        cause: BoxError,
    },
    #[error("a task panicked")]
    Panic(#[source] JoinError),
    #[error("tasks were still running {0:?} after they were told to stop")]
    Drain(Duration),
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    pub fn new() -> Self {
        Self::under(&CancellationToken::new())
    }

    /// Tasks whose token also fires when `parent` does.
    pub fn under(parent: &CancellationToken) -> Self {
        Tasks {
            stop: parent.child_token(),
            set: JoinSet::new(),
            drain: DRAIN,
        }
    }

    /// Replaces the time that tasks may take to end.
    pub fn drain_within(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Fires when the tasks have to end.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task. It has to run until its token fires and to return soon after that.
    pub fn spawn<F, E>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let task = task(self.stop.clone());
        self.set
            .spawn(async move { (name, task.await.map_err(Into::<BoxError>::into)) });
    }

    /// Runs until `shutdown`, or until the first task ends; then stops the others and waits for them.
    /// A token above this one that fires is a shutdown as well.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let early = tokio::select! {
            biased;
            () = shutdown => None,
            () = self.stop.cancelled() => None,
            Some(end) = self.set.join_next() => Some(end),
        };
        self.stop.cancel();
        let drained = tokio::time::timeout(self.drain, async {
            let mut failed = None;
            while let Some(end) = self.set.join_next().await {
                match end {
                    Ok((name, Err(cause))) => failed = failed.or(Some(Error::Failed { name, cause })),
                    Err(panic) if panic.is_panic() => failed = failed.or(Some(Error::Panic(panic))),
                    Ok(_) | Err(_) => {}
                }
            }
            failed
        })
        .await;
        match early {
            Some(Ok((name, Ok(())))) => Err(Error::Early { name }),
            Some(Ok((name, Err(cause)))) => Err(Error::Failed { name, cause }),
            Some(Err(panic)) => Err(Error::Panic(panic)),
            None => match drained {
                Ok(None) => Ok(()),
                Ok(Some(error)) => Err(error),
                Err(_) => Err(Error::Drain(self.drain)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    async fn until(stop: CancellationToken) -> Result<(), Infallible> {
        stop.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn an_early_end_is_a_failure_even_when_it_is_successful() {
        let mut tasks = Tasks::new();
        tasks.spawn("steady", until);
        tasks.spawn("hasty", |_| async { Ok::<(), Infallible>(()) });
        let error = tasks.run(std::future::pending()).await.unwrap_err();
        assert_eq!(error.to_string(), "hasty ended early");
    }

    #[tokio::test]
    async fn a_panic_ends_the_part() {
        let mut tasks = Tasks::new();
        tasks.spawn("steady", until);
        tasks.spawn("broken", |_| async {
            if true {
                panic!("boom")
            }
            Ok::<(), Infallible>(())
        });
        assert!(matches!(tasks.run(std::future::pending()).await, Err(Error::Panic(_))));
    }

    #[tokio::test]
    async fn shutdown_is_clean() {
        let mut tasks = Tasks::new();
        tasks.spawn("steady", until);
        assert!(tasks.run(std::future::ready(())).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_reported_after_the_drain() {
        let mut tasks = Tasks::new();
        tasks.spawn("deaf", |_| std::future::pending::<Result<(), Infallible>>());
        assert!(matches!(tasks.run(std::future::ready(())).await, Err(Error::Drain(_))));
    }
}

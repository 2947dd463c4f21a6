//! The life of a process that runs one part: logs first, then the part, then the signal, the drain, and the exit code.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::BoxError;
use crate::signal::Signals;
use crate::tasks::DRAIN;

/// Runs `part` until a signal or its end. An end without a signal, and one that takes too long, are failures.
pub fn run<F, E>(name: &'static str, part: impl FnOnce(CancellationToken) -> F) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(live(name, part));
    // Blocking calls that hang must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_millis(500));
    code
}

/// What the machine is called; Lease holders and events carry it.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_lowercase()
}

async fn live<F, E>(name: &'static str, part: impl FnOnce(CancellationToken) -> F) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            error!(%error, "no signal handlers");
            return ExitCode::FAILURE;
        }
    };
    let stop = CancellationToken::new();
    let mut part = Box::pin(part(stop.clone()));
    let early = tokio::select! {
        biased;
        signal = signals.next() => {
            info!(part = name, signal, "stopping");
            None
        }
        end = &mut part => Some(end),
    };
    let end = match early {
        Some(Ok(())) => {
            error!(part = name, "ended early");
            return ExitCode::FAILURE;
        }
        Some(end) => end,
        None => {
            stop.cancel();
            tokio::select! {
                biased;
                signal = signals.next() => {
                    error!(part = name, signal, "leaving without a drain");
                    return ExitCode::FAILURE;
                }
                drained = tokio::time::timeout(DRAIN + Duration::from_secs(2), part) => match drained {
                    Ok(end) => end,
                    Err(_) => {
                        error!(part = name, "did not stop in time");
                        return ExitCode::FAILURE;
                    }
                },
            }
        }
    };
    match end.map_err(Into::into) {
        Ok(()) => {
            info!(part = name, "stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!(part = name, error = %crate::chain(error.as_ref()), "failed");
            ExitCode::FAILURE
        }
    }
}

//! Logs: one line per decision, to standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// The shape of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("--log-filter is not a filter")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    #[error("logs are set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up the logs of the process. `filter` speaks as RUST_LOG does (`info,kubelet=debug`); without one the verbosity
/// counts as upstream's `--v`: 4 is debug, 6 and more trace.
pub fn init(verbosity: u8, filter: Option<&str>, format: Format) -> Result<(), Error> {
    let directives = filter.unwrap_or_else(|| level(verbosity));
    let filter = EnvFilter::builder().parse(directives).map_err(Error::Filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        Format::Text => builder.finish().try_init(),
        Format::Json => builder.json().flatten_event(true).finish().try_init(),
    }
    .map_err(Error::Twice)
}

/// Debug and trace of the libraries below us drown our own.
fn level(verbosity: u8) -> &'static str {
    match verbosity {
        0..=3 => "info",
        4..=5 => "debug,hyper=info,hyper_util=info,h2=info,tower=info,rustls=info,kube_client=info",
        _ => "trace,hyper=info,hyper_util=info,h2=info,tower=info,rustls=info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verbosity_is_a_filter() {
        for verbosity in 0..=10 {
            EnvFilter::builder().parse(level(verbosity)).unwrap();
        }
    }
}

//! What a scheduler is told at its start: flags and a KubeSchedulerConfiguration come in, profiles and limits go out.
//! Nothing below reads a file or a flag.
//! A configuration that is not understood in full is refused, with the path of what is wrong.

mod file;
mod profile;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon::metrics::Registry;

use crate::queue::Rests;
use crate::rules::Profile;

pub use file::Error;

/// Limits and names. The defaults are upstream's where it has them.
#[derive(Debug, Clone)]
pub struct Config {
    /// One for each `spec.schedulerName` that is ours.
    pub profiles: Vec<Arc<Profile>>,
    /// Writes under way at once; decisions pause when so many are.
    pub concurrent_binds: usize,
    pub rests: Rests,
    /// Where the scheduler's metrics are kept.
    pub metrics: Registry,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            profiles: vec![Arc::new(Profile::default())],
            concurrent_binds: 256,
            rests: Rests::default(),
            metrics: Registry::default(),
        }
    }
}

/// What a configuration file says beside the scheduling itself.
#[derive(Debug, Clone, Default)]
pub struct File {
    pub config: Config,
    pub kubeconfig: Option<PathBuf>,
    pub leader_election: Leading,
}

/// The election as the file has it; what it does not say stays as the flags have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leading {
    pub lead: Option<bool>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub lease: Option<Duration>,
    pub renew: Option<Duration>,
    pub retry: Option<Duration>,
}

impl File {
    /// Reads a KubeSchedulerConfiguration.
    pub fn parse(text: &str) -> Result<Self, Error> {
        file::parse(text)
    }
}

#[cfg(test)]
mod tests;

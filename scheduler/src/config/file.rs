//! KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) as it is written. Unknown fields are refused.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{Config, File, Leading, profile};
use crate::queue::Rests;

/// The file is not a configuration; the message says where.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{path}: {message}")]
pub struct Error {
    pub path: String,
    pub message: String,
}

impl Error {
    pub(super) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Error {
            path: path.into(),
            message: message.into(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Whole {
    api_version: String,
    kind: String,
    parallelism: Option<i64>,
    #[serde(default)]
    leader_election: Election,
    #[serde(default)]
    client_connection: Connection,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    profiles: Vec<ProfileText>,
    #[serde(default)]
    extenders: Vec<Value>,
    // Pages about the process that we do not have, and a cache that a candidate does not fill here.
    #[serde(rename = "enableProfiling")]
    _profiling: Option<bool>,
    #[serde(rename = "enableContentionProfiling")]
    _contention: Option<bool>,
    #[serde(rename = "delayCacheUntilActive")]
    _delay: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Election {
    leader_elect: Option<bool>,
    lease_duration: Option<String>,
    renew_deadline: Option<String>,
    retry_period: Option<String>,
    resource_lock: Option<String>,
    resource_name: Option<String>,
    resource_namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Connection {
    kubeconfig: Option<PathBuf>,
    accept_content_types: Option<String>,
    content_type: Option<String>,
    qps: Option<f64>,
    burst: Option<i64>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ProfileText {
    pub(super) scheduler_name: Option<String>,
    pub(super) percentage_of_nodes_to_score: Option<i64>,
    pub(super) plugins: PluginsText,
    pub(super) plugin_config: Vec<PluginConfig>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct PluginsText {
    pub(super) pre_enqueue: Set,
    pub(super) queue_sort: Set,
    pub(super) pre_filter: Set,
    pub(super) filter: Set,
    pub(super) post_filter: Set,
    pub(super) pre_score: Set,
    pub(super) score: Set,
    pub(super) reserve: Set,
    pub(super) permit: Set,
    pub(super) pre_bind: Set,
    pub(super) bind: Set,
    pub(super) post_bind: Set,
    pub(super) multi_point: Set,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Set {
    pub(super) enabled: Vec<Named>,
    pub(super) disabled: Vec<Named>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) weight: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PluginConfig {
    pub(super) name: String,
    #[serde(default)]
    pub(super) args: Value,
}

pub(super) fn parse(text: &str) -> Result<File, Error> {
    let whole: Whole = serde_saphyr::from_str(text).map_err(|error| Error::new("configuration", error.to_string()))?;
    let Whole {
        api_version,
        kind,
        parallelism,
        leader_election,
        client_connection,
        percentage_of_nodes_to_score,
        pod_initial_backoff_seconds,
        pod_max_backoff_seconds,
        profiles,
        extenders,
        ..
    } = whole;
    if api_version != "kubescheduler.config.k8s.io/v1" || kind != "KubeSchedulerConfiguration" {
        return Err(Error::new(
            "apiVersion",
            format!(
                "{api_version}, kind {kind}: only kubescheduler.config.k8s.io/v1, kind KubeSchedulerConfiguration, is read"
            ),
        ));
    }
    if parallelism.is_some_and(|n| n <= 0) {
        return Err(Error::new(
            "parallelism",
            "should be an integer value greater than zero",
        ));
    }
    percentage("percentageOfNodesToScore", percentage_of_nodes_to_score)?;
    if !extenders.is_empty() {
        return Err(Error::new("extenders", "extenders are not supported"));
    }
    let rests = rests(pod_initial_backoff_seconds, pod_max_backoff_seconds)?;
    let profiles = if profiles.is_empty() {
        vec![ProfileText::default()]
    } else {
        profiles
    };
    let mut made = Vec::new();
    for (at, text) in profiles.iter().enumerate() {
        let path = format!("profiles[{at}]");
        percentage(
            &format!("{path}.percentageOfNodesToScore"),
            text.percentage_of_nodes_to_score,
        )?;
        let profile = profile::make(&path, text)?;
        if made
            .iter()
            .any(|have: &Arc<crate::rules::Profile>| have.name == profile.name)
        {
            return Err(Error::new(
                format!("{path}.schedulerName"),
                format!("Duplicate value: \"{}\"", profile.name),
            ));
        }
        made.push(Arc::new(profile));
    }
    let Connection {
        kubeconfig,
        accept_content_types: _,
        content_type: _,
        // Upstream's brakes on its own client; the server's fairness is the brake here.
        qps: _,
        burst: _,
    } = client_connection;
    Ok(File {
        config: Config {
            profiles: made,
            rests,
            ..Config::default()
        },
        kubeconfig: kubeconfig.filter(|path| !path.as_os_str().is_empty()),
        leader_election: leading(leader_election)?,
    })
}

// Every node is scored in any case; the number is accepted so that upstream's files can be used as they are.
fn percentage(path: &str, value: Option<i64>) -> Result<(), Error> {
    match value {
        Some(value) if !(0..=100).contains(&value) => Err(Error::new(path, "not in valid range [0-100]")),
        _ => Ok(()),
    }
}

fn rests(first: Option<i64>, longest: Option<i64>) -> Result<Rests, Error> {
    let seconds = |path: &str, value: Option<i64>, default: Duration| match value {
        None => Ok(default),
        Some(value) => match u64::try_from(value) {
            Ok(value) if value > 0 => Ok(Duration::from_secs(value)),
            _ => Err(Error::new(path, "must be greater than 0")),
        },
    };
    let default = Rests::default();
    let rests = Rests {
        first: seconds("podInitialBackoffSeconds", first, default.first)?,
        longest: seconds("podMaxBackoffSeconds", longest, default.longest)?,
    };
    if rests.longest < rests.first {
        return Err(Error::new(
            "podMaxBackoffSeconds",
            "must be greater than or equal to PodInitialBackoffSeconds",
        ));
    }
    Ok(rests)
}

fn leading(election: Election) -> Result<Leading, Error> {
    let Election {
        leader_elect,
        lease_duration,
        renew_deadline,
        retry_period,
        resource_lock,
        resource_name,
        resource_namespace,
    } = election;
    if resource_lock.is_some_and(|lock| lock != "leases") {
        return Err(Error::new("leaderElection.resourceLock", "must be \"leases\""));
    }
    let time = |name: &str, text: Option<String>| match text {
        None => Ok(None),
        Some(text) => daemon::args::duration(&text)
            .map(Some)
            .map_err(|message| Error::new(format!("leaderElection.{name}"), message)),
    };
    Ok(Leading {
        lead: leader_elect,
        namespace: resource_namespace,
        name: resource_name,
        lease: time("leaseDuration", lease_duration)?,
        renew: time("renewDeadline", renew_deadline)?,
        retry: time("retryPeriod", retry_period)?,
    })
}

//! Flags that the processes have in common, under upstream's names. A part flattens those that it has.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::telemetry::{self, Format};
use crate::{lead, process, tls};

/// How the process logs.
#[derive(Debug, Clone, clap::Args)]
pub struct Logging {
    /// Log verbosity: 4 shows decisions, 6 everything.
    #[arg(long, short = 'v', default_value_t = 0)]
    pub v: u8,
    /// Log format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub log_format: Format,
    /// Which parts log how much, e.g. "info,kubelet=debug". Overrides --v.
    #[arg(long)]
    pub log_filter: Option<String>,
}

impl Logging {
    pub fn init(&self) -> Result<(), telemetry::Error> {
        telemetry::init(self.v, self.log_filter.as_deref(), self.log_format)
    }
}

/// Where the API server is.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    /// Kubeconfig file with the server's address and the process's identity.
    #[arg(long)]
    pub kubeconfig: PathBuf,
}

/// Where the process answers /healthz, /livez, /readyz and /metrics.
#[derive(Debug, Clone, clap::Args)]
pub struct Serving {
    /// Address to serve on.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// HTTPS port; 0 serves nothing.
    #[arg(long)]
    pub secure_port: Option<u16>,
    /// Serving certificate; without one a self-signed certificate is made at each start.
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the serving certificate.
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
}

impl Serving {
    /// The listener's TLS: from the files that were named, else with a certificate made now.
    pub fn tls(&self) -> Result<rustls::ServerConfig, tls::Error> {
        match (&self.tls_cert_file, &self.tls_private_key_file) {
            (Some(certificate), Some(key)) => tls::server(certificate, key, None),
            _ => tls::self_signed(vec![process::host_name(), "localhost".to_owned()]),
        }
    }
}

/// Whether one of several processes leads.
#[derive(Debug, Clone, clap::Args)]
pub struct Election {
    /// Lead one at a time. A process that is the only one of its kind saves the Lease with =false.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: bool,
    #[arg(long, default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
    /// How long others wait after the leader's last renewal.
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,
    /// Pause between attempts.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
}

impl Election {
    /// What to lead as `identity`, or nothing where the process is the only one.
    pub fn config(&self, name: &str, identity: String) -> Option<lead::Config> {
        self.leader_elect.then(|| lead::Config {
            namespace: self.leader_elect_resource_namespace.clone(),
            name: name.to_owned(),
            identity,
            lease: self.leader_elect_lease_duration,
            renew: self.leader_elect_renew_deadline,
            retry: self.leader_elect_retry_period,
        })
    }
}

/// Reads a duration as upstream's flags spell it: `1h30m`, `40s`, `250ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 1h30m, 40s or 250ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        rest = &rest[end..];
        total += Duration::try_from_secs_f64(number * unit).map_err(|_| bad())?;
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spelled_as_upstream_does() {
        for (text, seconds) in [
            ("40s", 40.0),
            ("1h30m", 5400.0),
            ("250ms", 0.25),
            ("1.5m", 90.0),
            ("0", 0.0),
        ] {
            assert_eq!(duration(text).unwrap().as_secs_f64(), seconds, "{text}");
        }
        for text in ["", "5", "s", "5x", "-1s", "1..2s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}

//! The members of an etcd cluster, one of which is asked until it does not answer.
//! A read that fails is asked of the next member; a write only if it surely was not sent.

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, KvClient, LeaseClient, MaintenanceClient, WatchClient};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::failure::{Failure, Said};
use super::{Config, OpenError};

/// For one answer. etcd itself gives up on a proposal after seven seconds.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// A peer that is gone without a word is noticed after these two (upstream's).
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);

/// One member's services.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
    pub(super) lease: LeaseClient,
    pub(super) maintenance: MaintenanceClient,
}

/// What may be done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Read,
    Write,
}

pub(super) struct Endpoints {
    members: Vec<(String, Member)>,
    /// Who answered last.
    current: AtomicUsize,
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.members.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Endpoints {
    /// Reads keys and certificates; connects when something is asked.
    pub(super) async fn new(config: &Config) -> Result<Self, OpenError> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| OpenError::Read(path.into(), error));
        let mut tls = ClientTlsConfig::new();
        if let Some(authority) = &config.authority {
            tls = tls.ca_certificate(Certificate::from_pem(read(authority)?));
        }
        if let Some((certificate, key)) = &config.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        let mut members = Vec::new();
        for server in &config.servers {
            let endpoint = endpoint(server, &tls).map_err(|error| OpenError::Address(server.clone(), error))?;
            // A member that lost its cluster must say so, or a watch would stay with it for ever.
            let options = ConnectOptions::new().with_require_leader(true);
            let client = Client::from_channel(Channel::Tonic(endpoint.connect_lazy()), Some(options)).await;
            let client = client.expect("without a user nothing is asked");
            let member = Member {
                kv: client
                    .kv_client()
                    .max_decoding_message_size(usize::MAX)
                    .max_encoding_message_size(usize::MAX),
                watch: client.watch_client().max_decoding_message_size(usize::MAX),
                lease: client.lease_client(),
                maintenance: client.maintenance_client(),
            };
            members.push((server.clone(), member));
        }
        Ok(Endpoints {
            members,
            current: AtomicUsize::new(0),
        })
    }

    /// The member that is asked now, with its address.
    pub(super) fn current(&self) -> (&str, Member) {
        let (name, member) = &self.members[self.current.load(Ordering::Relaxed) % self.members.len()];
        (name, member.clone())
    }

    /// Asks the next one from now on.
    pub(super) fn turn(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) async fn call<T, F>(&self, call: Call, make: impl Fn(Member) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let start = self.current.load(Ordering::Relaxed);
        // Twice also where there is one: a connection that broke while nobody used it fails the first call.
        let turns = self.members.len().max(2);
        let mut turn = 0;
        loop {
            let member = self.members[(start + turn) % self.members.len()].1.clone();
            let failure = match tokio::time::timeout(PATIENCE, make(member)).await {
                Ok(Ok(answer)) => {
                    if turn > 0 {
                        self.current
                            .store((start + turn) % self.members.len(), Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Ok(Err(error)) => Failure::Etcd(error),
                Err(_) => Failure::Late,
            };
            turn += 1;
            let again = match call {
                Call::Read => failure.said() == Said::Elsewhere,
                Call::Write => failure.was_not_sent(),
            };
            if !again || turn >= turns {
                return Err(failure);
            }
        }
    }
}

fn endpoint(server: &str, tls: &ClientTlsConfig) -> Result<Endpoint, tonic::transport::Error> {
    let url = match server.contains("://") {
        true => server.to_owned(),
        false => format!("http://{server}"),
    };
    let secure = url.starts_with("https://");
    let endpoint = Endpoint::from_shared(url)?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .keep_alive_while_idle(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER)
        // A burst of large events must not stop at the default window.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20);
    match secure {
        true => endpoint.tls_config(tls.clone()),
        false => Ok(endpoint),
    }
}

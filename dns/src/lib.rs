//! The cluster's DNS, one server on each node.
//! Services and endpoints come in through the API, questions through UDP and TCP; answers go out, and questions about other
//! names go to the resolvers that the host itself uses.
//! Invariant: what is said about the cluster is what the API said last; before it said anything, nothing is said.

mod address;
mod answer;
mod feed;
mod forward;
mod resolv;
mod server;
mod wire;
pub mod zone;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use daemon::{Clients, Informers, Tasks};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

pub use resolv::Files;
pub use zone::{BadDomain, BadRange, Range};

/// What the server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to answer: the cluster's DNS address, port 53.
    pub listen: SocketAddr,
    /// Put the address on the loopback interface first.
    pub own_address: bool,
    /// The cluster's domain.
    pub domain: String,
    /// Addresses of Services and pods: names of addresses in them are nobody else's.
    pub ranges: Vec<Range>,
    /// Where the host's resolvers are named.
    pub resolv: Files,
}

impl Default for Config {
    /// The addresses that a cluster of ours has when nobody says otherwise.
    fn default() -> Self {
        let range = |text: &str| text.parse().expect("a valid range");
        Self {
            listen: SocketAddr::from(([10, 96, 0, 10], 53)),
            own_address: true,
            domain: "cluster.local".to_owned(),
            ranges: vec![range("10.96.0.0/16"), range("10.244.0.0/16")],
            resolv: Files::default(),
        }
    }
}

/// All but `Domain` may pass by themselves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cluster's domain")]
    Domain(#[from] BadDomain),
    #[error("putting {0} on the loopback interface")]
    Address(IpAddr, #[source] io::Error),
    #[error("listening on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("serving names")]
    Tasks(#[from] daemon::tasks::Error),
}

/// Answers until `stop`. The address stays: a question to it then fails at once instead of waiting.
pub async fn run(config: Config, clients: Arc<dyn Clients>, stop: CancellationToken) -> Result<(), Error> {
    let Config {
        listen,
        own_address,
        domain,
        ranges,
        resolv,
    } = config;
    let zone = zone::Zone::new(&domain, Some(listen.ip()), ranges)?;
    if own_address && let IpAddr::V4(address) = listen.ip() {
        address::add(address).map_err(|e| Error::Address(listen.ip(), e))?;
    }
    let failed = |error| Error::Listen(listen, error);
    let udp = UdpSocket::bind(listen).await.map_err(failed)?;
    let tcp = TcpListener::bind(listen).await.map_err(failed)?;
    let forwarder = forward::Forwarder::new(resolv, [listen.ip()].into());
    let server = Arc::new(server::Server::new(zone, forwarder));
    let informers = Informers::new(clients.own());
    let feed = feed::Feed::new(&informers);

    let mut tasks = Tasks::under(&stop);
    tasks.spawn("informers", |stop| informers.run(stop));
    tasks.spawn("names", |stop| feed.run(server.clone(), stop));
    tasks.spawn("udp", |stop| server.clone().udp(udp, stop));
    tasks.spawn("tcp", |stop| server.tcp(tcp, stop));
    Ok(tasks.run(stop.cancelled()).await?)
}

/// Takes the address off the loopback interface.
pub fn cleanup(config: &Config) -> io::Result<()> {
    match config.listen.ip() {
        IpAddr::V4(address) if config.own_address => address::remove(address),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! Service routing of one node in the kernel's packet filter.
//! Services, EndpointSlices, the own Node and its pods come in through the API; elements of our own nftables table, one
//! route and a few settings of the kernel go out. No process is started per change and nothing is polled.
//! Invariant: the table is always the one that some state of the cluster asked for, also while and after this part ends.

pub mod cidr;
pub mod conntrack;
mod feed;
mod health;
pub mod model;
mod netlink;
pub mod nft;
pub mod plan;
pub mod route;
mod sync;

use std::net::SocketAddr;
use std::sync::Arc;

use daemon::{Clients, Informers, Tasks};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use cidr::Cidr;

/// What the proxy is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name of the Node that this is.
    pub node: String,
    /// Addresses of Services. They get a route, and what leads nowhere is refused. Without it neither happens.
    pub services: Option<Cidr>,
    /// Addresses of all pods. Clients with other addresses are answered through this node. Without it none are.
    pub cluster: Option<Cidr>,
    /// The bridge of this node's pods, made when it is missing. None where another network plug-in rules.
    pub bridge: Option<String>,
    /// Where to answer whether the proxy works.
    pub health: Option<SocketAddr>,
}

impl Config {
    /// The addresses that a cluster of ours has when nobody says otherwise.
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            services: Some("10.96.0.0/16".parse().expect("a valid range")),
            cluster: Some("10.244.0.0/16".parse().expect("a valid range")),
            bridge: Some("cni0".to_owned()),
            health: None,
        }
    }
}

/// Programs the kernel until `stop`; rules stay.
pub async fn run(
    config: Config,
    clients: Arc<dyn Clients>,
    stop: CancellationToken,
) -> Result<(), daemon::tasks::Error> {
    let config = Arc::new(config);
    let informers = Informers::new(clients.own());
    let feed = feed::Feed::new(&informers, &config.node);
    let (told, status) = watch::channel(health::Status::default());
    let mut tasks = Tasks::under(&stop);
    tasks.spawn("informers", |stop| informers.run(stop));
    tasks.spawn("health", |stop| health::serve(config.health, status, stop));
    tasks.spawn("sync", |stop| sync::run(config.clone(), feed, told, stop));
    tasks.run(stop.cancelled()).await
}

/// Removes the table and the route. Services stop working; connections that stand go on. The bridge belongs to the network
/// plug-in as soon as pods are on it, and stays.
pub fn cleanup() -> Result<(), CleanupError> {
    let gone = nft::Transaction {
        ops: vec![nft::Op::DeleteTable],
    };
    nft::Nft::apply(&mut nft::Kernel::open(plan::TABLE)?, &gone)?;
    route::remove()?;
    Ok(())
}

/// Something of this part is left on the node.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error("removing the packet rules")]
    Rules(#[from] nft::Error),
    #[error("removing the route")]
    Route(#[from] route::Error),
}

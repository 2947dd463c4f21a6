//! The loop: news → plan → difference → one transaction.
//!
//! At the start the kernel's table is read once and compared, so rules that work are never taken away. After a transaction that
//! was refused, or a table that somebody else deleted, everything is made again in one transaction.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use daemon::backoff::Backoff;
use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::cidr::Cidr;
use crate::conntrack::{self, Serving};
use crate::feed::{Feed, News};
use crate::health::Status;
use crate::model::UDP;
use crate::nft::{self, Kernel, Nft, Op, Transaction, Watch};
use crate::plan::{Book, Network, Owner, Piece, TABLE, sets};
use crate::{Config, route};

/// Final: this part has to be started again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("opening the kernel's packet filter")]
    Open(#[source] nft::Error),
    #[error("hearing of changes to packet rules")]
    Watch(#[source] nft::Error),
    #[error("a step in the kernel panicked")]
    Panic(#[source] tokio::task::JoinError),
}

/// What the loop knows about the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    /// Not looked at yet.
    Unknown,
    /// As the book says.
    Good,
    /// To be made again.
    Bad,
}

struct Loop {
    config: Arc<Config>,
    feed: Feed,
    book: Book,
    surroundings: Network,
    /// The bridge, the route and the settings are as `surroundings` says.
    prepared: bool,
    table: Table,
    kernel: Option<Kernel>,
    backoff: Backoff,
    /// When to try again after a failure.
    retry: Option<Instant>,
    status: watch::Sender<Status>,
    /// UDP flows to look through after the next transaction.
    serving: Serving,
}

pub(crate) async fn run(
    config: Arc<Config>,
    feed: Feed,
    status: watch::Sender<Status>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let kernel = Kernel::open(TABLE).map_err(Error::Open)?;
    let mut lost = Watch::open(&kernel).map_err(Error::Watch)?;
    tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        () = feed.synced() => {}
    }
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let surroundings = surroundings(&config, None, true);
    let mut work = Loop {
        config,
        feed: feed.clone(),
        book: Book::default(),
        surroundings,
        prepared: false,
        table: Table::Unknown,
        kernel: Some(kernel),
        backoff,
        retry: None,
        status,
        serving: Serving::default(),
    };
    work.begin().await?;
    // Once pods are known, what was found of them and is wanted no more may go.
    let mut pods_pending = !feed.has_pods();
    loop {
        let retry = work.retry;
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            outcome = lost.lost() => {
                outcome.map_err(Error::Watch)?;
                warn!("somebody deleted the table; making it again");
                work.table = Table::Bad;
                work.apply().await?;
            }
            () = feed.pods_synced(), if pods_pending => {
                pods_pending = false;
                work.begin().await?;
            }
            () = async { if let Some(at) = retry { sleep_until(at).await } }, if retry.is_some() => {
                work.retry = None;
                work.again().await?;
            }
            news = feed.news() => work.look(news).await?,
        }
    }
}

/// What the table depends on, from the configuration and the node's object.
fn surroundings(config: &Config, node: Option<&Node>, bridge_filtered: bool) -> Network {
    let pods: Vec<Cidr> = node
        .map(api::node::pod_cidrs)
        .unwrap_or_default()
        .iter()
        .filter_map(|c| c.parse().ok())
        .collect();
    Network {
        services: config.services,
        cluster: config.cluster,
        pods,
        bridge: config.bridge.clone(),
        bridge_filtered,
    }
}

impl Loop {
    /// Looks at everything, and at what the kernel holds.
    async fn begin(&mut self) -> Result<(), Error> {
        let found = self.with_kernel(|kernel| kernel.dump(&sets::OURS)).await?;
        match found {
            Ok(found) => {
                self.prepare().await?;
                if let Some(dump) = &found {
                    self.book.remember(dump);
                }
                for owner in self.feed.owners() {
                    self.plan(&owner);
                }
                let change = self
                    .book
                    .settle(&self.surroundings, found.as_ref(), self.feed.has_pods());
                info!(
                    services = self.book.owners().count(),
                    elements = change.elements(),
                    adopted = found.is_some(),
                    "rules compared"
                );
                self.table = Table::Unknown;
                self.send(change).await
            }
            Err(error) => {
                self.failed(&error);
                Ok(())
            }
        }
    }

    /// After a failure.
    async fn again(&mut self) -> Result<(), Error> {
        if self.table == Table::Unknown {
            return self.begin().await;
        }
        if self.prepare().await? {
            self.table = Table::Bad;
        }
        self.apply().await
    }

    async fn look(&mut self, news: BTreeSet<News>) -> Result<(), Error> {
        let mut node = false;
        for one in news {
            match one {
                News::Node => node = true,
                News::Of(owner) => self.plan(&owner),
            }
        }
        if node && self.prepare().await? {
            self.table = Table::Bad;
        }
        if self.table == Table::Unknown {
            // The retry will look at everything.
            return Ok(());
        }
        self.apply().await
    }

    fn plan(&mut self, owner: &Owner) {
        let mut todo = vec![owner.clone()];
        while let Some(owner) = todo.pop() {
            let Some((ports, check)) = self.feed.ports(&owner) else {
                continue;
            };
            let before = udp(self.book.piece(&owner));
            todo.extend(self.book.set(&owner, &ports));
            changed(&mut self.serving, &before, &udp(self.book.piece(&owner)));
            if let Owner::Service { namespace, name } = &owner {
                self.status
                    .send_if_modified(|status| status.set(namespace, name, check));
            }
        }
    }

    /// The bridge, the route and the kernel's settings; says whether the table has to be made again for them.
    async fn prepare(&mut self) -> Result<bool, Error> {
        let node = self.feed.node();
        // A node says every few minutes that it lives; that is no reason to touch anything.
        let same = surroundings(&self.config, node.as_deref(), self.surroundings.bridge_filtered) == self.surroundings;
        if self.prepared && same {
            return Ok(false);
        }
        if self.config.bridge.is_some() && route::lacks_bridge_filter() {
            // Only at the start and when the node's range changes. Without the module there is another way, so failure is no error.
            let loaded = tokio::process::Command::new("modprobe")
                .arg("br_netfilter")
                .output()
                .await;
            debug!(?loaded, "modprobe br_netfilter");
        }
        let config = self.config.clone();
        let made = tokio::task::spawn_blocking(move || {
            let filtered = route::settings()?;
            let wanted = surroundings(&config, node.as_deref(), filtered);
            let own = wanted.pods.first();
            if let (Some(bridge), Some(pods)) = (&config.bridge, own) {
                route::bridge(bridge, pods)?;
            }
            if let Some(services) = &config.services {
                match (&config.bridge, own) {
                    (Some(bridge), Some(pods)) => route::services(services, bridge, Some(pods.gateway()))?,
                    // Without a bridge any device will do that never sends: packets are translated or refused on their way there.
                    _ => route::services(services, "lo", None)?,
                }
            }
            Ok::<_, route::Error>(wanted)
        })
        .await
        .map_err(Error::Panic)?;
        self.prepared = made.is_ok();
        match made {
            Ok(wanted) if wanted == self.surroundings => Ok(false),
            Ok(wanted) => {
                info!(pods = ?wanted.pods, filtered = wanted.bridge_filtered, "the node's network");
                self.surroundings = wanted;
                Ok(true)
            }
            Err(error) => {
                self.failed(&error);
                Ok(false)
            }
        }
    }

    /// Sends what changed, or everything.
    async fn apply(&mut self) -> Result<(), Error> {
        let change = match self.table {
            Table::Good => self.book.changes(),
            Table::Unknown | Table::Bad => self.book.whole(&self.surroundings),
        };
        self.send(change).await
    }

    async fn send(&mut self, change: Transaction) -> Result<(), Error> {
        if !change.is_empty() {
            let started = Instant::now();
            let elements = change.elements();
            let outcome = self.with_kernel(move |kernel| kernel.apply(&change)).await?;
            if let Err(error) = outcome {
                self.table = Table::Bad;
                self.failed(&error);
                return Ok(());
            }
            debug!(elements, took = ?started.elapsed(), "rules changed");
        }
        self.table = Table::Good;
        if self.retry.is_none() {
            self.backoff.reset();
        }
        self.status
            .send_if_modified(|status| !std::mem::replace(&mut status.healthy, true));
        self.forget_clients().await?;
        self.forget_flows().await
    }

    /// Clients that would return to an endpoint that left. The rules choose another for whoever is forgotten.
    async fn forget_clients(&mut self) -> Result<(), Error> {
        if !self.book.clients_left() {
            return Ok(());
        }
        let found = self.with_kernel(|kernel| kernel.dump(&[sets::STICKY])).await?;
        let clients = match found {
            Ok(Some(mut dump)) => dump.sets.remove(sets::STICKY).unwrap_or_default(),
            Ok(None) => Vec::new(),
            Err(error) => {
                self.failed(&error);
                return Ok(());
            }
        };
        let stale = self.book.stale(&clients);
        debug!(clients = clients.len(), stale = stale.len(), "forgetting clients");
        self.with_kernel(move |kernel| {
            for client in stale {
                let op = Op::DeleteElements {
                    set: sets::STICKY.to_owned(),
                    elements: vec![client],
                };
                // One at a time: its time may be over since, and one that is refused would take the others along.
                if let Err(error) = kernel.apply(&Transaction { ops: vec![op] }) {
                    debug!(error = %daemon::chain(&error), "a client was gone already");
                }
            }
        })
        .await
    }

    async fn forget_flows(&mut self) -> Result<(), Error> {
        let mut serving = std::mem::take(&mut self.serving);
        if serving.is_empty() {
            return Ok(());
        }
        let outcome = tokio::task::spawn_blocking(move || {
            if !serving.node.is_empty() {
                serving.local = local_addresses();
            }
            conntrack::forget(&serving)
        })
        .await
        .map_err(Error::Panic)?;
        match outcome {
            Ok(0) => {}
            Ok(flows) => debug!(flows, "forgot UDP flows"),
            // They end by themselves when the client falls silent.
            Err(error) => warn!(%error, "cannot forget UDP flows"),
        }
        Ok(())
    }

    fn failed(&mut self, error: &(dyn std::error::Error + 'static)) {
        let pause = self.backoff.pause();
        error!(error = %daemon::chain(error), ?pause, "cannot change the node's network; trying again");
        self.retry = Some(Instant::now() + pause);
        self.status
            .send_if_modified(|status| std::mem::replace(&mut status.healthy, false));
    }

    /// Calls into the kernel take microseconds, but the first one of a large cluster may take a tenth of a second.
    async fn with_kernel<T: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut Kernel) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let mut kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => Kernel::open(TABLE).map_err(Error::Open)?,
        };
        let called = tokio::task::spawn_blocking(move || {
            let value = call(&mut kernel);
            (kernel, value)
        });
        let (kernel, value) = called.await.map_err(Error::Panic)?;
        self.kernel = Some(kernel);
        Ok(value)
    }
}

/// UDP frontends with who serves them.
type Udp = BTreeMap<(Ipv4Addr, u16), HashSet<crate::model::Endpoint>>;

fn udp(piece: Option<&Piece>) -> Udp {
    let mut all = Udp::new();
    let Some(piece) = piece else { return all };
    for (front, _) in piece.fronts.iter().filter(|(front, _)| front.name.protocol == UDP) {
        let groups = piece.groups.iter().filter(|g| g.name == front.name);
        all.entry((front.name.address, front.name.port))
            .or_default()
            .extend(groups.flat_map(|g| g.slots.iter().copied()));
    }
    all
}

/// Notes the frontends that lost an endpoint or got their first.
fn changed(serving: &mut Serving, before: &Udp, after: &Udp) {
    let nobody = HashSet::new();
    let fronts: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for front in fronts {
        let (old, new) = (
            before.get(front).unwrap_or(&nobody),
            after.get(front).unwrap_or(&nobody),
        );
        if old.is_subset(new) && (!old.is_empty() || new.is_empty()) {
            continue;
        }
        if front.0.is_unspecified() {
            serving.node.insert(front.1, new.clone());
        } else {
            serving.fronts.insert(*front, new.clone());
        }
    }
}

fn local_addresses() -> HashSet<Ipv4Addr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    all.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Endpoint;

    #[test]
    fn only_frontends_that_lost_or_first_got_endpoints_are_looked_through() {
        let front = |text: &str| {
            let at: std::net::SocketAddrV4 = text.parse().unwrap();
            (*at.ip(), at.port())
        };
        let serving_of = |all: &[&str]| -> HashSet<_> {
            all.iter()
                .map(|e| front(e))
                .map(|(address, port)| Endpoint { address, port })
                .collect()
        };
        let check = |before: &[&str], after: &[&str], want: bool| {
            let mut serving = Serving::default();
            let udp = |all: &[&str]| Udp::from([(front("10.96.0.7:53"), serving_of(all))]);
            changed(&mut serving, &udp(before), &udp(after));
            assert_eq!(!serving.is_empty(), want, "{before:?} {after:?}");
        };
        check(&[], &[], false);
        check(&[], &["10.0.0.1:53"], true);
        check(&["10.0.0.1:53"], &["10.0.0.1:53", "10.0.0.2:53"], false);
        check(&["10.0.0.1:53", "10.0.0.2:53"], &["10.0.0.1:53"], true);
        check(&["10.0.0.1:53"], &[], true);
        let mut serving = Serving::default();
        changed(
            &mut serving,
            &Udp::from([(front("0.0.0.0:30053"), serving_of(&["10.0.0.1:53"]))]),
            &Udp::new(),
        );
        assert_eq!(serving.node.len(), 1);
    }
}

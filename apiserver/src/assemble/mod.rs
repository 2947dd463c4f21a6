//! A whole server from its configuration and an open store.
//! Comes in: [`Config`], a [`Store`]. Goes out: a [`Server`] that answers in memory at once and over TLS when it runs.
//! It knows every room and no kind. Nothing is served over the network before the roles are known.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon::tasks::Tasks;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admission::addresses::Addresses;
use crate::admission::{self, chain};
use crate::authn::lookup::Lookups;
use crate::authn::service_account::{Issuer, Verifier};
use crate::authn::{Authn, jws};
use crate::authz::node::Node;
use crate::authz::rbac::{Kind, Rbac};
use crate::authz::{self, feed};
use crate::bootstrap;
use crate::config::Config;
use crate::identity::User;
use crate::registry::stored::Stored;
use crate::registry::{Registry, rows};
use crate::server::{self, Internal, Tls};
use crate::status::Status;
use crate::store::embedded::Embedded;
use crate::store::{Etcd, Memory, Store};
use crate::{ApiServer, Parts, build, cache, config, http, store};

/// None of these is repaired here: the part ends, and its supervisor starts it again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the keys of service accounts")]
    Keys(#[from] jws::Error),
    #[error(transparent)]
    Admission(#[from] chain::Unknown),
    #[error(transparent)]
    Server(#[from] server::Error),
    #[error("the caches did not load")]
    Cache(#[from] cache::Error),
    #[error("what a cluster is born with was not written")]
    Bootstrap(#[from] bootstrap::Error),
    #[error("addresses were not put right")]
    Repair(#[source] Status),
    #[error("the store did not open")]
    Store(#[source] Box<store::embedded::OpenError>),
    #[error(transparent)]
    Etcd(#[from] store::etcd::OpenError),
    #[error("the way to the kubelets")]
    Kubelets(#[from] daemon::tls::Error),
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    #[error(transparent)]
    Tasks(#[from] daemon::tasks::Error),
}

/// A server that is put together. Requests in memory are answered before it runs, but know no roles until it is ready.
#[derive(Debug)]
pub struct Server {
    config: Config,
    api: ApiServer,
    rbac: Rbac,
    node: Node,
    addresses: Arc<Addresses>,
    ready: CancellationToken,
    /// Closed when the server has stopped.
    embedded: Option<Arc<Embedded>>,
}

/// The network side, before it serves.
struct Network {
    listener: TcpListener,
    tls: Arc<Tls>,
    limits: server::Limits,
}

/// `None`: the kubelets' authority is not known, and a kubelet that is not verified is not spoken to.
fn kubelets(kubelets: &config::Kubelets) -> Result<Option<http::KubeletAccess>, Error> {
    let Some(authority) = &kubelets.authority else {
        return Ok(None);
    };
    let pair = kubelets
        .client_certificate
        .as_deref()
        .zip(kubelets.client_key.as_deref());
    Ok(Some(http::KubeletAccess {
        tls: Arc::new(daemon::tls::client(authority, pair)?),
        addresses: kubelets.addresses.clone(),
    }))
}

/// Waits for `written`; false if `stop` comes first.
async fn begins(written: &CancellationToken, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = written.cancelled() => true,
    }
}

/// The hook that upstream's /readyz calls so too.
const ROLES: &str = "poststarthook/rbac/bootstrap-roles";

/// Runs the server that `config` describes until `stop`.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    Server::open(config).await?.run(stop).await
}

impl Server {
    /// Opens the configured store and puts a server over it.
    pub async fn open(config: Config) -> Result<Server, Error> {
        match &config.store {
            config::Store::Memory => Server::new(config, Arc::new(Memory::default())).await,
            config::Store::Embedded { directory } => {
                let settings = store::embedded::Config::new(directory);
                let opened = tokio::task::spawn_blocking(move || Embedded::open(settings)).await;
                let opened = opened.expect("opening does not panic and is not aborted");
                let store = Arc::new(opened.map_err(|error| Error::Store(error.into()))?);
                let mut server = Server::new(config, store.clone()).await?;
                server.embedded = Some(store);
                Ok(server)
            }
            config::Store::Etcd {
                reach,
                media,
                compaction,
            } => {
                let compaction = *compaction;
                let values = Stored::new(rows::rows(), *media);
                let store = Etcd::open(reach.clone(), Arc::new(values)).await?;
                let server = Server::new(config, Arc::new(store)).await?;
                server.api.registry().caches().compact_every(compaction);
                Ok(server)
            }
        }
    }

    /// A server over a store that the caller opened and closes.
    pub async fn new(config: Config, store: Arc<dyn Store>) -> Result<Server, Error> {
        let mut table = rows::rows();
        if config.kubelets.authority.is_some() {
            table.extend(rows::usage());
        }
        let registry = Registry::new(table, store.clone()).await?;
        let rbac = Rbac::default();
        let node = Node::new(bootstrap::rbac::rules_of("system:node"));
        let authz = || authz::Chain {
            authorizers: vec![Box::new(node.clone()), Box::new(rbac.clone())],
        };
        let addresses = Arc::new(Addresses::new(
            store,
            config.services.ranges.clone(),
            config.services.node_ports.clone(),
        ));
        let admission = admission::chain::chain(
            &registry,
            rbac.clone(),
            Arc::new(authz()),
            addresses.clone(),
            &config.admission.enable,
            &config.admission.disable,
        )?;
        let accounts = &config.service_accounts;
        let mut keys = Vec::new();
        for path in &accounts.keys {
            keys.extend(jws::read_public_keys(path)?);
        }
        let verifier = Verifier::new(
            accounts.issuers.clone(),
            keys.clone(),
            Arc::new(Lookups::new(&registry)),
        );
        let authn = Authn {
            front_proxy: config.authentication.front_proxy.clone(),
            tokens: vec![Arc::new(verifier)],
            audiences: accounts.api_audiences().to_vec(),
            anonymous: config.authentication.anonymous,
        };
        let mut parts = Parts::new(registry, authn, authz(), admission);
        parts.issuer = Some(Issuer {
            audiences: accounts.api_audiences().to_vec(),
            longest: accounts
                .max_expiration
                .and_then(|longest| i64::try_from(longest.as_secs()).ok()),
            extend: accounts.extend_expiration,
            keys,
            keys_uri: format!(
                "https://{}/openid/v1/jwks",
                std::net::SocketAddr::from((config.advertise_address, config.advertise_port))
            ),
            ..Issuer::new(accounts.issuers[0].as_str(), jws::Signer::read(&accounts.signing_key)?)
        });
        parts.kubelet = kubelets(&config.kubelets)?;
        parts.checks.expect(ROLES);
        Ok(Server {
            api: build(parts),
            config,
            rbac,
            node,
            addresses,
            ready: CancellationToken::new(),
            embedded: None,
        })
    }

    /// A connection within this process, as `user`.
    pub fn connect(&self, user: User) -> Internal {
        server::internal(self.api.router(), user)
    }
    pub fn api(&self) -> &ApiServer {
        &self.api
    }
    /// Fires when everything is loaded, what a cluster is born with is there, and the roles are known.
    pub fn ready(&self) -> CancellationToken {
        self.ready.clone()
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        // Keys and port first: what is wrong with them is told before anything is written.
        let network = match &self.config.listen {
            None => None,
            Some(listen) => Some(Network {
                listener: server::listen(listen.address).await?,
                tls: Arc::new(Tls::new(listen.tls.clone())?),
                limits: listen.limits.clone(),
            }),
        };
        let drain = network.as_ref().map_or(Duration::ZERO, |network| network.limits.drain);
        let mut tasks = Tasks::under(&stop).drain_within(drain + Duration::from_secs(2));
        // Requests that finish while the server stops still read: the caches go last.
        let last = CancellationToken::new();
        let (api, end) = (self.api.clone(), last.clone());
        tasks.spawn("caches", |_| async move { api.run(end).await });
        let embedded = self.embedded.clone();
        let written = CancellationToken::new();
        let told = self.spawn_upkeep(&mut tasks, &written);
        self.spawn_keepers(&mut tasks, &written)?;
        tasks.spawn("requests", move |stop| async move {
            let _last = last.drop_guard();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                started = self.start() => started?,
            }
            written.cancel();
            for first in told {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    () = first.cancelled() => {}
                }
            }
            self.api.checks().done(ROLES);
            self.ready.cancel();
            self.serve(network, stop).await;
            Ok::<_, Error>(())
        });
        let ended = tasks.run(stop.cancelled()).await;
        if let Some(store) = embedded {
            let closed = tokio::task::spawn_blocking(move || store.close()).await;
            closed.expect("closing does not panic and is not aborted");
        }
        Ok(ended?)
    }

    async fn serve(&self, network: Option<Network>, stop: CancellationToken) {
        let checks = self.api.checks().clone();
        let leaving = stop.clone();
        let tell = async move {
            leaving.cancelled().await;
            checks.stop();
        };
        let serve = async {
            match network {
                Some(Network { listener, tls, limits }) => {
                    server::serve(listener, tls, self.api.router(), limits, stop).await;
                }
                None => stop.cancelled().await,
            }
        };
        tokio::join!(tell, serve);
    }

    async fn start(&self) -> Result<(), Error> {
        let registry = self.api.registry();
        registry.caches().loaded().await;
        let parameters = self.parameters()?;
        let wanted = bootstrap::wanted(&parameters);
        let (written, repaired) = tokio::join!(
            bootstrap::reconcile(registry, &wanted, parameters.now),
            self.addresses.repair()
        );
        let written = written?;
        repaired.map_err(Error::Repair)?;
        tracing::info!(written, "the cluster has what it is born with");
        Ok(())
    }

    /// Starts what follows the caches, once what a cluster is born with is `written`. Each returned token fires when its
    /// follower has seen all that was there.
    fn spawn_upkeep(&self, tasks: &mut Tasks, written: &CancellationToken) -> Vec<CancellationToken> {
        let registry = self.api.registry();
        let mut told = Vec::new();
        for kind in Kind::ALL {
            let first = CancellationToken::new();
            told.push(first.clone());
            let (rbac, registry, written) = (self.rbac.clone(), registry.clone(), written.clone());
            tasks.spawn("roles", move |stop| async move {
                if !begins(&written, &stop).await {
                    return Ok(());
                }
                // What was just written must be seen, or the first requests would find no roles.
                if let Some(cache) = registry.cache(authz::rbac::GROUP, kind.plural()) {
                    cache.fresh().await?;
                }
                feed::rbac(rbac, kind, registry, first, stop).await;
                Ok::<_, Error>(())
            });
        }
        for source in feed::Source::ALL {
            let first = CancellationToken::new();
            told.push(first.clone());
            let (node, registry, written) = (self.node.clone(), registry.clone(), written.clone());
            tasks.spawn("nodes", move |stop| async move {
                if begins(&written, &stop).await {
                    feed::node(node, source, registry, first, stop).await;
                }
                Ok::<_, Error>(())
            });
        }
        told
    }

    /// Starts what brings back what a cluster is born with.
    fn spawn_keepers(&self, tasks: &mut Tasks, written: &CancellationToken) -> Result<(), Error> {
        let parameters = self.parameters()?;
        for kind in bootstrap::keep::KINDS {
            let (registry, parameters) = (self.api.registry().clone(), parameters.clone());
            let (addresses, written) = (self.addresses.clone(), written.clone());
            tasks.spawn("keeper", move |stop| async move {
                if begins(&written, &stop).await {
                    bootstrap::keep::keep(registry, parameters, kind, addresses, stop).await;
                }
                Ok::<_, Error>(())
            });
        }
        Ok(())
    }

    fn parameters(&self) -> Result<bootstrap::Parameters, Error> {
        let tls = self.config.listen.as_ref().map(|listen| &listen.tls);
        let read = |path: Option<&PathBuf>| {
            path.map(|path| std::fs::read_to_string(path).map_err(|e| Error::Read(path.clone(), e)))
                .transpose()
        };
        Ok(bootstrap::Parameters {
            now: jiff::Timestamp::now(),
            advertise_address: self.config.advertise_address,
            port: self.config.advertise_port,
            service_cidrs: self.config.services.ranges.iter().map(ToString::to_string).collect(),
            service_address: self.config.services.kubernetes(),
            client_ca: read(tls.and_then(|tls| tls.client_ca.as_ref()))?,
            front_proxy_ca: read(tls.and_then(|tls| tls.front_proxy_ca.as_ref()))?,
            front_proxy: self.config.authentication.front_proxy.clone(),
        })
    }
}

#[cfg(test)]
mod tests;

//! What the API says, as a set of things to look at again.
//!
//! Informers put keys in, the loop takes all of them at once: many changes between two looks cost one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use api::names::well_known;
use daemon::{Change, Entry, Informers, Lister, Options};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;
use tracing::warn;

use crate::model::{self, Check, ServicePort};
use crate::plan::Owner;

const BY_SERVICE: &str = "service";

/// What should be looked at again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum News {
    Node,
    Of(Owner),
}

/// The part's view of the cluster.
#[derive(Clone)]
pub(crate) struct Feed {
    node_name: String,
    services: Lister<Service>,
    slices: Lister<EndpointSlice>,
    nodes: Lister<Node>,
    pods: Lister<Pod>,
    pending: Arc<Pending>,
}

/// A set, so it is bounded by the number of objects.
#[derive(Default)]
struct Pending {
    news: Mutex<BTreeSet<News>>,
    wake: Notify,
}

impl Pending {
    fn add(&self, news: News) {
        self.news.lock().expect("no holder of this lock panics").insert(news);
        self.wake.notify_one();
    }
}

/// The `namespace/name` of a slice's Service.
fn service_of(slice: &Entry<EndpointSlice>) -> Option<Owner> {
    let name = slice.labels.get(well_known::SERVICE_NAME)?;
    Some(Owner::Service {
        namespace: slice.namespace.clone(),
        name: name.into(),
    })
}

impl Feed {
    pub(crate) fn new(informers: &Informers, node: &str) -> Self {
        let pending = Arc::new(Pending::default());
        let fields = |fields: String| Options {
            fields,
            ..Options::default()
        };

        let services = informers.of::<Service>(Options::default());
        let told = pending.clone();
        services.on_change(move |change| {
            let (Change::Applied { new: entry, .. } | Change::Deleted { old: entry }) = change;
            told.add(News::Of(Owner::Service {
                namespace: entry.namespace.clone(),
                name: entry.name.clone(),
            }));
        });

        let slices = informers.of::<EndpointSlice>(Options::default());
        slices.index(BY_SERVICE, |slice| match service_of(slice) {
            Some(Owner::Service { namespace, name }) => vec![format!("{namespace}/{name}")],
            _ => Vec::new(),
        });
        let told = pending.clone();
        slices.on_change(move |change| {
            let (old, new) = match change {
                Change::Applied { old, new } => (old, Some(new)),
                Change::Deleted { old } => (Some(old), None),
            };
            for slice in old.into_iter().chain(new) {
                if let Some(owner) = service_of(slice) {
                    told.add(News::Of(owner));
                }
            }
        });

        let nodes = informers.of::<Node>(fields(format!("metadata.name={node}")));
        let told = pending.clone();
        nodes.on_change(move |_| told.add(News::Node));

        let pods = informers.of::<Pod>(fields(format!("spec.nodeName={node}")));
        let told = pending.clone();
        pods.on_change(move |change| {
            let (Change::Applied { new: entry, .. } | Change::Deleted { old: entry }) = change;
            told.add(News::Of(Owner::Pod {
                namespace: entry.namespace.clone(),
                name: entry.name.clone(),
            }));
        });

        Self {
            node_name: node.to_owned(),
            services,
            slices,
            nodes,
            pods,
            pending,
        }
    }

    /// Waits for what routing cannot do without. Pods are not part of it: an upstream role does not let a proxy see them.
    pub(crate) async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.nodes.synced().await;
    }

    /// Waits until the pods are known.
    pub(crate) async fn pods_synced(&self) {
        self.pods.synced().await;
    }

    pub(crate) fn has_pods(&self) -> bool {
        self.pods.has_synced()
    }

    /// Waits for news and takes all there are.
    pub(crate) async fn news(&self) -> BTreeSet<News> {
        loop {
            let news = std::mem::take(&mut *self.pending.news.lock().expect("no holder of this lock panics"));
            if !news.is_empty() {
                return news;
            }
            self.pending.wake.notified().await;
        }
    }

    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        let entry = self.nodes.get("", &self.node_name)?;
        entry
            .typed()
            .inspect_err(|error| warn!(error = %daemon::chain(error), "unreadable node"))
            .ok()
    }

    /// The owners that there are.
    pub(crate) fn owners(&self) -> Vec<Owner> {
        let services = self.services.list().into_iter();
        let pods = self.pods.list().into_iter();
        services
            .map(|e| Owner::Service {
                namespace: e.namespace.clone(),
                name: e.name.clone(),
            })
            .chain(pods.map(|e| Owner::Pod {
                namespace: e.namespace.clone(),
                name: e.name.clone(),
            }))
            .collect()
    }

    /// What an owner wants now; an object that cannot be read keeps what it had (`None`).
    pub(crate) fn ports(&self, owner: &Owner) -> Option<(Vec<ServicePort>, Option<Check>)> {
        match owner {
            Owner::Service { namespace, name } => {
                let Some(entry) = self.services.get(namespace, name) else {
                    return Some((Vec::new(), None));
                };
                let service = read(&entry)?;
                let slices = self.slices.by(BY_SERVICE, &format!("{namespace}/{name}"));
                let slices = slices.iter().map(read).collect::<Option<Vec<_>>>()?;
                let ports = model::ports(&service, slices.iter().map(Arc::as_ref), &self.node_name);
                let check = model::check(&service, &ports);
                Some((ports, check))
            }
            Owner::Pod { namespace, name } => {
                let Some(entry) = self.pods.get(namespace, name) else {
                    return Some((Vec::new(), None));
                };
                Some((model::host_ports(&*read(&entry)?), None))
            }
        }
    }
}

fn read<K: serde::de::DeserializeOwned + Send + Sync + 'static>(entry: &Arc<Entry<K>>) -> Option<Arc<K>> {
    entry
        .typed()
        .inspect_err(|error| warn!(error = %daemon::chain(error), "unreadable object"))
        .ok()
}

//! Keeps the index of roles and the graph of nodes as the caches show the cluster.

use std::collections::HashSet;
use std::sync::Arc;

use memchr::memmem;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::node::{Node, Pod, Volume};
use super::rbac::{BindingObject, GROUP, Kind, Rbac, RoleObject};
use crate::cache::{Cache, Delta, Event, Item};
use crate::registry::Registry;

/// What of an object that is not there any more, or as it is now.
enum Change<'a> {
    Set(&'a Arc<Item>),
    Remove { namespace: &'a str, name: &'a str },
}

/// Follows one cache until `stop`; `first` fires when all that was there has been told.
async fn follow(
    cache: Arc<Cache>,
    first: CancellationToken,
    stop: CancellationToken,
    mut tell: impl FnMut(Change<'_>) + Send,
) {
    let mut subscription = cache.subscribe();
    let mut known: HashSet<(Arc<str>, Arc<str>)> = HashSet::new();
    loop {
        let delta = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            delta = subscription.next() => delta,
        };
        match delta {
            Delta::Reset(items) => {
                let now: HashSet<_> = items.iter().map(|item| place(item)).collect();
                for (namespace, name) in known.difference(&now) {
                    tell(Change::Remove { namespace, name });
                }
                items.iter().for_each(|item| tell(Change::Set(item)));
                known = now;
                first.cancel();
            }
            Delta::Changes(events) => {
                for event in &events {
                    match event {
                        Event::Added(item) | Event::Modified(item) => {
                            known.insert(place(item));
                            tell(Change::Set(item));
                        }
                        Event::Deleted { item, .. } => {
                            known.remove(&place(item));
                            tell(Change::Remove {
                                namespace: &item.facts.namespace,
                                name: &item.facts.name,
                            });
                        }
                    }
                }
            }
        }
    }
}

fn place(item: &Item) -> (Arc<str>, Arc<str>) {
    (item.facts.namespace.clone(), item.facts.name.clone())
}

/// The parts of an object that `T` names. What does not decode grants nothing.
fn read<T: DeserializeOwned + Default>(item: &Item) -> T {
    let mut bytes = Vec::new();
    item.json().write_to(item.revision, &mut bytes);
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::error!(key = %item.key, %error, "a stored object cannot be read");
        T::default()
    })
}

/// Feeds `rbac` with one of its kinds.
pub async fn rbac(rbac: Rbac, kind: Kind, registry: Arc<Registry>, first: CancellationToken, stop: CancellationToken) {
    let Some(cache) = registry.cache(GROUP, kind.plural()) else {
        // Checked by a test: the four kinds are always served.
        tracing::error!(kind = kind.plural(), "roles are not served");
        return;
    };
    follow(cache, first, stop, |change| match (kind, change) {
        (Kind::Role | Kind::ClusterRole, Change::Set(item)) => {
            let role: RoleObject = read(item);
            rbac.update(|graph| graph.set_role(&item.facts.namespace, &item.facts.name, Some(role)));
        }
        (Kind::RoleBinding | Kind::ClusterRoleBinding, Change::Set(item)) => {
            let binding: BindingObject = read(item);
            rbac.update(|graph| graph.set_binding(&item.facts.namespace, &item.facts.name, Some(binding)));
        }
        (Kind::Role | Kind::ClusterRole, Change::Remove { namespace, name }) => {
            rbac.update(|graph| graph.set_role(namespace, name, None));
        }
        (Kind::RoleBinding | Kind::ClusterRoleBinding, Change::Remove { namespace, name }) => {
            rbac.update(|graph| graph.set_binding(namespace, name, None));
        }
    })
    .await;
}

/// What the graph of nodes is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Pods,
    Volumes,
    Attachments,
}

impl Source {
    pub const ALL: [Source; 3] = [Source::Pods, Source::Volumes, Source::Attachments];
    fn resource(self) -> (&'static str, &'static str) {
        match self {
            Source::Pods => ("", "pods"),
            Source::Volumes => ("", "persistentvolumes"),
            Source::Attachments => ("storage.k8s.io", "volumeattachments"),
        }
    }
}

/// Feeds the graph of nodes with one of its sources. A source that is not served has nothing to tell.
pub async fn node(
    node: Node,
    source: Source,
    registry: Arc<Registry>,
    first: CancellationToken,
    stop: CancellationToken,
) {
    let (group, plural) = source.resource();
    let Some(cache) = registry.cache(group, plural) else {
        first.cancel();
        return stop.cancelled().await;
    };
    follow(cache, first, stop, |change| match (source, change) {
        (Source::Pods, Change::Set(item)) => {
            let (namespace, name) = (&item.facts.namespace, &item.facts.name);
            let is_known = node.update(|graph| graph.pod(namespace, name).is_some());
            // What a bound pod refers to does not change, but for these; its status changes all the time.
            if is_known && !mentions(item, b"\"ephemeralContainers\"") && !mentions(item, b"\"resourceClaim") {
                return;
            }
            let pod = Pod::read(&read::<Value>(item));
            node.update(|graph| graph.set_pod(namespace, name, pod));
        }
        (Source::Volumes, Change::Set(item)) => {
            let volume = Volume::read(&read::<Value>(item));
            node.update(|graph| graph.set_volume(&item.facts.name, volume));
        }
        (Source::Attachments, Change::Set(item)) => {
            let attachment = read::<Value>(item);
            node.update(|graph| graph.set_attachment(&item.facts.name, attachment["spec"]["nodeName"].as_str()));
        }
        (Source::Pods, Change::Remove { namespace, name }) => {
            node.update(|graph| graph.set_pod(namespace, name, None));
        }
        (Source::Volumes, Change::Remove { name, .. }) => node.update(|graph| graph.set_volume(name, None)),
        (Source::Attachments, Change::Remove { name, .. }) => node.update(|graph| graph.set_attachment(name, None)),
    })
    .await;
}

fn mentions(item: &Item, word: &[u8]) -> bool {
    let json = item.json();
    memmem::find(&json.head, word).is_some() || memmem::find(&json.tail, word).is_some()
}

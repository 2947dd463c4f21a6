//! Empties a namespace that is being deleted, and lets it go when nothing is left in it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::condition;
use api::names::well_known::FINALIZER_NAMESPACE;
use daemon::informer::{Change, Lister, Resource, Told};
use daemon::{Next, Queue};
use http::{Request, header};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::discovery::{Catalog, Served, discover};
use super::objects::{self, Propagation};
use crate::context::{Context, Key};
use crate::pods::message;
use crate::{Error, is_conflict, is_gone};

/// When to look again where nothing tells that something has gone.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What one pass over the content found.
#[derive(Debug, Default)]
struct Found {
    /// Groups that did not answer discovery.
    undiscovered: Vec<String>,
    /// What could not be listed or deleted.
    failures: Vec<String>,
    /// Objects left, by resource.
    remaining: BTreeMap<String, usize>,
    /// Objects held back, by finalizer.
    finalizers: BTreeMap<String, usize>,
}

/// The conditions that say how far the deletion is. Upstream: namespace/deletion/status_condition_utils.go (1.36).
fn conditions(found: &Found, before: &[NamespaceCondition], now: &Time) -> Vec<NamespaceCondition> {
    let counted = |counts: &BTreeMap<String, usize>, words: &str| {
        let parts = counts
            .iter()
            .map(|(name, count)| format!("{name} {words} {count} resource instances"));
        parts.collect::<Vec<_>>().join(", ")
    };
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (!found.undiscovered.is_empty()).then(|| {
                let text = format!(
                    "Discovery failed for some groups, {} failing: ",
                    found.undiscovered.len()
                );
                ("DiscoveryFailed", text + &found.undiscovered.join(", "))
            }),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            (!found.failures.is_empty()).then(|| {
                let text = format!(
                    "Failed to delete all resource types, {} remaining: ",
                    found.failures.len()
                );
                ("ContentDeletionFailed", text + &found.failures.join(", "))
            }),
            (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        (
            "NamespaceContentRemaining",
            (!found.remaining.is_empty()).then(|| {
                let text = counted(&found.remaining, "has");
                ("SomeResourcesRemain", format!("Some resources are remaining: {text}"))
            }),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            (!found.finalizers.is_empty()).then(|| {
                let text = counted(&found.finalizers, "in");
                (
                    "SomeFinalizersRemain",
                    format!("Some content in the namespace has finalizers remaining: {text}"),
                )
            }),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let mut all = before.to_vec();
    for (kind, trouble, (reason, text)) in rows {
        let (status, reason, text) = match trouble {
            Some((reason, text)) => ("True", reason, text),
            None => ("False", reason, text.to_owned()),
        };
        let new = NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(text),
            last_transition_time: None,
        };
        condition::set(&mut all, new, now);
    }
    all
}

struct Controller {
    context: Context,
    queue: Queue<Key>,
    namespaces: Lister<Namespace>,
    /// The resources whose deletions bring a namespace back here.
    told_of: Mutex<HashSet<Resource>>,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let namespaces = context.all::<Namespace>();
    let into = queue.clone();
    namespaces.on_change(move |change| {
        if let Change::Applied { new, .. } = change
            && new.deleting
        {
            into.add(Key::of(new));
        }
    });
    let controller = Arc::new(Controller {
        context: context.clone(),
        queue: queue.clone(),
        namespaces,
        told_of: Mutex::default(),
    });
    context
        .work(queue, stop, move |key| reconcile(controller.clone(), key))
        .await
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<Next, Error> {
    let api: Api<Namespace> = Api::all(controller.context.client.clone());
    // The lister may be behind, and what follows cannot be taken back.
    let namespace = match api.get(&key.name).await {
        Err(error) if is_gone(&error) => return Ok(Next::Done),
        answer => answer?,
    };
    let finalizers = namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.clone())
        .unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|name| name == FINALIZER_NAMESPACE) {
        return Ok(Next::Done);
    }
    let catalog = discover(&controller.context.client).await?;
    controller.listen(&catalog);
    let found = controller.empty(&key.name, &catalog).await;
    let namespace = match note(&api, namespace, &found).await {
        Err(Error::Api(error)) if is_gone(&error) => return Ok(Next::Done),
        Err(Error::Api(error)) if is_conflict(&error) => return Ok(Next::After(Duration::from_millis(20))),
        answer => answer?,
    };
    if !found.undiscovered.is_empty() || !found.failures.is_empty() {
        let text = format!("namespace {} is not empty: {}", key.name, found.failures.join(", "));
        return Err(Error::Plan(text));
    }
    if !found.remaining.is_empty() {
        return Ok(Next::After(LOOK_AGAIN));
    }
    match finalize(&controller.context.client, namespace).await {
        Err(error) if is_gone(&error) => Ok(Next::Done),
        Err(error) if is_conflict(&error) => Ok(Next::After(Duration::from_millis(20))),
        answer => {
            debug!(namespace = %key.name, "finalized");
            answer.map(|()| Next::Done).map_err(Error::from)
        }
    }
}

impl Controller {
    /// Has namespaces looked at when something in them is gone. The watches are those of garbage collection.
    fn listen(&self, catalog: &Catalog) {
        let mut told_of = self.told_of.lock().expect("no holder of this lock panics");
        for served in catalog.collectable().filter(|served| served.namespaced) {
            if !told_of.insert(served.resource.clone()) {
                continue;
            }
            let (queue, namespaces) = (self.queue.clone(), self.namespaces.clone());
            self.context.informers.census(&served.resource).tell(move |told| {
                let Told::Deleted { old } = told else { return };
                if namespaces
                    .get("", &old.namespace)
                    .is_some_and(|namespace| namespace.deleting)
                {
                    queue.add(Key::new("", &old.namespace));
                }
            });
        }
    }

    /// Deletes everything in the namespace. Pods go first: what else is there may be what they need to end well.
    async fn empty(&self, namespace: &str, catalog: &Catalog) -> Found {
        let mut found = Found {
            undiscovered: catalog.stale.clone(),
            ..Found::default()
        };
        let inside = |served: &&Served| served.namespaced && served.can("delete") && served.can("list");
        let is_pods = |served: &&Served| served.resource.plural == "pods" && served.resource.group.is_empty();
        let (pods, others): (Vec<_>, Vec<_>) = catalog.served.iter().filter(inside).partition(is_pods);
        for served in pods {
            self.empty_of(served, namespace, &mut found).await;
        }
        if found.remaining.is_empty() && found.failures.is_empty() {
            for served in others {
                self.empty_of(served, namespace, &mut found).await;
            }
        }
        found
    }

    async fn empty_of(&self, served: &Served, namespace: &str, found: &mut Found) {
        let name = format!("{}", served.resource);
        let client = &self.context.client;
        let left = async {
            let before = objects::list(client, served, namespace).await?;
            if before.is_empty() {
                return Ok(before);
            }
            if served.can("deletecollection") {
                objects::delete_collection(client, served, namespace).await?;
            } else {
                for object in before.iter().filter(|object| object.deletion_timestamp.is_none()) {
                    let seen = ObjectMeta {
                        resource_version: None,
                        ..object.clone()
                    };
                    objects::delete(client, served, namespace, &seen, Propagation::Background).await?;
                }
            }
            objects::list(client, served, namespace).await
        };
        match left.await {
            Ok(left) => {
                if !left.is_empty() {
                    found.remaining.insert(format!("{name}."), left.len());
                }
                for finalizer in left.iter().flat_map(|object| object.finalizers.iter().flatten()) {
                    *found.finalizers.entry(finalizer.clone()).or_insert(0) += 1;
                }
            }
            // A resource that is served no more, or not in this way, holds nothing.
            Err(kube::Error::Api(status)) if [404, 405].contains(&status.code) => {}
            Err(error) => found.failures.push(format!("{name}: {}", message(&error))),
        }
    }
}

/// Writes the conditions where they changed.
async fn note(api: &Api<Namespace>, mut namespace: Namespace, found: &Found) -> Result<Namespace, Error> {
    let mut status = namespace.status.clone().unwrap_or_default();
    let before = status.conditions.clone().unwrap_or_default();
    let trouble = !found.failures.is_empty() || !found.undiscovered.is_empty() || !found.remaining.is_empty();
    if !trouble && before.is_empty() {
        // It went at once: there is nothing to tell anybody.
        return Ok(namespace);
    }
    status.conditions = Some(conditions(found, &before, &crate::context::now()));
    if Some(&status) == namespace.status.as_ref() {
        return Ok(namespace);
    }
    namespace.status = Some(status);
    let name = namespace.metadata.name.clone().unwrap_or_default();
    Ok(api.replace_status(&name, &PostParams::default(), &namespace).await?)
}

/// Takes our finalizer out; with the last one the server removes the namespace.
async fn finalize(client: &kube::Client, mut namespace: Namespace) -> Result<(), kube::Error> {
    let finalizers = namespace
        .spec
        .get_or_insert_default()
        .finalizers
        .get_or_insert_default();
    finalizers.retain(|name| name != FINALIZER_NAMESPACE);
    let name = namespace.metadata.name.clone().unwrap_or_default();
    let body = serde_json::to_vec(&namespace).map_err(kube::Error::SerdeError)?;
    let request = Request::put(format!("/api/v1/namespaces/{name}/finalize"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .expect("a name that the server gave makes a URI");
    client.request_text(request).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_holds_a_namespace() {
        let now = crate::context::now();
        let found = Found {
            remaining: BTreeMap::from([("pods.".to_owned(), 2)]),
            finalizers: BTreeMap::from([("example.com/hold".to_owned(), 1)]),
            ..Found::default()
        };
        let held = conditions(&found, &[], &now);
        let read = |all: &[NamespaceCondition], kind: &str| {
            let condition = all.iter().find(|condition| condition.type_ == kind).unwrap();
            (condition.status.clone(), condition.message.clone().unwrap())
        };
        assert_eq!(held.len(), 5);
        let (status, text) = read(&held, "NamespaceContentRemaining");
        assert_eq!(status, "True");
        assert_eq!(text, "Some resources are remaining: pods. has 2 resource instances");
        let (_, text) = read(&held, "NamespaceFinalizersRemaining");
        let want = "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
        assert_eq!(text, want);
        let done = conditions(&Found::default(), &held, &now);
        assert!(done.iter().all(|condition| condition.status == "False"));
    }
}

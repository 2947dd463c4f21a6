//! The garbage collector: what happens to dependents when their owners go.
//!
//! It watches every resource and keeps, besides the shared facts, one map: which objects name which UID as an owner.
//! Lists tell who is there; that somebody is *not* there is asked of the API before anything is deleted.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use api::names::well_known::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};
use daemon::informer::{Census, Facts, Owner, Resource, Told};
use daemon::{Next, Queue};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::discovery::{Served, discover};
use super::objects::{self, Propagation};
use crate::Error;
use crate::context::Context;

/// A list that takes longer than this is done without.
const PATIENCE: Duration = Duration::from_secs(5);

/// An object of any resource; also what waits in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Item {
    resource: Arc<Resource>,
    namespace: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
}

/// One resource that is watched.
#[derive(Debug, Clone)]
struct Watched {
    served: Served,
    resource: Arc<Resource>,
    census: Census,
}

#[derive(Debug, Default)]
struct Graph {
    /// By the owner's UID.
    dependents: HashMap<Arc<str>, HashSet<Item>>,
}

struct Collector {
    context: Context,
    queue: Queue<Work>,
    graph: Mutex<Graph>,
    watched: RwLock<Vec<Watched>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    /// Something about this object, or its owners, may call for action.
    Look(Item),
    /// The server may have other resources than before.
    Discover,
}

/// What an owner is, for one of its dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is there.
    Solid,
    /// It is not.
    Absent,
    /// It is being deleted and waits for its dependents to go first.
    Waiting,
}

/// What to do with an object whose owners are known.
#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    /// Take these owners (UIDs) out of its references: others still want it.
    Disown(Vec<String>),
    Delete(Propagation),
}

fn plan(seen: &ObjectMeta, owners: &[(String, State)], has_dependents: bool) -> Plan {
    let of = |state: State| {
        owners
            .iter()
            .filter(move |(_, have)| *have == state)
            .map(|(uid, _)| uid.clone())
    };
    if owners.is_empty() {
        return Plan::Nothing;
    }
    if of(State::Solid).next().is_some() {
        let gone: Vec<_> = of(State::Absent).chain(of(State::Waiting)).collect();
        return if gone.is_empty() {
            Plan::Nothing
        } else {
            Plan::Disown(gone)
        };
    }
    let finalized = |name: &str| seen.finalizers.iter().flatten().any(|have| have == name);
    // The owner waits for all that is below it, so this one has to wait for its own.
    if of(State::Waiting).next().is_some() && has_dependents {
        return Plan::Delete(Propagation::Foreground);
    }
    // Whoever began to delete it has said how.
    Plan::Delete(if finalized(FINALIZER_ORPHAN) {
        Propagation::Orphan
    } else if finalized(FINALIZER_FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}

fn has(facts: &Facts, finalizer: &str) -> bool {
    facts.finalizers.iter().any(|have| &**have == finalizer)
}

fn waits(facts: &Facts) -> bool {
    facts.deleting && has(facts, FINALIZER_FOREGROUND)
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let collector = Arc::new(Collector {
        queue: Queue::new(),
        context,
        graph: Mutex::default(),
        watched: RwLock::default(),
    });
    collector.queue.add(Work::Discover);
    let workers = collector.context.config.workers;
    let queue = collector.queue.clone();
    let Ok(()) = daemon::work(queue, workers, stop, move |work| {
        let collector = collector.clone();
        async move {
            match work {
                Work::Discover => collector.discover().await,
                Work::Look(item) => collector.look(item).await,
            }
        }
    })
    .await;
    Ok(())
}

impl Collector {
    /// Watches what is served and was not, and ends the watches of what is served no more.
    async fn discover(self: Arc<Self>) -> Result<Next, Error> {
        let catalog = discover(&self.context.client).await?;
        let known = self.watched();
        let wanted: Vec<&Served> = catalog.collectable().collect();
        for served in &wanted {
            if known.iter().any(|watched| watched.served.resource == served.resource) {
                continue;
            }
            debug!(resource = %served.resource, "watching");
            let resource = Arc::new(served.resource.clone());
            let census = self.context.informers.census(&resource);
            // Owners may be looked for from now on; nothing is deleted before a live look anyway.
            self.watched
                .write()
                .expect("no holder of this lock panics")
                .push(Watched {
                    served: (*served).clone(),
                    resource: resource.clone(),
                    census: census.clone(),
                });
            // New resources come with these two, and nothing else tells of them.
            let changes_catalog = ["customresourcedefinitions", "apiservices"].contains(&&*served.resource.plural);
            let collector = Arc::downgrade(&self);
            census.tell(move |told| {
                let Some(collector) = collector.upgrade() else { return };
                if changes_catalog && !matches!(told, Told::Synced) {
                    collector.queue.add_after(Work::Discover, Duration::from_secs(1));
                }
                collector.told(&resource, told);
            });
        }
        if catalog.stale.is_empty() {
            let served = |watched: &Watched| wanted.iter().any(|served| served.resource == watched.served.resource);
            for gone in known.iter().filter(|watched| !served(watched)) {
                debug!(resource = %gone.resource, "no longer served");
                self.context.informers.end(&gone.resource);
            }
            let mut watched = self.watched.write().expect("no holder of this lock panics");
            watched.retain(served);
        }
        Ok(Next::Done)
    }

    fn watched(&self) -> Vec<Watched> {
        self.watched.read().expect("no holder of this lock panics").clone()
    }

    fn told(&self, resource: &Arc<Resource>, told: Told<'_>) {
        let item = |facts: &Facts| Item {
            resource: resource.clone(),
            namespace: facts.namespace.clone(),
            name: facts.name.clone(),
            uid: facts.uid.clone(),
        };
        let mut graph = self.graph.lock().expect("no holder of this lock panics");
        match told {
            Told::Applied { old, new } => {
                let before = old.map_or(&[][..], |old| &old.owners);
                if before != &*new.owners {
                    let this = item(new);
                    for owner in before.iter().filter(|owner| !names(&new.owners, owner)) {
                        graph.remove(&owner.uid, &this);
                    }
                    for owner in &new.owners {
                        graph
                            .dependents
                            .entry(owner.uid.clone())
                            .or_default()
                            .insert(this.clone());
                    }
                    if !new.owners.is_empty() {
                        self.queue.add(Work::Look(this));
                    }
                    // An owner that waits may have one less to wait for.
                    before.iter().for_each(|owner| self.look_at_owner(new, owner));
                }
                let began = |finalizer| {
                    new.deleting && has(new, finalizer) && !old.is_some_and(|old| old.deleting && has(old, finalizer))
                };
                if began(FINALIZER_FOREGROUND) || began(FINALIZER_ORPHAN) {
                    self.queue.add(Work::Look(item(new)));
                }
            }
            Told::Deleted { old } => {
                let this = item(old);
                for owner in &old.owners {
                    graph.remove(&owner.uid, &this);
                    self.look_at_owner(old, owner);
                }
                for dependent in graph.dependents.get(&old.uid).into_iter().flatten() {
                    self.queue.add(Work::Look(dependent.clone()));
                }
            }
            Told::Synced => {}
        }
    }

    /// Looks at an owner, where it is known: it may be waiting for its dependents.
    fn look_at_owner(&self, dependent: &Facts, owner: &Owner) {
        let watched = self.watched();
        let Some(of) = watched
            .iter()
            .find(|watched| watched.served.is(&owner.api_version, &owner.kind))
        else {
            return;
        };
        let namespace: Arc<str> = if of.served.namespaced {
            dependent.namespace.clone()
        } else {
            "".into()
        };
        self.queue.add(Work::Look(Item {
            resource: of.resource.clone(),
            namespace,
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        }));
    }

    async fn look(self: Arc<Self>, item: Item) -> Result<Next, Error> {
        let watched = self.watched();
        let Some(of) = watched.iter().find(|watched| *watched.resource == *item.resource) else {
            return Ok(Next::Done);
        };
        let facts = of
            .census
            .get(&item.namespace, &item.name)
            .filter(|facts| facts.uid == item.uid);
        let Some(facts) = facts else { return Ok(Next::Done) };
        if facts.deleting && has(&facts, FINALIZER_ORPHAN) {
            return self.orphan(of, &item).await;
        }
        if waits(&facts) {
            self.hurry(of, &item, &watched).await?;
        } else if facts.deleting {
            // Somebody else's finalizer holds it; it is on its way.
            return Ok(Next::Done);
        }
        if facts.owners.is_empty() {
            return Ok(Next::Done);
        }
        self.judge(of, &item, &facts, &watched).await
    }

    /// Decides over an object that has owners.
    async fn judge(&self, of: &Watched, item: &Item, facts: &Facts, watched: &[Watched]) -> Result<Next, Error> {
        for owner in &facts.owners {
            // At the start a list that is on its way answers for many owners at once.
            if let Some((of, _)) = find(watched, owner) {
                let _ = tokio::time::timeout(PATIENCE, of.census.synced()).await;
            }
        }
        // Nearly always all owners are there, as the lists show, and no request is needed.
        let listed = facts.owners.iter().all(|owner| {
            let owner = find(watched, owner).and_then(|(of, name)| of.census.get(place(of, &item.namespace), name));
            owner.is_some_and(|found| facts.owners.iter().any(|owner| owner.uid == found.uid) && !waits(&found))
        });
        if listed {
            return Ok(Next::Done);
        }
        let client = &self.context.client;
        let seen = objects::get(client, &of.served, &item.namespace, &item.name).await?;
        let Some(seen) = seen.filter(|seen| seen.uid.as_deref() == Some(&item.uid)) else {
            return Ok(Next::Done);
        };
        let mut owners = Vec::new();
        for owner in seen.owner_references.iter().flatten() {
            owners.push((owner.uid.clone(), self.state(owner, of, item, watched).await?));
        }
        let dependents = self.graph.lock().expect("no holder of this lock panics").of(&item.uid);
        match plan(&seen, &owners, !dependents.is_empty()) {
            Plan::Nothing => {}
            Plan::Disown(gone) => {
                let mut left = seen.owner_references.clone().unwrap_or_default();
                left.retain(|owner| !gone.contains(&owner.uid));
                debug!(resource = %of.resource, name = %item.name, "taking absent owners out");
                let change = json!({"ownerReferences": left});
                objects::patch(client, &of.served, &item.namespace, &seen, change).await?;
            }
            // It waits for its own dependents already.
            Plan::Delete(_) if waits(facts) => {}
            Plan::Delete(how) => {
                if how == Propagation::Foreground {
                    self.unblock_circle(&dependents, item, watched).await?;
                }
                debug!(resource = %of.resource, namespace = %item.namespace, name = %item.name, ?how, "deleting");
                objects::delete(client, &of.served, &item.namespace, &seen, how).await?;
            }
        }
        Ok(Next::Done)
    }

    async fn state(
        &self,
        owner: &OwnerReference,
        of: &Watched,
        item: &Item,
        watched: &[Watched],
    ) -> Result<State, Error> {
        let Some(kind) = watched
            .iter()
            .find(|watched| watched.served.is(&owner.api_version, &owner.kind))
        else {
            // What cannot be asked for may well be there.
            warn!(resource = %of.resource, name = %item.name, kind = owner.kind, "owner of an unknown kind");
            return Ok(State::Solid);
        };
        if kind.served.namespaced && item.namespace.is_empty() {
            warn!(resource = %of.resource, name = %item.name, kind = owner.kind, "owner in no namespace");
            return Ok(State::Solid);
        }
        let namespace = place(kind, &item.namespace);
        let listed = kind
            .census
            .get(namespace, &owner.name)
            .filter(|facts| *facts.uid == *owner.uid);
        if let Some(facts) = listed {
            return Ok(if waits(&facts) { State::Waiting } else { State::Solid });
        }
        let live = objects::get(&self.context.client, &kind.served, namespace, &owner.name).await?;
        Ok(match live.filter(|live| live.uid.as_ref() == Some(&owner.uid)) {
            None => State::Absent,
            Some(live) => {
                let finalizers = live.finalizers.as_deref().unwrap_or_default();
                let waits = live.deletion_timestamp.is_some() && finalizers.iter().any(|f| f == FINALIZER_FOREGROUND);
                if waits { State::Waiting } else { State::Solid }
            }
        })
    }

    /// An object that waits for its dependents: has those that it waits for looked at, or lets it go.
    async fn hurry(&self, of: &Watched, item: &Item, watched: &[Watched]) -> Result<(), Error> {
        let dependents = self.graph.lock().expect("no holder of this lock panics").of(&item.uid);
        let mut waits_for = false;
        for dependent in dependents {
            let of = watched.iter().find(|watched| watched.resource == dependent.resource);
            let facts = of.and_then(|of| of.census.get(&dependent.namespace, &dependent.name));
            let Some(facts) = facts.filter(|facts| facts.uid == dependent.uid) else {
                continue;
            };
            let blocks = facts
                .owners
                .iter()
                .any(|owner| owner.uid == item.uid && owner.blocks_deletion);
            if blocks {
                waits_for = true;
                if !waits(&facts) {
                    self.queue.add(Work::Look(dependent));
                }
            }
        }
        if waits_for {
            Ok(())
        } else {
            self.let_go(of, item, FINALIZER_FOREGROUND).await
        }
    }

    /// Dependents that wait for their own dependents may wait for this very object in a circle: the circle is opened.
    async fn unblock_circle(&self, dependents: &[Item], item: &Item, watched: &[Watched]) -> Result<(), Error> {
        for dependent in dependents {
            let Some(of) = watched.iter().find(|watched| watched.resource == dependent.resource) else {
                continue;
            };
            let facts = of.census.get(&dependent.namespace, &dependent.name);
            if !facts.is_some_and(|facts| waits(&facts)) {
                continue;
            }
            let client = &self.context.client;
            let seen = objects::get(client, &of.served, &item.namespace, &item.name).await?;
            let Some(seen) = seen else { continue };
            let mut owners = seen.owner_references.clone().unwrap_or_default();
            owners
                .iter_mut()
                .for_each(|owner| owner.block_owner_deletion = Some(false));
            objects::patch(
                client,
                &of.served,
                &item.namespace,
                &seen,
                json!({"ownerReferences": owners}),
            )
            .await?;
            return Ok(());
        }
        Ok(())
    }

    /// Takes an owner out of all its dependents, then lets it go.
    async fn orphan(&self, of: &Watched, item: &Item) -> Result<Next, Error> {
        let dependents = self.graph.lock().expect("no holder of this lock panics").of(&item.uid);
        let watched = self.watched();
        let client = &self.context.client;
        for dependent in dependents {
            let Some(of) = watched.iter().find(|watched| watched.resource == dependent.resource) else {
                continue;
            };
            let seen = objects::get(client, &of.served, &dependent.namespace, &dependent.name).await?;
            let Some(seen) = seen.filter(|seen| seen.uid.as_deref() == Some(&dependent.uid)) else {
                continue;
            };
            let mut owners = seen.owner_references.clone().unwrap_or_default();
            let before = owners.len();
            owners.retain(|owner| owner.uid != *item.uid);
            if owners.len() < before {
                let change = json!({"ownerReferences": owners});
                objects::patch(client, &of.served, &dependent.namespace, &seen, change).await?;
            }
        }
        self.let_go(of, item, FINALIZER_ORPHAN).await?;
        Ok(Next::Done)
    }

    async fn let_go(&self, of: &Watched, item: &Item, finalizer: &str) -> Result<(), Error> {
        let client = &self.context.client;
        let seen = objects::get(client, &of.served, &item.namespace, &item.name).await?;
        let Some(seen) = seen.filter(|seen| seen.uid.as_deref() == Some(&item.uid)) else {
            return Ok(());
        };
        let mut finalizers = seen.finalizers.clone().unwrap_or_default();
        let before = finalizers.len();
        finalizers.retain(|have| have != finalizer);
        if finalizers.len() < before {
            let change = json!({"finalizers": finalizers});
            objects::patch(client, &of.served, &item.namespace, &seen, change).await?;
        }
        Ok(())
    }
}

impl Graph {
    fn remove(&mut self, owner: &Arc<str>, item: &Item) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(item);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn of(&self, owner: &str) -> Vec<Item> {
        let mut all: Vec<_> = self.dependents.get(owner).into_iter().flatten().cloned().collect();
        all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        all
    }
}

fn names(owners: &[Owner], owner: &Owner) -> bool {
    owners.iter().any(|other| other.uid == owner.uid)
}

fn find<'a>(watched: &'a [Watched], owner: &'a Owner) -> Option<(&'a Watched, &'a str)> {
    let of = watched
        .iter()
        .find(|watched| watched.served.is(&owner.api_version, &owner.kind))?;
    Some((of, &owner.name))
}

/// Where an owner of a kind has to be, for a dependent in `namespace`.
fn place<'a>(owner: &Watched, namespace: &'a str) -> &'a str {
    if owner.served.namespaced { namespace } else { "" }
}

#[cfg(test)]
mod tests {
    use super::State::{Absent, Solid, Waiting};
    use super::*;

    #[test]
    fn an_object_goes_when_no_owner_is_left() {
        let seen = |finalizers: &[&str]| ObjectMeta {
            finalizers: Some(finalizers.iter().map(|name| (*name).to_owned()).collect()),
            ..Default::default()
        };
        let owners = |states: &[State]| -> Vec<_> {
            states
                .iter()
                .enumerate()
                .map(|(at, state)| (at.to_string(), *state))
                .collect()
        };
        let disown = |uids: &[&str]| Plan::Disown(uids.iter().map(|uid| (*uid).to_owned()).collect());
        use Propagation::{Background, Foreground, Orphan};
        for (states, dependents, finalizers, want) in [
            (&[][..], false, &[][..], Plan::Nothing),
            (&[Solid], false, &[], Plan::Nothing),
            (&[Solid, Absent, Waiting], true, &[], disown(&["1", "2"])),
            (&[Absent, Absent], false, &[], Plan::Delete(Background)),
            (&[Absent], true, &[], Plan::Delete(Background)),
            (&[Waiting], false, &[], Plan::Delete(Background)),
            (&[Waiting, Absent], true, &[], Plan::Delete(Foreground)),
            (&[Absent], true, &["orphan"], Plan::Delete(Orphan)),
            (&[Absent], true, &["foregroundDeletion"], Plan::Delete(Foreground)),
        ] {
            let got = plan(&seen(finalizers), &owners(states), dependents);
            assert_eq!(got, want, "{states:?} {dependents} {finalizers:?}");
        }
    }
}

//! Quotas, counted anew: the API server charges and gives back with each write, and what it missed is put right here.
//! A count that differs is believed only when it is found again while the quota did not change: a write that is charged
//! and not yet seen must not be forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Quantity;
use api::quantity::Format;
use api::usage::{Amounts, add, amounts, counted_as, is_over, may_count, scopes, usage};
use daemon::informer::{Change, Kind, Lister, Resource, Told};
use daemon::{Next, Queue};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use kube::api::{Api, PostParams};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::cleanup::discovery::discover;
use crate::context::{Context, Key};
use crate::{Error, is_conflict, is_gone};

/// So long a write may be charged before anybody sees it.
const DOUBT: Duration = Duration::from_secs(5);

/// Resources that quotas also name plainly.
const PLAIN: [&str; 4] = ["configmaps", "secrets", "replicationcontrollers", "resourcequotas"];

type Names = HashMap<Arc<str>, HashSet<Arc<str>>>;

struct Controller {
    context: Context,
    queue: Queue<Key>,
    quotas: Lister<ResourceQuota>,
    pods: Lister<Pod>,
    services: Lister<Service>,
    claims: Lister<PersistentVolumeClaim>,
    /// Names of objects by namespace, of resources that are counted alone; nothing where the server has none such.
    counted: tokio::sync::Mutex<HashMap<String, Option<Arc<Mutex<Names>>>>>,
    /// Quotas whose count differed, and their revision then.
    doubts: Mutex<HashMap<Key, u64>>,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let quotas = context.all::<ResourceQuota>();
    let (pods, services) = (context.all::<Pod>(), context.all::<Service>());
    let claims = context.all::<PersistentVolumeClaim>();
    quotas.synced().await;
    pods.synced().await;
    services.synced().await;
    claims.synced().await;
    let into = queue.clone();
    quotas.on_change(move |change| {
        if let Change::Applied { new, .. } = change {
            into.add(Key::of(new));
        }
    });
    when_freed(&pods, &quotas, &queue, |pod| {
        pod.view::<Map<String, Value>>().is_ok_and(|pod| is_over(&pod))
    });
    when_freed(&services, &quotas, &queue, |_| false);
    when_freed(&claims, &quotas, &queue, |_| false);
    let controller = Arc::new(Controller {
        context: context.clone(),
        queue: queue.clone(),
        quotas,
        pods,
        services,
        claims,
        counted: tokio::sync::Mutex::default(),
        doubts: Mutex::default(),
    });
    context
        .work(queue, stop, move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(&key).await }
        })
        .await
}

fn enqueue(quotas: &Lister<ResourceQuota>, queue: &Queue<Key>, namespace: &str) {
    for quota in quotas.in_namespace(namespace) {
        queue.add(Key::of(&quota));
    }
}

/// Has the quotas of a namespace looked at when something that they counted is gone or over.
fn when_freed<K: Kind>(
    lister: &Lister<K>,
    quotas: &Lister<ResourceQuota>,
    queue: &Queue<Key>,
    over: impl Fn(&daemon::Entry<K>) -> bool + Send + Sync + 'static,
) {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    lister.on_change(move |change| match change {
        Change::Deleted { old } => enqueue(&quotas, &queue, &old.namespace),
        Change::Applied { old: Some(_), new } => {
            if !quotas.in_namespace(&new.namespace).is_empty() && over(new) {
                enqueue(&quotas, &queue, &new.namespace);
            }
        }
        Change::Applied { old: None, .. } => {}
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(entry) = self.quotas.get(&key.namespace, &key.name) else {
            self.doubts().remove(key);
            return Ok(Next::Done);
        };
        let quota: Map<String, Value> = entry.view()?;
        let list = |path: &str| {
            let (outer, inner) = path.split_once('.').unwrap_or((path, ""));
            quota
                .get(outer)
                .and_then(|it| it.get(inner))
                .map(amounts)
                .unwrap_or_default()
        };
        let hard = list("spec.hard");
        let used = self.count(&quota, &hard, &key.namespace).await?;
        if list("status.hard") == hard && list("status.used") == used {
            self.doubts().remove(key);
            return Ok(Next::Done);
        }
        if self.doubts().insert(key.clone(), entry.revision) != Some(entry.revision) {
            return Ok(Next::After(DOUBT));
        }
        let mut changed = (*entry.typed()?).clone();
        let spell = |amounts: Amounts| {
            Some(
                amounts
                    .into_iter()
                    .map(|(name, amount)| (name, amount.into()))
                    .collect(),
            )
        };
        changed.status = Some(ResourceQuotaStatus {
            hard: spell(hard),
            used: spell(used),
        });
        let api: Api<ResourceQuota> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Err(error) if is_gone(&error) || is_conflict(&error) => Ok(Next::Done),
            answer => answer.map(|_| Next::Done).map_err(Error::from),
        }
    }

    fn doubts(&self) -> std::sync::MutexGuard<'_, HashMap<Key, u64>> {
        self.doubts.lock().expect("no holder of this lock panics")
    }

    async fn count(&self, quota: &Map<String, Value>, hard: &Amounts, namespace: &str) -> Result<Amounts, Error> {
        let mut used: Amounts = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
        sum(&self.pods, "pods", quota, namespace, &mut used)?;
        sum(&self.services, "services", quota, namespace, &mut used)?;
        sum(&self.claims, "persistentvolumeclaims", quota, namespace, &mut used)?;
        // What is no pod is of no scope.
        if !scopes(quota).is_empty() {
            return Ok(used);
        }
        for name in hard.keys() {
            let called = match name.strip_prefix("count/") {
                Some("pods" | "services" | "persistentvolumeclaims") => continue,
                Some(called) => called,
                None if PLAIN.contains(&name.as_str()) => name,
                None => continue,
            };
            if let Some(names) = self.names(called).await? {
                let names = names.lock().expect("no holder of this lock panics");
                let count = names.get(namespace).map_or(0, HashSet::len);
                let count = Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi);
                used.insert(name.clone(), count);
            }
        }
        Ok(used)
    }

    /// The names of a resource's objects, watched from the first time that a quota asks for them.
    async fn names(&self, called: &str) -> Result<Option<Arc<Mutex<Names>>>, Error> {
        let mut counted = self.counted.lock().await;
        if let Some(known) = counted.get(called) {
            return Ok(known.clone());
        }
        let (plural, group) = called.split_once('.').unwrap_or((called, ""));
        let catalog = discover(&self.context.client).await?;
        let served = catalog
            .collectable()
            .find(|served| served.namespaced && served.resource.plural == plural && served.resource.group == group);
        let names = match served {
            Some(served) => Some(self.watch(&served.resource).await),
            None => None,
        };
        counted.insert(called.to_owned(), names.clone());
        Ok(names)
    }

    async fn watch(&self, resource: &Resource) -> Arc<Mutex<Names>> {
        let census = self.context.informers.census(resource);
        let names: Arc<Mutex<Names>> = Arc::default();
        let (into, quotas, queue) = (names.clone(), self.quotas.clone(), self.queue.clone());
        census.tell(move |told| {
            let mut names = into.lock().expect("no holder of this lock panics");
            match told {
                Told::Applied { new, .. } => {
                    names.entry(new.namespace.clone()).or_default().insert(new.name.clone());
                }
                Told::Deleted { old } => {
                    if let Some(names) = names.get_mut(&old.namespace) {
                        names.remove(&old.name);
                    }
                    drop(names);
                    enqueue(&quotas, &queue, &old.namespace);
                }
                Told::Synced => {}
            }
        });
        census.synced().await;
        names
    }
}

/// Adds what the objects of one kind use of what a quota limits.
fn sum<K: Kind>(
    lister: &Lister<K>,
    plural: &str,
    quota: &Map<String, Value>,
    namespace: &str,
    used: &mut Amounts,
) -> Result<(), Error> {
    let counts = used
        .keys()
        .any(|name| may_count("", plural, name) || *name == counted_as("", plural));
    if !counts {
        return Ok(());
    }
    let scopes = scopes(quota);
    for entry in lister.in_namespace(namespace) {
        let object: Map<String, Value> = entry.view()?;
        if scopes.iter().all(|scope| scope.holds(plural, &object)) {
            let mut own = usage("", plural, &object);
            own.retain(|name, _| used.contains_key(name));
            add(used, &own);
        }
    }
    Ok(())
}

//! Disruption budgets: how many pods of each may be disrupted now, as the eviction of a pod asks.
//! `plan` counts; this file reads pods and what their owners want, and writes the status. Evicting is the API server's.
//! The status is written by compare-and-swap: an eviction that was allowed meanwhile is never forgotten.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::selector::Labels;
use daemon::events::{EventType, reference};
use daemon::informer::{Change, Lister};
use daemon::{Entry, Next, Queue};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::scale;
use crate::context::{Context, Key, instant, now};
use crate::pods::selects;
use crate::{Error, is_gone};
use plan::{Stale, Wanted};

struct Controller {
    context: Context,
    budgets: Lister<PodDisruptionBudget>,
    pods: Lister<Pod>,
    sets: Lister<ReplicaSet>,
}

/// What is worked on: a budget, or a pod that was said to be about to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    Budget(Key),
    Pod(Key),
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue: Queue<Item> = Queue::new();
    let budgets = context.all::<PodDisruptionBudget>();
    let pods = context.all::<Pod>();
    let sets = context.all::<ReplicaSet>();
    budgets.synced().await;
    pods.synced().await;
    sets.synced().await;
    let into = queue.clone();
    budgets.on_change(move |change| {
        if let Change::Applied { new, .. } = change {
            into.add(Item::Budget(Key::of(new)));
        }
    });
    let (into, known) = (queue.clone(), budgets.clone());
    pods.on_change(move |change| {
        let add = |pod: &Entry<Pod>| {
            for budget in known.in_namespace(&pod.namespace) {
                if selector(&budget).is_ok_and(|selector| selects(&selector, pod)) {
                    into.add(Item::Budget(Key::of(&budget)));
                }
            }
        };
        match change {
            Change::Applied { old, new } => {
                if let Some(old) = old.filter(|old| old.labels != new.labels) {
                    add(old);
                }
                add(new);
                if new.typed().is_ok_and(|pod| plan::stale(&pod, instant()) != Stale::No) {
                    into.add(Item::Pod(Key::of(new)));
                }
            }
            Change::Deleted { old } => add(old),
        }
    });
    let workers = context.config.workers;
    let controller = Arc::new(Controller {
        context,
        budgets,
        pods,
        sets,
    });
    let Ok(()) = daemon::work(queue, workers, stop, move |item| {
        let controller = controller.clone();
        async move {
            match item {
                Item::Budget(key) => controller.budget(&key).await,
                Item::Pod(key) => controller.pod(&key).await,
            }
        }
    })
    .await;
    Ok(())
}

fn selector(budget: &Entry<PodDisruptionBudget>) -> Result<Labels, Error> {
    let budget = budget.typed()?;
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    Ok(Labels::from_structured(selector)?)
}

impl Controller {
    async fn budget(&self, key: &Key) -> Result<Next, Error> {
        let Some(entry) = self.budgets.get(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let budget = entry.typed()?;
        match self.count(&entry, &budget).await {
            Ok((status, recheck)) => {
                self.write(key, &budget, status).await?;
                Ok(recheck.map_or(Next::Done, Next::After))
            }
            Err(error) => {
                let why = crate::policy::said(&error);
                self.write(key, &budget, plan::failed(&budget, &why, &now())).await?;
                Err(error)
            }
        }
    }

    async fn count(
        &self,
        entry: &Entry<PodDisruptionBudget>,
        budget: &PodDisruptionBudget,
    ) -> Result<(PodDisruptionBudgetStatus, Option<Duration>), Error> {
        let about = reference(budget);
        let tell = |kind, reason: &str, text: String| self.context.recorder.publish(&about, kind, reason, text);
        let selector = selector(entry)?;
        let mut pods = Vec::new();
        for pod in self.pods.in_namespace(&entry.namespace) {
            if selects(&selector, &pod) {
                pods.push(pod.typed()?);
            }
        }
        if pods.is_empty() {
            tell(EventType::Normal, "NoPods", "No matching pods found".to_owned());
        }
        let mut wanted = Wanted::default();
        if plan::asks_owners(budget) {
            wanted = self.wanted(&pods).await.inspect_err(|error| {
                let why = crate::policy::said(error);
                let text = format!("Failed to calculate the number of expected pods: {why}");
                tell(EventType::Warning, "CalculateExpectedPodCountFailed", text);
            })?;
        }
        if wanted.unmanaged > 0 {
            let text = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status \
                        of the PDB cannot be calculated correctly, which may result in undefined behavior. To account \
                        for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.";
            tell(EventType::Warning, "UnmanagedPods", text.to_owned());
        }
        let desired = plan::desired(budget, pods.len(), wanted).map_err(Error::Plan)?;
        let disrupted = plan::disrupted(budget, &pods, instant());
        for pod in &disrupted.overdue {
            let text = format!(
                "Pod was expected by PDB {}/{} to be deleted but it wasn't",
                entry.namespace, entry.name
            );
            let about = reference(&**pod);
            self.context
                .recorder
                .publish(&about, EventType::Warning, "NotDeleted", text);
        }
        let recheck = disrupted.recheck;
        let healthy = plan::healthy(&pods, &disrupted);
        Ok((plan::status(budget, desired, healthy, disrupted, &now()), recheck))
    }

    /// What the owners of the pods want: of ReplicaSets their Deployments, of anything else its scale.
    async fn wanted(&self, pods: &[Arc<Pod>]) -> Result<Wanted, Error> {
        let mut scales: HashMap<String, i32> = HashMap::new();
        let mut wanted = Wanted::default();
        for pod in pods {
            let Some(mut owner) = api::owner::controller_of(&pod.metadata).cloned() else {
                wanted.unmanaged += 1;
                continue;
            };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let none = || {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                Error::Plan(format!("found no controllers for pod {name:?}"))
            };
            if owner.kind == "ReplicaSet" {
                let set = self.sets.get(namespace, &owner.name);
                let above = set.filter(|set| *set.uid == *owner.uid).ok_or_else(none)?;
                if let Some(deployment) = above.owner() {
                    owner.api_version = deployment.api_version.to_string();
                    owner.kind = deployment.kind.to_string();
                    owner.name = deployment.name.to_string();
                    owner.uid = deployment.uid.to_string();
                }
            }
            if scales.contains_key(&owner.uid) {
                continue;
            }
            let client = &self.context.client;
            let resource = scale::resolve(client, &owner.api_version, &owner.kind).await?;
            let resource = resource.ok_or_else(none)?;
            let scale = scale::get(client, &resource, namespace, &owner.name)
                .await?
                .ok_or_else(|| Error::Plan(format!("{resource} does not implement the scale subresource")))?;
            if scale.metadata.uid.as_ref().is_some_and(|uid| *uid != owner.uid) {
                return Err(none());
            }
            let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
            scales.insert(owner.uid, replicas);
        }
        wanted.replicas = scales.values().sum();
        Ok(wanted)
    }

    async fn write(
        &self,
        key: &Key,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), Error> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = PodDisruptionBudget {
            status: Some(status),
            ..budget.clone()
        };
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Err(error) if is_gone(&error) => Ok(()),
            answer => answer.map(drop).map_err(Error::from),
        }
    }

    /// Takes back what was said of a pod that did not go.
    async fn pod(&self, key: &Key) -> Result<Next, Error> {
        let Some(entry) = self.pods.get(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let pod = entry.typed()?;
        let mut condition = match plan::stale(&pod, instant()) {
            Stale::No => return Ok(Next::Done),
            Stale::In(left) => return Ok(Next::After(left)),
            Stale::Now(condition) => condition,
        };
        condition.last_transition_time = Some(now());
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match api
            .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            Err(error) if is_gone(&error) => Ok(Next::Done),
            answer => answer.map(|_| Next::Done).map_err(Error::from),
        }
    }
}

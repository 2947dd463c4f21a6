//! ResourceQuota: what a namespace may hold. What is used is kept in each quota's status by compare-and-swap, so that two
//! writes never share the last of it: charged before a write, given back when it fails and when objects go.
//! After apiserver's resourcequota plug-in and pkg/quota/v1 (1.36); a quota that is new is counted from the caches.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use api::quantity::Quantity;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::sources::Source;
use super::{Admit, Attributes, Operation, items};
use crate::object::Object;
use crate::registry::{Registry, from_store};
use crate::status::Status;
use crate::store::{self, Entry, Expect, Options};
use api::usage::{self as resources, Amounts, Side, may_count, scopes, spell, usage};

#[derive(Debug)]
pub(super) struct ResourceQuota {
    registry: Arc<Registry>,
    quotas: Source,
    /// What writes under way have charged, by the place of their object in memory: it does not move between `validate`
    /// and `finish`, and no two writes share it.
    pending: Mutex<HashMap<usize, Charges>>,
}

/// The quotas' keys with what was charged to each.
type Charges = Vec<(Arc<str>, Amounts)>;

/// How a quota's account is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Refused where it would exceed.
    Charge,
    GiveBack,
}

impl ResourceQuota {
    pub(super) fn new(registry: Arc<Registry>) -> ResourceQuota {
        ResourceQuota {
            quotas: Source::new(&registry, "", "resourcequotas"),
            registry,
            pending: Mutex::default(),
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Charges>> {
        self.pending.lock().expect("nothing panics while it holds this")
    }

    /// The store's entries of the namespace's quotas: few, and never as old as a cache.
    async fn entries(&self, namespace: &str) -> Result<Vec<Entry>, Status> {
        let Some(cache) = self.quotas.cache() else {
            return Ok(Vec::new());
        };
        if cache.snapshot().is_empty() {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        for item in self.quotas.list(namespace) {
            entries.extend(self.registry.store().get(&item.key).await.map_err(from_store)?);
        }
        Ok(entries)
    }

    async fn apply(
        &self,
        attributes: &Attributes<'_>,
        object: &Object,
        amounts: &Amounts,
        change: Change,
    ) -> Result<Charges, Status> {
        let mut charged = Charges::new();
        if amounts.is_empty() {
            return Ok(charged);
        }
        for entry in self.entries(attributes.namespace).await? {
            match self.apply_to(attributes, object, amounts, change, entry.clone()).await {
                Ok(Some(done)) => charged.push((entry.key, done)),
                Ok(None) => {}
                Err(status) => {
                    for (key, amounts) in charged {
                        self.give_back(&key, &amounts).await;
                    }
                    return Err(status);
                }
            }
        }
        Ok(charged)
    }

    /// A quota that was made or changed says at once what is used.
    async fn recount(&self, attributes: &Attributes<'_>, name: &str) -> Result<(), Status> {
        let Some(cache) = self.quotas.cache() else {
            return Ok(());
        };
        let key = cache.key(attributes.namespace, name);
        let mut entry = self.registry.store().get(&key).await.map_err(from_store)?;
        while let Some(current) = entry {
            let Ok(mut quota) = serde_json::from_slice(&current.value).map(Object) else {
                break;
            };
            let hard = resources::amounts(quota.at(&["spec", "hard"]).unwrap_or(&Value::Null));
            let new = status(&hard, &self.count(&quota, &hard).await?);
            if quota.at(&["status"]) == Some(&new) {
                break;
            }
            quota.0.insert("status".into(), new);
            entry = self.put(&current, quota).await?;
        }
        Ok(())
    }

    /// What was charged to or given back by one quota; `None`: it is not concerned.
    async fn apply_to(
        &self,
        attributes: &Attributes<'_>,
        object: &Object,
        amounts: &Amounts,
        change: Change,
        mut entry: Entry,
    ) -> Result<Option<Amounts>, Status> {
        loop {
            let Ok(mut quota) = serde_json::from_slice(&entry.value).map(Object) else {
                return Ok(None);
            };
            if !in_scope(&quota, attributes, object) {
                return Ok(None);
            }
            let hard = resources::amounts(quota.at(&["spec", "hard"]).unwrap_or(&Value::Null));
            let ours: Amounts = amounts
                .iter()
                .filter(|(name, _)| hard.contains_key(*name))
                .map(|(name, amount)| (name.clone(), *amount))
                .collect();
            if change == Change::Charge && attributes.operation == Operation::Create {
                let silent = must_say(attributes, object, &hard);
                if !silent.is_empty() {
                    let why = format!("failed quota: {}: must specify {silent}", quota.name());
                    return Err(attributes.forbidden(Some(object), &why));
                }
            }
            if ours.is_empty() {
                return Ok(None);
            }
            let mut used = self.used(&quota, &hard).await?;
            if change == Change::Charge {
                let over: Vec<&String> = ours
                    .iter()
                    .filter(|(name, amount)| {
                        let have = used.get(*name).copied().unwrap_or(Quantity::ZERO);
                        **amount > Quantity::ZERO && have + **amount > hard[*name]
                    })
                    .map(|(name, _)| name)
                    .collect();
                if !over.is_empty() {
                    let only = |from: &Amounts| -> Amounts {
                        let zero = |name: &String| from.get(name).copied().unwrap_or(Quantity::ZERO);
                        over.iter().map(|name| ((*name).clone(), zero(name))).collect()
                    };
                    let why = format!(
                        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                        quota.name(),
                        spell(&only(&ours)),
                        spell(&only(&used)),
                        spell(&only(&hard))
                    );
                    return Err(attributes.forbidden(Some(object), &why));
                }
            }
            if attributes.dry_run {
                return Ok(None);
            }
            match change {
                Change::Charge => resources::add(&mut used, &ours),
                Change::GiveBack => subtract(&mut used, &ours),
            }
            used.retain(|name, _| hard.contains_key(name));
            quota.0.insert("status".into(), status(&hard, &used));
            match self.put(&entry, quota).await? {
                None => return Ok(Some(ours)),
                Some(newer) => entry = newer,
            }
        }
    }

    /// `Some`: somebody else wrote in between; what is there now, unless it is gone.
    async fn put(&self, entry: &Entry, mut quota: Object) -> Result<Option<Entry>, Status> {
        let store = self.registry.store();
        let put = store.put(
            &entry.key,
            quota.to_stored(),
            Expect::At(entry.revision),
            Options::DURABLE,
        );
        match put.await {
            Ok(_) => Ok(None),
            Err(store::Error::Conflict { .. }) => store.get(&entry.key).await.map_err(from_store),
            Err(error) => Err(from_store(error)),
        }
    }

    /// Best effort: a quota that stays charged is put right when it is next written.
    async fn give_back(&self, key: &str, amounts: &Amounts) {
        let given = async {
            let mut entry = self.registry.store().get(key).await.map_err(from_store)?;
            while let Some(current) = entry {
                let Ok(mut quota) = serde_json::from_slice(&current.value).map(Object) else {
                    break;
                };
                let hard = resources::amounts(quota.at(&["spec", "hard"]).unwrap_or(&Value::Null));
                let mut used = self.used(&quota, &hard).await?;
                subtract(&mut used, amounts);
                quota.0.insert("status".into(), status(&hard, &used));
                entry = self.put(&current, quota).await?;
            }
            Ok::<_, Status>(())
        };
        if let Err(error) = given.await {
            tracing::warn!(error = %error, key, "cannot give back to a quota");
        }
    }

    /// What the quota's status says is used; counted anew where it does not speak of all that the quota limits.
    async fn used(&self, quota: &Object, hard: &Amounts) -> Result<Amounts, Status> {
        let said = resources::amounts(quota.at(&["status", "used"]).unwrap_or(&Value::Null));
        if hard.keys().all(|name| said.contains_key(name)) {
            return Ok(said);
        }
        self.count(quota, hard).await
    }

    async fn count(&self, quota: &Object, hard: &Amounts) -> Result<Amounts, Status> {
        let mut used: Amounts = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
        for row in &self.registry.table().rows {
            if !row.namespaced()
                || !row.is_stored()
                || !hard.keys().any(|name| may_count(&row.group, &row.plural, name))
            {
                continue;
            }
            let source = Source::new(&self.registry, &row.group, &row.plural);
            source.fresh().await?;
            for item in source.list(quota.namespace()) {
                let object = item.object();
                if scopes(&quota.0).iter().all(|scope| scope.holds(&row.plural, &object.0)) {
                    let mut own = usage(&row.group, &row.plural, &object.0);
                    own.retain(|name, _| used.contains_key(name));
                    resources::add(&mut used, &own);
                }
            }
        }
        Ok(used)
    }
}

fn status(hard: &Amounts, used: &Amounts) -> Value {
    let list = |amounts: &Amounts| -> BTreeMap<String, String> {
        amounts
            .iter()
            .map(|(name, amount)| (name.clone(), amount.to_string()))
            .collect()
    };
    json!({"hard": list(hard), "used": list(used)})
}

fn subtract(from: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        if let Some(have) = from.get_mut(name) {
            *have = if *have > *amount {
                *have - *amount
            } else {
                Quantity::ZERO
            };
        }
    }
}

fn difference(new: Amounts, old: &Amounts) -> Amounts {
    let mut rest = Amounts::new();
    for (name, amount) in new {
        let had = old.get(&name).copied().unwrap_or(Quantity::ZERO);
        if amount > had {
            rest.insert(name, amount - had);
        }
    }
    rest
}

/// Containers that say nothing of a resource which the quota limits: `cpu for: a,b; memory for: a`.
fn must_say(attributes: &Attributes<'_>, object: &Object, hard: &Amounts) -> String {
    if !attributes.is("", "pods") {
        return String::new();
    }
    let Some(spec) = object.at(&["spec"]) else {
        return String::new();
    };
    let mut missing = Vec::new();
    for name in hard.keys() {
        let (side, resource) = match &**name {
            "cpu" | "memory" => (Side::Requests, &**name),
            other => match other.split_once('.') {
                Some(("requests", resource @ ("cpu" | "memory"))) => (Side::Requests, resource),
                Some(("limits", resource @ ("cpu" | "memory"))) => (Side::Limits, resource),
                _ => continue,
            },
        };
        // What the pod says for itself is said for all of its containers.
        if !spec["resources"][side.word()][resource].is_null() {
            continue;
        }
        let silent: Vec<&str> = ["containers", "initContainers"]
            .iter()
            .flat_map(|list| items(spec.get(list)))
            .filter(|container| container["resources"][side.word()][resource].is_null())
            .filter_map(|container| container["name"].as_str())
            .collect();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    missing.join("; ")
}

fn in_scope(quota: &Object, attributes: &Attributes<'_>, object: &Object) -> bool {
    scopes(&quota.0)
        .iter()
        .all(|scope| scope.holds(&attributes.resource.plural, &object.0))
}

fn place(object: &Object) -> usize {
    std::ptr::from_ref(object).addr()
}

/// What a write adds to what is used.
fn added(attributes: &Attributes<'_>, new: &Object, old: Option<&Object>) -> Amounts {
    let of = |object: &Object| usage(&attributes.resource.group, &attributes.resource.plural, &object.0);
    match old {
        None => of(new),
        Some(old) => difference(of(new), &of(old)),
    }
}

/// Whether writes of this kind are counted at all.
fn counts(attributes: &Attributes<'_>) -> bool {
    !attributes.namespace.is_empty()
        && attributes.resource.is_stored()
        && (attributes.subresource.is_empty()
            || (attributes.is_any("", "pods") && matches!(attributes.subresource, "status" | "resize")))
}

impl Admit for ResourceQuota {
    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(new) = new else { return Ok(()) };
            if !counts(attributes) {
                return Ok(());
            }
            let charged = self
                .apply(attributes, new, &added(attributes, new, old), Change::Charge)
                .await?;
            if !charged.is_empty() {
                self.pending().insert(place(new), charged);
            }
            Ok(())
        })
    }

    fn finish<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        object: &'a Object,
        old: Option<&'a Object>,
        stored: bool,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if !counts(attributes) || attributes.dry_run {
                return;
            }
            let charged = self.pending().remove(&place(object)).unwrap_or_default();
            if !stored {
                for (key, amounts) in charged {
                    self.give_back(&key, &amounts).await;
                }
                return;
            }
            if attributes.is("", "resourcequotas")
                && attributes.operation != Operation::Delete
                && let Err(error) = self.recount(attributes, object.name()).await
            {
                tracing::warn!(error = %error, "cannot count for a quota");
            }
            let of = |object: &Object| usage(&attributes.resource.group, &attributes.resource.plural, &object.0);
            let back = match (attributes.operation, old) {
                (Operation::Delete, _) => of(object),
                (Operation::Update, Some(old)) => difference(of(old), &of(object)),
                (Operation::Create | Operation::Update | Operation::Connect, _) => return,
            };
            if let Err(error) = self.apply(attributes, object, &back, Change::GiveBack).await {
                tracing::warn!(error = %error, "cannot give back to a quota");
            }
        })
    }
}

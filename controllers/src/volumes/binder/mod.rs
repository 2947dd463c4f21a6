//! Claims get volumes: one that is there and fits, or one that a provisioner is asked for.
//! `plan` decides over copies; this file reads, performs what differs, and writes the phases. Where a volume is chosen
//! together with a node, the scheduler writes its choice and this file completes it.
//! A volume is first kept for its claim and only then named by it, so that no two claims ever name one volume.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use api::volume::{class_of_claim, default_class, is_classless, is_fully_bound, volume_name};
use daemon::events::{EventType, reference};
use daemon::informer::{Change, Lister};
use daemon::{Entry, Next, Queue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, PostParams};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key};
use crate::guard::Guard;
use crate::{Error, is_gone, is_terminating};
use plan::{Observed, Reclaim, Step, Told, Volume};

struct Controller {
    context: Context,
    guard: Guard,
    claims: Lister<PersistentVolumeClaim>,
    volumes: Lister<PersistentVolume>,
    classes: Lister<StorageClass>,
}

/// What the index and the handlers read of either side.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Ends {
    spec: EndsSpec,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct EndsSpec {
    volume_name: String,
    claim_ref: Option<Claimed>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Claimed {
    namespace: String,
    name: String,
}

fn ends<K>(entry: &Entry<K>) -> EndsSpec {
    entry.view::<Ends>().unwrap_or_default().spec
}

/// Keys: a claim; a volume, in no namespace.
pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let claims = context.all::<PersistentVolumeClaim>();
    let volumes = context.all::<PersistentVolume>();
    let classes = context.all::<StorageClass>();
    claims.index("unbound", |claim| {
        let typed = claim.view::<PersistentVolumeClaim>();
        let unbound = typed.is_ok_and(|claim| !is_fully_bound(&claim));
        if unbound { vec![String::new()] } else { Vec::new() }
    });
    claims.synced().await;
    volumes.synced().await;
    classes.synced().await;
    let into = queue.clone();
    claims.on_change(move |change| {
        let claim = match change {
            Change::Applied { new, .. } => new,
            Change::Deleted { old } => old,
        };
        into.add(Key::of(claim));
        let volume = ends(claim).volume_name;
        if !volume.is_empty() {
            into.add(Key::new("", &volume));
        }
    });
    // The volumes whose claim was never named by it, or was another's.
    let (into, known) = (queue.clone(), volumes.clone());
    claims.on_change(move |change| {
        if let Change::Deleted { old } = change {
            for volume in known.list() {
                let kept = ends(&volume).claim_ref.unwrap_or_default();
                if *kept.namespace == *old.namespace && *kept.name == *old.name {
                    into.add(Key::new("", &volume.name));
                }
            }
        }
    });
    let (into, waiting) = (queue.clone(), claims.clone());
    volumes.on_change(move |change| {
        let volume = match change {
            Change::Applied { new, .. } => {
                into.add(Key::new("", &new.name));
                new
            }
            Change::Deleted { old } => old,
        };
        match ends(volume).claim_ref {
            Some(kept) => into.add(Key::new(&kept.namespace, &kept.name)),
            // Whoever waits may want it.
            None => waiting
                .by("unbound", "")
                .iter()
                .for_each(|claim| into.add(Key::of(claim))),
        }
        // A claim may name it without being known to it.
        if matches!(change, Change::Applied { old: None, .. } | Change::Deleted { .. }) {
            for claim in waiting.list() {
                if ends(&claim).volume_name == *volume.name {
                    into.add(Key::of(&claim));
                }
            }
        }
    });
    let (into, waiting) = (queue.clone(), claims.clone());
    classes.on_change(move |change| {
        if let Change::Applied { .. } = change {
            waiting
                .by("unbound", "")
                .iter()
                .for_each(|claim| into.add(Key::of(claim)));
        }
    });
    let controller = Arc::new(Controller {
        context: context.clone(),
        guard: Guard::default(),
        claims,
        volumes,
        classes,
    });
    context
        .work(queue, stop, move |key| {
            let controller = controller.clone();
            async move {
                if key.namespace.is_empty() {
                    controller.volume(&key).await
                } else {
                    controller.claim(&key).await
                }
            }
        })
        .await
}

impl Controller {
    async fn claim(&self, key: &Key) -> Result<Next, Error> {
        if !self.guard.is_open(key, self.volumes.revision()) {
            return Ok(Next::After(Duration::from_secs(1)));
        }
        let Some(entry) = self.claims.get(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let claim = entry.typed()?;
        let class = self.classes.get("", class_of_claim(&claim));
        let class = class.map(|class| class.typed()).transpose()?;
        let named = volume_name(&claim).and_then(|name| self.volumes.get("", name));
        let named = named.map(|volume| volume.typed()).transpose()?;
        let mut volumes = Vec::new();
        if volume_name(&claim).is_none() && !is_fully_bound(&claim) {
            for volume in self.volumes.list() {
                volumes.push(volume.typed()?);
            }
        }
        let step = plan::claim(&Observed {
            claim: &claim,
            class: class.as_deref(),
            default_class: self.default_class(&claim)?.as_deref(),
            named: named.as_ref(),
            volumes: &volumes,
        });
        match self.perform(key, &claim, step).await {
            Err(Error::Api(error)) if is_gone(&error) || is_terminating(&error) => Ok(Next::Done),
            other => other,
        }
    }

    /// Asked only for claims that could get it.
    fn default_class(&self, claim: &PersistentVolumeClaim) -> Result<Option<String>, Error> {
        if !is_classless(claim) {
            return Ok(None);
        }
        let mut classes = Vec::new();
        for class in self.classes.list() {
            classes.push(class.typed()?);
        }
        let default = default_class(classes.iter().map(|class| &**class));
        Ok(default.and_then(|class| class.metadata.name.clone()))
    }

    async fn perform(&self, key: &Key, claim: &PersistentVolumeClaim, step: Step) -> Result<Next, Error> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match step {
            Step::Bind(volume) => self.bind(key, claim, &volume).await?,
            Step::Wait(told) => {
                self.tell(claim, told);
                self.claim_phase(&api, claim, "Pending", None).await?;
            }
            Step::Lost(told) => {
                self.tell(claim, told);
                self.claim_phase(&api, claim, "Lost", None).await?;
            }
            Step::Provision { provisioner, told } => {
                self.tell(claim, told);
                match plan::ask(claim, &provisioner) {
                    Some(asking) => drop(api.replace(&key.name, &PostParams::default(), &asking).await?),
                    None => self.claim_phase(&api, claim, "Pending", None).await?,
                }
            }
            Step::TakeClass(class) => {
                let mut changed = claim.clone();
                changed.spec.get_or_insert_default().storage_class_name = Some(class);
                api.replace(&key.name, &PostParams::default(), &changed).await?;
            }
        }
        Ok(Next::Done)
    }

    fn tell(&self, claim: &PersistentVolumeClaim, told: Option<Told>) {
        if let Some(Told { kind, reason, message }) = told {
            self.context.recorder.publish(&reference(claim), kind, reason, message);
        }
    }

    async fn claim_phase(
        &self,
        api: &Api<PersistentVolumeClaim>,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<(), Error> {
        if let Some(changed) = plan::claim_status(claim, phase, volume) {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            api.replace_status(name, &PostParams::default(), &changed).await?;
        }
        Ok(())
    }

    /// The order is what makes this safe: the volume's side first, by compare-and-swap.
    async fn bind(&self, key: &Key, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), Error> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let volumes: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let mut volume = volume.clone();
        if let Some(kept) = api::volume::keep(&volume, claim) {
            volume = volumes.replace(name, &PostParams::default(), &kept).await?;
            self.guard.wrote(key, &volume.metadata);
        }
        if let Some(volume) = self.phase(&volume, "Bound", "").await? {
            self.guard.wrote(key, &volume.metadata);
        }
        let mut claim = claim.clone();
        if let Some(complete) = plan::complete(&claim, name) {
            claim = api.replace(&key.name, &PostParams::default(), &complete).await?;
        }
        self.claim_phase(&api, &claim, "Bound", Some(&volume)).await
    }

    /// Writes a volume's phase where it is another one.
    async fn phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: &str,
    ) -> Result<Option<PersistentVolume>, Error> {
        let status = volume.status.as_ref();
        if status.and_then(|status| status.phase.as_deref()) == Some(phase) {
            return Ok(None);
        }
        let mut changed = volume.clone();
        let status = changed.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = Some(message.to_owned()).filter(|message| !message.is_empty());
        let volumes: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let written = volumes.replace_status(name, &PostParams::default(), &changed).await?;
        Ok(Some(written))
    }

    async fn volume(&self, key: &Key) -> Result<Next, Error> {
        let Some(entry) = self.volumes.get("", &key.name) else {
            return Ok(Next::Done);
        };
        let volume = entry.typed()?;
        let claim = self.claim_of(&volume).await?;
        match plan::volume(&volume, claim.as_ref()) {
            Volume::Phase(phase) => drop(self.phase(&volume, phase, "").await?),
            Volume::Wake => {}
            Volume::Free => {
                let volumes: Api<PersistentVolume> = Api::all(self.context.client.clone());
                let freed = plan::freed(&volume);
                let freed = volumes.replace(&key.name, &PostParams::default(), &freed).await?;
                self.phase(&freed, "Available", "").await?;
            }
            Volume::Reclaim(reclaim) => {
                let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
                let released = match phase {
                    Some("Released" | "Failed") => None,
                    _ => self.phase(&volume, "Released", "").await?,
                };
                if let Reclaim::Fail { reason, message } = reclaim {
                    let now = released.as_ref().unwrap_or(&volume);
                    self.phase(now, "Failed", &message).await?;
                    let about = reference(&*volume);
                    self.context
                        .recorder
                        .publish(&about, EventType::Warning, reason, message);
                }
            }
        }
        Ok(Next::Done)
    }

    /// The claim that a volume is kept for. A volume may lose its data for a claim that is gone: that is asked of the API.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<PersistentVolumeClaim>, Error> {
        let kept = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let Some(kept) = kept.filter(|kept| kept.uid.as_deref().is_some_and(|uid| !uid.is_empty())) else {
            return Ok(None);
        };
        let namespace = kept.namespace.as_deref().unwrap_or_default();
        let name = kept.name.as_deref().unwrap_or_default();
        if let Some(entry) = self.claims.get(namespace, name)
            && Some(&*entry.uid) == kept.uid.as_deref()
        {
            return Ok(Some((*entry.typed()?).clone()));
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), namespace);
        Ok(api.get_opt(name).await?)
    }
}

//! What is to become of a claim or a volume. Pure. Follows pkg/controller/volume/persistentvolume (1.36).

use std::sync::Arc;

use api::volume::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, NO_PROVISIONER, PROVISIONED_BY, PROVISIONER, SELECTED_NODE, Seeker,
    annotation, best_match, class_of_claim, is_classless, is_kept_for, mismatch, volume_name, waits_for_consumer,
};
use daemon::events::EventType;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

/// What is told about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) kind: EventType,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn told(kind: EventType, reason: &'static str, message: impl Into<String>) -> Option<Told> {
    Some(Told {
        kind,
        reason,
        message: message.into(),
    })
}

/// What a claim is judged by.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) claim: &'a PersistentVolumeClaim,
    /// The class that it names, if that exists.
    pub(super) class: Option<&'a StorageClass>,
    /// The class that claims without a class get, if there is one.
    pub(super) default_class: Option<&'a str>,
    /// The volume that it names, if that exists.
    pub(super) named: Option<&'a Arc<PersistentVolume>>,
    /// All volumes, for a claim that names none.
    pub(super) volumes: &'a [Arc<PersistentVolume>],
}

/// What to do with a claim.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Bring the two together, or put right what is missing of it.
    Bind(Arc<PersistentVolume>),
    /// It has no volume yet.
    Wait(Option<Told>),
    /// It had one, and that is gone or somebody else's.
    Lost(Option<Told>),
    /// Have this provisioner make a volume.
    Provision { provisioner: String, told: Option<Told> },
    /// It was made before there was a default class, and gets that now.
    TakeClass(String),
}

pub(super) fn claim(observed: &Observed<'_>) -> Step {
    if annotation(&observed.claim.metadata, BIND_COMPLETED).is_some() {
        return bound(observed);
    }
    match volume_name(observed.claim) {
        None => unbound(observed),
        Some(name) => named(observed, name),
    }
}

fn unbound(observed: &Observed<'_>) -> Step {
    let Observed {
        claim,
        class,
        default_class,
        volumes,
        ..
    } = observed;
    let waits = waits_for_consumer(*class) && annotation(&claim.metadata, SELECTED_NODE).is_none();
    let seeker = if waits { Seeker::Later } else { Seeker::Anywhere };
    let found = best_match(claim, volumes.iter().map(|volume| &**volume), seeker);
    if let Some(found) = found.and_then(|found| volumes.iter().find(|it| it.metadata.uid == found.metadata.uid)) {
        return Step::Bind(found.clone());
    }
    if is_classless(claim)
        && let Some(class) = default_class
    {
        return Step::TakeClass((*class).to_owned());
    }
    if waits {
        let text = "waiting for first consumer to be created before binding";
        return Step::Wait(told(EventType::Normal, "WaitForFirstConsumer", text));
    }
    let name = class_of_claim(claim);
    if name.is_empty() {
        let text = "no persistent volumes available for this claim and no storage class is set";
        return Step::Wait(told(EventType::Normal, "FailedBinding", text));
    }
    let Some(class) = class else {
        let text = format!("storageclass.storage.k8s.io {name:?} not found");
        return Step::Wait(told(EventType::Warning, "ProvisioningFailed", text));
    };
    if class.provisioner == NO_PROVISIONER {
        let text = "storageclass has no provisioner, and no persistent volume that fits is available";
        return Step::Wait(told(EventType::Warning, "ProvisioningFailed", text));
    }
    let provisioner = class.provisioner.clone();
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    Step::Provision {
        provisioner,
        told: told(EventType::Normal, "ExternalProvisioning", text),
    }
}

fn named(observed: &Observed<'_>, name: &str) -> Step {
    let Some(volume) = observed.named else {
        return Step::Wait(None);
    };
    let kept = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if kept.is_none() {
        return match mismatch(volume, observed.claim) {
            Some(why) => {
                let text = format!("Cannot bind to requested volume {name:?}: {why}");
                Step::Wait(told(EventType::Warning, "VolumeMismatch", text))
            }
            None => Step::Bind(volume.clone()),
        };
    }
    if is_kept_for(volume, observed.claim) {
        return Step::Bind(volume.clone());
    }
    let text = format!("volume {name:?} already bound to a different claim.");
    Step::Wait(told(EventType::Warning, "FailedBinding", text))
}

fn bound(observed: &Observed<'_>) -> Step {
    let lost = |reason, text: &str| {
        let already = observed
            .claim
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let told = told(EventType::Warning, reason, text).filter(|_| already != Some("Lost"));
        Step::Lost(told)
    };
    if volume_name(observed.claim).is_none() {
        let text = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lost("ClaimLost", text);
    }
    let Some(volume) = observed.named else {
        let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lost("ClaimLost", text);
    };
    let kept = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if kept.is_none() || is_kept_for(volume, observed.claim) {
        return Step::Bind(volume.clone());
    }
    let text = "Two claims are bound to the same volume, this one is bound incorrectly";
    lost("ClaimMisbound", text)
}

/// The claim as it is once it has the volume; nothing where it is that already.
pub(super) fn complete(claim: &PersistentVolumeClaim, volume: &str) -> Option<PersistentVolumeClaim> {
    let mut changed = claim.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    if volume_name(claim) != Some(volume) {
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
        changed.spec.get_or_insert_default().volume_name = Some(volume.to_owned());
    }
    annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
    (changed != *claim).then_some(changed)
}

/// The claim's status in a phase; nothing where it is that already.
pub(super) fn claim_status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Option<PersistentVolumeClaim> {
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    let newly = status.phase.as_deref() != Some(phase);
    status.phase = Some(phase.to_owned());
    match volume.and_then(|volume| volume.spec.as_ref()) {
        Some(spec) => {
            status.access_modes = spec.access_modes.clone();
            // What a bound claim has grown to is told by who grew it.
            if newly || status.capacity.is_none() {
                status.capacity = spec.capacity.clone();
            }
            let class = spec
                .volume_attributes_class_name
                .clone()
                .filter(|name| !name.is_empty());
            status.current_volume_attributes_class_name = class;
        }
        None => {
            status.access_modes = None;
            status.capacity = None;
        }
    }
    (changed.status != claim.status).then_some(changed)
}

/// The claim as it asks a provisioner; nothing where it does already.
pub(super) fn ask(claim: &PersistentVolumeClaim, provisioner: &str) -> Option<PersistentVolumeClaim> {
    let mut changed = claim.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    for key in [PROVISIONER, api::volume::PROVISIONER_BETA] {
        annotations.insert(key.to_owned(), provisioner.to_owned());
    }
    (changed != *claim).then_some(changed)
}

/// What to do with a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Volume {
    /// It is in this phase.
    Phase(&'static str),
    /// Its claim is gone: it is released, and then what its policy says.
    Reclaim(Reclaim),
    /// Its claim has another one: it is free again.
    Free,
    /// Its claim has to be looked at.
    Wake,
}

/// What becomes of a volume without its claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reclaim {
    /// Somebody looks after it: an administrator, or the provisioner that made it.
    Leave,
    /// Nobody can do what its policy asks for.
    Fail { reason: &'static str, message: String },
}

/// `claim` is the one that the volume is kept for, if that one is still there.
pub(super) fn volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Volume {
    let spec = volume.spec.as_ref();
    let Some(kept) = spec.and_then(|spec| spec.claim_ref.as_ref()) else {
        return Volume::Phase("Available");
    };
    if kept.uid.as_deref().unwrap_or_default().is_empty() {
        return Volume::Phase("Available");
    }
    let Some(claim) = claim.filter(|claim| claim.metadata.uid == kept.uid) else {
        return Volume::Reclaim(reclaim(volume));
    };
    match volume_name(claim) {
        None => Volume::Wake,
        Some(name) if Some(name) == volume.metadata.name.as_deref() => Volume::Phase("Bound"),
        Some(_) => {
            let made = annotation(&volume.metadata, PROVISIONED_BY).is_some();
            if made && policy(volume) == "Delete" {
                // It was made for this claim, which took another: nobody will want it.
                Volume::Reclaim(reclaim(volume))
            } else {
                Volume::Free
            }
        }
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref())
        .unwrap_or("Retain")
}

fn reclaim(volume: &PersistentVolume) -> Reclaim {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let host_path = volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref());
    let already = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed");
    match policy(volume) {
        "Retain" => Reclaim::Leave,
        _ if already => Reclaim::Leave,
        "Delete" => {
            if annotation(&volume.metadata, PROVISIONED_BY).is_some() {
                return Reclaim::Leave;
            }
            let message = match host_path {
                Some(source) => format!(
                    "host_path deleter only supports /tmp/.+ but received provided {}",
                    source.path
                ),
                None => format!(
                    "error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"
                ),
            };
            Reclaim::Fail {
                reason: "VolumeFailedDelete",
                message,
            }
        }
        "Recycle" => Reclaim::Fail {
            reason: "VolumeFailedRecycle",
            message: "No recycler plugin found for the volume!".to_owned(),
        },
        other => Reclaim::Fail {
            reason: "VolumeUnknownReclaimPolicy",
            message: format!("Volume has unrecognized PersistentVolumeReclaimPolicy {other:?}"),
        },
    }
}

/// The volume as it is once it is free of its claim.
pub(super) fn freed(volume: &PersistentVolume) -> PersistentVolume {
    let mut changed = volume.clone();
    let by_us = changed
        .metadata
        .annotations
        .as_mut()
        .and_then(|annotations| annotations.remove(BOUND_BY_CONTROLLER));
    if let Some(spec) = changed.spec.as_mut() {
        if by_us.is_some() {
            spec.claim_ref = None;
        } else if let Some(kept) = spec.claim_ref.as_mut() {
            // A user keeps it for whoever bears that name.
            kept.uid = None;
            kept.resource_version = None;
        }
    }
    changed
}

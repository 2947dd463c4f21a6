//! Words about the pods of a StatefulSet: their numbers, names, labels, volumes and claims.
//! Upstream: statefulset/stateful_set_utils.go (1.36).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::names::well_known::{CONTROLLER_REVISION_HASH, POD_INDEX, STATEFUL_SET_POD_NAME};
use api::owner::controller_reference;
use api::pod;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::pods::from_template;

pub(super) fn name_of(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// The pod's set and number, as its name says them.
pub(super) fn parent_and_ordinal(pod_name: &str) -> Option<(&str, i32)> {
    let (parent, number) = pod_name.rsplit_once('-')?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    Some((parent, number.parse().ok().filter(|_| digits)?))
}

pub(super) fn ordinal(pod: &Pod) -> Option<i32> {
    Some(parent_and_ordinal(name_of(&pod.metadata))?.1)
}

pub(super) fn start(spec: &StatefulSetSpec) -> i32 {
    spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

pub(super) fn replicas(spec: &StatefulSetSpec) -> i32 {
    spec.replicas.unwrap_or(1)
}

pub(super) fn in_range(spec: &StatefulSetSpec, ordinal: i32) -> bool {
    (start(spec)..start(spec).saturating_add(replicas(spec))).contains(&ordinal)
}

pub(super) fn is_parallel(spec: &StatefulSetSpec) -> bool {
    spec.pod_management_policy.as_deref() == Some("Parallel")
}

pub(super) fn is_rolling(spec: &StatefulSetSpec) -> bool {
    let update = spec.update_strategy.as_ref();
    update.and_then(|update| update.type_.as_deref()) != Some("OnDelete")
}

pub(super) fn partition(spec: &StatefulSetSpec) -> i32 {
    let update = spec
        .update_strategy
        .as_ref()
        .and_then(|update| update.rolling_update.as_ref());
    update.and_then(|update| update.partition).unwrap_or(0)
}

/// Which revision's template the pod has.
pub(super) fn revision(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(CONTROLLER_REVISION_HASH))
        .map_or("", String::as_str)
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    pod::phase(pod) == "Running" && pod::is_ready(pod)
}

pub(super) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    pod::phase(pod) == "Running" && pod::is_available(pod, min_ready_seconds, now.as_second())
}

/// The claims of the pod of a number, by the name of the volume: template and name.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = (&PersistentVolumeClaim, String)> {
    let set_name = name_of(&set.metadata);
    let templates = set
        .spec
        .iter()
        .flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    templates.map(move |claim| {
        let name = format!("{}-{set_name}-{ordinal}", name_of(&claim.metadata));
        (claim, name)
    })
}

/// A pod of the set.
pub(super) fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let set_name = name_of(&set.metadata);
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = from_template(template, set_name, namespace, controller_reference(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(format!("{set_name}-{ordinal}"));
    identify(&mut pod, ordinal);
    store(set, &mut pod, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(CONTROLLER_REVISION_HASH.to_owned(), revision.to_owned());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = pod.metadata.name.clone();
        let service = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
        spec.subdomain = service.filter(|name| !name.is_empty());
    }
    pod
}

/// Gives a pod the labels that say which it is. Says whether it had them.
pub(super) fn identify(pod: &mut Pod, ordinal: i32) -> bool {
    let name = name_of(&pod.metadata).to_owned();
    let labels = pod.metadata.labels.get_or_insert_default();
    let had = labels.get(STATEFUL_SET_POD_NAME) == Some(&name);
    labels.insert(STATEFUL_SET_POD_NAME.to_owned(), name);
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    had
}

/// Gives a pod the volumes of its claims. Says whether it had them.
pub(super) fn store(set: &StatefulSet, pod: &mut Pod, ordinal: i32) -> bool {
    let mut volumes: Vec<Volume> = claims(set, ordinal)
        .map(|(template, name)| Volume {
            name: name_of(&template.metadata).to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: name,
                ..Default::default()
            }),
            ..Default::default()
        })
        .collect();
    let Some(spec) = &mut pod.spec else { return true };
    let have = spec.volumes.take().unwrap_or_default();
    let claimed = |volume: &Volume| {
        volume
            .persistent_volume_claim
            .as_ref()
            .map(|claim| claim.claim_name.clone())
    };
    let had = volumes.iter().all(|wanted| {
        have.iter()
            .any(|volume| volume.name == wanted.name && claimed(volume) == claimed(wanted))
    });
    let own: Vec<_> = have
        .into_iter()
        .filter(|volume| !volumes.iter().any(|wanted| wanted.name == volume.name))
        .collect();
    volumes.extend(own);
    spec.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
    had
}

/// Whether claims go with the set, and whether they go with a pod that is scaled away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retention {
    deleted: bool,
    scaled: bool,
}

pub(super) fn retention(spec: &StatefulSetSpec) -> Retention {
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |policy: Option<&str>| policy == Some("Delete");
    Retention {
        deleted: deletes(policy.and_then(|policy| policy.when_deleted.as_deref())),
        scaled: deletes(policy.and_then(|policy| policy.when_scaled.as_deref())),
    }
}

/// The owners that a claim has to have. With a pod that is scaled away the claim goes too; else with the set; else it
/// stays. Owners that others have given it are left alone, unless one of them controls it: then all are.
pub(super) fn owners(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> Option<Vec<OwnerReference>> {
    let spec = set.spec.as_ref()?;
    let before = claim.metadata.owner_references.clone().unwrap_or_default();
    let set_uid = set.metadata.uid.as_deref().unwrap_or_default();
    let pod_name = name_of(&pod.metadata);
    let is_set = |owner: &OwnerReference| owner.kind == "StatefulSet" && owner.uid == set_uid;
    let is_pod = |owner: &OwnerReference| owner.kind == "Pod" && owner.name == pod_name && owner.api_version == "v1";
    let foreign = |owner: &&OwnerReference| owner.controller == Some(true) && !is_set(owner) && !is_pod(owner);
    if before.iter().any(|owner| foreign(&owner)) {
        return None;
    }
    let policy = retention(spec);
    let condemned = ordinal(pod).is_some_and(|ordinal| !in_range(spec, ordinal));
    let mut after = before.clone();
    after.retain(|owner| !is_set(owner) && !is_pod(owner));
    if policy.scaled && condemned {
        after.push(controller_reference(pod));
    } else if policy.deleted {
        after.push(controller_reference(set));
    }
    let same = after.len() == before.len() && after.iter().all(|owner| before.contains(owner));
    (!same).then_some(after)
}

/// Whether a claim still belongs to an earlier pod of this name: it will go with that one, and must not be used.
pub(super) fn is_stale(claim: &PersistentVolumeClaim, pod_name: &str) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.kind == "Pod" && owner.api_version == "v1" && owner.name == pod_name)
}

/// A claim of a pod that is in range.
pub(super) fn new_claim(set: &StatefulSet, template: &PersistentVolumeClaim, name: String) -> PersistentVolumeClaim {
    let mut claim = template.clone();
    claim.metadata.name = Some(name);
    claim.metadata.namespace.clone_from(&set.metadata.namespace);
    claim.status = None;
    let selected = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
    let labels: BTreeMap<String, String> = claim.metadata.labels.take().unwrap_or_default();
    let labels: BTreeMap<_, _> = labels.into_iter().chain(selected.unwrap_or_default()).collect();
    claim.metadata.labels = Some(labels).filter(|labels| !labels.is_empty());
    if set.spec.as_ref().is_some_and(|spec| retention(spec).deleted) {
        claim.metadata.owner_references = Some(vec![controller_reference(set)]);
    }
    claim
}

/// The claims that are there, by name.
pub(super) type Claims = BTreeMap<String, Arc<PersistentVolumeClaim>>;

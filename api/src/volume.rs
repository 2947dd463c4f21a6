//! What volumes and claims say of themselves and of each other: the rules of binding, which the binder, the scheduler
//! and the node agent share.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelectorTerm, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::quantity::Quantity;
use crate::selector::{Labels, Operator, Requirement};

/// On a claim: its volume was found, once and for all.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or a volume: the other side was written by the binder and not by a user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is asked to make its volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same under its older name, which provisioners read as well.
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On a claim: the node that the scheduler chose for its first pod.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The class as it was written before it was a field.
pub const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner of classes that have none.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// On a class: claims without a class get it.
pub const DEFAULT_CLASS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

const SIZE: &str = "storage";
const FILESYSTEM: &str = "Filesystem";

/// An annotation's value.
pub fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The class that a claim asks for, empty where none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    annotation(&claim.metadata, CLASS_BETA)
        .or_else(|| spec?.storage_class_name.as_deref())
        .unwrap_or_default()
}

/// Whether a claim says nothing of a class: not even that it wants none.
pub fn is_classless(claim: &PersistentVolumeClaim) -> bool {
    let spec = claim.spec.as_ref();
    annotation(&claim.metadata, CLASS_BETA).is_none() && spec.is_none_or(|spec| spec.storage_class_name.is_none())
}

/// The class that a volume is of, empty where none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    annotation(&volume.metadata, CLASS_BETA)
        .or_else(|| spec?.storage_class_name.as_deref())
        .unwrap_or_default()
}

/// Of the classes that are marked as default the newest; of two from one second the first by name.
pub fn default_class<'a>(classes: impl IntoIterator<Item = &'a StorageClass>) -> Option<&'a StorageClass> {
    let marked = |class: &&StorageClass| {
        DEFAULT_CLASS
            .iter()
            .any(|key| annotation(&class.metadata, key) == Some("true"))
    };
    classes.into_iter().filter(marked).max_by_key(|class| {
        let created = class.metadata.creation_timestamp.as_ref().map(|Time(time)| *time);
        (created, std::cmp::Reverse(class.metadata.name.clone()))
    })
}

/// Whether volumes of a class are chosen together with the node of the first pod.
pub fn waits_for_consumer(class: Option<&StorageClass>) -> bool {
    class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

/// The volume that a claim names, if it does.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref()?.volume_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

/// Whether a claim has its volume for good.
pub fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_some() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// Whether a volume is kept for this claim, by a user or by the binder.
pub fn is_kept_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(kept) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return false;
    };
    let uid = kept.uid.as_deref().unwrap_or_default();
    kept.name == claim.metadata.name
        && kept.namespace == claim.metadata.namespace
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// The volume as it is once it is kept for the claim; nothing where it is that already.
pub fn keep(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let kept = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if kept.is_some_and(|kept| kept.uid == claim.metadata.uid && kept.name == claim.metadata.name) {
        return None;
    }
    let mut changed = volume.clone();
    changed.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        name: claim.metadata.name.clone(),
        namespace: claim.metadata.namespace.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    });
    // Where a user kept the volume for the claim, it stays the user's wish when the claim goes.
    if kept.is_none() {
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    Some(changed)
}

/// What a claim asks for, in bytes.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let size = resources.and_then(|resources| resources.requests.as_ref()?.get(SIZE));
    size.and_then(|size| Quantity::try_from(size).ok())
        .unwrap_or(Quantity::ZERO)
}

/// What a volume has, in bytes.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    let size = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get(SIZE));
    size.and_then(|size| Quantity::try_from(size).ok())
        .unwrap_or(Quantity::ZERO)
}

fn modes(list: Option<&Vec<String>>) -> &[String] {
    list.map(Vec::as_slice).unwrap_or_default()
}

/// Why a volume that was named does not do for a claim; nothing where it does.
// Follows checkVolumeSatisfyClaim of pkg/controller/volume/persistentvolume (1.36).
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if requested(claim) > capacity(volume) {
        return Some("requested PV is too small");
    }
    if class_of_claim(claim) != class_of_volume(volume) {
        return Some("storageClassName does not match");
    }
    shape_mismatch(volume, claim)
}

fn shape_mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let (have, want) = (volume.spec.as_ref(), claim.spec.as_ref());
    let attributes = |name: Option<&str>| name.unwrap_or_default().to_owned();
    if attributes(have.and_then(|spec| spec.volume_attributes_class_name.as_deref()))
        != attributes(want.and_then(|spec| spec.volume_attributes_class_name.as_deref()))
    {
        return Some("VolumeAttributesClassName does not match");
    }
    let mode = |mode: Option<&str>| mode.unwrap_or(FILESYSTEM).to_owned();
    if mode(have.and_then(|spec| spec.volume_mode.as_deref()))
        != mode(want.and_then(|spec| spec.volume_mode.as_deref()))
    {
        return Some("incompatible volumeMode");
    }
    let have = modes(have.and_then(|spec| spec.access_modes.as_ref()));
    let want = modes(want.and_then(|spec| spec.access_modes.as_ref()));
    (!want.iter().all(|mode| have.contains(mode))).then_some("incompatible accessMode")
}

/// Whether pods on a node with these labels can use a volume.
pub fn is_reachable(volume: &PersistentVolume, labels: &BTreeMap<String, String>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else {
        return true;
    };
    required
        .node_selector_terms
        .iter()
        .any(|term| term_matches(term, labels))
}

// Volumes are matched against labels alone: upstream shows the term no name of a node (CheckNodeAffinity).
fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    if expressions.is_empty() || term.match_fields.as_ref().is_some_and(|fields| !fields.is_empty()) {
        return false;
    }
    expressions.iter().all(|expression| {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::GreaterThan,
            "Lt" => Operator::LessThan,
            _ => return false,
        };
        let values = expression.values.clone().unwrap_or_default();
        Requirement::new(expression.key.clone(), operator, values)
            .is_ok_and(|requirement| requirement.matches(labels.get(&expression.key).map(String::as_str)))
    })
}

/// The node for whose pods a volume is sought.
#[derive(Debug, Clone, Copy)]
pub enum Seeker<'a> {
    /// None yet, and none is waited for: any place will do.
    Anywhere,
    /// None yet, and one will be chosen: only what is kept for the claim is taken.
    Later,
    /// This node, by its labels.
    Node(&'a BTreeMap<String, String>),
}

/// The volume for a claim: the one that is kept for it, or the smallest that is free and large enough.
// Follows FindMatchingVolume of k8s.io/component-helpers/storage/volume (1.36).
pub fn best_match<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a PersistentVolume>,
    seeker: Seeker<'_>,
) -> Option<&'a PersistentVolume> {
    let wanted = requested(claim);
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.map(|selector| Labels::from_structured(Some(selector)));
    let class = class_of_claim(claim);
    let mut best: Option<(&PersistentVolume, usize, Quantity)> = None;
    for volume in volumes {
        if shape_mismatch(volume, claim).is_some() {
            continue;
        }
        let size = capacity(volume);
        let here = match seeker {
            Seeker::Node(labels) => is_reachable(volume, labels),
            Seeker::Anywhere | Seeker::Later => true,
        };
        if is_kept_for(volume, claim) {
            if wanted <= size && here {
                return Some(volume);
            }
            continue;
        }
        let labels = volume.metadata.labels.as_ref();
        let selected = match &selector {
            None => true,
            Some(Ok(selector)) => selector.matches(|key| labels.and_then(|it| it.get(key)).map(String::as_str)),
            // What cannot be read selects nothing.
            Some(Err(_)) => false,
        };
        let spec = volume.spec.as_ref();
        let free = volume.metadata.deletion_timestamp.is_none()
            && spec.is_some_and(|spec| spec.claim_ref.is_none())
            && volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available");
        if matches!(seeker, Seeker::Later)
            || !here
            || !free
            || !selected
            || class_of_volume(volume) != class
            || wanted > size
        {
            continue;
        }
        // What can do no more than is asked for is taken before what can do more.
        let more = spec.and_then(|spec| spec.access_modes.as_ref()).map_or(0, Vec::len);
        let better = best
            .as_ref()
            .is_none_or(|(_, modes, least)| (more, size) < (*modes, *least));
        if better {
            best = Some((volume, more, size));
        }
    }
    best.map(|(volume, ..)| volume)
}

/// The claim that a volume of a pod stands for, and whether it is the pod's own.
pub fn claim_of(pod: &str, volume: &Volume) -> Option<(String, bool)> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some((claim.claim_name.clone(), false)),
        (None, Some(_)) => Some((format!("{pod}-{}", volume.name), true)),
        (None, None) => None,
    }
}

/// The claims that a pod uses, and which of them are its own.
pub fn claims(pod: &Pod) -> Vec<(String, bool)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_of(name, volume)).collect()
}

/// Whether a claim that bears the name of a pod's own volume was made for that pod.
pub fn is_owned_by(claim: &PersistentVolumeClaim, pod: &ObjectMeta) -> bool {
    pod.uid
        .as_deref()
        .is_some_and(|uid| crate::owner::is_controlled_by(&claim.metadata, uid))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(size: &str, more: Value) -> PersistentVolumeClaim {
        let mut value = json!({
            "metadata": {"name": "data", "namespace": "n", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
        });
        for (field, content) in more.as_object().unwrap() {
            value["spec"][field] = content.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn volume(name: &str, size: &str, more: Value) -> PersistentVolume {
        let mut value = json!({
            "metadata": {"name": name, "labels": {"disk": name}},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}},
            "status": {"phase": "Available"},
        });
        for (field, content) in more.as_object().unwrap() {
            value["spec"][field] = content.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    #[track_caller]
    fn check(claim: &PersistentVolumeClaim, volumes: &[PersistentVolume], seeker: Seeker<'_>, want: Option<&str>) {
        let found = best_match(claim, volumes, seeker);
        assert_eq!(found.and_then(|volume| volume.metadata.name.as_deref()), want);
    }

    #[test]
    fn the_smallest_volume_that_is_large_enough_is_taken() {
        let volumes = [
            volume("huge", "9Gi", json!({})),
            volume("tiny", "1Gi", json!({})),
            volume("fits", "3Gi", json!({})),
            volume("other", "2Gi", json!({"storageClassName": "fast"})),
            volume("shared", "2Gi", json!({"accessModes": ["ReadOnlyMany"]})),
            volume("block", "2Gi", json!({"volumeMode": "Block"})),
            volume(
                "taken",
                "2Gi",
                json!({"claimRef": {"namespace": "n", "name": "somebody"}}),
            ),
        ];
        let any = Seeker::Anywhere;
        check(&claim("2Gi", json!({})), &volumes, any, Some("fits"));
        check(&claim("10Gi", json!({})), &volumes, any, None);
        check(
            &claim("2Gi", json!({"storageClassName": "fast"})),
            &volumes,
            any,
            Some("other"),
        );
        check(
            &claim("1Gi", json!({"volumeMode": "Block"})),
            &volumes,
            any,
            Some("block"),
        );
        let selector = json!({"selector": {"matchLabels": {"disk": "huge"}}});
        check(&claim("1Gi", selector), &volumes, any, Some("huge"));
        check(&claim("2Gi", json!({})), &volumes, Seeker::Later, None);
    }

    #[test]
    fn what_is_kept_for_a_claim_comes_first_even_while_a_node_is_waited_for() {
        let kept = json!({"claimRef": {"namespace": "n", "name": "data"}, "storageClassName": "x"});
        let volumes = [volume("small", "1Gi", json!({})), volume("kept", "5Gi", kept)];
        check(&claim("1Gi", json!({})), &volumes, Seeker::Later, Some("kept"));
        let before = json!({"claimRef": {"namespace": "n", "name": "data", "uid": "another"}});
        check(
            &claim("1Gi", json!({})),
            &[volume("old", "5Gi", before)],
            Seeker::Anywhere,
            None,
        );
    }

    #[test]
    fn a_volume_of_another_node_is_not_taken() {
        let on = |node: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}})
        };
        let volumes = [volume("a", "1Gi", on("n1")), volume("b", "2Gi", on("n2"))];
        let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "n2".to_owned())]);
        check(&claim("1Gi", json!({})), &volumes, Seeker::Node(&labels), Some("b"));
    }

    #[test]
    fn a_named_volume_says_why_it_will_not_do() {
        let volume = volume("v", "1Gi", json!({"storageClassName": "x"}));
        let why = |size: &str, more| mismatch(&volume, &claim(size, more));
        assert_eq!(why("1Gi", json!({"storageClassName": "x"})), None);
        assert_eq!(
            why("2Gi", json!({"storageClassName": "x"})),
            Some("requested PV is too small")
        );
        assert_eq!(why("1Gi", json!({})), Some("storageClassName does not match"));
        let shared = json!({"storageClassName": "x", "accessModes": ["ReadWriteMany"]});
        assert_eq!(why("1Gi", shared), Some("incompatible accessMode"));
    }

    #[test]
    fn the_newest_default_class_counts() {
        let class = |name: &str, day: u8, default: bool| -> StorageClass {
            serde_json::from_value(json!({"provisioner": "p", "metadata": {
                "name": name, "creationTimestamp": format!("2026-01-0{day}T00:00:00Z"),
                "annotations": {"storageclass.kubernetes.io/is-default-class": default.to_string()}}}))
            .unwrap()
        };
        let classes = [
            class("old", 1, true),
            class("b", 2, true),
            class("a", 2, true),
            class("new", 3, false),
        ];
        assert_eq!(default_class(&classes).unwrap().metadata.name.as_deref(), Some("a"));
        assert!(default_class(&classes[3..]).is_none());
    }
}

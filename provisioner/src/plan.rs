//! What is to become of a claim or a volume. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::volume::{
    NO_PROVISIONER, PROVISIONED_BY, PROVISIONER, SELECTED_NODE, annotation, capacity, requested, volume_name,
    waits_for_consumer,
};
use daemon::events::reference;
use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// As classes name this provisioner.
pub const NAME: &str = "coracle/path";
/// On a volume: the node that has its directory.
pub const NODE: &str = "coracle/node";
/// Keeps a volume until its directory is gone, also when the volume is deleted before its claim. Every provisioner's.
pub const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

const HOST_NAME: &str = "kubernetes.io/hostname";

/// What to do for a claim.
#[derive(Debug, PartialEq)]
pub enum ClaimStep<'a> {
    Nothing,
    /// It cannot have what it asks for.
    Refuse(&'static str),
    /// A volume of this class.
    Make(&'a StorageClass),
    /// Its volume counts as larger: a directory has no size of its own.
    Grow {
        volume: String,
        size: Quantity,
    },
}

/// `volume` is the one that the claim names.
pub fn claim<'a>(
    claim: &PersistentVolumeClaim,
    class: Option<&'a StorageClass>,
    volume: Option<&PersistentVolume>,
    node: &str,
) -> ClaimStep<'a> {
    let Some(class) = class else { return ClaimStep::Nothing };
    if claim.metadata.deletion_timestamp.is_some() {
        return ClaimStep::Nothing;
    }
    let spec = claim.spec.as_ref();
    if volume_name(claim).is_some() {
        return volume.map_or(ClaimStep::Nothing, |volume| grow(claim, class, volume, node));
    }
    let asked = annotation(&claim.metadata, PROVISIONER);
    if class.provisioner != NAME || class.provisioner == NO_PROVISIONER || asked != Some(NAME) {
        return ClaimStep::Nothing;
    }
    match annotation(&claim.metadata, SELECTED_NODE) {
        Some(selected) if selected != node => return ClaimStep::Nothing,
        None if waits_for_consumer(Some(class)) => return ClaimStep::Nothing,
        _ => {}
    }
    if spec.is_some_and(|spec| spec.selector.is_some()) {
        return ClaimStep::Refuse("claim.Spec.Selector is not supported");
    }
    if spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block") {
        return ClaimStep::Refuse("a directory cannot be used as a block device");
    }
    if spec.is_some_and(|spec| spec.data_source_ref.is_some() || spec.data_source.is_some()) {
        return ClaimStep::Refuse("volumes are not made from other volumes or snapshots");
    }
    ClaimStep::Make(class)
}

fn grow<'a>(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    volume: &PersistentVolume,
    node: &str,
) -> ClaimStep<'a> {
    let status = claim.status.as_ref();
    let has = status.and_then(|status| status.capacity.as_ref()?.get("storage"));
    let has = has.and_then(|size| api::Quantity::try_from(size).ok());
    let wants = requested(claim);
    let bound = status.and_then(|status| status.phase.as_deref()) == Some("Bound");
    let may = class.allow_volume_expansion == Some(true) && is_ours(volume, node) && bound;
    if !may || wants <= has.unwrap_or(wants).max(api::Quantity::ZERO) && wants <= capacity(volume) {
        return ClaimStep::Nothing;
    }
    ClaimStep::Grow {
        volume: volume.metadata.name.clone().unwrap_or_default(),
        size: wants.into(),
    }
}

/// Whether a volume's directory is one of this node's.
pub fn is_ours(volume: &PersistentVolume, node: &str) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY) == Some(NAME) && annotation(&volume.metadata, NODE) == Some(node)
}

fn name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// The directory's name tells people whose it is.
pub fn directory(claim: &PersistentVolumeClaim) -> String {
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    format!(
        "{}_{}_{}",
        name(claim),
        of(&claim.metadata.namespace),
        of(&claim.metadata.name)
    )
}

/// The volume that stands for a directory of a node.
pub fn volume(claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node, path: &Path) -> PersistentVolume {
    let node_name = node.metadata.name.clone().unwrap_or_default();
    let labels = node.metadata.labels.as_ref();
    let host = labels
        .and_then(|labels| labels.get(HOST_NAME))
        .unwrap_or(&node_name)
        .clone();
    let spec = claim.spec.clone().unwrap_or_default();
    let here = NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement {
            key: HOST_NAME.to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![host]),
        }]),
        match_fields: None,
    };
    let annotations = [(PROVISIONED_BY, NAME), (NODE, &node_name)];
    let policy = class.reclaim_policy.clone();
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name(claim)),
            annotations: Some(
                annotations
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            capacity: Some(BTreeMap::from([("storage".to_owned(), requested(claim).into())])),
            access_modes: spec.access_modes,
            claim_ref: Some(reference(claim)),
            persistent_volume_reclaim_policy: Some(policy.unwrap_or_else(|| "Delete".to_owned())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            local: Some(LocalVolumeSource {
                path: path.display().to_string(),
                fs_type: None,
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![here],
                }),
            }),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// What to do about a volume that may be over.
#[derive(Debug, PartialEq, Eq)]
pub enum VolumeStep {
    Nothing,
    /// It says a directory that is none of ours: nothing there is touched.
    Refuse(String),
    /// Its directory stays, and its object may go.
    LetGo,
    /// Its directory is removed, then its object.
    Remove(PathBuf),
}

pub fn end(volume: &PersistentVolume, node: &str, root: &Path) -> VolumeStep {
    if !is_ours(volume, node) {
        return VolumeStep::Nothing;
    }
    let (spec, status) = (volume.spec.as_ref(), volume.status.as_ref());
    let phase = status.and_then(|status| status.phase.as_deref());
    let going = volume.metadata.deletion_timestamp.is_some();
    let deletes = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
    let over = phase == Some("Released") || going && phase != Some("Bound");
    if !over {
        return VolumeStep::Nothing;
    }
    if !deletes {
        return if going { VolumeStep::LetGo } else { VolumeStep::Nothing };
    }
    let path = spec
        .and_then(|spec| spec.local.as_ref())
        .map(|local| PathBuf::from(&local.path));
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let ours = |path: &PathBuf| {
        let file = path.file_name().and_then(|file| file.to_str());
        path.parent() == Some(root)
            && !name.is_empty()
            && file.is_some_and(|file| file.starts_with(&format!("{name}_")))
    };
    match path {
        Some(path) if ours(&path) => VolumeStep::Remove(path),
        Some(path) => VolumeStep::Refuse(format!("{} is not a directory of this provisioner", path.display())),
        None => VolumeStep::Refuse("the volume names no directory".to_owned()),
    }
}

/// Takes our finalizer off a volume. Says whether it was there.
pub fn let_go(volume: &mut PersistentVolume) -> bool {
    let list = volume.metadata.finalizers.get_or_insert_default();
    let before = list.len();
    list.retain(|have| have != FINALIZER);
    list.len() != before
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn class() -> StorageClass {
        serde_json::from_value(json!({"metadata": {"name": "standard"}, "provisioner": NAME,
            "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true}))
        .unwrap()
    }

    fn asking(node: &str, spec: Value) -> PersistentVolumeClaim {
        let mut value = json!({
            "metadata": {"name": "data", "namespace": "n", "uid": "u",
                "annotations": {PROVISIONER: NAME, SELECTED_NODE: node}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        for (key, content) in spec.as_object().unwrap() {
            value["spec"][key] = content.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn made() -> PersistentVolume {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
        let path = Path::new("/data").join(directory(&asking("n1", json!({}))));
        volume(&asking("n1", json!({})), &class(), &node, &path)
    }

    #[test]
    fn only_the_chosen_node_makes_the_volume() {
        let class = class();
        let step = |asking: &PersistentVolumeClaim| claim(asking, Some(&class), None, "n1") == ClaimStep::Make(&class);
        assert!(step(&asking("n1", json!({}))));
        assert!(!step(&asking("n2", json!({}))));
        let mut unchosen = asking("n1", json!({}));
        unchosen.metadata.annotations.as_mut().unwrap().remove(SELECTED_NODE);
        assert!(!step(&unchosen));
        assert!(!step(&asking("n1", json!({"volumeName": "other"}))));
        let block = asking("n1", json!({"volumeMode": "Block"}));
        assert!(matches!(claim(&block, Some(&class), None, "n1"), ClaimStep::Refuse(_)));
    }

    #[test]
    fn a_volume_is_of_its_node_and_for_its_claim() {
        let volume = made();
        assert_eq!(volume.metadata.name.as_deref(), Some("pvc-u"));
        let spec = volume.spec.as_ref().unwrap();
        assert_eq!(spec.local.as_ref().unwrap().path, "/data/pvc-u_n_data");
        assert!(api::volume::is_kept_for(&volume, &asking("n1", json!({}))));
        let labels = |host: &str| BTreeMap::from([(HOST_NAME.to_owned(), host.to_owned())]);
        assert!(
            api::volume::is_reachable(&volume, &labels("n1")) && !api::volume::is_reachable(&volume, &labels("n2"))
        );
    }

    #[test]
    fn a_directory_is_removed_only_when_its_volume_is_over_and_only_if_it_is_ours() {
        let (node, root) = ("n1", Path::new("/data"));
        let phase = |volume: &mut PersistentVolume, phase: &str| {
            volume.status.get_or_insert_default().phase = Some(phase.to_owned());
        };
        let mut volume = made();
        phase(&mut volume, "Bound");
        assert_eq!(end(&volume, node, root), VolumeStep::Nothing);
        phase(&mut volume, "Released");
        assert_eq!(
            end(&volume, node, root),
            VolumeStep::Remove("/data/pvc-u_n_data".into())
        );
        assert_eq!(end(&volume, "n2", root), VolumeStep::Nothing);
        assert!(matches!(end(&volume, node, Path::new("/")), VolumeStep::Refuse(_)));
        volume.spec.as_mut().unwrap().local.as_mut().unwrap().path = "/data/../etc/pvc-u_x".to_owned();
        assert!(matches!(end(&volume, node, root), VolumeStep::Refuse(_)));
        let mut kept = made();
        kept.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Retain".to_owned());
        phase(&mut kept, "Released");
        assert_eq!(end(&kept, node, root), VolumeStep::Nothing);
        assert!(let_go(&mut kept) && !let_go(&mut kept));
    }

    #[test]
    fn a_larger_claim_grows_its_volume_once() {
        let class = class();
        let mut asking = asking(
            "n1",
            json!({"volumeName": "pvc-u", "resources": {"requests": {"storage": "2Gi"}}}),
        );
        asking.status = serde_json::from_value(json!({"phase": "Bound", "capacity": {"storage": "1Gi"}})).unwrap();
        let mut volume = made();
        assert!(matches!(
            claim(&asking, Some(&class), Some(&volume), "n1"),
            ClaimStep::Grow { .. }
        ));
        volume.spec.as_mut().unwrap().capacity = asking.spec.clone().unwrap().resources.unwrap().requests;
        asking.status = serde_json::from_value(json!({"phase": "Bound", "capacity": {"storage": "2Gi"}})).unwrap();
        assert_eq!(claim(&asking, Some(&class), Some(&volume), "n1"), ClaimStep::Nothing);
    }
}

//! Volumes, claims and storage.k8s.io.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{NONE, UNSET, age, get, name, or};
use crate::object::Object;
use crate::strategy::field::Field;

/// Access modes as abbreviations, in a fixed order.
fn modes(field: &Field) -> String {
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .into_iter()
    .filter(|(mode, _)| field.strings().any(|m| m == *mode))
    .map(|(_, short)| short)
    .collect::<Vec<_>>()
    .join(",")
}

/// The storage class: from before it was a field, or the field.
fn class(object: &Object) -> String {
    let old = object.str_at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    or(old, get(object, "spec.storageClassName").str()).to_owned()
}

fn phase(object: &Object) -> Value {
    if object.is_deleting() {
        "Terminating".into()
    } else {
        get(object, "status.phase").str().into()
    }
}

pub(in super::super) fn volume(object: &Object, now: Timestamp) -> Vec<Value> {
    let claim = get(object, "spec.claimRef");
    let claim = if claim.present() {
        format!("{}/{}", claim.get("namespace").str(), claim.get("name").str())
    } else {
        String::new()
    };
    vec![
        name(object),
        get(object, "spec.capacity.storage").str().into(),
        modes(&get(object, "spec.accessModes")).into(),
        get(object, "spec.persistentVolumeReclaimPolicy").str().into(),
        phase(object),
        claim.into(),
        class(object).into(),
        or(get(object, "spec.volumeAttributesClassName").str(), UNSET).into(),
        get(object, "status.reason").str().into(),
        age(object, now),
        or(get(object, "spec.volumeMode").str(), UNSET).into(),
    ]
}

pub(in super::super) fn claim(object: &Object, now: Timestamp) -> Vec<Value> {
    let volume = get(object, "spec.volumeName").str();
    let (capacity, access) = if volume.is_empty() {
        ("", String::new())
    } else {
        (
            get(object, "status.capacity.storage").str(),
            modes(&get(object, "status.accessModes")),
        )
    };
    vec![
        name(object),
        phase(object),
        volume.into(),
        capacity.into(),
        access.into(),
        class(object).into(),
        or(get(object, "spec.volumeAttributesClassName").str(), UNSET).into(),
        age(object, now),
        or(get(object, "spec.volumeMode").str(), UNSET).into(),
    ]
}

pub(in super::super) fn storage_class(object: &Object, now: Timestamp) -> Vec<Value> {
    let annotations = get(object, "metadata.annotations");
    let is_default = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .into_iter()
    .any(|key| annotations.key(key).str() == "true");
    vec![
        if is_default {
            format!("{} (default)", object.name()).into()
        } else {
            name(object)
        },
        get(object, "provisioner").str().into(),
        or(get(object, "reclaimPolicy").str(), "Delete").into(),
        or(get(object, "volumeBindingMode").str(), "Immediate").into(),
        get(object, "allowVolumeExpansion").is_true().into(),
        age(object, now),
    ]
}

pub(in super::super) fn csi_node(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(get(object, "spec.drivers").len()), age(object, now)]
}

pub(in super::super) fn csi_driver(object: &Object, now: Timestamp) -> Vec<Value> {
    let spec = get(object, "spec");
    let joined =
        |name: &str, item: fn(&Field) -> String| spec.get(name).items().map(|f| item(&f)).collect::<Vec<_>>().join(",");
    let audiences = joined("tokenRequests", |f| f.get("audience").str().into());
    let lifecycles = joined("volumeLifecycleModes", |f| f.str().into());
    vec![
        name(object),
        spec.get("attachRequired").bool().unwrap_or(true).into(),
        spec.get("podInfoOnMount").is_true().into(),
        spec.get("storageCapacity").is_true().into(),
        if spec.get("tokenRequests").present() {
            audiences
        } else {
            UNSET.into()
        }
        .into(),
        spec.get("requiresRepublish").is_true().into(),
        or(&lifecycles, NONE).into(),
        age(object, now),
    ]
}

pub(in super::super) fn attachment(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        get(object, "spec.attacher").str().into(),
        get(object, "spec.source.persistentVolumeName").str().into(),
        get(object, "spec.nodeName").str().into(),
        get(object, "status.attached").is_true().into(),
        age(object, now),
    ]
}

pub(in super::super) fn attributes_class(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), get(object, "driverName").str().into(), age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn volumes_and_claims_show_their_bond() {
        check(
            volume,
            json!({"spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadOnlyMany", "ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "n", "name": "c"},
                "storageClassName": "s", "volumeMode": "Block"}, "status": {"phase": "Bound"}}),
            json!([
                "x", "5Gi", "RWO,ROX", "Retain", "Bound", "n/c", "s", "<unset>", "", "5m", "Block"
            ]),
        );
        check(
            claim,
            json!({"spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Pending"}}),
            json!(["x", "Pending", "", "", "", "", "<unset>", "5m", "<unset>"]),
        );
        check(
            storage_class,
            json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"}),
            json!(["x (default)", "p", "Delete", "Immediate", false, "5m"]),
        );
        check(
            csi_driver,
            json!({"spec": {"volumeLifecycleModes": ["Persistent", "Ephemeral"]}}),
            json!(["x", true, false, false, "<unset>", false, "Persistent,Ephemeral", "5m"]),
        );
    }
}

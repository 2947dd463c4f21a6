use serde_json::{Value, json};

use super::plan::*;
use super::*;

fn claim_with(metadata: &Value, spec: &Value) -> PersistentVolumeClaim {
    let mut value = json!({
        "metadata": {"name": "data", "namespace": "n", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    });
    merge(&mut value["metadata"], metadata);
    merge(&mut value["spec"], spec);
    serde_json::from_value(value).unwrap()
}

fn volume_with(spec: &Value) -> Arc<PersistentVolume> {
    let mut value = json!({
        "metadata": {"name": "v", "uid": "v"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}},
        "status": {"phase": "Available"},
    });
    merge(&mut value["spec"], spec);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

fn class(mode: &str, provisioner: &str) -> StorageClass {
    let value = json!({"metadata": {"name": "c"}, "provisioner": provisioner, "volumeBindingMode": mode});
    serde_json::from_value(value).unwrap()
}

fn step(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, volumes: &[Arc<PersistentVolume>]) -> Step {
    let named = volume_name(claim).and_then(|name| {
        volumes
            .iter()
            .find(|volume| volume.metadata.name.as_deref() == Some(name))
    });
    plan::claim(&Observed {
        claim,
        class,
        default_class: None,
        named,
        volumes,
    })
}

fn reason(step: &Step) -> &str {
    match step {
        Step::Wait(Some(told)) | Step::Lost(Some(told)) => told.reason,
        other => panic!("nothing was told: {other:?}"),
    }
}

#[test]
fn a_claim_without_a_class_takes_the_volume_that_fits_or_waits() {
    let claim = claim_with(&json!({}), &json!({"storageClassName": ""}));
    let volume = volume_with(&json!({}));
    assert_eq!(step(&claim, None, std::slice::from_ref(&volume)), Step::Bind(volume));
    assert_eq!(reason(&step(&claim, None, &[])), "FailedBinding");
}

#[test]
fn a_claim_that_says_nothing_gets_a_default_class_as_soon_as_there_is_one() {
    let claim = claim_with(&json!({}), &json!({}));
    let observed = Observed {
        claim: &claim,
        class: None,
        default_class: Some("standard"),
        named: None,
        volumes: &[],
    };
    assert_eq!(plan::claim(&observed), Step::TakeClass("standard".to_owned()));
}

#[test]
fn a_provisioner_is_asked_at_once_or_when_a_node_is_chosen() {
    let asks = |metadata: Value, mode: &str| {
        let claim = claim_with(&metadata, &json!({"storageClassName": "c"}));
        step(&claim, Some(&class(mode, "example.com/p")), &[])
    };
    assert!(
        matches!(asks(json!({}), "Immediate"), Step::Provision { provisioner, .. } if provisioner == "example.com/p")
    );
    assert_eq!(reason(&asks(json!({}), "WaitForFirstConsumer")), "WaitForFirstConsumer");
    let chosen = json!({"annotations": {api::volume::SELECTED_NODE: "n1"}});
    assert!(matches!(asks(chosen, "WaitForFirstConsumer"), Step::Provision { .. }));
    let claim = claim_with(&json!({}), &json!({"storageClassName": "c"}));
    assert_eq!(reason(&step(&claim, None, &[])), "ProvisioningFailed");
}

#[test]
fn a_named_volume_is_waited_for_and_not_taken_from_another() {
    let claim = claim_with(&json!({}), &json!({"volumeName": "v", "storageClassName": ""}));
    assert_eq!(step(&claim, None, &[]), Step::Wait(None));
    let small = volume_with(&json!({"capacity": {"storage": "1Mi"}}));
    assert_eq!(reason(&step(&claim, None, &[small])), "VolumeMismatch");
    let taken = volume_with(&json!({"claimRef": {"namespace": "n", "name": "x", "uid": "x"}}));
    assert_eq!(reason(&step(&claim, None, &[taken])), "FailedBinding");
    let kept = volume_with(&json!({"claimRef": {"namespace": "n", "name": "data"}, "capacity": {"storage": "1Mi"}}));
    assert_eq!(step(&claim, None, std::slice::from_ref(&kept)), Step::Bind(kept));
}

#[test]
fn a_bound_claim_without_its_volume_is_lost_and_says_so_once() {
    let bound = json!({"annotations": {api::volume::BIND_COMPLETED: "yes"}});
    let mut claim = claim_with(&bound, &json!({"volumeName": "v"}));
    assert_eq!(reason(&step(&claim, None, &[])), "ClaimLost");
    claim.status.as_mut().unwrap().phase = Some("Lost".to_owned());
    assert_eq!(step(&claim, None, &[]), Step::Lost(None));
    let other = volume_with(&json!({"claimRef": {"namespace": "n", "name": "x", "uid": "x"}}));
    claim.status = None;
    assert_eq!(reason(&step(&claim, None, &[other])), "ClaimMisbound");
}

#[test]
fn binding_marks_what_the_binder_wrote_and_is_done_once() {
    let claim = claim_with(&json!({}), &json!({}));
    let kept = api::volume::keep(&volume_with(&json!({})), &claim).unwrap();
    let kept_for = kept.spec.as_ref().unwrap().claim_ref.as_ref().unwrap();
    assert_eq!(
        (kept_for.name.as_deref(), kept_for.uid.as_deref()),
        (Some("data"), Some("u"))
    );
    assert!(api::volume::annotation(&kept.metadata, api::volume::BOUND_BY_CONTROLLER).is_some());
    assert_eq!(api::volume::keep(&kept, &claim), None);
    let complete = plan::complete(&claim, "v").unwrap();
    assert!(is_fully_bound(&complete));
    assert_eq!(plan::complete(&complete, "v"), None);
    let status = plan::claim_status(&complete, "Bound", Some(&kept)).unwrap();
    assert_eq!(
        status.status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0,
        "1Gi"
    );
    assert_eq!(plan::claim_status(&status, "Bound", Some(&kept)), None);
    // What a user had kept stays kept when it is freed.
    let by_user = volume_with(&json!({"claimRef": {"namespace": "n", "name": "data"}}));
    let by_user = api::volume::keep(&by_user, &claim).unwrap();
    let freed = plan::freed(&by_user).spec.unwrap().claim_ref.unwrap();
    assert_eq!((freed.name.as_deref(), freed.uid), (Some("data"), None));
    assert_eq!(plan::freed(&kept).spec.unwrap().claim_ref, None);
}

#[test]
fn a_volume_follows_its_claim() {
    let kept = json!({"claimRef": {"namespace": "n", "name": "data", "uid": "u"}});
    let claim = |name: &str| claim_with(&json!({}), &json!({"volumeName": name}));
    let of = |spec: &Value, claim: Option<&PersistentVolumeClaim>| plan::volume(&volume_with(spec), claim);
    assert_eq!(of(&json!({}), None), Volume::Phase("Available"));
    assert_eq!(of(&kept, Some(&claim("v"))), Volume::Phase("Bound"));
    assert_eq!(of(&kept, Some(&claim("w"))), Volume::Free);
    assert_eq!(of(&kept, Some(&claim_with(&json!({}), &json!({})))), Volume::Wake);
    assert_eq!(of(&kept, None), Volume::Reclaim(Reclaim::Leave));
    let successor = claim_with(&json!({"uid": "u2"}), &json!({"volumeName": "v"}));
    assert_eq!(of(&kept, Some(&successor)), Volume::Reclaim(Reclaim::Leave));
    let mut deleted = kept.clone();
    deleted["persistentVolumeReclaimPolicy"] = json!("Delete");
    assert!(matches!(
        of(&deleted, None),
        Volume::Reclaim(Reclaim::Fail {
            reason: "VolumeFailedDelete",
            ..
        })
    ));
}

//! Rules about storage: DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize.
//! After plugin/pkg/admission/storage (1.36).

use api::quantity::Quantity;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::sources::Source;
use super::{Admit, Attributes, Operation, items};
use crate::object::Object;
use crate::status::Status;

const IS_DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

/// A claim that names no class gets the newest that is marked as default.
#[derive(Debug)]
pub(super) struct DefaultStorageClass {
    pub(super) classes: Source,
}

impl Admit for DefaultStorageClass {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let is_new_claim = attributes.is("", "persistentvolumeclaims") && attributes.operation == Operation::Create;
        // An empty name says: no class. Only a missing one is filled in.
        let says = new.at(&["spec", "storageClassName"]).is_some()
            || new
                .at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"])
                .is_some();
        if is_new_claim && !says {
            let classes = self.classes.list("");
            let default = classes
                .iter()
                .map(|item| item.object())
                .filter(|class| {
                    IS_DEFAULT
                        .iter()
                        .any(|key| class.str_at(&["metadata", "annotations", key]) == "true")
                })
                // The newest; of two from the same second the first by name.
                .max_by_key(|class| {
                    (
                        class.str_at(&["metadata", "creationTimestamp"]).to_owned(),
                        std::cmp::Reverse(class.name().to_owned()),
                    )
                });
            if let Some(class) = default {
                new.entry("spec").insert("storageClassName".into(), class.name().into());
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Volumes and claims stay while they are used.
#[derive(Debug)]
pub(super) struct StorageObjectInUseProtection;

impl Admit for StorageObjectInUseProtection {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let finalizer = if attributes.operation != Operation::Create {
            None
        } else if attributes.is("", "persistentvolumes") {
            Some("kubernetes.io/pv-protection")
        } else if attributes.is("", "persistentvolumeclaims") {
            Some("kubernetes.io/pvc-protection")
        } else {
            None
        };
        if let Some(finalizer) = finalizer {
            let list = new.metadata_mut().entry("finalizers").or_insert_with(|| json!([]));
            if !items(Some(list)).any(|have| have == finalizer)
                && let Some(list) = list.as_array_mut()
            {
                list.push(finalizer.into());
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A bound claim grows only where its class can.
#[derive(Debug)]
pub(super) struct PersistentVolumeClaimResize {
    pub(super) classes: Source,
}

impl Admit for PersistentVolumeClaimResize {
    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let (Some(new), Some(old)) = (new, old) else {
                return Ok(());
            };
            if !attributes.is("", "persistentvolumeclaims") {
                return Ok(());
            }
            let size = |claim: &Object| {
                let text = claim.str_at(&["spec", "resources", "requests", "storage"]);
                Quantity::parse(text).ok()
            };
            // What does not parse is refused by validation.
            let (Some(after), Some(before)) = (size(new), size(old)) else {
                return Ok(());
            };
            if after <= before {
                return Ok(());
            }
            if old.str_at(&["status", "phase"]) != "Bound" {
                return Err(attributes.forbidden(Some(new), "Only bound persistent volume claims can be expanded"));
            }
            let class = self.classes.get("", new.str_at(&["spec", "storageClassName"])).await?;
            let grows = class.is_some_and(|class| class.at(&["allowVolumeExpansion"]) == Some(&Value::Bool(true)));
            if grows {
                return Ok(());
            }
            let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                       support resize";
            Err(attributes.forbidden(Some(new), why))
        })
    }
}

//! Owner references: who controls an object, and whether an object may be adopted.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{Metadata, Resource};

/// The reference that says who controls the object, if any.
pub fn controller_of(object: &ObjectMeta) -> Option<&OwnerReference> {
    object
        .owner_references
        .as_deref()
        .unwrap_or_default()
        .iter()
        .find(|o| o.controller == Some(true))
}

/// Whether the object is controlled by the one with this UID.
pub fn is_controlled_by(object: &ObjectMeta, uid: &str) -> bool {
    controller_of(object).is_some_and(|owner| owner.uid == uid)
}

/// The reference by which `owner` controls what it creates; deleting the owner in the foreground waits for it.
pub fn controller_reference<K: Resource + Metadata<Ty = ObjectMeta>>(owner: &K) -> OwnerReference {
    OwnerReference {
        controller: Some(true),
        block_owner_deletion: Some(true),
        ..reference(owner)
    }
}

/// A plain reference: the garbage collector removes the object with its last owner.
pub fn reference<K: Resource + Metadata<Ty = ObjectMeta>>(owner: &K) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    }
}

/// What a controller that selects objects by labels should do with one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is ours and stays ours.
    Keep,
    /// It is nobody's and fits: make it ours.
    Adopt,
    /// It is ours and fits no longer: let it go.
    Release,
    /// It is not our concern.
    Ignore,
}

/// The rule of adoption: a controlled object belongs to its controller; an orphan that matches is adopted, unless either side is being deleted.
pub fn claim(object: &ObjectMeta, matches: bool, owner_uid: &str, owner_deleting: bool) -> Claim {
    match controller_of(object) {
        Some(owner) if owner.uid != owner_uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if !matches || owner_deleting || object.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;

    use super::*;

    #[test]
    fn objects_are_claimed_by_one_rule() {
        let set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some("web".into()),
                uid: Some("u1".into()),
                ..Default::default()
            },
            ..Default::default()
        };
        let reference = controller_reference(&set);
        assert_eq!(
            (reference.api_version.as_str(), reference.kind.as_str()),
            ("apps/v1", "ReplicaSet")
        );
        let ours = ObjectMeta {
            owner_references: Some(vec![reference]),
            ..Default::default()
        };
        let orphan = ObjectMeta::default();
        let dying = ObjectMeta {
            deletion_timestamp: serde_json::from_str("\"2024-01-01T00:00:00Z\"").unwrap(),
            ..Default::default()
        };
        assert!(is_controlled_by(&ours, "u1") && !is_controlled_by(&ours, "u2"));
        for (object, matches, uid, deleting, want) in [
            (&ours, true, "u1", false, Claim::Keep),
            (&ours, false, "u1", false, Claim::Release),
            (&ours, false, "u1", true, Claim::Ignore),
            (&ours, true, "u2", false, Claim::Ignore),
            (&orphan, true, "u1", false, Claim::Adopt),
            (&orphan, true, "u1", true, Claim::Ignore),
            (&orphan, false, "u1", false, Claim::Ignore),
            (&dying, true, "u1", false, Claim::Ignore),
        ] {
            assert_eq!(
                claim(object, matches, uid, deleting),
                want,
                "{matches} {uid} {deleting}"
            );
        }
    }
}

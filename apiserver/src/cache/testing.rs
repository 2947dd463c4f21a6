//! Builders for the tests of this room.

use std::sync::Arc;

use super::item::{Hot, Interner};
use super::{Field, Filter, Item, Spec};
use crate::store::Revision;

pub(super) fn spec() -> Spec {
    Spec {
        prefix: "/registry/pods/".into(),
        namespaced: true,
        fields: vec![Field {
            name: "spec.nodeName".into(),
            path: vec!["spec".into(), "nodeName".into()],
            otherwise: Vec::new(),
            missing: "".into(),
        }],
    }
}

pub(super) fn item_of(spec: &Spec, key: &str, value: &serde_json::Value, revision: u64) -> Item {
    let key = format!("{}{key}", spec.prefix).into();
    let bytes = serde_json::to_vec(value).unwrap().into();
    Item::read(
        spec,
        key,
        &bytes,
        Revision(revision),
        &mut Interner::default(),
        &Arc::default(),
    )
    .unwrap()
}

/// A cluster-scoped item.
pub(super) fn item(name: &str, json: &str, revision: u64, hot: &Arc<Hot>) -> Item {
    let spec = Spec {
        prefix: "/registry/things/".into(),
        namespaced: false,
        fields: Vec::new(),
    };
    let key = spec.key("", name);
    let bytes = bytes::Bytes::copy_from_slice(json.as_bytes());
    Item::read(&spec, key, &bytes, Revision(revision), &mut Interner::default(), hot).unwrap()
}

pub(super) fn filter(namespace: &str, labels: &str, fields: &str) -> Filter {
    Filter {
        namespace: (!namespace.is_empty()).then(|| namespace.into()),
        name: None,
        labels: labels.parse().unwrap(),
        fields: fields.parse().unwrap(),
    }
}

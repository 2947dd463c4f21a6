//! What values look like in an etcd that others write to as well: upstream's API server of any setting, an older version
//! of either. Whatever it is, this server works with its own form: JSON in the storage version, defaulted, in normal form.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use serde_json::Value;

use super::row::Resource;
use crate::object::Object;
use crate::schema;
use crate::schema::protobuf::{self, MAGIC, Unknown, from_protobuf, to_protobuf};
use crate::store::etcd::Values;

/// How new values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Media {
    #[default]
    Json,
    /// Built-in kinds; custom resources have no such form.
    Protobuf,
}

/// See the module.
#[derive(Debug)]
pub struct Stored {
    kinds: BTreeMap<String, Kind>,
    media: Media,
}

#[derive(Debug)]
struct Kind {
    resource: Resource,
    /// What a value in our own form begins with, keys being sorted, but for the few objects with a field before it: these
    /// are read thoroughly, which changes nothing.
    head: String,
}

/// Why a value is passed on as it is.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("it is encrypted")]
    Encrypted,
    #[error(transparent)]
    Protobuf(#[from] protobuf::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("no type {0:?} is known")]
    Version(String),
}

impl Stored {
    pub fn new(rows: Vec<Resource>, media: Media) -> Stored {
        let mut kinds = BTreeMap::new();
        for resource in rows.into_iter().filter(Resource::is_stored) {
            let prefix = format!("/registry/{}/", resource.prefix);
            let head = format!("{{\"apiVersion\":\"{}\",\"kind\":", resource.stored_as);
            // Rows that share a store agree on its form; the first one is the one that it is named after.
            kinds.entry(prefix).or_insert(Kind { resource, head });
        }
        Stored { kinds, media }
    }

    fn kind(&self, key: &str) -> Option<&Kind> {
        let (prefix, kind) = self
            .kinds
            .range::<str, _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()?;
        key.starts_with(&**prefix).then_some(kind)
    }

    fn understand(&self, key: &str, stored: &[u8]) -> Result<Bytes, Unreadable> {
        let kind = self.kind(key);
        if stored.starts_with(MAGIC) {
            let (_, object) = from_protobuf(stored, None, Unknown::Refuse)?;
            return own_form(kind, Object(object));
        }
        if stored.starts_with(b"k8s:enc:") {
            return Err(Unreadable::Encrypted);
        }
        match kind {
            Some(kind) if !stored.starts_with(kind.head.as_bytes()) => {
                own_form(Some(kind), Object(serde_json::from_slice(stored)?))
            }
            // Ours already; or a custom resource, which has one form.
            _ => Ok(Bytes::copy_from_slice(stored)),
        }
    }
}

fn own_form(kind: Option<&Kind>, mut object: Object) -> Result<Bytes, Unreadable> {
    let stored = type_named(&object)?;
    // First the parts that upstream's types always have: defaults go into them.
    schema::normalise(stored, &mut object.0);
    schema::default(stored, &mut object.0);
    let mut own = stored;
    if let Some(Kind { resource, .. }) = kind {
        if object.0.get("apiVersion").and_then(Value::as_str) != Some(&*resource.stored_as) {
            resource.to_stored(&mut object);
            own = type_named(&object)?;
            schema::default(own, &mut object.0);
        }
        resource.strategy.default(&mut object);
    }
    schema::normalise(own, &mut object.0);
    Ok(object.to_stored())
}

fn type_named(object: &Object) -> Result<schema::TypeRef, Unreadable> {
    let word = |name: &str| object.0.get(name).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = word("apiVersion").split_once('/').unwrap_or(("", word("apiVersion")));
    schema::type_of(group, version, word("kind"))
        .ok_or_else(|| Unreadable::Version(format!("{} {}", word("apiVersion"), word("kind"))))
}

impl Values for Stored {
    fn read(&self, key: &str, stored: &[u8]) -> Bytes {
        self.understand(key, stored).unwrap_or_else(|error| {
            tracing::error!(%key, %error, "a stored value cannot be read");
            Bytes::copy_from_slice(stored)
        })
    }

    fn write(&self, key: &str, value: Bytes) -> Vec<u8> {
        if self.media == Media::Json || self.kind(key).is_none() {
            return value.into();
        }
        let encoded = || -> Result<Vec<u8>, Unreadable> {
            let object = Object(serde_json::from_slice(&value)?);
            Ok(to_protobuf(type_named(&object)?, &object.0)?)
        };
        match encoded() {
            Ok(encoded) => encoded,
            Err(error) => {
                tracing::debug!(%key, %error, "written as JSON");
                value.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::registry::rows::rows;

    fn stored(media: Media) -> Stored {
        Stored::new(rows(), media)
    }

    fn read(key: &str, value: &[u8]) -> Value {
        serde_json::from_slice(&stored(Media::Json).read(key, value)).unwrap()
    }

    #[test]
    fn our_own_values_are_passed_on_untouched() {
        let own = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"odd":1}"#;
        assert_eq!(&stored(Media::Json).read("/registry/pods/d/a", own)[..], own);
    }

    #[test]
    fn upstreams_json_becomes_ours() {
        let theirs = br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"d","creationTimestamp":null},"data":{"k":"v"}}
"#;
        let ours = stored(Media::Json).read("/registry/configmaps/d/a", theirs);
        let text = std::str::from_utf8(&ours).unwrap();
        assert_eq!(
            text,
            r#"{"apiVersion":"v1","data":{"k":"v"},"kind":"ConfigMap","metadata":{"name":"a","namespace":"d"}}"#
        );
    }

    #[test]
    fn a_value_in_another_served_version_becomes_the_storage_version() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a", "namespace": "d"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "x"}, "targetCPUUtilizationPercentage": 70}});
        let key = "/registry/horizontalpodautoscalers/d/a";
        let object = read(key, &serde_json::to_vec(&v1).unwrap());
        assert_eq!(object["apiVersion"], "autoscaling/v2");
        assert_eq!(
            object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
            70
        );
    }

    #[test]
    fn what_cannot_be_read_is_passed_on_as_it_is() {
        for value in [
            &b"k8s:enc:aescbc:v1:k:xx"[..],
            b"k8s\0\x0a\x01",
            b"k8s\0",
            b"{",
            b"",
            br#"{"apiVersion":"v9","kind":"Pod"}"#,
        ] {
            assert_eq!(&stored(Media::Json).read("/registry/pods/d/a", value)[..], value);
        }
    }

    #[test]
    fn custom_resources_stay_json() {
        let own = Bytes::from_static(br#"{"apiVersion":"x.io/v1","kind":"X","metadata":{"name":"a"}}"#);
        let written = stored(Media::Protobuf).write("/registry/x.io/xs/a", own.clone());
        assert_eq!(written, own);
        assert_eq!(stored(Media::Json).read("/registry/x.io/xs/a", &written), own);
    }

    /// One object of each stored kind with only what every object has, and what `more` puts into the metadata.
    fn every_kind(more: &[(String, String)]) -> Vec<(String, Bytes)> {
        let stored = stored(Media::Json);
        let own = |(prefix, kind): (&String, &Kind)| {
            let labels: serde_json::Map<String, Value> =
                more.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
            let object = json!({"kind": &*kind.resource.kind, "apiVersion": &*kind.resource.stored_as,
                "metadata": {"name": "a", "uid": "u", "labels": labels, "creationTimestamp": "2026-01-02T03:04:05Z"}});
            let key = format!("{prefix}a");
            let value = own_form(Some(kind), Object(object.as_object().unwrap().clone())).unwrap();
            (key, value)
        };
        stored.kinds.iter().map(own).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn protobuf_and_back_is_the_same_for_every_kind(labels in prop::collection::vec(("[a-z]{1,8}", "\\PC{0,12}"), 0..4)) {
            let protobuf = stored(Media::Protobuf);
            for (key, value) in every_kind(&labels) {
                let written = protobuf.write(&key, value.clone());
                prop_assert!(written.starts_with(MAGIC), "{} has no protobuf form", key);
                let back = protobuf.read(&key, &written);
                prop_assert_eq!(
                    std::str::from_utf8(&back).unwrap(),
                    std::str::from_utf8(&value).unwrap(),
                    "{}", key
                );
            }
        }

        #[test]
        fn damaged_values_are_read_or_passed_on_but_never_end_the_server(
            at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(), kind in any::<prop::sample::Index>(),
        ) {
            let protobuf = stored(Media::Protobuf);
            let all = every_kind(&[("k".into(), "v".into())]);
            let (key, value) = &all[kind.index(all.len())];
            for mut bytes in [protobuf.write(key, value.clone()), value.to_vec()] {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                protobuf.read(key, &bytes);
                bytes.truncate(cut.index(bytes.len()));
                protobuf.read(key, &bytes);
            }
        }
    }

    /// Upstream's own encoding of every type with every field set, where the facts are at hand.
    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "where the facts are is known to the environment"
    )]
    fn upstreams_protobuf_of_every_kind_is_read_and_written_back_alike() {
        let Some(facts) = std::env::var_os("KUBERNETES_FACTS").filter(|facts| !facts.is_empty()) else {
            return;
        };
        let protobuf = stored(Media::Protobuf);
        let mut read = 0;
        for (prefix, kind) in &protobuf.kinds {
            let resource = &kind.resource;
            let name = match resource.stored_as.split_once('/') {
                Some((group, version)) => format!("{group}.{version}.{}.pb", resource.kind),
                None => format!("core.{}.{}.pb", resource.stored_as, resource.kind),
            };
            let Ok(theirs) = std::fs::read(std::path::Path::new(&facts).join("fixtures").join(&name)) else {
                // The facts have no encoding of kinds that other servers of upstream serve.
                continue;
            };
            let key = format!("{prefix}a");
            let ours = protobuf
                .understand(&key, &theirs)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let object: Value = serde_json::from_slice(&ours).unwrap();
            assert_eq!(object["apiVersion"], *kind.resource.stored_as, "{name}");
            let again = protobuf.read(&key, &protobuf.write(&key, ours.clone()));
            assert_eq!(
                std::str::from_utf8(&again).unwrap(),
                std::str::from_utf8(&ours).unwrap(),
                "{name}"
            );
            read += 1;
        }
        assert!(read > 40, "{read}");
    }
}

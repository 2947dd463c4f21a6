//! What an informer knows of an object without its type: read in one pass over the bytes, everything else skipped.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

/// The metadata that stores, indexes and garbage collection ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// The object's resourceVersion.
    pub revision: u64,
    pub labels: Labels,
    pub owners: Box<[Owner]>,
    pub finalizers: Box<[Box<str>]>,
    /// Whether it has a deletionTimestamp.
    pub deleting: bool,
}

/// An owner reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub api_version: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    pub controller: bool,
    pub blocks_deletion: bool,
}

/// Labels, sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Facts {
    /// The owner that manages this object.
    pub fn owner(&self) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.controller)
    }

    /// `namespace/name`, or the name alone for cluster-scoped objects.
    pub fn key(&self) -> String {
        if self.namespace.is_empty() {
            self.name.to_string()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }
}

impl Labels {
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(have, _)| have.as_ref().cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        pairs.sort_unstable();
        Labels(pairs.into())
    }
}

/// Reads the facts out of an object. `intern` shares the strings that many objects have in common.
pub(super) fn extract(object: &[u8], mut intern: impl FnMut(&str) -> Arc<str>) -> Result<Facts, serde_json::Error> {
    let Outer { metadata } = serde_json::from_slice(object)?;
    Ok(Facts {
        namespace: intern(metadata.namespace.text()),
        name: metadata.name.text().into(),
        uid: metadata.uid.text().into(),
        revision: revision(metadata.resource_version.text())?,
        labels: metadata.labels.0.iter().map(|(k, v)| (k.text(), v.text())).collect(),
        owners: metadata
            .owner_references
            .0
            .iter()
            .map(|owner| Owner {
                api_version: intern(owner.api_version.text()),
                kind: intern(owner.kind.text()),
                name: intern(owner.name.text()),
                uid: intern(owner.uid.text()),
                controller: owner.controller.unwrap_or(false),
                blocks_deletion: owner.block_owner_deletion.unwrap_or(false),
            })
            .collect(),
        finalizers: metadata.finalizers.0.iter().map(|text| text.text().into()).collect(),
        deleting: metadata.deletion_timestamp.is_some(),
    })
}

/// What a bookmark says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bookmark {
    pub(super) revision: u64,
    /// The initial events are over: everything that existed has been sent.
    pub(super) initial_end: bool,
}

pub(super) fn bookmark(object: &[u8]) -> Result<Bookmark, serde_json::Error> {
    let Outer { metadata } = serde_json::from_slice(object)?;
    Ok(Bookmark {
        revision: revision(metadata.resource_version.text())?,
        initial_end: metadata
            .annotations
            .0
            .iter()
            .any(|(key, value)| key.text() == "k8s.io/initial-events-end" && value.text() == "true"),
    })
}

fn revision(text: &str) -> Result<u64, serde_json::Error> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse()
        .map_err(|_| serde::de::Error::custom(format_args!("resourceVersion {text:?} is not a number")))
}

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    namespace: Text<'a>,
    #[serde(borrow)]
    uid: Text<'a>,
    #[serde(borrow)]
    resource_version: Text<'a>,
    #[serde(borrow)]
    labels: Pairs<'a>,
    #[serde(borrow)]
    annotations: Pairs<'a>,
    #[serde(borrow)]
    owner_references: Nullable<Reference<'a>>,
    #[serde(borrow)]
    finalizers: Nullable<Text<'a>>,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Reference<'a> {
    #[serde(borrow)]
    api_version: Text<'a>,
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    uid: Text<'a>,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

/// A list that may be `null`.
struct Nullable<T>(Vec<T>);

impl<T> Default for Nullable<T> {
    fn default() -> Self {
        Nullable(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Nullable<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Nullable(Option::deserialize(deserializer)?.unwrap_or_default()))
    }
}

/// A string that borrows where it has no escapes; serde's `Cow` always copies when nested. `null` reads as empty.
#[derive(Default)]
struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    fn text(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(""))
            }
        }
        deserializer.deserialize_any(V).map(Text)
    }
}

#[derive(Default)]
struct Pairs<'a>(Vec<(Text<'a>, Text<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Pairs(Vec::new()))
            }
        }
        deserializer.deserialize_any(V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_whatever_surrounds_them() {
        let facts = extract(
            br#"{"apiVersion":"v1","kind":"Pod","spec":{"metadata":{"name":"not me"}},"metadata":{
                "name":"a","namespace":"n","uid":"u","resourceVersion":"42","labels":{"z":"1","app":"w\u00e9b"},
                "annotations":null,"finalizers":["f"],"deletionTimestamp":"2026-01-01T00:00:00Z",
                "ownerReferences":[{"apiVersion":"v1","kind":"X","name":"x","uid":"ux"},
                  {"apiVersion":"apps/v1","kind":"ReplicaSet","name":"rs","uid":"urs","controller":true,"blockOwnerDeletion":true}]},
                "status":{}}"#,
            |word| word.into(),
        )
        .unwrap();
        assert_eq!(
            (&*facts.namespace, &*facts.name, &*facts.uid, facts.revision),
            ("n", "a", "u", 42)
        );
        assert_eq!(facts.labels.get("app"), Some("wéb"));
        assert_eq!(facts.labels.get("no"), None);
        assert_eq!(facts.owner().map(|o| &*o.name), Some("rs"));
        assert_eq!(facts.owners.len(), 2);
        assert!(facts.deleting);
        assert_eq!(facts.key(), "n/a");
    }

    #[test]
    fn a_bookmark_tells_the_end_of_the_initial_events() {
        let read = |text: &str| bookmark(text.as_bytes()).unwrap();
        let plain = read(r#"{"kind":"Pod","metadata":{"resourceVersion":"7","creationTimestamp":null}}"#);
        assert_eq!(
            plain,
            Bookmark {
                revision: 7,
                initial_end: false
            }
        );
        let end = read(r#"{"metadata":{"resourceVersion":"8","annotations":{"k8s.io/initial-events-end":"true"}}}"#);
        assert_eq!(
            end,
            Bookmark {
                revision: 8,
                initial_end: true
            }
        );
    }
}

//! An object on its way in: a JSON tree with typed access to its metadata.
//! Reads never build one: they send the bytes that the cache keeps.

mod codec;

use serde_json::{Map, Value};

/// An API object as a JSON tree. The root is always a JSON object.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object(pub Map<String, Value>);

impl Object {
    pub fn api_version(&self) -> &str {
        self.str_at(&["apiVersion"])
    }
    pub fn kind(&self) -> &str {
        self.str_at(&["kind"])
    }
    pub fn name(&self) -> &str {
        self.str_at(&["metadata", "name"])
    }
    pub fn generate_name(&self) -> &str {
        self.str_at(&["metadata", "generateName"])
    }
    /// Empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.str_at(&["metadata", "namespace"])
    }
    pub fn uid(&self) -> &str {
        self.str_at(&["metadata", "uid"])
    }
    pub fn resource_version(&self) -> &str {
        self.str_at(&["metadata", "resourceVersion"])
    }
    pub fn is_deleting(&self) -> bool {
        self.at(&["metadata", "deletionTimestamp"]).is_some()
    }

    /// The value under `path`, if every step of it is an object.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter()
            .try_fold(self.0.get(*first)?, |value, step| value.get(step))
            .filter(|v| !v.is_null())
    }
    /// The string under `path`, empty where there is none.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or("")
    }
    /// The metadata, made where there is none.
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        self.entry("metadata")
    }
    /// The object under the root field `name`, made where there is none or where it is no object.
    pub fn entry(&mut self, name: &str) -> &mut Map<String, Value> {
        let slot = self.0.entry(name).or_insert_with(|| Value::Object(Map::new()));
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        slot.as_object_mut().expect("made an object above")
    }
}

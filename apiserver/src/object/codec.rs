//! Stored bytes to a tree and back. Encoded once per write; reads share the bytes.

use bytes::Bytes;
use serde_json::Value;

use super::Object;

impl Object {
    /// A stored value with the resourceVersion that it is served with.
    pub fn from_stored(value: &[u8], revision: impl std::fmt::Display) -> Result<Self, serde_json::Error> {
        let mut object = Object(serde_json::from_slice(value)?);
        object.set_revision(revision);
        Ok(object)
    }
    pub fn set_revision(&mut self, revision: impl std::fmt::Display) {
        self.metadata_mut()
            .insert("resourceVersion".into(), Value::String(revision.to_string()));
    }
    /// As it is stored: sorted keys, no resourceVersion.
    pub fn to_stored(&mut self) -> Bytes {
        let metadata = self.metadata_mut();
        metadata.remove("resourceVersion");
        metadata.remove("selfLink");
        self.to_bytes()
    }
    pub fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(&self.0)
            .expect("a JSON tree has string keys and finite numbers")
            .into()
    }
}

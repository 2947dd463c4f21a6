//! The schema of every built-in type, from one compact table of facts (`facts.txt`): field names, types, protobuf
//! numbers, list types, map and merge keys, defaults. One table drives strict decoding, defaulting, strategic merge,
//! pruning, protobuf, OpenAPI and explain. Pure: bytes and trees in, trees and refusals out.
//!
//! ```text
//!   body ─ decode ─► object ─ default ─► (strategy, admission) ─ normalise ─► encode ─► store
//! ```

mod decode;
mod defaults;
mod json;
mod leaf;
pub mod openapi;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod properties;
pub mod protobuf;
mod shape;
pub mod table;
pub mod tree;
mod yaml;

pub use decode::{Decoded, Format, Gvk, Patched, Validation, check, decode};
pub use defaults::default;
pub use shape::{normalise, zero_object as zero};
pub use table::{Field, ListType, Patch, Shape, Ty, TypeRef, type_of};

use serde_json::{Map, Value};

use crate::object::Object;

/// The bytes that the store keeps: compact JSON with sorted keys.
pub fn encode(object: &Object) -> Vec<u8> {
    serde_json::to_vec(&object.0).expect("a JSON tree always has a JSON form")
}

/// A YAML or JSON document that is an object, as it stands, with what is to be said of keys that come twice. Whole
/// numbers are integers however they are written. The error is Go's text.
pub fn yaml_object(bytes: &[u8]) -> Result<(Map<String, Value>, Vec<String>), String> {
    let read = yaml::to_json(bytes).map_err(|why| format!("error converting YAML to JSON: {why}"))?;
    let value = tree::read(&read.json)?.value;
    match value {
        Value::Object(object) => Ok((object, read.duplicates)),
        Value::Null => Ok((Map::new(), read.duplicates)),
        other => Err(format!(
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            tree::word(&other)
        )),
    }
}

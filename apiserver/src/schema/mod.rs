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
pub use shape::normalise;
pub use table::{Field, ListType, Patch, Shape, Ty, TypeRef, type_of};

use crate::object::Object;

/// The bytes that the store keeps: compact JSON with sorted keys.
pub fn encode(object: &Object) -> Vec<u8> {
    serde_json::to_vec(&object.0).expect("a JSON tree always has a JSON form")
}

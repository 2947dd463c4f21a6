//! JSON trees to Kubernetes' protobuf and back, driven by the table: no generated code, every built-in type.
//! Comes in and goes out: the `k8s\0` envelope around a message as gogo writes it (fields that are no pointers are
//! always there). Complete or refused: a type without numbers, or a field that the table does not have, is an error.

mod read;
pub(super) mod wire;
mod write;

use serde_json::{Map, Value};

use super::table::{TypeRef, type_of};

/// What every stored or sent message begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0} has no protobuf form")]
    NoForm(String),
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    NoKind { api_version: String, kind: String },
    #[error("a message ends early")]
    Truncated,
    #[error("{0}: not a value of its type")]
    Value(String),
    #[error("{message} has no field {number}")]
    UnknownField { message: &'static str, number: u32 },
    #[error("not an object in protobuf")]
    NotAMessage,
}

/// What becomes of fields that the table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// For what is stored: nothing may get lost.
    Refuse,
    /// For what clients send, as upstream does.
    Drop,
}

/// An object with its envelope. `apiVersion` and `kind` are the object's own.
pub fn to_protobuf(ty: TypeRef, object: &Map<String, Value>) -> Result<Vec<u8>, Error> {
    let word = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut out = MAGIC.to_vec();
    wire::message(&mut out, 1, |out| {
        wire::text(out, 1, word("apiVersion"));
        wire::text(out, 2, word("kind"));
        Ok(())
    })?;
    wire::message(&mut out, 2, |out| write::object(ty, object, out))?;
    wire::text(&mut out, 3, "");
    wire::text(&mut out, 4, "");
    Ok(out)
}

/// An object from its envelope, with the type that it names; where it names none it is of the `expected` type.
pub fn from_protobuf(
    bytes: &[u8],
    expected: Option<TypeRef>,
    unknown: Unknown,
) -> Result<(TypeRef, Map<String, Value>), Error> {
    let body = bytes.strip_prefix(MAGIC).ok_or(Error::NotAMessage)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &b""[..]);
    for field in wire::fields(body) {
        match field? {
            (1, wire::Datum::Bytes(meta)) => {
                for field in wire::fields(meta) {
                    match field? {
                        (1, wire::Datum::Bytes(text)) => api_version = read::text(text)?,
                        (2, wire::Datum::Bytes(text)) => kind = read::text(text)?,
                        _ => return Err(Error::NotAMessage),
                    }
                }
            }
            (2, wire::Datum::Bytes(found)) => raw = found,
            // An encoding or content type of its own: not ours to read.
            (3 | 4, wire::Datum::Bytes(b"")) => {}
            _ => return Err(Error::NotAMessage),
        }
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let named = if kind.is_empty() {
        expected
    } else {
        type_of(group, version, &kind)
    };
    let Some(ty) = named else {
        return Err(Error::NoKind { api_version, kind });
    };
    let mut object = read::object(ty, raw, unknown)?;
    if ty.field("apiVersion").is_some() && !kind.is_empty() {
        object.insert("apiVersion".into(), api_version.into());
        object.insert("kind".into(), kind.into());
    }
    Ok((ty, object))
}

#[cfg(test)]
mod tests;

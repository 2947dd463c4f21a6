//! Request bodies: read up to a limit, then decoded against the schema.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt;
use serde_json::Value;

use super::negotiate::{self, Sent};
use crate::object::Object;
use crate::registry::Row;
use crate::registry::write::Context;
use crate::schema::protobuf::{self, Unknown};
use crate::schema::{self, Format, Gvk, Patched, TypeRef, Validation, tree};
use crate::status::{Errors, Status};

/// Upstream's MaxRequestBodyBytes.
pub(super) const LIMIT: usize = 3 * 1024 * 1024;

/// The whole body; 413 where it is larger than [`LIMIT`], whether it says so or not.
pub(super) async fn read(mut body: Body) -> Result<Bytes, Status> {
    let too_large = || Status::too_large(format!("Request entity too large: limit is {LIMIT}"));
    if body.size_hint().lower() > LIMIT as u64 {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut all: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("unable to read the request body: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.is_empty() && all.is_none() {
            // Most bodies are one frame, which is not copied.
            first = data;
        } else {
            all.get_or_insert_with(|| BytesMut::from(&first[..]))
                .extend_from_slice(&data);
        }
        if all.as_ref().map_or(first.len(), BytesMut::len) > LIMIT {
            return Err(too_large());
        }
    }
    Ok(all.map_or(first, BytesMut::freeze))
}

/// The type of a kind; every row that is served has one.
pub(super) fn type_of(gvk: Gvk<'_>) -> Result<TypeRef, Status> {
    schema::type_of(gvk.group, gvk.version, gvk.kind).ok_or_else(|| {
        tracing::error!(?gvk, "a row is served whose kind has no schema");
        Status::internal("the kind has no schema")
    })
}

pub(super) fn gvk<'a>(row: &'a Row, version: &'a str) -> Gvk<'a> {
    Gvk {
        group: &row.group,
        version,
        kind: &row.kind,
    }
}

/// An object of `gvk` as a client sent it, with that version's defaults.
pub(super) fn decode(
    gvk: Gvk<'_>,
    headers: &HeaderMap,
    bytes: &[u8],
    validation: Validation,
    warn: impl FnMut(String),
) -> Result<Object, Status> {
    let ty = type_of(gvk)?;
    let format = match negotiate::body(headers)? {
        Sent::Json => Format::Json,
        Sent::Yaml => Format::Yaml,
        Sent::Protobuf => {
            let mut object = from_protobuf(ty, gvk, bytes)?;
            schema::default(ty, &mut object.0);
            return Ok(object);
        }
    };
    let decoded = schema::decode(ty, gvk, format, bytes, validation)?;
    decoded.warnings.into_iter().for_each(warn);
    let mut object = decoded.object;
    schema::default(ty, &mut object.0);
    Ok(object)
}

/// Unknown fields are dropped whatever the request says of them: upstream checks them in JSON and YAML alone.
fn from_protobuf(ty: TypeRef, gvk: Gvk<'_>, bytes: &[u8]) -> Result<Object, Status> {
    let read = protobuf::from_protobuf(bytes, Some(ty), Unknown::Drop);
    let (found, fields) = read.map_err(|error| {
        let kind = gvk.kind;
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {error}"
        ))
    })?;
    let mut object = Object(fields);
    if found != ty {
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}",
            object.kind(),
            object.api_version(),
            gvk.kind
        )));
    }
    // The envelope may leave them out.
    object.0.insert("apiVersion".into(), gvk.api_version().into());
    object.0.insert("kind".into(), gvk.kind.into());
    Ok(object)
}

/// An object of a row, in the stored form.
pub(super) fn decode_row(
    row: &Row,
    context: &Context<'_>,
    headers: &HeaderMap,
    bytes: &[u8],
    validation: Validation,
) -> Result<Object, Status> {
    let gvk = gvk(row, context.version);
    let mut object = decode(gvk, headers, bytes, validation, |warning| context.warn(warning))?;
    row.to_stored(&mut object);
    Ok(object)
}

/// What a patch made, read as if a client had sent it. The refusals are upstream's for a patch that does not fit:
/// they quote `shown`. `complaints` are those about the patch itself.
pub(super) fn checked(
    gvk: Gvk<'_>,
    by: Patched,
    tree: &Value,
    shown: impl Fn() -> String,
    mut complaints: Vec<String>,
    validation: Validation,
    warn: impl FnMut(String),
) -> Result<Object, Status> {
    let ty = type_of(gvk)?;
    let unfit = |why: &str| {
        let mut errors = Errors::default();
        errors.invalid("patch", &Value::from(shown()), why);
        Status::invalid("", "", "", errors)
    };
    let (mut object, unknown) = schema::check(ty, gvk, by, tree).map_err(|why| unfit(&why))?;
    complaints.extend(unknown);
    match validation {
        Validation::Strict if !complaints.is_empty() => {
            return Err(unfit(&format!("strict decoding error: {}", complaints.join(", "))));
        }
        Validation::Warn => complaints.into_iter().for_each(warn),
        Validation::Strict | Validation::Ignore => {}
    }
    schema::default(ty, &mut object.0);
    Ok(object)
}

/// DeleteOptions, which no version and no default belongs to.
pub(super) fn delete_options(headers: &HeaderMap, bytes: &[u8]) -> Result<Object, Status> {
    let value = match negotiate::body(headers)? {
        Sent::Json => tree::read(bytes).map(|tree| tree.value),
        Sent::Yaml => serde_saphyr::from_slice(bytes).map_err(|e| e.to_string()),
        Sent::Protobuf => {
            let gvk = Gvk {
                group: "",
                version: "v1",
                kind: "DeleteOptions",
            };
            return from_protobuf(type_of(gvk)?, gvk, bytes);
        }
    };
    match value {
        Ok(Value::Object(fields)) => Ok(Object(fields)),
        Ok(_) => Err(Status::bad_request("the request body is no object")),
        Err(error) => Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: {error}"
        ))),
    }
}

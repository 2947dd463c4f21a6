//! PATCH: what the client wants changed, in one of three languages. The patch is applied to the served version, read back
//! as if the client had sent the result, and stored by the same loop as an update.

use axum::body::Body;
use http::Response;
use serde_json::{Map, Value};

use super::{Call, body, get, negotiate, options, update};
use crate::object::Object;
use crate::registry::Row;
use crate::registry::patch::{self, Error, strategic};
use crate::registry::row::Subresource;
use crate::registry::subresource::{scale_of, scaled};
use crate::schema::{self, Gvk, Ty, TypeRef};
use crate::status::{Reason, Status};

/// The languages, by their media types.
#[derive(Debug)]
enum Patch {
    Json(Value),
    Merge(Map<String, Value>),
    Strategic(Map<String, Value>),
}

const ACCEPTED: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

pub(super) async fn patch(
    call: &Call<'_>,
    row: &Row,
    part: Option<Subresource>,
    body: Body,
) -> Result<Response<Body>, Status> {
    let options = options::Write::parse(call.query, "PatchOptions")?;
    let media_type = negotiate::media_type(&call.head.headers).to_owned();
    if !ACCEPTED.split(", ").any(|accepted| accepted == media_type) {
        return Err(Status::unsupported_media_type(ACCEPTED));
    }
    let bytes = body::read(body).await?;
    let patch = parse(&media_type, &bytes)?;
    let context = call.write(options.dry_run);
    let name = &*call.target.name;
    let version = call.target.version;
    if part == Some(Subresource::Scale) {
        let mut change = |old: Option<&Object>| {
            let old = old.ok_or_else(|| Status::not_found(row.about(), name))?;
            let tree = applied(&patch, scale_of(old), update::SCALE)?;
            let scale = body::checked(update::SCALE, tree, options.validation, |w| context.warn(w))?;
            scaled(row, name, old, &scale)
        };
        return update::scale_with(call, row, options.dry_run, &mut change).await;
    }
    let gvk = body::gvk(row, version);
    let mut change = |old: Option<&Object>| {
        let Some(old) = old else {
            return Err(Status::not_found(row.about(), name));
        };
        let mut current = old.clone();
        row.from_stored(&mut current, version);
        let tree = applied(&patch, current, gvk)?;
        let mut new = body::checked(gvk, tree, options.validation, |w| context.warn(w))?;
        same_object(&new, name, call.target.namespace, row)?;
        row.to_stored(&mut new);
        Ok(new)
    };
    let gate = call.gate(row, options.dry_run);
    let stored = call
        .api
        .registry
        .update(row, &context, name, &mut change, &gate)
        .await?;
    get::stored(update::code(&stored), row, call, &stored)
}

fn parse(media_type: &str, bytes: &[u8]) -> Result<Patch, Status> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    match (media_type, value) {
        ("application/json-patch+json", value) => Ok(Patch::Json(value)),
        ("application/merge-patch+json", Value::Object(fields)) => Ok(Patch::Merge(fields)),
        ("application/strategic-merge-patch+json", Value::Object(fields)) => Ok(Patch::Strategic(fields)),
        _ => Err(Status::bad_request(
            "json: cannot unmarshal non-object into Go value of type map[string]interface {}",
        )),
    }
}

fn applied(patch: &Patch, object: Object, gvk: Gvk<'_>) -> Result<Value, Status> {
    let mut tree = Value::Object(object.0);
    match patch {
        Patch::Json(operations) => patch::json::apply(&mut tree, operations).map_err(refused)?,
        Patch::Merge(fields) => patch::merge::apply(&mut tree, Value::Object(fields.clone())),
        Patch::Strategic(fields) => {
            let shape = Typed::Object(body::type_of(gvk)?);
            if let Value::Object(target) = &mut tree {
                strategic::apply(target, fields.clone(), Some(shape)).map_err(refused)?;
            }
        }
    }
    Ok(tree)
}

fn refused(error: Error) -> Status {
    match error {
        Error::Malformed(why) => Status::bad_request(why),
        Error::Unfit(_) | Error::Rejected => Status {
            code: 422,
            reason: Reason::Invalid,
            message: error.to_string(),
            details: None,
            continue_token: None,
        },
    }
}

/// A patch cannot make another object of this one.
fn same_object(new: &Object, name: &str, namespace: &str, row: &Row) -> Result<(), Status> {
    if new.name() != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            new.name()
        )));
    }
    if row.namespaced() && new.namespace() != namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({}) does not match the namespace on the request ({namespace})",
            new.namespace()
        )));
    }
    Ok(())
}

/// The schema as a strategic merge sees it.
#[derive(Debug, Clone, Copy)]
enum Typed {
    Object(TypeRef),
    /// A map: every key leads to the same type.
    Map(Ty),
}

impl Typed {
    /// The object inside a field's type: the value itself, or a list's element.
    fn of(ty: Ty) -> Option<Typed> {
        match ty.shape() {
            schema::Shape::Object(object) => Some(Typed::Object(object)),
            schema::Shape::List(inner) => Typed::of(inner),
            schema::Shape::Map(inner) => Some(Typed::Map(inner)),
            _ => None,
        }
    }
}

impl strategic::Shape for Typed {
    fn field(self, name: &str) -> strategic::Field<Self> {
        match self {
            Typed::Object(ty) => match ty.field(name) {
                Some(field) => {
                    let patch = field.patch();
                    strategic::Field {
                        merge: patch.merge,
                        replace: patch.replace,
                        key: field.merge_key(),
                        inner: Typed::of(field.ty()),
                    }
                }
                None => strategic::Field::unknown(),
            },
            Typed::Map(ty) => strategic::Field {
                inner: Typed::of(ty),
                ..strategic::Field::unknown()
            },
        }
    }
}

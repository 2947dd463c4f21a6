//! PATCH: what the client wants changed, in one of three languages (for the fourth see `apply`). The patch is applied to the served version, read back
//! as if the client had sent the result, and stored by the same loop as an update.

use axum::body::Body;
use http::Response;
use serde_json::{Map, Value};

use super::{Call, apply, body, get, negotiate, options, update};
use crate::object::Object;
use crate::registry::Row;
use crate::registry::fields;
use crate::registry::patch::{self, Error, strategic};
use crate::registry::row::Subresource;
use crate::schema::{self, Gvk, Patched, Ty, TypeRef, Validation, tree};
use crate::status::{Reason, Status};

/// The languages, by their media types.
#[derive(Debug)]
enum Language {
    Json(Vec<Value>),
    Merge(Map<String, Value>),
    Strategic(Map<String, Value>),
}

#[derive(Debug)]
struct Patch {
    says: Language,
    /// Of what the patch itself says twice.
    complaints: Vec<String>,
    validation: Validation,
}

const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

pub(super) async fn patch(
    call: &Call<'_>,
    row: &Row,
    part: Option<Subresource>,
    body: Body,
) -> Result<Response<Body>, Status> {
    let media_type = negotiate::media_type(&call.head.headers).to_owned();
    if media_type == apply::MEDIA_TYPE {
        return apply::apply(call, row, part, body).await;
    }
    let options = options::Write::parse(call.query, "PatchOptions")?;
    if !ACCEPTED.split(", ").any(|accepted| accepted == media_type) {
        return Err(Status::unsupported_media_type(ACCEPTED));
    }
    let bytes = body::read(body).await?;
    let patch = parse(&media_type, &bytes, options.validation)?;
    let context = call.write_as(&options);
    let name = &*call.target.name;
    let version = call.target.version;
    if part == Some(Subresource::Scale) {
        let mut change = |old: Option<&Object>| {
            let old = old.ok_or_else(|| Status::not_found(row.about(), name))?;
            let live = update::live_scale(old);
            let mut scale = applied(&patch, live.clone(), update::SCALE, |w| context.warn(w))?;
            fields::track(
                &update::scale_form(call, call.manager(&options))?,
                Some(&live.0),
                &mut scale.0,
            );
            update::rescaled(call, row, old, &scale)
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
        let mut new = applied(&patch, current, gvk, |w| context.warn(w))?;
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

/// The texts are those of Go's decoder, which upstream asks once strictly and once as it comes.
fn parse(media_type: &str, bytes: &[u8], validation: Validation) -> Result<Patch, Status> {
    let (prefix, list, map) = match validation {
        Validation::Ignore => ("", "jsonpatch.Patch", "map[string]interface {}"),
        _ => ("error decoding patch: ", "[]interface {}", "map[string]interface {}"),
    };
    let tree = tree::read(bytes).map_err(|why| Status::bad_request(format!("{prefix}{why}")))?;
    let unfit = |value: &Value, into: &str| {
        let word = tree::word(value);
        Status::bad_request(format!(
            "{prefix}json: cannot unmarshal {word} into Go value of type {into}"
        ))
    };
    let says = match (media_type, tree.value) {
        ("application/json-patch+json", Value::Null) => Language::Json(Vec::new()),
        ("application/json-patch+json", Value::Array(operations)) => {
            if let Some(other) = operations.iter().find(|o| !o.is_object() && !o.is_null()) {
                let word = tree::word(other);
                let why = format!("json: cannot unmarshal {word} into Go value of type jsonpatch.Operation");
                return Err(Status::bad_request(why));
            }
            Language::Json(operations)
        }
        ("application/json-patch+json", other) => return Err(unfit(&other, list)),
        ("application/merge-patch+json", Value::Object(fields)) => Language::Merge(fields),
        ("application/merge-patch+json", Value::Null) => Language::Merge(Map::new()),
        (_, Value::Object(fields)) => Language::Strategic(fields),
        (_, Value::Null) => Language::Strategic(Map::new()),
        (_, other) => return Err(unfit(&other, map)),
    };
    Ok(Patch {
        says,
        complaints: tree.duplicates,
        validation,
    })
}

fn applied(patch: &Patch, object: Object, gvk: Gvk<'_>, warn: impl FnMut(String)) -> Result<Object, Status> {
    let mut tree = Value::Object(object.0);
    let by = match &patch.says {
        Language::Json(operations) => {
            patch::json::apply(&mut tree, operations).map_err(refused)?;
            Patched::Text
        }
        Language::Merge(fields) => {
            patch::merge::apply(&mut tree, Value::Object(fields.clone()));
            Patched::Text
        }
        Language::Strategic(fields) => {
            let shape = Typed::Object(body::type_of(gvk)?);
            if let Value::Object(target) = &mut tree {
                strategic::apply(target, fields.clone(), Some(shape)).map_err(refused)?;
            }
            Patched::Tree
        }
    };
    // Upstream shows the patch where it converts trees, and what came of it where that is text.
    let shown = || match &patch.says {
        Language::Strategic(fields) => patch::go_map(fields),
        Language::Json(_) | Language::Merge(_) => tree.to_string(),
    };
    body::checked(gvk, by, &tree, shown, patch.complaints.clone(), patch.validation, warn)
}

fn refused(error: Error) -> Status {
    match error {
        Error::Malformed(why) => Status::bad_request(why),
        Error::TooLarge(why) => Status::too_large(why),
        // Upstream's own word for these: nobody there gives them a code or a reason.
        Error::Unfit(_) => Status {
            code: 500,
            reason: Reason::Unknown,
            message: error.to_string(),
            details: None,
            continue_token: None,
        },
        Error::Rejected => Status {
            code: 422,
            reason: Reason::Invalid,
            message: error.to_string(),
            details: None,
            continue_token: None,
        },
    }
}

/// A patch cannot make another object of this one.
pub(super) fn same_object(new: &Object, name: &str, namespace: &str, row: &Row) -> Result<(), Status> {
    if new.name().is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
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

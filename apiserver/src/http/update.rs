//! PUT: an object or a part of one, as the client wants it.

use axum::body::Body;
use http::{Response, StatusCode};

use super::negotiate::{self, Offer};
use super::{Call, body, get, options};
use crate::object::Object;
use crate::registry::Row;
use crate::registry::fields::{self, By, Form, OneVersion};
use crate::registry::subresource::{scale_of, scaled};
use crate::registry::write::Stored;
use crate::schema::Gvk;
use crate::status::Status;
use crate::strategy::{Reset, meta};

pub(super) const SCALE: Gvk<'static> = Gvk {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
};

pub(super) async fn update(call: &Call<'_>, row: &Row, body: Body) -> Result<Response<Body>, Status> {
    let options = options::Write::parse(call.query, "UpdateOptions")?;
    let bytes = body::read(body).await?;
    let context = call.write_as(&options);
    let mut object = body::decode_row(row, &context, &call.head.headers, &bytes, options.validation)?;
    named(call, row, &mut object)?;
    let gate = call.creating_gate(row, options.dry_run);
    let mut change = |_: Option<&Object>| Ok(object.clone());
    let stored = call
        .api
        .registry
        .update(row, &context, &call.target.name, &mut change, &gate)
        .await?;
    get::stored(code(&stored), row, call, &stored)
}

pub(super) fn code(stored: &Stored) -> StatusCode {
    if stored.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    }
}

/// The object is the one that the URL names.
fn named(call: &Call<'_>, row: &Row, object: &mut Object) -> Result<(), Status> {
    let name = &*call.target.name;
    if object.name().is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    if object.name() != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            object.name()
        )));
    }
    let namespace = call.target.namespace;
    if row.namespaced() && !object.namespace().is_empty() && object.namespace() != namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({}) does not match the namespace on the request ({namespace})",
            object.namespace()
        )));
    }
    crate::registry::write::match_namespace(row, namespace, object)
}

pub(super) async fn scale(call: &Call<'_>, row: &Row, body: Body) -> Result<Response<Body>, Status> {
    let options = options::Write::parse(call.query, "UpdateOptions")?;
    let bytes = body::read(body).await?;
    let context = call.write_as(&options);
    let headers = &call.head.headers;
    let scale = body::decode(SCALE, headers, &bytes, options.validation, |w| context.warn(w))?;
    let name = &*call.target.name;
    if scale.name() != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            scale.name()
        )));
    }
    let mut change = |old: Option<&Object>| {
        let old = old.ok_or_else(|| Status::not_found(row.about(), name))?;
        let live = live_scale(old);
        let mut scale = scale.clone();
        fields::track(&scale_form(call, call.manager(&options))?, Some(&live.0), &mut scale.0);
        rescaled(call, row, old, &scale)
    };
    scale_with(call, row, options.dry_run, &mut change).await
}

/// The Scale of a workload, with the owners of its replicas.
pub(super) fn live_scale(workload: &Object) -> Object {
    let mut scale = scale_of(workload);
    fields::scale_entries(&workload.0, &mut scale.0);
    scale
}

/// Whose fields a write of a Scale changes.
pub(super) fn scale_form<'a>(call: &'a Call<'_>, manager: &'a str) -> Result<Form<'a>, Status> {
    Ok(Form {
        gvk: SCALE,
        ty: body::type_of(SCALE)?,
        subresource: call.target.subresource,
        reset: Reset::NOTHING,
        manager,
        now: meta::seconds(call.now),
        versions: &OneVersion,
    })
}

/// The workload with the replicas and with their owners of its new Scale.
pub(super) fn rescaled(call: &Call<'_>, row: &Row, old: &Object, scale: &Object) -> Result<Object, Status> {
    let mut workload = scaled(row, &call.target.name, old, scale)?;
    fields::workload_entries(&row.api_version(call.target.version), &scale.0, &mut workload.0);
    Ok(workload)
}

/// Stores the scaled workload and answers with its Scale.
pub(super) async fn scale_with(
    call: &Call<'_>,
    row: &Row,
    dry_run: bool,
    change: &mut crate::registry::write::Change<'_>,
) -> Result<Response<Body>, Status> {
    let accept = negotiate::accept(&call.head.headers, Offer::Plain)?;
    let context = call.write_by(By::Change, dry_run);
    let gate = call.gate(row, dry_run);
    let stored = call
        .api
        .registry
        .update(row, &context, &call.target.name, change, &gate)
        .await?;
    let workload = Object::from_stored(&stored.value, stored.revision.unwrap_or_default())
        .map_err(|_| Status::internal("the stored object cannot be read"))?;
    Ok(get::object(StatusCode::OK, call, accept, &scale_of(&workload)))
}

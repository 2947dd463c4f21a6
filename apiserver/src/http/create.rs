//! POST: a new object, or a binding.

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::Value;

use super::{Call, body, get, options, respond};
use crate::registry::Row;
use crate::registry::write::{Gate, Write};
use crate::schema::Gvk;
use crate::status::Status;

pub(super) async fn create(call: &Call<'_>, row: &Row, body: Body) -> Result<Response<Body>, Status> {
    let options = options::Write::parse(call.query, "CreateOptions")?;
    let bytes = body::read(body).await?;
    let context = call.write_as(&options);
    let object = body::decode_row(row, &context, &call.head.headers, &bytes, options.validation)?;
    let gate = call.gate(row, options.dry_run);
    let stored = call.api.registry.create(row, &context, object, &gate).await?;
    get::stored(StatusCode::CREATED, row, call, &stored)
}

/// What the scheduler decided: `pods/binding`, or a Binding of the old form that names its pod itself.
pub(super) async fn bind(call: &Call<'_>, row: &Row, body: Body) -> Result<Response<Body>, Status> {
    let options = options::Write::parse(call.query, "CreateOptions")?;
    let bytes = body::read(body).await?;
    let gvk = Gvk {
        group: "",
        version: "v1",
        kind: "Binding",
    };
    let context = call.write_as(&options);
    let mut binding = body::decode(gvk, &call.head.headers, &bytes, options.validation, |w| context.warn(w))?;
    let name = match &*call.target.name {
        "" => binding.name().to_owned(),
        name => name.to_owned(),
    };
    if name.is_empty() {
        return Err(Status::bad_request("name must be provided"));
    }
    if !binding.name().is_empty() && binding.name() != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    binding.metadata_mut().insert("name".into(), name.as_str().into());
    crate::registry::write::match_namespace(row, call.target.namespace, &mut binding)?;
    let pods = call
        .api
        .registry
        .table()
        .find("", "pods")
        .ok_or_else(Status::no_such_resource)?;
    let gate = call.gate(row, options.dry_run);
    gate.mutate(&name, &mut binding, None).await?;
    let outcome = match gate.validate(&name, Some(&binding), None).await {
        Ok(()) => call.api.registry.bind(&pods, &context, &name, &binding).await,
        Err(status) => Err(status),
    };
    gate.finish(&binding, None, Write::Create, outcome.is_ok() && !options.dry_run)
        .await;
    outcome?;
    Ok(respond::success(StatusCode::CREATED, Value::Null))
}

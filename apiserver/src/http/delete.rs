//! DELETE of one object or of many, and eviction.

use std::sync::Arc;

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Call, body, get, list, options, respond};
use crate::object::Object;
use crate::registry::Row;
use crate::registry::remove::{Delete, Removed};
use crate::registry::write::{Gate, Write};
use crate::schema::Gvk;
use crate::status::Status;

async fn delete_options(call: &Call<'_>, body: Body) -> Result<Delete, Status> {
    let bytes = body::read(body).await?;
    if bytes.is_empty() {
        return options::delete(call.query, None);
    }
    let sent = body::delete_options(&call.head.headers, &bytes)?;
    options::delete(call.query, Some(&sent))
}

pub(super) async fn delete(call: &Call<'_>, row: &Row, body: Body) -> Result<Response<Body>, Status> {
    let options = delete_options(call, body).await?;
    let context = call.write(options.dry_run);
    let gate = call.gate(row, options.dry_run);
    let name = &*call.target.name;
    match call.api.registry.delete(row, &context, name, &options, &gate).await? {
        Removed::Gone { last, .. } if row.returns_deleted => get::stored(StatusCode::OK, row, call, &last),
        Removed::Gone { uid, .. } => {
            let mut details = json!({"name": name, "kind": row.plural, "uid": uid});
            if !row.group.is_empty() {
                details["group"] = json!(row.group);
            }
            Ok(respond::success(StatusCode::OK, details))
        }
        Removed::Pending(stored) => {
            let code = if options.accepted {
                StatusCode::ACCEPTED
            } else {
                StatusCode::OK
            };
            get::stored(code, row, call, &stored)
        }
    }
}

pub(super) async fn collection(call: &Call<'_>, row: Arc<Row>, body: Body) -> Result<Response<Body>, Status> {
    let delete = delete_options(call, body).await?;
    let options = options::List::parse(call.query, false)?;
    let filter = list::filter(&row, call, &options)?;
    let context = call.write(delete.dry_run);
    let deleted = call
        .api
        .registry
        .delete_collection(&row, &context, &filter, &delete, &call.gate(&row, delete.dry_run))
        .await?;
    let mut items = Vec::with_capacity(deleted.len());
    for stored in deleted {
        let mut object = Object::from_stored(&stored.value, stored.revision.unwrap_or_default())
            .map_err(|_| Status::internal("the stored object cannot be read"))?;
        row.from_stored(&mut object, call.target.version);
        items.push(Value::Object(object.0));
    }
    let list = json!({
        "kind": format!("{}List", row.kind),
        "apiVersion": row.api_version(call.target.version),
        "metadata": {"resourceVersion": row.cache()?.revision().to_string()},
        "items": items,
    });
    let accept = super::negotiate::accept(&call.head.headers, super::negotiate::Offer::Plain)?;
    let pretty = options::pretty(call.query, &call.head.headers);
    Ok(respond::tree(StatusCode::OK, accept.format, pretty, &list))
}

/// `pods/eviction`: a delete that asks the disruption budgets first.
pub(super) async fn evict(call: &Call<'_>, row: &Row, body: Body) -> Result<Response<Body>, Status> {
    let write = options::Write::parse(call.query, "CreateOptions")?;
    let bytes = body::read(body).await?;
    let gvk = Gvk {
        group: "policy",
        version: "v1",
        kind: "Eviction",
    };
    let warn = |warning| call.write(write.dry_run).warn(warning);
    let eviction = body::decode(gvk, &call.head.headers, &bytes, write.validation, warn)?;
    let name = &*call.target.name;
    if !eviction.name().is_empty() && eviction.name() != name {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let sent = match eviction.at(&["deleteOptions"]) {
        Some(Value::Object(fields)) => Some(Object(fields.clone())),
        _ => None,
    };
    let mut options = options::delete("", sent.as_ref())?;
    options.dry_run |= write.dry_run;
    let context = call.write(options.dry_run);
    let gate = call.gate(row, options.dry_run);
    let mut eviction = eviction;
    gate.mutate(name, &mut eviction, None).await?;
    let outcome = match gate.validate(name, Some(&eviction), None).await {
        Ok(()) => {
            // The delete itself is an act of its own, on the pod.
            let mut delete = call.gate(row, options.dry_run);
            delete.subresource = "";
            call.api.registry.evict(row, &context, name, &options, &delete).await
        }
        Err(status) => Err(status),
    };
    gate.finish(&eviction, None, Write::Create, outcome.is_ok()).await;
    outcome?;
    Ok(respond::success(StatusCode::CREATED, Value::Null))
}

//! PATCH with an apply configuration: the applier's whole opinion of an object, merged by who owns what.

use axum::body::Body;
use http::Response;

use super::patch::same_object;
use super::{Call, body, get, options, update};
use crate::object::Object;
use crate::registry::Row;
use crate::registry::fields::{self, By, RowVersions};
use crate::registry::row::Subresource;
use crate::registry::write::match_namespace;
use crate::schema::{self, Validation};
use crate::status::Status;

pub(super) const MEDIA_TYPE: &str = "application/apply-patch+yaml";

pub(super) async fn apply(
    call: &Call<'_>,
    row: &Row,
    part: Option<Subresource>,
    body: Body,
) -> Result<Response<Body>, Status> {
    let options = options::Write::of_apply(call.query)?;
    let bytes = body::read(body).await?;
    let (config, duplicates) =
        schema::yaml_object(&bytes).map_err(|why| Status::bad_request(format!("error decoding YAML: {why}")))?;
    let context = call.write_by(By::Change, options.dry_run);
    let force = options.force.unwrap_or(false);
    let complain = || complain(&duplicates, options.validation, |warning| context.warn(warning));
    let name = &*call.target.name;
    if part == Some(Subresource::Scale) {
        let mut change = |old: Option<&Object>| {
            let old = old.ok_or_else(|| Status::not_found(row.about(), name))?;
            let live = update::live_scale(old);
            let form = update::scale_form(call, &options.manager)?;
            let scale = Object(fields::apply(&form, Some(&live.0), &config, force)?);
            complain()?;
            update::rescaled(call, row, old, &scale)
        };
        return update::scale_with(call, row, options.dry_run, &mut change).await;
    }
    let versions = RowVersions { row };
    let form = context
        .form(row, &options.manager, &versions)
        .ok_or_else(|| Status::internal("the kind has no schema"))?;
    let mut change = |old: Option<&Object>| {
        let live = old.map(|old| {
            let mut live = old.clone();
            row.from_stored(&mut live, call.target.version);
            live
        });
        let mut new = Object(fields::apply(&form, live.as_ref().map(|live| &live.0), &config, force)?);
        complain()?;
        if old.is_none() && !new.uid().is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {}, and no existing object was found",
                new.uid()
            );
            return Err(Status::conflict(row.about(), name, &why));
        }
        match_namespace(row, call.target.namespace, &mut new)?;
        same_object(&new, name, call.target.namespace, row)?;
        row.to_stored(&mut new);
        Ok(new)
    };
    let gate = call.creating_gate(row, options.dry_run);
    let stored = call.api.registry.apply(row, &context, name, &mut change, &gate).await?;
    get::stored(update::code(&stored), row, call, &stored)
}

/// What the document says twice. Upstream says so only when the apply itself went well.
fn complain(duplicates: &[String], validation: Validation, mut warn: impl FnMut(String)) -> Result<(), Status> {
    let Some(first) = duplicates.first() else {
        return Ok(());
    };
    let why = format!("error converting YAML to JSON: {first}");
    match validation {
        Validation::Strict => Err(Status::bad_request(format!("error strict decoding YAML: {why}"))),
        Validation::Warn => {
            warn(why);
            Ok(())
        }
        Validation::Ignore => Ok(()),
    }
}

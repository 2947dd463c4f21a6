//! GET of one object, or of a subresource that is a part of it.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

use super::negotiate::{self, Accept, Form, Format, Offer};
use super::render::{Rendering, partial};
use super::table::{Include, Writer};
use super::{Call, options, respond};
use crate::cache::{Item, Splice};
use crate::object::Object;
use crate::registry::Row;
use crate::registry::read::At;
use crate::registry::row::Subresource;
use crate::registry::subresource::scale_of;
use crate::registry::write::Stored;
use crate::status::Status;

pub(super) async fn get(row: Arc<Row>, call: &Call<'_>, part: Option<Subresource>) -> Result<Response<Body>, Status> {
    let accept = negotiate::accept(&call.head.headers, Offer::Forms { list: false })?;
    let version = options::pairs(call.query).find(|(key, _)| key == "resourceVersion");
    let at = At::parse(version.as_ref().map_or("", |(_, value)| value))?;
    let item = row.get(call.target.namespace, &call.target.name, at).await?;
    if part == Some(Subresource::Scale) {
        return Ok(object(StatusCode::OK, call, accept, &scale_of(&item.object())));
    }
    shown(&row, call, accept, &item)
}

fn shown(row: &Row, call: &Call<'_>, accept: Accept, item: &Arc<Item>) -> Result<Response<Body>, Status> {
    let include = Include::parse(call.query)?;
    let rendering = Rendering::new(row, call.target.version, accept.form, include);
    let mut out = Vec::with_capacity(rendering.len(item, item.revision).unwrap_or(0) + 1);
    match rendering {
        Rendering::Table(table) => {
            table.head(item.revision, &serde_json::json!({}), true, &mut out);
            rendering.write(item, item.revision, &mut out);
            out.extend_from_slice(Writer::TAIL);
        }
        _ => rendering.write(item, item.revision, &mut out),
    }
    let pretty = options::pretty(call.query, &call.head.headers);
    Ok(respond::formatted(StatusCode::OK, accept.format, pretty, out))
}

/// What a write left in the store, as the client's version and form.
pub(super) fn stored(code: StatusCode, row: &Row, call: &Call<'_>, stored: &Stored) -> Result<Response<Body>, Status> {
    let accept = negotiate::accept(&call.head.headers, Offer::Forms { list: false })?;
    let pretty = options::pretty(call.query, &call.head.headers);
    let as_is = !row.converts(call.target.version) && accept.form == Form::Object;
    if as_is && let (Some(revision), Some(splice)) = (stored.revision, Splice::find(stored.value.clone())) {
        if call.is_internal() && accept.format == Format::Json {
            return Ok(in_pieces(code, splice.chunks(revision)));
        }
        let mut out = Vec::with_capacity(splice.len(revision));
        splice.write_to(revision, &mut out);
        return Ok(respond::formatted(code, accept.format, pretty, out));
    }
    let mut tree = Object(serde_json::from_slice(&stored.value).expect("what was encoded decodes"));
    if let Some(revision) = stored.revision {
        tree.set_revision(revision);
    }
    row.from_stored(&mut tree, call.target.version);
    let mut out = Vec::new();
    match Rendering::new(row, call.target.version, accept.form, Include::parse(call.query)?) {
        Rendering::Table(table) => table.one(stored.revision.unwrap_or_default(), Some(&tree), true, &mut out),
        Rendering::Metadata { api_version, .. } => out.extend_from_slice(&partial(tree, api_version).to_bytes()),
        Rendering::Stored | Rendering::Version { .. } => out.extend_from_slice(&tree.to_bytes()),
    }
    Ok(respond::formatted(code, accept.format, pretty, out))
}

/// A body of a few shared pieces.
fn in_pieces(code: StatusCode, pieces: [Bytes; 3]) -> Response<Body> {
    let frames = pieces
        .into_iter()
        .map(|piece| Ok::<_, std::convert::Infallible>(http_body::Frame::data(piece)));
    let body = http_body_util::StreamBody::new(futures::stream::iter(frames));
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An object that is no row's: a Scale, a review.
pub(super) fn object(code: StatusCode, call: &Call<'_>, accept: Accept, object: &Object) -> Response<Body> {
    let pretty = options::pretty(call.query, &call.head.headers);
    respond::formatted(code, accept.format, pretty, object.to_bytes().to_vec())
}

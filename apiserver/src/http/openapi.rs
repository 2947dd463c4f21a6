//! `/openapi/v2` and `/openapi/v3`: what schema writes about the rows that are served.

use axum::body::Body;
use http::Response;
use http::request::Parts;

use super::Api;
use crate::status::Status;

/// The finished documents of one state of the table.
#[derive(Debug, Default)]
pub(super) struct Documents {}

/// `None`: another path.
pub(super) fn answer(_api: &Api, _head: &Parts, _path: &str) -> Result<Option<Response<Body>>, Status> {
    Ok(None)
}

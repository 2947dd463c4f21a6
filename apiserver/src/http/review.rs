//! Kinds that are never stored: a question is posted and comes back with its answer.
//! The only file of this room that names kinds.

use axum::body::Body;
use http::Response;

use super::{Api, Call};
use crate::registry::Row;
use crate::status::Status;

/// POST of a kind that is never stored (TokenReview, SubjectAccessReview …).
pub(super) async fn create(_call: &Call<'_>, row: &Row, _body: Body) -> Result<Response<Body>, Status> {
    Err(Status::method_not_allowed(row.about(), "create"))
}

/// `serviceaccounts/token`.
pub(super) async fn token(_call: &Call<'_>, row: &Row, _body: Body) -> Result<Response<Body>, Status> {
    Err(Status::method_not_allowed(row.about(), "token"))
}

/// Public documents about tokens (`/.well-known/openid-configuration`, `/openid/v1/jwks`). `None`: another path.
pub(super) fn path(_api: &Api, _path: &str) -> Option<Result<Response<Body>, Status>> {
    None
}

//! The way to the kubelets.

use std::sync::Arc;

use axum::body::Body;
use http::Response;

use super::Call;
use crate::registry::Row;
use crate::registry::row::Subresource;
use crate::status::Status;

#[derive(Debug)]
pub struct KubeletAccess {
    pub tls: Arc<rustls::ClientConfig>,
}

pub(super) async fn log(_call: &Call<'_>, _row: &Row) -> Result<Response<Body>, Status> {
    Err(Status::unavailable("no way to the kubelet"))
}
pub(super) async fn upgrade(_call: &Call<'_>, _row: &Row, _part: Subresource) -> Result<Response<Body>, Status> {
    Err(Status::unavailable("no way to the kubelet"))
}
pub(super) async fn proxy(_call: &Call<'_>, _row: &Row, _body: Body) -> Result<Response<Body>, Status> {
    Err(Status::unavailable("no way to the kubelet"))
}

//! Answers: status codes, headers and bodies. The only place where a [`Status`] becomes bytes.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::negotiate::Format;
use crate::status::{Reason, Status};

/// A whole body of one media type.
pub(super) fn bytes(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// JSON bytes in the format that the client asked for.
pub(super) fn formatted(code: StatusCode, format: Format, pretty: bool, json: Vec<u8>) -> Response<Body> {
    match format {
        Format::Json if !pretty => bytes(code, "application/json", json),
        Format::Json => {
            let value: Value = serde_json::from_slice(&json).expect("our own JSON parses");
            let mut text = serde_json::to_vec_pretty(&value).expect("a tree serializes");
            text.push(b'\n');
            bytes(code, "application/json", text)
        }
        Format::Yaml => {
            let value: Value = serde_json::from_slice(&json).expect("our own JSON parses");
            match serde_saphyr::to_string(&value) {
                Ok(text) => bytes(code, "application/yaml", text),
                Err(error) => {
                    tracing::error!(%error, "an object cannot be written as YAML");
                    refusal(&Status::internal("the object cannot be written as YAML"))
                }
            }
        }
    }
}

/// A tree as JSON.
pub(super) fn tree(code: StatusCode, format: Format, pretty: bool, value: &Value) -> Response<Body> {
    let json = serde_json::to_vec(value).expect("a tree serializes");
    formatted(code, format, pretty, json)
}

/// The `v1.Status` object of a refusal.
pub(super) fn status_object(status: &Status) -> Value {
    let mut metadata = Map::new();
    if let Some(token) = &status.continue_token {
        metadata.insert("continue".into(), Value::from(&**token));
    }
    let mut object = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": metadata,
        "status": "Failure",
        "message": status.message,
        "code": status.code,
    });
    // Upstream's unknown reason is the empty one, which is left out.
    if status.reason != Reason::Unknown {
        object["reason"] = json!(status.reason);
    }
    if let Some(details) = &status.details {
        object["details"] = json!(details);
    }
    object
}

/// The answer to a refused request. Always JSON: every client reads it.
pub(super) fn refusal(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = tree(code, Format::Json, false, &status_object(status));
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The Status of a request that was done and has no object to show.
pub(super) fn success(code: StatusCode, details: Value) -> Response<Body> {
    let mut object = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if details.is_null() {
        object["code"] = json!(code.as_u16());
    } else {
        object["details"] = details;
    }
    tree(code, Format::Json, false, &object)
}

/// `Warning: 299 - "text"`, each text once.
pub(super) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in warnings {
        let mut quoted = String::with_capacity(warning.len() + 12);
        quoted.push_str("299 - \"");
        for c in warning.chars() {
            match c {
                '"' | '\\' => {
                    quoted.push('\\');
                    quoted.push(c);
                }
                c if c.is_control() => quoted.push(' '),
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            headers.append(http::header::WARNING, value);
        }
    }
}

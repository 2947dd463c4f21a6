//! `/openapi/v2` and `/openapi/v3`: what schema writes about the rows that are served. Documents are kept compressed.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};

use super::discovery::{GIT_VERSION, parts};
use super::{Api, negotiate, options, respond};
use crate::registry::Table;
use crate::schema::openapi::{self, Document, Resource, Subresource};
use crate::status::Status;

/// The documents of one state of the table.
#[derive(Debug, Default)]
pub(super) struct Documents {
    made: Mutex<Option<(u64, Arc<openapi::Documents>)>>,
}

impl Documents {
    fn of(&self, table: &Table) -> Arc<openapi::Documents> {
        let mut made = self.made.lock().expect("nothing panics while holding the documents");
        match &*made {
            Some((generation, documents)) if *generation == table.generation => documents.clone(),
            _ => {
                let documents = openapi::Documents::new(GIT_VERSION, resources(table));
                made.insert((table.generation, Arc::new(documents))).1.clone()
            }
        }
    }
}

fn resources(table: &Table) -> Vec<Resource> {
    let mut all = Vec::new();
    for row in &table.rows {
        for version in &row.versions {
            let words = |verbs: &[&str]| verbs.iter().map(|verb| (*verb).to_owned()).collect();
            let subresources = parts(row)
                .into_iter()
                .map(|part| Subresource {
                    name: part.name.to_owned(),
                    group: part.group.unwrap_or(&row.group).to_owned(),
                    version: part.version.unwrap_or(version).to_owned(),
                    verbs: if part.connects {
                        vec!["connect".to_owned()]
                    } else {
                        words(part.verbs)
                    },
                    kind: part.kind,
                })
                .collect();
            all.push(Resource {
                group: row.group.to_string(),
                version: version.to_string(),
                kind: row.kind.to_string(),
                plural: row.plural.to_string(),
                namespaced: row.namespaced(),
                verbs: words(row.verbs),
                subresources,
            });
        }
    }
    all
}

/// `None`: another path.
pub(super) fn answer(api: &Api, head: &Parts, path: &str) -> Result<Option<Response<Body>>, Status> {
    let Some(path) = path.strip_prefix("/openapi/") else {
        return Ok(None);
    };
    let documents = api.openapi.of(&api.registry.table());
    match path.trim_end_matches('/') {
        "v2" => {
            // Upstream's swagger is also spoken as protobuf, which nobody but old kubectl asks for alone.
            negotiate::accept(&head.headers, negotiate::Offer::Plain)?;
            Ok(Some(document(head, &documents.v2(), false)))
        }
        "v3" => {
            let index = serde_json::to_vec(&documents.index()).expect("a tree serializes");
            Ok(Some(respond::bytes(StatusCode::OK, "application/json", index)))
        }
        path => {
            let Some(name) = path.strip_prefix("v3/") else {
                return Ok(None);
            };
            let Some(found) = documents.v3(name) else {
                return Ok(None);
            };
            let query = head.uri.query().unwrap_or("");
            match options::pairs(query).find(|(key, _)| key == "hash") {
                Some((_, hash)) if *hash != *found.hash => Ok(Some(moved(name, &found))),
                Some(_) => Ok(Some(document(head, &found, true))),
                None => Ok(Some(document(head, &found, false))),
            }
        }
    }
}

/// A client that remembers an older document is sent to the one there is.
fn moved(name: &str, found: &Document) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(there) = HeaderValue::try_from(format!("/openapi/v3/{name}?hash={}", found.hash)) {
        response.headers_mut().insert(LOCATION, there);
    }
    response
}

/// `forever`: the URL holds the document's hash, so it can never change.
fn document(head: &Parts, found: &Document, forever: bool) -> Response<Body> {
    let etag = HeaderValue::try_from(format!("\"{}\"", found.hash)).expect("a hash is a header value");
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    let cached = if forever {
        "public, immutable"
    } else {
        "no-cache, private"
    };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cached));
    let has = head.headers.get(IF_NONE_MATCH) == Some(&etag);
    headers.insert(ETAG, etag);
    let body: Bytes = if has {
        Bytes::new()
    } else if negotiate::gzip(&head.headers) {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        found.compressed.clone()
    } else {
        found.plain()
    };
    let mut response = Response::new(Body::from(body));
    if has {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    *response.headers_mut() = headers;
    response
}

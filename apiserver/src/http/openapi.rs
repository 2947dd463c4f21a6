//! `/openapi/v2` and `/openapi/v3`: what schema writes about the rows that are served. Documents are kept compressed.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION, VARY,
};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};

use super::discovery::{GIT_VERSION, parts};
use super::{Api, negotiate, options, respond};
use crate::registry::Table;
use crate::schema::openapi::{self, Coding, Document, Resource, Subresource};
use crate::status::Status;

/// What v2's protobuf form is called in an answer.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

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
    // The schema knows no type of what is computed.
    for row in table.rows.iter().filter(|row| !row.computed) {
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
            let Some(coding) = coding(&head.headers) else {
                let mut refusal = Response::new(Body::empty());
                *refusal.status_mut() = StatusCode::NOT_ACCEPTABLE;
                return Ok(Some(refusal));
            };
            let media_type = match coding {
                Coding::Json => "application/json",
                Coding::Protobuf => PROTOBUF,
            };
            Ok(Some(document(head, &documents.v2(coding), media_type, false)))
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
                Some(_) => Ok(Some(document(head, &found, "application/json", true))),
                None => Ok(Some(document(head, &found, "application/json", false))),
            }
        }
    }
}

/// The form of v2 that the client likes best. Of equals the first is taken, wildcards after what is named.
fn coding(headers: &HeaderMap) -> Option<Coding> {
    let text = match headers.get(ACCEPT).map(HeaderValue::to_str) {
        None => return Some(Coding::Json),
        Some(text) => text.ok()?,
    };
    if text.trim().is_empty() {
        return Some(Coding::Json);
    }
    let mut best: Option<((f32, u8), Coding)> = None;
    for clause in text.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let (coding, named) = match parts.next().unwrap_or("") {
            "application/json" => (Coding::Json, 2),
            // Clients still ask by the older name.
            PROTOBUF | "application/com.github.proto-openapi.spec.v2@v1.0+protobuf" => (Coding::Protobuf, 2),
            "application/*" => (Coding::Json, 1),
            "*/*" => (Coding::Json, 0),
            _ => continue,
        };
        let quality = parts
            .find_map(|parameter| parameter.strip_prefix("q="))
            .map_or(1.0, |quality| quality.parse().unwrap_or(1.0));
        let rank = (quality, named);
        if quality > 0.0 && best.is_none_or(|(known, _)| rank > known) {
            best = Some((rank, coding));
        }
    }
    best.map(|(_, coding)| coding)
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
fn document(head: &Parts, found: &Document, media_type: &'static str, forever: bool) -> Response<Body> {
    let etag = HeaderValue::try_from(format!("\"{}\"", found.hash)).expect("a hash is a header value");
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, want: Option<Coding>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, header.parse().unwrap());
        assert_eq!(coding(&headers), want, "{header}");
    }

    #[test]
    fn the_form_of_v2_that_a_client_likes_best_is_served() {
        let older = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        assert_eq!(coding(&HeaderMap::new()), Some(Coding::Json));
        check(older, Some(Coding::Protobuf));
        check(PROTOBUF, Some(Coding::Protobuf));
        check(&format!("application/json, {older}"), Some(Coding::Json));
        check(
            &format!("application/json;q=0.5, {older};q=0.9"),
            Some(Coding::Protobuf),
        );
        check(&format!("*/*, {older}"), Some(Coding::Protobuf));
        check(&format!("{older};q=0, */*;q=0.1"), Some(Coding::Json));
        check("application/yaml", None);
    }
}

//! What is served: `/api`, `/apis` and below, in both forms, made from the table of rows whenever it changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::negotiate::{self, Offer};
use super::{Api, respond};
use crate::registry::row::{Scope, Subresource};
use crate::registry::{Row, Table};
use crate::status::Status;

/// What clients take the server for.
pub(super) const GIT_VERSION: &str = "v1.36.0+coracle";

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A subresource by its name in paths.
pub(super) fn subresource(name: &str) -> Option<Subresource> {
    Some(match name {
        "status" => Subresource::Status,
        "scale" => Subresource::Scale,
        "binding" => Subresource::Binding,
        "eviction" => Subresource::Eviction,
        "ephemeralcontainers" => Subresource::EphemeralContainers,
        "resize" => Subresource::Resize,
        "log" => Subresource::Log,
        "exec" => Subresource::Exec,
        "attach" => Subresource::Attach,
        "portforward" => Subresource::PortForward,
        "proxy" => Subresource::Proxy,
        "token" => Subresource::Token,
        "approval" => Subresource::Approval,
        "finalize" => Subresource::Finalize,
        _ => return None,
    })
}

/// A subresource as discovery and OpenAPI list it.
pub(super) struct Part {
    pub(super) name: &'static str,
    /// Of what is sent and answered; `None` where they are the row's own.
    pub(super) group: Option<&'static str>,
    pub(super) version: Option<&'static str>,
    pub(super) kind: String,
    pub(super) verbs: &'static [&'static str],
    /// A stream or a proxy, whose verbs are HTTP's.
    pub(super) connects: bool,
}

/// The row's subresources in the order of their names.
pub(super) fn parts(row: &Row) -> Vec<Part> {
    let mut parts: Vec<Part> = row
        .subresources
        .iter()
        .map(|part| described(*part, &row.kind))
        .collect();
    parts.sort_by_key(|part| part.name);
    parts
}

fn described(part: Subresource, kind: &str) -> Part {
    const OBJECT: &[&str] = &["get", "patch", "update"];
    const CREATE: &[&str] = &["create"];
    const CONNECT: &[&str] = &["create", "get"];
    const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
    let plain = |name, verbs| Part {
        name,
        group: None,
        version: None,
        kind: kind.to_owned(),
        verbs,
        connects: false,
    };
    let of_kind = |name, kind: &str, verbs, connects| Part {
        kind: kind.to_owned(),
        connects,
        ..plain(name, verbs)
    };
    let foreign = |name, group, version, kind: &str, verbs| Part {
        group: Some(group),
        version: Some(version),
        ..of_kind(name, kind, verbs, false)
    };
    match part {
        Subresource::Status => plain("status", OBJECT),
        Subresource::Scale => foreign("scale", "autoscaling", "v1", "Scale", OBJECT),
        Subresource::Binding => of_kind("binding", "Binding", CREATE, false),
        Subresource::Eviction => foreign("eviction", "policy", "v1", "Eviction", CREATE),
        Subresource::EphemeralContainers => plain("ephemeralcontainers", OBJECT),
        Subresource::Resize => plain("resize", OBJECT),
        Subresource::Log => plain("log", &["get"]),
        Subresource::Exec => of_kind("exec", "PodExecOptions", CONNECT, true),
        Subresource::Attach => of_kind("attach", "PodAttachOptions", CONNECT, true),
        Subresource::PortForward => of_kind("portforward", "PodPortForwardOptions", CONNECT, true),
        Subresource::Proxy => of_kind("proxy", &format!("{kind}ProxyOptions"), PROXY, true),
        Subresource::Token => foreign("token", "authentication.k8s.io", "v1", "TokenRequest", CREATE),
        Subresource::Approval => plain("approval", OBJECT),
        Subresource::Finalize => plain("finalize", &["update"]),
    }
}

/// The finished documents of one state of the table.
#[derive(Debug, Default)]
pub(super) struct Documents {
    made: Mutex<Option<Arc<Made>>>,
}

#[derive(Debug)]
struct Made {
    generation: u64,
    legacy: HashMap<String, Bytes>,
    /// `/api` and `/apis`, with their ETags.
    aggregated: [(Bytes, HeaderValue); 2],
}

impl Documents {
    fn of(&self, table: &Table) -> Arc<Made> {
        let mut made = self.made.lock().expect("nothing panics while holding the documents");
        match &*made {
            Some(documents) if documents.generation == table.generation => documents.clone(),
            _ => made.insert(Arc::new(make(table))).clone(),
        }
    }
}

/// `None`: another path.
pub(super) fn answer(api: &Api, head: &Parts, path: &str) -> Result<Option<Response<Body>>, Status> {
    let path = path.trim_end_matches('/');
    if path == "/version" {
        return Ok(Some(version()));
    }
    if path != "/api" && path != "/apis" && !path.starts_with("/api/") && !path.starts_with("/apis/") {
        return Ok(None);
    }
    let made = api.discovery.of(&api.registry.table());
    let root = ["/api", "/apis"].iter().position(|root| *root == path);
    if let Some(root) = root
        && negotiate::aggregated_discovery(&head.headers)
    {
        let (body, etag) = &made.aggregated[root];
        return Ok(Some(tagged(head, AGGREGATED, body, etag)));
    }
    let Some(body) = made.legacy.get(path) else {
        return Ok(None);
    };
    let accept = negotiate::accept(&head.headers, Offer::Plain)?;
    let mut response = respond::formatted(StatusCode::OK, accept.format, false, body.to_vec());
    if root.is_some() {
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    }
    Ok(Some(response))
}

/// A document that a client may have already.
pub(super) fn tagged(head: &Parts, content_type: &'static str, body: &Bytes, etag: &HeaderValue) -> Response<Body> {
    let has = head.headers.get(IF_NONE_MATCH) == Some(etag);
    let mut response = Response::new(if has { Body::empty() } else { Body::from(body.clone()) });
    if has {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(ETAG, etag.clone());
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

/// The strong validator of a document.
pub(super) fn etag(body: &[u8]) -> HeaderValue {
    let hash = Sha256::digest(body);
    let hex: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    HeaderValue::try_from(format!("\"{hex}\"")).expect("quoted hex is a header value")
}

fn version() -> Response<Body> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let version = json!({
        "major": "1",
        "minor": "36",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{arch}"),
    });
    respond::tree(StatusCode::OK, negotiate::Format::Json, true, &version)
}

/// `/`: every path there is.
pub(super) fn paths(api: &Api) -> Response<Body> {
    let made = api.discovery.of(&api.registry.table());
    let mut paths: Vec<&str> = made.legacy.keys().map(String::as_str).collect();
    paths.extend([
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]);
    paths.sort_unstable();
    respond::tree(StatusCode::OK, negotiate::Format::Json, true, &json!({"paths": paths}))
}

fn make(table: &Table) -> Made {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in &table.rows {
        let at = match groups.iter().position(|(name, _)| *name == &*row.group) {
            Some(at) => at,
            None => {
                groups.push((&row.group, Vec::new()));
                groups.len() - 1
            }
        };
        for version in &row.versions {
            if !groups[at].1.contains(&&**version) {
                groups[at].1.push(version);
            }
        }
    }
    let mut legacy = HashMap::new();
    let mut list = Vec::new();
    let mut aggregated: [Vec<Value>; 2] = [Vec::new(), Vec::new()];
    for (name, versions) in &groups {
        let mut shown = Vec::new();
        for version in versions {
            let mut rows: Vec<&Row> = table
                .rows
                .iter()
                .map(|row| &**row)
                .filter(|row| *row.group == **name && row.versions.iter().any(|v| **v == **version))
                .collect();
            rows.sort_by(|a, b| a.plural.cmp(&b.plural));
            let path = if name.is_empty() {
                format!("/api/{version}")
            } else {
                format!("/apis/{name}/{version}")
            };
            legacy.insert(path, bytes(&resources(name, version, &rows)));
            let resources: Vec<Value> = rows.iter().map(|row| discovered(row)).collect();
            shown.push(json!({"version": version, "freshness": "Current", "resources": resources}));
        }
        if name.is_empty() {
            aggregated[0].push(json!({"metadata": {}, "versions": shown}));
        } else {
            aggregated[1].push(json!({"metadata": {"name": name}, "versions": shown}));
            let group = group(name, versions);
            let mut alone = json!({"kind": "APIGroup", "apiVersion": "v1"});
            for (key, value) in group.as_object().into_iter().flatten() {
                alone[key] = value.clone();
            }
            legacy.insert(format!("/apis/{name}"), bytes(&alone));
            list.push(group);
        }
    }
    let core: Vec<&str> = groups
        .iter()
        .filter(|(n, _)| n.is_empty())
        .flat_map(|(_, v)| v.clone())
        .collect();
    legacy.insert(
        "/api".into(),
        bytes(&json!({"kind": "APIVersions", "versions": core, "serverAddressByClientCIDRs": []})),
    );
    legacy.insert(
        "/apis".into(),
        bytes(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})),
    );
    let aggregated = aggregated.map(|items| {
        let body = bytes(&json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
        }));
        let tag = etag(&body);
        (body, tag)
    });
    Made {
        generation: table.generation,
        legacy,
        aggregated,
    }
}

fn bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a tree serializes").into()
}

fn group(name: &str, versions: &[&str]) -> Value {
    let each: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": each, "preferredVersion": each.first()})
}

/// `APIResourceList` of one group and version.
fn resources(group: &str, version: &str, rows: &[&Row]) -> Value {
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    // Parts follow their resource, each in the order of its name.
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for row in rows {
        let namespaced = row.scope == Scope::Namespaced;
        let mut entry = json!({
            "name": row.plural, "singularName": row.singular, "namespaced": namespaced, "kind": row.kind, "verbs": row.verbs,
        });
        if !row.short.is_empty() {
            entry["shortNames"] = json!(row.short);
        }
        if !row.categories.is_empty() {
            entry["categories"] = json!(row.categories);
        }
        if row.is_stored() {
            let stored = &row.versions[row.storage];
            let hash = Sha256::digest(format!("{}/{stored}, Kind={}", row.group, row.kind));
            entry["storageVersionHash"] = json!(STANDARD.encode(&hash[..8]));
        }
        all.insert(row.plural.to_string(), entry);
        for part in parts(row) {
            let name = format!("{}/{}", row.plural, part.name);
            let mut entry = json!({
                "name": name, "singularName": "", "namespaced": namespaced, "kind": part.kind, "verbs": part.verbs,
            });
            if let (Some(group), Some(version)) = (part.group, part.version) {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
            }
            all.insert(name, entry);
        }
    }
    let resources: Vec<Value> = all.into_values().collect();
    let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources});
    if !group.is_empty() {
        list["apiVersion"] = json!("v1");
    }
    list
}

/// One resource of aggregated discovery.
fn discovered(row: &Row) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let scope = match row.scope {
        Scope::Namespaced => "Namespaced",
        Scope::Cluster => "Cluster",
    };
    let mut entry = json!({
        "resource": row.plural, "responseKind": kind("", "", &row.kind), "scope": scope,
        "singularResource": row.singular, "verbs": row.verbs,
    });
    if !row.short.is_empty() {
        entry["shortNames"] = json!(row.short);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
    let parts: Vec<Value> = parts(row)
        .into_iter()
        .map(|part| {
            let response_kind = kind(part.group.unwrap_or(""), part.version.unwrap_or(""), &part.kind);
            json!({"subresource": part.name, "responseKind": response_kind, "verbs": part.verbs})
        })
        .collect();
    if !parts.is_empty() {
        entry["subresources"] = Value::Array(parts);
    }
    entry
}

//! OpenAPI v2 and v3 from the table of facts and a list of what is served. Documents are written straight into a
//! compressor on first demand and kept compressed; nothing is built at start. What it must not know: rows, HTTP.
//! A document depends only on what is served, so its hash is known before it is written.
//!
//! ```text
//!   served, facts ─ paths, types ─► members ─► JSON text (v2, v3) or gnostic (v2) ─► gzip
//! ```

mod gnostic;
mod paths;
mod sentences;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::table::TypeRef;

/// A resource of one group and version, as discovery lists it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub kind: String,
    /// `pods`.
    pub plural: String,
    pub namespaced: bool,
    /// `get`, `list`, `create`, `update`, `patch`, `delete`, `deletecollection`, `watch`.
    pub verbs: Vec<String>,
    pub subresources: Vec<Subresource>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subresource {
    /// `status`, `scale`, `proxy` …
    pub name: String,
    /// Of what is sent and answered: `autoscaling/v1/Scale` for `scale`.
    pub group: String,
    pub version: String,
    pub kind: String,
    /// `get`, `update`, `patch`, `create`; `connect` for streams and proxies.
    pub verbs: Vec<String>,
}

/// A finished document.
#[derive(Debug, Clone)]
pub struct Document {
    /// gzip.
    pub compressed: Bytes,
    /// Good for an ETag and for `?hash=`.
    pub hash: Arc<str>,
}

impl Document {
    /// The JSON itself, for clients that cannot inflate.
    pub fn plain(&self) -> Bytes {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&self.compressed[..])
            .read_to_end(&mut out)
            .expect("our own compressor made it");
        out.into()
    }
}

#[derive(Debug)]
struct Entry {
    resources: Vec<Resource>,
    hash: Arc<str>,
    document: OnceLock<Bytes>,
}

/// All OpenAPI documents of a server.
#[derive(Debug)]
pub struct Documents {
    version: String,
    /// By path below `/openapi/v3/`: `api/v1`, `apis/apps/v1`, `apis/apps`, `version`.
    entries: BTreeMap<String, Entry>,
    /// In the coding that was asked for last: clients that use this old form come rarely, and each has one that it likes.
    v2: Mutex<Option<(Coding, Bytes)>>,
    v2_hash: Arc<str>,
}

impl Documents {
    /// `version` is the server's, e.g. `v1.36.0`.
    pub fn new(version: &str, resources: Vec<Resource>) -> Self {
        let mut found: BTreeMap<String, Vec<Resource>> = BTreeMap::new();
        for path in ["api", "apis", "version"] {
            found.insert(path.into(), Vec::new());
        }
        for resource in resources {
            let root = root(&resource.group, &resource.version);
            if !resource.group.is_empty() {
                found.entry(format!("apis/{}", resource.group)).or_default();
            }
            found.entry(root).or_default().push(resource);
        }
        let mut all = Sha256::new();
        let entries = found
            .into_iter()
            .map(|(path, resources)| {
                let hash = hash(version, &path, &resources);
                all.update(hash.as_bytes());
                let entry = Entry {
                    resources,
                    hash,
                    document: OnceLock::new(),
                };
                (path, entry)
            })
            .collect();
        let v2_hash = hex(&all.finalize());
        Documents {
            version: version.to_owned(),
            entries,
            v2: Mutex::new(None),
            v2_hash,
        }
    }

    /// `/openapi/v3`: what documents there are.
    pub fn index(&self) -> Value {
        let paths: serde_json::Map<String, Value> = self
            .entries
            .iter()
            .map(|(path, entry)| {
                let url = format!("/openapi/v3/{path}?hash={}", entry.hash);
                (path.clone(), json!({"serverRelativeURL": url}))
            })
            .collect();
        json!({"paths": paths})
    }

    /// `/openapi/v3/<path>`.
    pub fn v3(&self, path: &str) -> Option<Document> {
        let entry = self.entries.get(path.trim_matches('/'))?;
        let bytes = entry.document.get_or_init(|| {
            let served: Vec<&Resource> = entry.resources.iter().collect();
            self.write(Form::V3, &[(path, &served)])
        });
        Some(Document {
            compressed: bytes.clone(),
            hash: Arc::clone(&entry.hash),
        })
    }

    /// `/openapi/v2`.
    pub fn v2(&self, coding: Coding) -> Document {
        let mut kept = self.v2.lock().expect("writing a document does not panic");
        let compressed = match &*kept {
            Some((known, bytes)) if *known == coding => bytes.clone(),
            _ => {
                let lists: Vec<(&str, Vec<&Resource>)> = self
                    .entries
                    .iter()
                    .map(|(path, e)| (path.as_str(), e.resources.iter().collect()))
                    .collect();
                let parts: Vec<(&str, &[&Resource])> = lists.iter().map(|(p, r)| (*p, r.as_slice())).collect();
                let made = match coding {
                    Coding::Json => self.write(Form::V2, &parts),
                    Coding::Protobuf => self.gnostic(&parts),
                };
                kept.insert((coding, made)).1.clone()
            }
        };
        Document {
            compressed,
            hash: Arc::clone(&self.v2_hash),
        }
    }

    /// v2 as protobuf. Its parts are in memory until they are compressed, for their lengths come before them.
    fn gnostic(&self, parts: &[(&str, &[&Resource])]) -> Bytes {
        let mut needed: BTreeSet<types::Name> = BTreeSet::new();
        let mut paths = gnostic::Named::paths();
        for (root, resources) in parts {
            paths::write(Form::V2, root, resources, &mut needed, &mut paths);
        }
        let mut definitions = gnostic::Named::definitions();
        types::write(Form::V2, needed, &self.served(), &mut definitions);
        let mut head = json!({"swagger": "2.0", "info": self.info(Form::V2), "securityDefinitions": security()});
        head["security"] = json!([{"BearerToken": []}]);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&gnostic::document(&head, paths, definitions))
            .and_then(|()| gzip.finish())
            .expect("writing to memory does not fail")
            .into()
    }

    fn info(&self, form: Form) -> Value {
        json!({"title": "Kubernetes", "version": if form == Form::V2 { "unversioned" } else { &self.version }})
    }

    /// All groups and versions that have resources.
    fn served(&self) -> Vec<(&str, &str)> {
        let first = self.entries.values().filter_map(|e| e.resources.first());
        first.map(|r| (r.group.as_str(), r.version.as_str())).collect()
    }

    fn write(&self, form: Form, parts: &[(&str, &[&Resource])]) -> Bytes {
        let mut out = Output {
            gzip: GzEncoder::new(Vec::new(), Compression::default()),
            first: true,
        };
        let mut needed: BTreeSet<types::Name> = BTreeSet::new();
        let info = self.info(form);
        match form {
            Form::V2 => out.raw(&format!("{{\"swagger\":\"2.0\",\"info\":{info},\"paths\":{{")),
            Form::V3 => out.raw(&format!("{{\"openapi\":\"3.0.0\",\"info\":{info},\"paths\":{{")),
        }
        for (root, resources) in parts {
            paths::write(form, root, resources, &mut needed, &mut out);
        }
        let security = security();
        match form {
            Form::V2 => {
                out.raw(&format!(
                    "}},\"securityDefinitions\":{security},\"security\":[{{\"BearerToken\":[]}}],\"definitions\":{{"
                ));
            }
            Form::V3 => out.raw(&format!(
                "}},\"components\":{{\"securitySchemes\":{security},\"schemas\":{{"
            )),
        }
        out.first = true;
        types::write(form, needed, &self.served(), &mut out);
        out.raw(if form == Form::V2 { "}}" } else { "}}}" });
        out.gzip.finish().expect("writing to memory does not fail").into()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

impl Form {
    fn reference(self, name: &str) -> Value {
        match self {
            Form::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Form::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// How v2 is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Json,
    /// The messages of package `openapi.v2`, which kubectl asks for.
    Protobuf,
}

fn security() -> Value {
    json!({"BearerToken": {"type": "apiKey", "in": "header", "name": "authorization", "description": "A bearer token"}})
}

/// Where paths and definitions go one by one, so that the document never stands in memory as a tree.
trait Members {
    fn member(&mut self, name: &str, value: &Value);
}

/// JSON text.
struct Output {
    gzip: GzEncoder<Vec<u8>>,
    first: bool,
}

impl Output {
    fn raw(&mut self, text: &str) {
        self.gzip
            .write_all(text.as_bytes())
            .expect("writing to memory does not fail");
    }
}

impl Members for Output {
    fn member(&mut self, name: &str, value: &Value) {
        let comma = if std::mem::take(&mut self.first) { "" } else { "," };
        let name = Value::from(name);
        self.raw(&format!("{comma}{name}:{value}"));
    }
}

/// `api/v1`, `apis/apps/v1`.
fn root(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn hash(version: &str, path: &str, resources: &[Resource]) -> Arc<str> {
    let mut hasher = Sha256::new();
    hasher.update(super::table::data());
    hasher.update(format!("{version}\n{path}\n{resources:?}"));
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> Arc<str> {
    bytes.iter().map(|b| format!("{b:02X}")).collect::<String>().into()
}

/// The list type of a kind.
fn list_of(resource: &Resource) -> Option<TypeRef> {
    super::type_of(&resource.group, &resource.version, &format!("{}List", resource.kind))
}

#[cfg(test)]
mod tests;

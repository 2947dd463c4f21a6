//! What `kubectl get` prints: `meta.k8s.io` Tables, from the row's columns.
//! Upstream: printers/internalversion and apiserver/pkg/endpoints/handlers/response.go (1.36).

use serde_json::{Value, json};

use super::options;
use super::render::partial;
use crate::object::Object;
use crate::registry::Row;
use crate::status::Status;
use crate::store::Revision;

/// What a row shows of its object beside the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    pub(super) fn parse(query: &str) -> Result<Self, Status> {
        match options::pairs(query).find(|(key, _)| key == "includeObject") {
            None => Ok(Include::Metadata),
            Some((_, value)) => match &*value {
                "None" => Ok(Include::None),
                "" | "Metadata" => Ok(Include::Metadata),
                "Object" => Ok(Include::Object),
                other => Err(Status::bad_request(format!(
                    "unrecognized includeObject value: {other:?}"
                ))),
            },
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Writer<'a> {
    pub(super) row: &'a Row,
    pub(super) version: &'a str,
    api_version: &'static str,
    include: Include,
    now: jiff::Timestamp,
}

impl<'a> Writer<'a> {
    pub(super) fn new(row: &'a Row, version: &'a str, api_version: &'static str, include: Include) -> Self {
        Writer {
            row,
            version,
            api_version,
            include,
            now: jiff::Timestamp::now(),
        }
    }

    /// Up to where the rows begin. A watch says the columns with its first event only.
    pub(super) fn head(&self, revision: Revision, list: &Value, columns: bool, out: &mut Vec<u8>) {
        let mut metadata = list.clone();
        metadata["resourceVersion"] = Value::from(revision.to_string());
        let definitions = if columns { self.columns() } else { Value::Null };
        let head = json!({"kind": "Table", "apiVersion": self.api_version, "metadata": metadata});
        let mut head = serde_json::to_vec(&head).expect("a tree serializes");
        head.pop();
        out.extend_from_slice(&head);
        out.extend_from_slice(b",\"columnDefinitions\":");
        serde_json::to_writer(&mut *out, &definitions).expect("a tree serializes into memory");
        out.extend_from_slice(b",\"rows\":[");
    }
    pub(super) const TAIL: &'static [u8] = b"]}";

    fn columns(&self) -> Value {
        if self.row.columns.cells.is_none() {
            // What upstream shows of kinds that have no printer.
            return json!([
                {"name": "Name", "type": "string", "format": "name", "priority": 0,
                 "description": "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"},
                {"name": "Created At", "type": "date", "format": "", "priority": 0,
                 "description": "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"},
            ]);
        }
        let columns = self.row.columns.columns.iter();
        Value::Array(
            columns
                .map(|c| {
                    json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority})
                })
                .collect(),
        )
    }

    /// One row of `object`, which carries its resourceVersion.
    pub(super) fn row(&self, object: &Object, out: &mut Vec<u8>) {
        let cells = match self.row.columns.cells {
            Some(cells) => cells(object, self.now),
            None => vec![
                Value::from(object.name()),
                Value::from(object.str_at(&["metadata", "creationTimestamp"])),
            ],
        };
        out.extend_from_slice(b"{\"cells\":");
        serde_json::to_writer(&mut *out, &cells).expect("a tree serializes into memory");
        match self.include {
            Include::None => {}
            Include::Metadata => {
                out.extend_from_slice(b",\"object\":");
                let shown = Object(
                    object
                        .0
                        .iter()
                        .filter(|(k, _)| *k == "metadata")
                        .map(|(k, v)| (k.clone(), v.clone()))
                        .collect(),
                );
                serde_json::to_writer(&mut *out, &partial(shown, self.api_version).0)
                    .expect("a tree serializes into memory");
            }
            Include::Object => {
                out.extend_from_slice(b",\"object\":");
                serde_json::to_writer(&mut *out, &object.0).expect("a tree serializes into memory");
            }
        }
        out.push(b'}');
    }

    /// A whole table of one object, or of none.
    pub(super) fn one(&self, revision: Revision, object: Option<&Object>, columns: bool, out: &mut Vec<u8>) {
        self.head(revision, &json!({}), columns, out);
        if let Some(object) = object {
            self.row(object, out);
        }
        out.extend_from_slice(Self::TAIL);
    }
}

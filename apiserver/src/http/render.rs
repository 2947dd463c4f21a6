//! Items to bytes, in the form that a client asked for. The storage version as JSON is there already; other forms are made
//! once per object and remembered by the cache while hot. Table rows hold ages, so they are made each time.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::negotiate::Form;
use super::table::{self, Include};
use crate::cache::{Item, Splice};
use crate::object::Object;
use crate::registry::Row;
use crate::store::Revision;

/// How the objects of one request are written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rendering<'a> {
    /// Bytes of the cache, untouched.
    Stored,
    Version {
        row: &'a Row,
        version: &'a str,
        form: u64,
    },
    Metadata {
        api_version: &'static str,
        form: u64,
    },
    Table(table::Writer<'a>),
}

impl<'a> Rendering<'a> {
    pub(super) fn new(row: &'a Row, version: &'a str, form: Form, include: Include) -> Self {
        match form {
            Form::Object if !row.converts(version) => Rendering::Stored,
            Form::Object => Rendering::Version {
                row,
                version,
                form: form_id(&[&row.group, version]),
            },
            Form::Metadata(api_version) => Rendering::Metadata {
                api_version,
                form: form_id(&["metadata", api_version]),
            },
            Form::Table(api_version) => Rendering::Table(table::Writer::new(row, version, api_version, include)),
        }
    }

    /// The finished bytes of forms that do not depend on the clock.
    fn splice(&self, item: &std::sync::Arc<Item>) -> Option<Splice> {
        match *self {
            Rendering::Stored => Some(item.json().clone()),
            Rendering::Version { row, version, form } => Some(item.rendering(form, |item| {
                let mut object = item.object();
                row.from_stored(&mut object, version);
                spliced(&object)
            })),
            Rendering::Metadata { api_version, form } => {
                Some(item.rendering(form, |item| spliced(&partial(item.object(), api_version))))
            }
            Rendering::Table(_) => None,
        }
    }

    /// Appends the object as of `revision`.
    pub(super) fn write(&self, item: &std::sync::Arc<Item>, revision: Revision, out: &mut Vec<u8>) {
        match self {
            Rendering::Stored => item.json().write_to(revision, out),
            Rendering::Table(table) => table.row(&served(table.row, table.version, item, revision), out),
            _ => {
                if let Some(splice) = self.splice(item) {
                    splice.write_to(revision, out);
                }
            }
        }
    }

    /// The object as pieces to send one after the other, sharing the cache's bytes where there are any.
    pub(super) fn chunks(&self, item: &std::sync::Arc<Item>, revision: Revision) -> [Bytes; 3] {
        match self.splice(item) {
            Some(splice) => splice.chunks(revision),
            None => {
                let mut out = Vec::new();
                self.write(item, revision, &mut out);
                [Bytes::from(out), Bytes::new(), Bytes::new()]
            }
        }
    }

    /// How many bytes `write` appends, where that is known without doing it.
    pub(super) fn len(&self, item: &std::sync::Arc<Item>, revision: Revision) -> Option<usize> {
        match self {
            Rendering::Stored => Some(item.json().len(revision)),
            _ => None,
        }
    }
}

/// The tree that `version` serves.
fn served(row: &Row, version: &str, item: &Item, revision: Revision) -> Object {
    let mut object = item.object();
    row.from_stored(&mut object, version);
    object.set_revision(revision);
    object
}

fn spliced(object: &Object) -> Splice {
    let bytes = object.to_bytes();
    Splice::find(bytes.clone()).unwrap_or_else(|| Splice::whole(bytes))
}

/// The object's metadata alone, as `meta.k8s.io` PartialObjectMetadata.
pub(super) fn partial(mut object: Object, api_version: &str) -> Object {
    let metadata = object.0.remove("metadata").unwrap_or_else(|| json!({}));
    Object(Map::from_iter([
        ("apiVersion".to_owned(), Value::from(api_version)),
        ("kind".to_owned(), Value::from("PartialObjectMetadata")),
        ("metadata".to_owned(), metadata),
    ]))
}

/// One number per form for the whole process (FNV-1a).
fn form_id(words: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in words.iter().flat_map(|word| word.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

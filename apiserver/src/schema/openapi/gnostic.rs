//! OpenAPI v2 as the protobuf messages of package `openapi.v2`: a table of the messages, and one walk over the JSON
//! document's members. A member without a place in the table is an error: nothing gets lost in silence.

use serde_json::{Map, Value};

use super::super::protobuf::wire;
use super::Members;

/// A message by the names that its fields have in JSON.
#[derive(Debug)]
struct Message {
    fields: &'static [(&'static str, u32, Kind)],
    /// The number of the members that start with `x-`.
    extensions: u32,
}

/// How a JSON value is written.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Flag,
    Integer,
    Number,
    /// Any value, as the YAML that JSON is.
    Any,
    Message(&'static Message),
    /// A field that repeats.
    Many(&'static Kind),
    /// A message that has only pairs, all under this number.
    Map(u32, &'static Kind),
    /// A message that has only this: a choice, or a list of one.
    Inside(u32, &'static Kind),
    /// A choice by what `in` says.
    Parameter,
}

/// A parameter of the body, of the query or of the path: the fields that are written around it.
const BODY: (&[u32], &Message) = (&[1, 1], &BODY_PARAMETER);
const QUERY: (&[u32], &Message) = (&[1, 2, 3], &QUERY_PARAMETER);
const PATH: (&[u32], &Message) = (&[1, 2, 4], &PATH_PARAMETER);

const TEXTS: Kind = Kind::Many(&Kind::Text);

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Kind::Text),
        ("info", 2, Kind::Message(&INFO)),
        (
            "security",
            12,
            Kind::Many(&Kind::Map(1, &Kind::Inside(1, &Kind::Many(&Kind::Text)))),
        ),
        (
            "securityDefinitions",
            13,
            Kind::Map(1, &Kind::Inside(2, &Kind::Message(&API_KEY))),
        ),
    ],
    extensions: 16,
};
const PATHS: u32 = 8;
const DEFINITIONS: u32 = 9;

static INFO: Message = Message {
    fields: &[("title", 1, Kind::Text), ("version", 2, Kind::Text)],
    extensions: 7,
};

static API_KEY: Message = Message {
    fields: &[
        ("type", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("description", 4, Kind::Text),
    ],
    extensions: 5,
};

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Kind::Message(&OPERATION)),
        ("put", 3, Kind::Message(&OPERATION)),
        ("post", 4, Kind::Message(&OPERATION)),
        ("delete", 5, Kind::Message(&OPERATION)),
        ("options", 6, Kind::Message(&OPERATION)),
        ("head", 7, Kind::Message(&OPERATION)),
        ("patch", 8, Kind::Message(&OPERATION)),
        ("parameters", 9, Kind::Many(&Kind::Parameter)),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, TEXTS),
        ("summary", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("operationId", 5, Kind::Text),
        ("produces", 6, TEXTS),
        ("consumes", 7, TEXTS),
        ("parameters", 8, Kind::Many(&Kind::Parameter)),
        (
            "responses",
            9,
            Kind::Map(1, &Kind::Inside(1, &Kind::Message(&RESPONSE))),
        ),
        ("schemes", 10, TEXTS),
        ("deprecated", 11, Kind::Flag),
    ],
    extensions: 13,
};

static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("required", 4, Kind::Flag),
        ("schema", 5, Kind::Message(&SCHEMA)),
    ],
    extensions: 6,
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Kind::Flag),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 6, Kind::Text),
        ("uniqueItems", 20, Kind::Flag),
    ],
    extensions: 23,
};

static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Kind::Flag),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 5, Kind::Text),
        ("uniqueItems", 19, Kind::Flag),
    ],
    extensions: 22,
};

static RESPONSE: Message = Message {
    fields: &[
        ("description", 1, Kind::Text),
        ("schema", 2, Kind::Inside(1, &Kind::Message(&SCHEMA))),
    ],
    extensions: 5,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Kind::Text),
        ("format", 2, Kind::Text),
        ("title", 3, Kind::Text),
        ("description", 4, Kind::Text),
        ("default", 5, Kind::Any),
        ("multipleOf", 6, Kind::Number),
        ("maximum", 7, Kind::Number),
        ("exclusiveMaximum", 8, Kind::Flag),
        ("minimum", 9, Kind::Number),
        ("exclusiveMinimum", 10, Kind::Flag),
        ("maxLength", 11, Kind::Integer),
        ("minLength", 12, Kind::Integer),
        ("pattern", 13, Kind::Text),
        ("maxItems", 14, Kind::Integer),
        ("minItems", 15, Kind::Integer),
        ("uniqueItems", 16, Kind::Flag),
        ("maxProperties", 17, Kind::Integer),
        ("minProperties", 18, Kind::Integer),
        ("required", 19, TEXTS),
        ("enum", 20, Kind::Many(&Kind::Any)),
        ("additionalProperties", 21, Kind::Inside(1, &Kind::Message(&SCHEMA))),
        ("type", 22, Kind::Inside(1, &Kind::Text)),
        ("items", 23, Kind::Inside(1, &Kind::Message(&SCHEMA))),
        ("allOf", 24, Kind::Many(&Kind::Message(&SCHEMA))),
        ("properties", 25, Kind::Map(1, &Kind::Message(&SCHEMA))),
        ("readOnly", 27, Kind::Flag),
        ("example", 30, Kind::Any),
    ],
    extensions: 31,
};

/// What the table has no place for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} has no place in an OpenAPI message")]
struct Misfit(String);

type Written = Result<(), Misfit>;

/// A whole document. `head` is all that is neither path nor definition.
pub(super) fn document(head: &Value, paths: Named, definitions: Named) -> Vec<u8> {
    let mut out = Vec::with_capacity(paths.pairs.len() + definitions.pairs.len() + 1024);
    value(&mut out, None, &Kind::Message(&DOCUMENT), head).expect("a test writes every member");
    wire::bytes(&mut out, PATHS, &paths.pairs);
    drop(paths);
    wire::bytes(&mut out, DEFINITIONS, &definitions.pairs);
    out
}

/// Paths or definitions, written as they come.
#[derive(Debug)]
pub(super) struct Named {
    number: u32,
    kind: Kind,
    pairs: Vec<u8>,
}

impl Named {
    pub(super) fn paths() -> Self {
        Named {
            number: 2,
            kind: Kind::Message(&PATH_ITEM),
            pairs: Vec::new(),
        }
    }

    pub(super) fn definitions() -> Self {
        Named {
            number: 1,
            kind: Kind::Message(&SCHEMA),
            pairs: Vec::new(),
        }
    }
}

impl Members for Named {
    fn member(&mut self, name: &str, value: &Value) {
        pair(&mut self.pairs, self.number, &self.kind, name, value).expect("a test writes every member");
    }
}

fn pair(out: &mut Vec<u8>, number: u32, kind: &Kind, name: &str, of: &Value) -> Written {
    wire::message(out, number, |out| {
        wire::text(out, 1, name);
        value(out, Some(2), kind, of)
    })
}

/// Writes a value under a number; a message without one is written bare.
fn value(out: &mut Vec<u8>, number: Option<u32>, kind: &Kind, of: &Value) -> Written {
    let misfit = || Misfit(of.to_string());
    let within = |out: &mut Vec<u8>, write: &dyn Fn(&mut Vec<u8>) -> Written| match number {
        Some(number) => wire::message(out, number, write),
        None => write(out),
    };
    let number_of = || number.expect("only messages are written bare");
    match (kind, of) {
        // What is empty, false or zero is not written, except within a message that says that it is there.
        (Kind::Text, Value::String(text)) => {
            if !text.is_empty() {
                wire::text(out, number_of(), text);
            }
            Ok(())
        }
        (Kind::Flag, Value::Bool(flag)) => {
            if *flag {
                wire::integer(out, number_of(), 1);
            }
            Ok(())
        }
        (Kind::Integer, _) => {
            let found = of.as_i64().ok_or_else(misfit)?;
            if found != 0 {
                wire::integer(out, number_of(), found);
            }
            Ok(())
        }
        (Kind::Number, _) => {
            let found = of.as_f64().ok_or_else(misfit)?;
            if found != 0.0 {
                wire::double(out, number_of(), found);
            }
            Ok(())
        }
        (Kind::Any, _) => within(out, &|out| {
            wire::text(out, 2, &of.to_string());
            Ok(())
        }),
        (Kind::Many(inner), Value::Array(list)) => list.iter().try_for_each(|of| match (inner, of) {
            (Kind::Text, Value::String(text)) => {
                wire::text(out, number_of(), text);
                Ok(())
            }
            _ => value(out, number, inner, of),
        }),
        (Kind::Map(entry, inner), Value::Object(map)) => within(out, &|out| {
            map.iter().try_for_each(|(name, of)| pair(out, *entry, inner, name, of))
        }),
        (Kind::Inside(field, inner), _) => within(out, &|out| value(out, Some(*field), inner, of)),
        (Kind::Message(message), Value::Object(map)) => within(out, &|out| members(out, message, map)),
        (Kind::Parameter, Value::Object(map)) => {
            let (around, message) = match map.get("in").and_then(Value::as_str) {
                Some("body") => BODY,
                Some("query") => QUERY,
                Some("path") => PATH,
                _ => return Err(misfit()),
            };
            within(out, &|out| nested(out, around, message, map))
        }
        _ => Err(misfit()),
    }
}

fn nested(out: &mut Vec<u8>, around: &[u32], message: &Message, map: &Map<String, Value>) -> Written {
    match around {
        [number, rest @ ..] => wire::message(out, *number, |out| nested(out, rest, message, map)),
        [] => members(out, message, map),
    }
}

fn members(out: &mut Vec<u8>, message: &Message, map: &Map<String, Value>) -> Written {
    for (name, of) in map {
        if name.starts_with("x-") {
            pair(out, message.extensions, &Kind::Any, name, of)?;
        } else if !message.fields.iter().any(|(known, ..)| known == name) {
            return Err(Misfit(name.clone()));
        }
    }
    for (name, number, kind) in message.fields {
        if let Some(of) = map.get(*name) {
            value(out, Some(*number), kind, of)?;
        }
    }
    Ok(())
}

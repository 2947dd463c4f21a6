//! Trees to messages. Fields go out in the order of their numbers; what Go has no pointer to is written even if zero.

use serde_json::{Map, Value};

use super::super::leaf;
use super::super::table::{Field, Shape, Ty, TypeRef};
use super::{Error, wire};

type Written = Result<(), Error>;

/// A type that has JSON fields and no numbers cannot be written.
fn check(ty: TypeRef) -> Written {
    let described = |f: &Field| !matches!(f.name(), "apiVersion" | "kind");
    if ty.wire().len() == 0 && ty.fields().any(|f| described(&f)) {
        return Err(Error::NoForm(ty.id().to_owned()));
    }
    Ok(())
}

pub(super) fn object(ty: TypeRef, map: &Map<String, Value>, out: &mut Vec<u8>) -> Written {
    check(ty)?;
    for field in ty.wire() {
        if field.is_inline() {
            let inner = field.ty().object().expect("only structs are inlined");
            wire::message(out, field.number(), |out| object(inner, map, out))?;
            continue;
        }
        let value = map.get(field.name()).filter(|v| !v.is_null());
        member(field, value, out)?;
    }
    Ok(())
}

fn wrong<T>(field: Field) -> Result<T, Error> {
    Err(Error::Value(field.name().to_owned()))
}

fn member(field: Field, value: Option<&Value>, out: &mut Vec<u8>) -> Written {
    let number = field.number();
    match (field.ty().shape(), value) {
        (Shape::List(inner), Some(Value::Array(list))) => {
            for value in list {
                single(field, number, inner, Some(value).filter(|v| !v.is_null()), out)?;
            }
            Ok(())
        }
        (Shape::Map(inner), Some(Value::Object(map))) => {
            for (key, value) in map {
                wire::message(out, number, |out| {
                    wire::text(out, 1, key);
                    single(field, 2, inner, Some(value).filter(|v| !v.is_null()), out)
                })?;
            }
            Ok(())
        }
        (Shape::List(_) | Shape::Map(_) | Shape::Bytes, None) => Ok(()),
        // A list with a name of its own is a message that may be nil.
        (Shape::Items, None) => Ok(()),
        (_, None) if field.is_pointer() => Ok(()),
        (Shape::List(_) | Shape::Map(_), Some(_)) => wrong(field),
        (_, value) => single(field, number, field.ty(), value, out),
    }
}

/// One value; `None` is Go's zero.
fn single(field: Field, number: u32, ty: Ty, value: Option<&Value>, out: &mut Vec<u8>) -> Written {
    match (ty.shape(), value) {
        (Shape::String, None) => wire::text(out, number, ""),
        (Shape::String, Some(Value::String(text))) => wire::text(out, number, text),
        (Shape::Bool, None) => wire::integer(out, number, 0),
        (Shape::Bool, Some(Value::Bool(value))) => wire::integer(out, number, i64::from(*value)),
        (Shape::Int32 | Shape::Int64, None) => wire::integer(out, number, 0),
        (Shape::Int32 | Shape::Int64, Some(Value::Number(value))) => {
            let Some(value) = value.as_i64() else {
                return wrong(field);
            };
            wire::integer(out, number, value);
        }
        (Shape::Double, None) => wire::double(out, number, 0.0),
        (Shape::Double, Some(Value::Number(value))) => {
            wire::double(out, number, value.as_f64().unwrap_or_default());
        }
        (Shape::Bytes, None) => wire::bytes(out, number, b""),
        (Shape::Bytes, Some(Value::String(text))) => {
            let Ok(value) = leaf::base64(text) else {
                return wrong(field);
            };
            wire::bytes(out, number, &value);
        }
        (Shape::Object(inner), value) => {
            let empty = Map::new();
            let map = match value {
                None => &empty,
                Some(Value::Object(map)) => map,
                Some(_) => return wrong(field),
            };
            return wire::message(out, number, |out| object(inner, map, out));
        }
        (Shape::Quantity, value) => {
            let text = match value {
                None => "0",
                Some(Value::String(text)) => text,
                Some(_) => return wrong(field),
            };
            return wire::message(out, number, |out| {
                wire::text(out, 1, text);
                Ok(())
            });
        }
        (Shape::IntOrString, value) => {
            let (kind, int, text) = match value {
                None => (0, 0, ""),
                Some(Value::Number(int)) => (0, int.as_i64().unwrap_or_default(), ""),
                Some(Value::String(text)) => (1, 0, text.as_str()),
                Some(_) => return wrong(field),
            };
            return wire::message(out, number, |out| {
                wire::integer(out, 1, kind);
                wire::integer(out, 2, int);
                wire::text(out, 3, text);
                Ok(())
            });
        }
        (Shape::Time | Shape::MicroTime, value) => {
            let at = match value {
                None => None,
                Some(Value::String(text)) => match leaf::instant(text) {
                    Some(at) => Some(at),
                    None => return wrong(field),
                },
                Some(_) => return wrong(field),
            };
            return wire::message(out, number, |out| {
                if let Some((seconds, nanos)) = at {
                    wire::integer(out, 1, seconds);
                    wire::integer(out, 2, i64::from(nanos));
                }
                Ok(())
            });
        }
        (Shape::Duration, value) => {
            let nanos = match value {
                None => 0,
                Some(Value::String(text)) => match leaf::duration(text) {
                    Ok(nanos) => nanos,
                    Err(_) => return wrong(field),
                },
                Some(_) => return wrong(field),
            };
            return wire::message(out, number, |out| {
                wire::integer(out, 1, nanos);
                Ok(())
            });
        }
        // JSON within: its text is the message's one field.
        (Shape::Raw | Shape::Json | Shape::Fields | Shape::Any, value) => {
            return wire::message(out, number, |out| {
                if let Some(value) = value {
                    wire::text(out, 1, &value.to_string());
                }
                Ok(())
            });
        }
        (Shape::Items, Some(Value::Array(list))) => {
            return wire::message(out, number, |out| strings(field, 1, list, out));
        }
        (Shape::Items, None) => return wire::message(out, number, |_| Ok(())),
        (Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings, value) => {
            return wire::message(out, number, |out| union(field, ty, value, out));
        }
        _ => return wrong(field),
    }
    Ok(())
}

fn strings(field: Field, number: u32, list: &[Value], out: &mut Vec<u8>) -> Written {
    for value in list {
        let Some(text) = value.as_str() else {
            return wrong(field);
        };
        wire::text(out, number, text);
    }
    Ok(())
}

/// What apiextensions lets be a schema or something simpler.
fn union(field: Field, ty: Ty, value: Option<&Value>, out: &mut Vec<u8>) -> Written {
    let schema = |number: u32, map: &Map<String, Value>, out: &mut Vec<u8>| {
        wire::message(out, number, |out| object(TypeRef::schema(), map, out))
    };
    match (ty.shape(), value) {
        (Shape::SchemaOrBool, Some(Value::Object(map))) => {
            // A schema allows.
            wire::integer(out, 1, 1);
            schema(2, map, out)
        }
        (Shape::SchemaOrBool, value) => {
            wire::integer(out, 1, i64::from(value.and_then(Value::as_bool).unwrap_or(false)));
            Ok(())
        }
        (_, Some(Value::Object(map))) => schema(1, map, out),
        (Shape::SchemaOrArray, Some(Value::Array(list))) => {
            for value in list {
                let Some(map) = value.as_object() else {
                    return wrong(field);
                };
                schema(2, map, out)?;
            }
            Ok(())
        }
        (Shape::SchemaOrStrings, Some(Value::Array(list))) => strings(field, 2, list, out),
        (_, None) => Ok(()),
        _ => wrong(field),
    }
}

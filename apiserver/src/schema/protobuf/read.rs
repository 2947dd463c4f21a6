//! Messages to trees, in the form that the server writes as JSON.

use serde_json::{Map, Value};

use super::super::table::{Field, Shape, Ty, TypeRef};
use super::super::{leaf, shape};
use super::wire::{self, Datum};
use super::{Error, MAGIC, Unknown};

/// Messages nested deeper are refused: reading recurses.
const MAX_DEPTH: usize = 128;

pub(super) fn text(bytes: &[u8]) -> Result<String, Error> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::Value("a string".into()))
}

pub(super) fn object(ty: TypeRef, bytes: &[u8], unknown: Unknown) -> Result<Map<String, Value>, Error> {
    Reader { unknown, depth: 0 }.object(ty, bytes)
}

struct Reader {
    unknown: Unknown,
    depth: usize,
}

impl Reader {
    fn object(&mut self, ty: TypeRef, bytes: &[u8]) -> Result<Map<String, Value>, Error> {
        let mut map = Map::new();
        self.into(ty, bytes, &mut map)?;
        shape::fill(ty, &mut map);
        Ok(map)
    }

    fn into(&mut self, ty: TypeRef, bytes: &[u8], map: &mut Map<String, Value>) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Error::NotAMessage);
        }
        for read in wire::fields(bytes) {
            let (number, datum) = read?;
            let Some(field) = ty.wire().find(|f| f.number() == number) else {
                match self.unknown {
                    Unknown::Drop => continue,
                    Unknown::Refuse => {
                        return Err(Error::UnknownField {
                            message: ty.id(),
                            number,
                        });
                    }
                }
            };
            if field.is_inline() {
                let inner = field.ty().object().expect("only structs are inlined");
                self.into(inner, message(field, datum)?, map)?;
                continue;
            }
            match field.ty().shape() {
                Shape::List(inner) => {
                    let value = self.value(field, inner, datum)?;
                    let slot = map.entry(field.name()).or_insert_with(|| Value::Array(Vec::new()));
                    slot.as_array_mut().expect("made a list above").push(value);
                }
                Shape::Map(inner) => {
                    let (key, value) = self.entry(field, inner, message(field, datum)?)?;
                    let slot = map.entry(field.name()).or_insert_with(|| Value::Object(Map::new()));
                    slot.as_object_mut().expect("made a map above").insert(key, value);
                }
                _ => {
                    let value = self.value(field, field.ty(), datum)?;
                    match Some(value).filter(|v| !v.is_null()).and_then(|v| shape::kept(field, v)) {
                        Some(value) => drop(map.insert(field.name().to_owned(), value)),
                        None => drop(map.remove(field.name())),
                    }
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn entry(&mut self, field: Field, inner: Ty, bytes: &[u8]) -> Result<(String, Value), Error> {
        let (mut key, mut value) = (String::new(), None);
        for read in wire::fields(bytes) {
            match read? {
                (1, Datum::Bytes(bytes)) => key = text(bytes)?,
                (2, datum) => value = Some(self.value(field, inner, datum)?),
                _ => return Err(Error::Value(field.name().to_owned())),
            }
        }
        Ok((key, value.unwrap_or_else(|| shape::zero(inner))))
    }

    fn value(&mut self, field: Field, ty: Ty, datum: Datum<'_>) -> Result<Value, Error> {
        let wrong = || Error::Value(field.name().to_owned());
        Ok(match (ty.shape(), datum) {
            (Shape::String, Datum::Bytes(bytes)) => Value::String(text(bytes)?),
            (Shape::Bool, Datum::Varint(value)) => Value::Bool(value != 0),
            (Shape::Int32, Datum::Varint(value)) => Value::from(value as i32),
            (Shape::Int64, Datum::Varint(value)) => Value::from(value as i64),
            (Shape::Double, Datum::Fixed64(bits)) => shape::float(f64::from_bits(bits)),
            (Shape::Bytes, Datum::Bytes(bytes)) => Value::String(leaf::print_base64(bytes)),
            (Shape::Object(inner), Datum::Bytes(bytes)) => Value::Object(self.object(inner, bytes)?),
            (Shape::Quantity, Datum::Bytes(bytes)) => {
                let mut found = "0".to_owned();
                for read in wire::fields(bytes) {
                    let (1, Datum::Bytes(bytes)) = read? else {
                        return Err(wrong());
                    };
                    found = leaf::quantity(&text(bytes)?).map_err(|_| wrong())?;
                }
                Value::String(found)
            }
            (Shape::IntOrString, Datum::Bytes(bytes)) => {
                let (mut kind, mut int, mut string) = (0, 0, String::new());
                for read in wire::fields(bytes) {
                    match read? {
                        (1, Datum::Varint(value)) => kind = value,
                        (2, Datum::Varint(value)) => int = value as i32,
                        (3, Datum::Bytes(bytes)) => string = text(bytes)?,
                        _ => return Err(wrong()),
                    }
                }
                if kind == 0 {
                    Value::from(int)
                } else {
                    Value::String(string)
                }
            }
            (Shape::Time | Shape::MicroTime, Datum::Bytes(bytes)) => {
                if bytes.is_empty() {
                    return Ok(Value::Null);
                }
                let (mut seconds, mut nanos) = (0, 0);
                for read in wire::fields(bytes) {
                    match read? {
                        (1, Datum::Varint(value)) => seconds = value as i64,
                        (2, Datum::Varint(value)) => nanos = value as i32,
                        _ => return Err(wrong()),
                    }
                }
                let micros = ty.shape() == Shape::MicroTime;
                leaf::print_instant(seconds, nanos, micros)
                    .map(Value::String)
                    .ok_or_else(wrong)?
            }
            (Shape::Duration, Datum::Bytes(bytes)) => {
                let mut nanos = 0;
                for read in wire::fields(bytes) {
                    let (1, Datum::Varint(value)) = read? else {
                        return Err(wrong());
                    };
                    nanos = value as i64;
                }
                Value::String(leaf::print_duration(nanos))
            }
            (Shape::Raw | Shape::Json | Shape::Fields | Shape::Any, Datum::Bytes(bytes)) => {
                let mut value = Value::Null;
                for read in wire::fields(bytes) {
                    let (1, Datum::Bytes(raw)) = read? else {
                        return Err(wrong());
                    };
                    value = match raw.starts_with(MAGIC) {
                        // An object that was put in whole.
                        true => Value::Object(super::from_protobuf(raw, None, self.unknown)?.1),
                        false => serde_json::from_slice(raw).map_err(|_| wrong())?,
                    };
                }
                value
            }
            (Shape::Items, Datum::Bytes(bytes)) => {
                let mut list = Vec::new();
                for read in wire::fields(bytes) {
                    let (1, Datum::Bytes(bytes)) = read? else {
                        return Err(wrong());
                    };
                    list.push(Value::String(text(bytes)?));
                }
                Value::Array(list)
            }
            (Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings, Datum::Bytes(bytes)) => {
                self.union(field, ty, bytes)?
            }
            _ => return Err(wrong()),
        })
    }

    fn union(&mut self, field: Field, ty: Ty, bytes: &[u8]) -> Result<Value, Error> {
        let (mut schema, mut allows, mut list) = (None, false, Vec::new());
        for read in wire::fields(bytes) {
            match (ty.shape(), read?) {
                (Shape::SchemaOrBool, (1, Datum::Varint(value))) => allows = value != 0,
                (Shape::SchemaOrBool, (2, Datum::Bytes(bytes)))
                | (Shape::SchemaOrArray | Shape::SchemaOrStrings, (1, Datum::Bytes(bytes))) => {
                    schema = Some(self.object(TypeRef::schema(), bytes)?);
                }
                (Shape::SchemaOrArray, (2, Datum::Bytes(bytes))) => {
                    list.push(Value::Object(self.object(TypeRef::schema(), bytes)?));
                }
                (Shape::SchemaOrStrings, (2, Datum::Bytes(bytes))) => list.push(Value::String(text(bytes)?)),
                _ => return Err(Error::Value(field.name().to_owned())),
            }
        }
        Ok(match (schema, ty.shape()) {
            (Some(schema), _) => Value::Object(schema),
            (None, Shape::SchemaOrBool) => Value::Bool(allows),
            (None, _) => Value::Array(list),
        })
    }
}

fn message(field: Field, datum: Datum<'_>) -> Result<&[u8], Error> {
    match datum {
        Datum::Bytes(bytes) => Ok(bytes),
        _ => Err(Error::Value(field.name().to_owned())),
    }
}

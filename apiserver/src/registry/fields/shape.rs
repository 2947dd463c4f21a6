//! What the schema says of merging: which values are one thing, which have parts with owners of their own, and how the
//! items of a list are told apart. Semantics: kube-openapi/pkg/schemaconv (1.36), which reads the same facts.

use serde_json::{Map, Value};

use super::element::Element;
use crate::schema::{self, Field, ListType, Ty, TypeRef};

/// How a value is merged and owned.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Scalar(Scalar),
    Struct {
        ty: TypeRef,
        atomic: bool,
    },
    Map {
        of: Ty,
        atomic: bool,
    },
    List {
        of: Ty,
        list: List,
    },
    /// Any value, owned as one.
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    String,
    Number,
    Bool,
    /// Quantities, times and the like have more than one way to be written.
    Any,
}

/// How the items of a list are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    /// They are not: the list is one thing.
    Atomic,
    /// By their value.
    Set,
    /// By keys inside of them, which this field names.
    Keyed(Field),
}

impl Shape {
    pub(super) fn object(ty: TypeRef) -> Shape {
        Shape::Struct {
            ty,
            atomic: ty.is_atomic(),
        }
    }
    /// A value that nothing but its type is known of: the item of a list or map.
    fn plain(ty: Ty) -> Shape {
        match ty.shape() {
            schema::Shape::String | schema::Shape::Bytes => Shape::Scalar(Scalar::String),
            schema::Shape::Bool => Shape::Scalar(Scalar::Bool),
            schema::Shape::Int32 | schema::Shape::Int64 | schema::Shape::Double => Shape::Scalar(Scalar::Number),
            schema::Shape::Quantity
            | schema::Shape::IntOrString
            | schema::Shape::Time
            | schema::Shape::MicroTime
            | schema::Shape::Duration => Shape::Scalar(Scalar::Any),
            schema::Shape::Raw
            | schema::Shape::Json
            | schema::Shape::Any
            | schema::Shape::Fields
            | schema::Shape::SchemaOrArray
            | schema::Shape::SchemaOrBool
            | schema::Shape::SchemaOrStrings
            | schema::Shape::Items => Shape::Any,
            schema::Shape::Object(inner) => Shape::object(inner),
            schema::Shape::List(of) => Shape::List { of, list: List::Atomic },
            schema::Shape::Map(of) => Shape::Map { of, atomic: false },
        }
    }
    fn of(field: Field) -> Shape {
        match Shape::plain(field.ty()) {
            Shape::Struct { ty, atomic } => Shape::Struct {
                ty,
                atomic: (atomic || field.is_atomic_map()) && !field.is_granular(),
            },
            Shape::Map { of, .. } => Shape::Map {
                of,
                atomic: field.is_atomic_map(),
            },
            Shape::List { of, .. } => Shape::List { of, list: list(field) },
            other => other,
        }
    }
    /// Whether a struct has this field; a map's keys are not declared.
    pub(super) fn declares(self, name: &str) -> bool {
        matches!(self, Shape::Struct { ty, .. } if ty.field(name).is_some())
    }
    /// What is at a field or key; `None` where a struct has no such field.
    pub(super) fn field(self, name: &str) -> Option<Shape> {
        match self {
            Shape::Struct { ty, .. } => ty.field(name).map(Shape::of),
            Shape::Map { of, .. } => Some(Shape::plain(of)),
            _ => None,
        }
    }
    pub(super) fn item(self) -> Option<Shape> {
        match self {
            Shape::List { of, .. } => Some(Shape::plain(of)),
            _ => None,
        }
    }
    /// The parts have no owners of their own.
    pub(super) fn is_atomic(self) -> bool {
        match self {
            Shape::Struct { atomic, .. } | Shape::Map { atomic, .. } => atomic,
            Shape::List { list, .. } => list == List::Atomic,
            Shape::Scalar(_) | Shape::Any => true,
        }
    }
    /// Which item of a set or keyed list this is.
    pub(super) fn element(self, item: &Value) -> Result<Element, String> {
        let Shape::List { of, list } = self else {
            return Err("invalid indexing of non-associative list".into());
        };
        match list {
            List::Atomic => Err("invalid indexing of non-associative list".into()),
            List::Set => match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
                value => Ok(Element::value(value)),
            },
            List::Keyed(field) => {
                let fields = match item {
                    Value::Object(fields) => fields,
                    Value::Null => return Err("associative list with keys may not have a null element".into()),
                    _ => return Err("associative list with keys may not have non-map elements".into()),
                };
                let mut keys = Map::new();
                for name in key_names(field) {
                    let value = match fields.get(name) {
                        Some(value) => value.clone(),
                        None => key_default(of, name).ok_or_else(|| {
                            format!(
                                "associative list with keys has an element that omits key field {name:?} (and doesn't have default value)"
                            )
                        })?,
                    };
                    keys.insert(name.to_owned(), value);
                }
                Ok(Element::keys(keys))
            }
        }
    }
}

fn list(field: Field) -> List {
    match field.list_type() {
        ListType::Atomic => List::Atomic,
        ListType::Set => List::Set,
        ListType::Map => List::Keyed(field),
        ListType::Unset if !field.patch().merge => List::Atomic,
        ListType::Unset if field.merge_key().is_some() => List::Keyed(field),
        ListType::Unset => List::Set,
    }
}

fn key_names(field: Field) -> impl Iterator<Item = &'static str> {
    let merge_key = (field.list_type() != ListType::Map)
        .then(|| field.merge_key())
        .flatten();
    let listed = (field.list_type() == ListType::Map).then(|| field.keys());
    listed.into_iter().flatten().chain(merge_key)
}

fn key_default(of: Ty, name: &str) -> Option<Value> {
    serde_json::from_str(of.object()?.field(name)?.default()?).ok()
}

//! What a typed server writes: which empty fields vanish and which stand in every object. Upstream stores Go structs,
//! so an object read and written there loses `replicas: 0` of a plain field but gains `status: {}`.

use serde_json::{Map, Number, Value};

use super::table::{Field, Shape, Ty, TypeRef};

/// The value of a field as the server keeps it; `None` where it vanishes.
pub(super) fn kept(field: Field, value: Value) -> Option<Value> {
    if field.is_pointer() || !is_empty(field.ty(), &value) {
        return Some(value);
    }
    if field.is_omitted() {
        return None;
    }
    // An empty list is none after its way through the store.
    match field.ty().shape() {
        Shape::List(_) | Shape::Map(_) | Shape::Items | Shape::Bytes => Some(Value::Null),
        _ => Some(value),
    }
}

/// What Go's `omitempty` calls empty: no struct is.
fn is_empty(ty: Ty, value: &Value) -> bool {
    match (ty.shape(), value) {
        (Shape::String | Shape::Bytes, Value::String(text)) => text.is_empty(),
        (Shape::Bool, Value::Bool(value)) => !value,
        (Shape::Int32 | Shape::Int64, Value::Number(number)) => number.as_i64() == Some(0),
        (Shape::Double, Value::Number(number)) => number.as_f64() == Some(0.0),
        (Shape::List(_) | Shape::Items, Value::Array(list)) => list.is_empty(),
        (Shape::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

/// Adds the fields that every object of the type has.
pub(super) fn fill(ty: TypeRef, map: &mut Map<String, Value>) {
    for field in ty.fields() {
        if field.is_always() && !map.contains_key(field.name()) {
            let value = if field.is_pointer() {
                Value::Null
            } else {
                zero(field.ty())
            };
            map.insert(field.name().to_owned(), value);
        }
    }
}

/// A struct that nothing was said about.
pub fn zero_object(ty: TypeRef) -> Map<String, Value> {
    let mut map = Map::new();
    fill(ty, &mut map);
    map
}

/// Go's zero value, as JSON.
pub(super) fn zero(ty: Ty) -> Value {
    match ty.shape() {
        Shape::String => Value::String(String::new()),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::from("0"),
        Shape::Duration => Value::from("0s"),
        Shape::Object(ty) => Value::Object(zero_object(ty)),
        _ => Value::Null,
    }
}

/// A float as Go prints it: whole ones without a point.
pub(super) fn float(value: f64) -> Value {
    // Above this Go switches to an exponent, and so does serde_json.
    const WHOLE: f64 = 1e15;
    if value.fract() == 0.0 && value.abs() < WHOLE {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// Puts a tree that code changed into the form the server writes: nulls and empty optional fields go, fields that are
/// always there come. Fields that the type does not have stay; [`super::check`] is for trees from outside.
pub fn normalise(ty: TypeRef, map: &mut Map<String, Value>) {
    let mut gone: Vec<Field> = Vec::new();
    for (name, value) in map.iter_mut() {
        let Some(field) = ty.field(name) else { continue };
        if value.is_null() {
            gone.push(field);
            continue;
        }
        inside(field.ty(), value);
        match kept(field, std::mem::take(value)) {
            Some(left) => *value = left,
            None => gone.push(field),
        }
    }
    for field in gone {
        map.remove(field.name());
    }
    fill(ty, map);
}

fn inside(ty: Ty, value: &mut Value) {
    match (ty.shape(), value) {
        (Shape::Object(ty), Value::Object(map)) => normalise(ty, map),
        (Shape::List(inner), Value::Array(list)) => list.iter_mut().for_each(|v| inside(inner, v)),
        (Shape::Map(inner), Value::Object(map)) => map.values_mut().for_each(|v| inside(inner, v)),
        _ => {}
    }
}

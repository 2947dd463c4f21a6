//! A value and the way to it, so that a rule reads like upstream's: `spec.get("ports").required(errors, "")`.
//! The way is a list on the stack: nothing is allocated until a field is refused.

use serde_json::{Map, Value};

use crate::object::Object;
use crate::status::Errors;

/// How a [`Field`] was reached. Prints as `spec.containers[0].resources.limits[cpu]`.
#[derive(Debug, Clone, Copy)]
pub enum Path<'p> {
    Root,
    /// A word, or several joined by dots.
    Name(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
    Key(&'p Path<'p>, &'p str),
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Name(Path::Root, name) => write!(f, "{name}"),
            Path::Name(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

static EMPTY: Value = Value::String(String::new());
static NULL: Value = Value::Null;

/// Whether two values mean the same: null, {} and [] are as good as nothing, at any depth of objects.
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    fn nothing(value: Option<&Value>) -> bool {
        match value {
            None | Some(Value::Null) => true,
            Some(Value::Array(a)) => a.is_empty(),
            Some(Value::Object(o)) => o.values().all(|v| nothing(Some(v))),
            Some(_) => false,
        }
    }
    match (a, b) {
        (Some(Value::Object(x)), Some(Value::Object(y))) => {
            x.iter().all(|(k, v)| same(Some(v), y.get(k)))
                && y.iter().all(|(k, v)| x.contains_key(k) || nothing(Some(v)))
        }
        (Some(Value::Array(x)), Some(Value::Array(y))) => {
            x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same(Some(v), Some(w)))
        }
        _ => (nothing(a) && nothing(b)) || a == b,
    }
}

/// A value, or its absence, at a path. A null counts as absent.
#[derive(Debug, Clone, Copy)]
pub struct Field<'v, 'p> {
    value: Option<&'v Value>,
    path: Path<'p>,
}

impl From<Field<'_, '_>> for String {
    fn from(field: Field<'_, '_>) -> String {
        field.path.to_string()
    }
}
impl From<&Field<'_, '_>> for String {
    fn from(field: &Field<'_, '_>) -> String {
        field.path.to_string()
    }
}

impl<'v, 'p> Field<'v, 'p> {
    /// The root field `name` of an object; dots go deeper.
    pub fn root(object: &'v Object, name: &'p str) -> Field<'v, 'p> {
        let mut steps = name.split('.');
        let first = steps.next().and_then(|step| object.0.get(step));
        Field {
            value: steps
                .try_fold(first, |value, step| Some(value?.get(step)))
                .flatten()
                .filter(|v| !v.is_null()),
            path: Path::Name(&Path::Root, name),
        }
    }
    /// A value that stands at a path of the caller's choice.
    pub fn at(value: Option<&'v Value>, path: &'p str) -> Field<'v, 'p> {
        Field {
            value: value.filter(|v| !v.is_null()),
            path: Path::Name(&Path::Root, path),
        }
    }
    /// The child `name`; dots go deeper.
    pub fn get<'s>(&'s self, name: &'s str) -> Field<'v, 's> {
        let value = self
            .value
            .and_then(|value| name.split('.').try_fold(value, |value, step| value.get(step)));
        Field {
            value: value.filter(|v| !v.is_null()),
            path: Path::Name(&self.path, name),
        }
    }
    /// The child under `key` of a map whose keys are data; printed in brackets.
    pub fn key<'s>(&'s self, key: &'s str) -> Field<'v, 's> {
        Field {
            value: self.value.and_then(|value| value.get(key)).filter(|v| !v.is_null()),
            path: Path::Key(&self.path, key),
        }
    }
    /// The same path with another value.
    pub fn with(&self, value: Option<&'v Value>) -> Field<'v, 'p> {
        Field { value, path: self.path }
    }
    /// The items of an array, none where there is no array. Nulls stay: they are items.
    pub fn items<'s>(&'s self) -> impl Iterator<Item = Field<'v, 's>> {
        self.array().iter().enumerate().map(|(index, value)| Field {
            value: Some(value).filter(|v| !v.is_null()),
            path: Path::Index(&self.path, index),
        })
    }
    /// The entries of a map, each with its key, as `path[key]`.
    pub fn entries<'s>(&'s self) -> impl Iterator<Item = (&'v str, Field<'v, 's>)> {
        self.map().into_iter().flatten().map(|(key, value)| {
            let field = Field {
                value: Some(value).filter(|v| !v.is_null()),
                path: Path::Key(&self.path, key),
            };
            (key.as_str(), field)
        })
    }

    pub fn path(&self) -> &Path<'p> {
        &self.path
    }
    pub fn value(&self) -> Option<&'v Value> {
        self.value
    }
    /// The value as a message shows it: null where there is none.
    pub fn shown(&self) -> &'v Value {
        self.value.unwrap_or(&NULL)
    }
    pub fn present(&self) -> bool {
        self.value.is_some()
    }
    /// Absent, or what Go calls the zero value: "", 0, false, no entries.
    pub fn is_zero(&self) -> bool {
        match self.value {
            None | Some(Value::Null) => true,
            Some(Value::Bool(b)) => !b,
            Some(Value::Number(n)) => n.as_f64() == Some(0.0),
            Some(Value::String(s)) => s.is_empty(),
            Some(Value::Array(a)) => a.is_empty(),
            Some(Value::Object(o)) => o.is_empty(),
        }
    }
    /// The string, "" where there is none.
    pub fn str(&self) -> &'v str {
        self.value.and_then(Value::as_str).unwrap_or("")
    }
    pub fn int(&self) -> Option<i64> {
        self.value.and_then(Value::as_i64)
    }
    /// The number, 0 where there is none.
    pub fn number(&self) -> i64 {
        self.int().unwrap_or(0)
    }
    pub fn bool(&self) -> Option<bool> {
        self.value.and_then(Value::as_bool)
    }
    pub fn is_true(&self) -> bool {
        self.bool() == Some(true)
    }
    pub fn array(&self) -> &'v [Value] {
        self.value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
    pub fn map(&self) -> Option<&'v Map<String, Value>> {
        self.value.and_then(Value::as_object)
    }
    /// How many items or entries.
    pub fn len(&self) -> usize {
        match self.value {
            Some(Value::Array(a)) => a.len(),
            Some(Value::Object(o)) => o.len(),
            _ => 0,
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The strings of an array.
    pub fn strings(&self) -> impl Iterator<Item = &'v str> + use<'v> {
        self.array().iter().map(|v| v.as_str().unwrap_or(""))
    }

    // Refusals. A missing string is shown as "", as Go would.
    pub fn required(&self, errors: &mut Errors, why: &str) {
        errors.required(self, why);
    }
    pub fn invalid(&self, errors: &mut Errors, why: &str) {
        errors.invalid(self, self.value.unwrap_or(&EMPTY), why);
    }
    /// Refused with another value in the message than the one that stands here.
    pub fn invalid_as(&self, errors: &mut Errors, value: impl Into<Value>, why: &str) {
        errors.invalid(self, &value.into(), why);
    }
    pub fn forbidden(&self, errors: &mut Errors, why: &str) {
        errors.forbidden(self, why);
    }
    pub fn duplicate(&self, errors: &mut Errors) {
        errors.duplicate(self, self.value.unwrap_or(&EMPTY));
    }
    pub fn duplicate_as(&self, errors: &mut Errors, value: impl Into<Value>) {
        errors.duplicate(self, &value.into());
    }
    pub fn not_found(&self, errors: &mut Errors) {
        errors.not_found(self, self.value.unwrap_or(&EMPTY));
    }
    pub fn unsupported(&self, errors: &mut Errors, supported: &[&str]) {
        errors.unsupported(self, self.value.unwrap_or(&EMPTY), supported);
    }
    /// Each message of a format check.
    pub fn each_invalid(&self, errors: &mut Errors, messages: Vec<String>) {
        for message in messages {
            self.invalid(errors, &message);
        }
    }
    /// One of `supported`, or refused as unsupported. Absent is refused too.
    pub fn one_of(&self, errors: &mut Errors, supported: &[&str]) -> bool {
        let known = supported.contains(&self.str());
        if !known {
            self.unsupported(errors, supported);
        }
        known
    }
    pub fn non_negative(&self, errors: &mut Errors) {
        if self.number() < 0 {
            self.invalid(errors, NEGATIVE);
        }
    }
}

pub const NEGATIVE: &str = "must be greater than or equal to 0";
pub const IMMUTABLE: &str = "field is immutable";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_is_as_good_as_empty() {
        let (a, b) = (json!({"a": {"b": []}, "c": 1}), json!({"c": 1, "d": null}));
        assert!(same(Some(&a), Some(&b)));
        assert!(!same(Some(&a), Some(&json!({"c": 2}))));
        assert!(!same(Some(&json!([{}])), Some(&json!([]))));
    }
    #[test]
    fn paths_print_as_upstream_prints_them() {
        let object = Object(
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1"}}}]}})
                .as_object()
                .expect("map")
                .clone(),
        );
        let spec = Field::root(&object, "spec");
        let containers = spec.get("containers");
        let first = containers.items().next().expect("one");
        let limits = first.get("resources.limits");
        let (key, cpu) = limits.entries().next().expect("one");
        assert_eq!(key, "cpu");
        assert_eq!(String::from(cpu), "spec.containers[0].resources.limits[cpu]");
        assert_eq!(cpu.str(), "1");
        assert!(!spec.get("x.y").present());
    }
}

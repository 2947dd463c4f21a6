//! One step of a path into an object, in the letters that managedFields writes: `f:spec`, `k:{"name":"a"}`, `v:"x"`,
//! `i:0`. Two steps are the same where their letters are, so values come in here in one form only.

use std::borrow::Borrow;
use std::fmt;

use serde_json::{Map, Value};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Element(Box<str>);

impl Borrow<str> for Element {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Element {
    /// A field of a struct or a key of a map.
    pub(super) fn field(name: &str) -> Self {
        let mut text = String::with_capacity(name.len() + 2);
        text.push_str("f:");
        text.push_str(name);
        Element(text.into())
    }
    /// An item of a list that is a map by these keys.
    pub(super) fn keys(keys: Map<String, Value>) -> Self {
        Element(format!("k:{}", Value::Object(keys)).into())
    }
    /// An item of a set.
    pub(super) fn value(value: &Value) -> Self {
        Element(format!("v:{value}").into())
    }
    pub(super) fn index(index: usize) -> Self {
        Element(format!("i:{index}").into())
    }
    /// What a client wrote; `None` for kinds of steps that nobody knows yet, which upstream skips.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, String> {
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(format!("missing colon: {text:?}"));
        };
        let read = |rest: &str| serde_json::from_str::<Value>(rest).map_err(|e| e.to_string());
        Ok(Some(match kind {
            "f" => Element(text.into()),
            "v" => Element::value(&read(rest)?),
            "k" => match read(rest)? {
                Value::Object(keys) if !keys.is_empty() => Element::keys(keys),
                _ => return Err(format!("keys must be an object: {text:?}")),
            },
            "i" => Element::index(rest.parse().map_err(|_| format!("no index: {text:?}"))?),
            _ => return Ok(None),
        }))
    }
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
    /// The name, where this is a field.
    pub(super) fn as_field(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }
}

/// As conflicts and refusals print it.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, rest) = self.0.split_at(2);
        match kind {
            "f:" => write!(f, ".{rest}"),
            "v:" => write!(f, "[={rest}]"),
            "k:" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", pairs.join(","))
            }
            _ => write!(f, "[{rest}]"),
        }
    }
}

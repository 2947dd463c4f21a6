//! A patch: a tree and a document in, a new tree out. Pure: no kind is named here, types are asked through
//! [`strategic::Shape`], and nothing is stored.
//! Holds: a patch that is refused has changed nothing that the caller still uses.

pub mod json;
pub mod merge;
pub mod strategic;

use serde_json::{Map, Value};

/// Why a patch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The document is no patch of its kind: the client's mistake whatever the object is (400).
    #[error("{0}")]
    Malformed(String),
    /// It is more than anybody means (413).
    #[error("{0}")]
    TooLarge(String),
    /// A strategic merge that does not fit its type or itself, of which upstream only has words.
    #[error("{0}")]
    Unfit(String),
    /// A `test` operation did not hold, or a path is not there (422; upstream keeps the library's words to itself).
    #[error("the server rejected our request due to an error in our request")]
    Rejected,
}

/// As Go prints a tree, in the texts of refusals.
pub fn go_map(fields: &Map<String, Value>) -> String {
    let pairs: Vec<String> = fields
        .iter()
        .map(|(key, value)| format!("{key}:{}", go_value(value)))
        .collect();
    format!("map[{}]", pairs.join(" "))
}

pub fn go_list(list: &[Value]) -> String {
    format!("[{}]", list.iter().map(go_value).collect::<Vec<_>>().join(" "))
}

/// As Go prints a value's source, in the texts of refusals.
pub fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::String(_) | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(go_syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(fields) => {
            let pairs: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{key:?}:{}", go_syntax(value)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", pairs.join(", "))
        }
    }
}

fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(list) => go_list(list),
        Value::Object(fields) => go_map(fields),
    }
}

//! Any JSON document as a tree, with what Go would complain of: patches are read by this, since no type says what they
//! hold.

use serde_json::{Map, Value};

use super::json::{Kind, Reader, Syntax};

#[derive(Debug)]
pub struct Tree {
    pub value: Value,
    /// `duplicate field "spec.replicas"`.
    pub duplicates: Vec<String>,
}

/// The error is Go's text.
pub fn read(bytes: &[u8]) -> Result<Tree, String> {
    let mut walk = Walk {
        reader: Reader::new(bytes),
        path: String::new(),
        duplicates: Vec::new(),
    };
    let read = walk.value().and_then(|value| walk.reader.end().map(|()| value));
    let value = read.map_err(|error| error.to_string())?;
    Ok(Tree {
        value,
        duplicates: walk.duplicates,
    })
}

/// Go's word for the kind of a value.
pub fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

struct Walk<'a> {
    reader: Reader<'a>,
    path: String,
    duplicates: Vec<String>,
}

impl Walk<'_> {
    fn value(&mut self) -> Result<Value, Syntax> {
        let length = self.path.len();
        match self.reader.kind()? {
            Kind::Object => {
                self.reader.enter()?;
                let mut map = Map::new();
                let mut first = true;
                while let Some(key) = self.reader.key(first)? {
                    first = false;
                    if length > 0 {
                        self.path.push('.');
                    }
                    self.path.push_str(&key);
                    if map.contains_key(&*key) {
                        self.duplicates.push(format!("duplicate field {:?}", self.path));
                    }
                    let value = self.value()?;
                    self.path.truncate(length);
                    map.insert(key.into_owned(), value);
                }
                Ok(Value::Object(map))
            }
            Kind::Array => {
                self.reader.enter()?;
                let mut list = Vec::new();
                while self.reader.item(list.is_empty())? {
                    self.path.push_str(&format!("[{}]", list.len()));
                    let value = self.value()?;
                    self.path.truncate(length);
                    list.push(value);
                }
                Ok(Value::Array(list))
            }
            _ => self.reader.any(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_twice_is_told_with_its_way() {
        let tree = read(br#"{"a": {"b": 1, "b": 2}, "l": [{"c": 1, "c": [{}]}], "a": 3}"#).unwrap();
        assert_eq!(tree.value, json!({"a": 3, "l": [{"c": [{}]}]}));
        let want = ["a.b", "l[0].c", "a"].map(|path| format!("duplicate field {path:?}"));
        assert_eq!(tree.duplicates, want);
    }

    #[test]
    fn bad_syntax_is_told_in_the_words_of_go() {
        for (text, want) in [
            ("{\"spec\":", "unexpected end of JSON input"),
            ("", "unexpected end of JSON input"),
            ("{} x", "invalid character 'x' after top-level value"),
            (
                "{'a': 1}",
                "invalid character '\\'' looking for beginning of object key string",
            ),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap_err(), want, "{text}");
        }
    }
}

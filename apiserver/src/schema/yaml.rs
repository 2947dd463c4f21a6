//! YAML as `sigs.k8s.io/yaml` reads it: turned into JSON, which is decoded as any other. The last of duplicate keys
//! wins, and each is reported for strict requests.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Spanned, with_deserializer_from_slice_with_options};

pub(super) struct Read {
    pub(super) json: Vec<u8>,
    /// As a strict request is told of them: one text, or none.
    pub(super) duplicates: Vec<String>,
}

/// Deeper documents are refused: reading recurses.
const MAX_DEPTH: usize = 128;

pub(super) fn to_json(body: &[u8]) -> Result<Read, String> {
    match read(body) {
        // Only the first document counts.
        Err(serde_saphyr::Error::MultipleDocuments { .. }) => {
            let text = String::from_utf8_lossy(body);
            let first = text.trim_start_matches("---");
            let end = first.find("\n---").map_or(first.len(), |at| at + 1);
            read(&first.as_bytes()[..end]).map_err(|e| format!("yaml: {e}"))
        }
        Err(error) => Err(format!("yaml: {error}")),
        Ok(read) => Ok(read),
    }
}

fn read(body: &[u8]) -> Result<Read, serde_saphyr::Error> {
    let budget = serde_saphyr::budget! { max_depth: MAX_DEPTH, max_nodes: 1_000_000, max_events: 3_000_000 };
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
        budget: budget,
    };
    let mut state = State {
        json: Vec::with_capacity(body.len()),
        repeated: Vec::new(),
    };
    with_deserializer_from_slice_with_options(body, options, |de| Writer(&mut state).deserialize(de))?;
    let duplicates = if state.repeated.is_empty() {
        Vec::new()
    } else {
        vec![format!("yaml: unmarshal errors:\n  {}", state.repeated.join("\n  "))]
    };
    Ok(Read {
        json: state.json,
        duplicates,
    })
}

struct State {
    json: Vec<u8>,
    repeated: Vec<String>,
}

impl State {
    fn text(&mut self, text: &str) {
        serde_json::to_writer(&mut self.json, text).expect("writing to memory does not fail");
    }
}

/// Writes what it is shown as JSON, in the order it comes.
struct Writer<'s>(&'s mut State);

impl<'de> DeserializeSeed<'de> for Writer<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Writer<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.0.json.extend(if value { &b"true"[..] } else { b"false" });
        Ok(())
    }
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.0.json.extend(value.to_string().as_bytes());
        Ok(())
    }
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.0.json.extend(value.to_string().as_bytes());
        Ok(())
    }
    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<(), E> {
        self.visit_f64(value as f64)
    }
    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<(), E> {
        self.visit_f64(value as f64)
    }
    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        // JSON has no word for the others.
        if value.is_finite() {
            let text = match super::shape::float(value) {
                serde_json::Value::Number(number) => number.to_string(),
                _ => "null".into(),
            };
            self.0.json.extend(text.as_bytes());
        } else {
            self.0.text(if value.is_nan() { "NaN" } else { "Inf" });
        }
        Ok(())
    }
    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.0.text(value);
        Ok(())
    }
    fn visit_bytes<E>(self, value: &[u8]) -> Result<(), E> {
        self.0.text(&String::from_utf8_lossy(value));
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.json.extend(b"null");
        Ok(())
    }
    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.0.json.push(b'[');
        let mut first = true;
        loop {
            let before = self.0.json.len();
            if !first {
                self.0.json.push(b',');
            }
            if seq.next_element_seed(Writer(self.0))?.is_none() {
                self.0.json.truncate(before);
                break;
            }
            first = false;
        }
        self.0.json.push(b']');
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.json.push(b'{');
        let mut keys: Vec<String> = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let line = key.referenced.line();
            let key = key.value;
            if keys.contains(&key) {
                self.0
                    .repeated
                    .push(format!("line {line}: key {key:?} already set in map"));
            }
            if !keys.is_empty() {
                self.0.json.push(b',');
            }
            self.0.text(&key);
            self.0.json.push(b':');
            map.next_value_seed(Writer(self.0))?;
            keys.push(key);
        }
        self.0.json.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_reads_as_upstream_reads_it() {
        for (yaml, want) in [
            ("a: yes\nb: on\nc: \"yes\"", r#"{"a":true,"b":true,"c":"yes"}"#),
            ("a: 0644\nb: 1_000\nc: 0x10", r#"{"a":420,"b":1000,"c":16}"#),
            ("a: 1.0\nb: 1.5\nc: ~\nd:", r#"{"a":1,"b":1.5,"c":null,"d":null}"#),
            (
                "x: &x {a: 1}\ny:\n  <<: *x\n  b: 2",
                r#"{"x":{"a":1},"y":{"b":2,"a":1}}"#,
            ),
            (
                "a: 2001-01-01\nb: |\n  é\n  x\n",
                "{\"a\":\"2001-01-01\",\"b\":\"é\\nx\\n\"}",
            ),
            ("[]", "[]"),
            ("a: []\nb: {}\nc: [1, x]", r#"{"a":[],"b":{},"c":[1,"x"]}"#),
            ("---\na: 1\n---\nb: 2\n", r#"{"a":1}"#),
            ("1: a\ntrue: b", r#"{"1":"a","true":"b"}"#),
        ] {
            let read = to_json(yaml.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(read.json).unwrap(), want, "{yaml}");
        }
    }

    #[test]
    fn duplicate_keys_are_reported_with_their_line() {
        let read = to_json(b"a: 1\nb:\n  c: 1\n  c: 2\n").unwrap();
        assert_eq!(
            read.duplicates,
            ["yaml: unmarshal errors:\n  line 4: key \"c\" already set in map"]
        );
    }

    #[test]
    fn hostile_documents_are_refused() {
        let laughs = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
            d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
            g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
        assert!(to_json(laughs.as_bytes()).is_err());
        assert!(to_json("[".repeat(10_000).as_bytes()).is_err());
        assert!(to_json(b"\xff\xfe").is_err());
    }
}

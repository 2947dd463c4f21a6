//! JSON as Go's `encoding/json` reads it, with its error texts, which clients see. A pull reader: the decoder asks for
//! what the table says comes next, so nothing is built that the object does not keep.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

/// Values nested deeper are refused: reading and dropping them recurses.
pub(super) const MAX_DEPTH: usize = 512;

/// The body is not JSON. Displays as Go's `SyntaxError`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Syntax(String);

#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

/// What a value is, seen from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

impl Kind {
    /// Go's word for it in `cannot unmarshal …`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Object => "object",
            Kind::Array => "array",
            Kind::String => "string",
            Kind::Number => "number",
            Kind::Bool => "bool",
            Kind::Null => "null",
        }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0, depth: 0 }
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn wrong<T>(&self, context: &str) -> Result<T, Syntax> {
        Err(match self.bytes.get(self.at) {
            Some(byte) => Syntax(format!("invalid character {} {context}", quote(*byte))),
            None => Syntax("unexpected end of JSON input".into()),
        })
    }

    /// The kind of the next value; white space before it is skipped.
    pub(super) fn kind(&mut self) -> Result<Kind, Syntax> {
        self.space();
        match self.bytes.get(self.at) {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => self.wrong("looking for beginning of value"),
        }
    }

    fn deeper(&mut self) -> Result<(), Syntax> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Syntax("exceeded max depth".into()));
        }
        Ok(())
    }

    /// Steps into an object whose kind was just seen.
    pub(super) fn enter(&mut self) -> Result<(), Syntax> {
        self.deeper()
    }

    /// The next key of the object entered, or `None` at its end. `first` is true until a key was read.
    pub(super) fn key(&mut self, first: bool) -> Result<Option<Cow<'a, str>>, Syntax> {
        self.space();
        match self.bytes.get(self.at) {
            Some(b'}') => {
                self.at += 1;
                self.depth -= 1;
                return Ok(None);
            }
            Some(b',') if !first => {
                self.at += 1;
                self.space();
            }
            _ if first => {}
            _ => return self.wrong("after object key:value pair"),
        }
        if self.bytes.get(self.at) != Some(&b'"') {
            return self.wrong("looking for beginning of object key string");
        }
        let key = self.string()?;
        self.space();
        if self.bytes.get(self.at) != Some(&b':') {
            return self.wrong("after object key");
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether another item follows in the array entered.
    pub(super) fn item(&mut self, first: bool) -> Result<bool, Syntax> {
        self.space();
        match self.bytes.get(self.at) {
            Some(b']') => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            _ if first => Ok(true),
            Some(b',') => {
                self.at += 1;
                self.space();
                if self.bytes.get(self.at) == Some(&b']') {
                    return self.wrong("looking for beginning of value");
                }
                Ok(true)
            }
            _ => self.wrong("after array element"),
        }
    }

    /// A string whose opening quote is next.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, Syntax> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    let text = String::from_utf8_lossy(&self.bytes[start..self.at]);
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => break,
                Some(0..0x20) | None => return self.wrong("in string literal"),
                Some(_) => self.at += 1,
            }
        }
        let mut out = self.bytes[start..self.at].to_vec();
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(match String::from_utf8(out) {
                        Ok(text) => text,
                        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
                    }));
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape(&mut out)?;
                }
                Some(0..0x20) | None => return self.wrong("in string literal"),
                Some(byte) => {
                    out.push(*byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), Syntax> {
        let byte = match self.bytes.get(self.at) {
            Some(b @ (b'"' | b'\\' | b'/')) => *b,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                self.at += 1;
                let mut code = u32::from(self.hex()?);
                // A pair of surrogates is one character; half of one is none.
                if (0xd800..0xdc00).contains(&code) && self.bytes[self.at..].starts_with(b"\\u") {
                    let before = self.at;
                    self.at += 2;
                    let low = u32::from(self.hex()?);
                    if (0xdc00..0xe000).contains(&low) {
                        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                    } else {
                        self.at = before;
                    }
                }
                let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return self.wrong("in string escape code"),
        };
        out.push(byte);
        self.at += 1;
        Ok(())
    }

    fn hex(&mut self) -> Result<u16, Syntax> {
        let mut code = 0u16;
        for _ in 0..4 {
            let Some(digit) = self.bytes.get(self.at).and_then(|b| char::from(*b).to_digit(16)) else {
                return self.wrong("in \\u hexadecimal character escape");
            };
            code = code << 4 | digit as u16;
            self.at += 1;
        }
        Ok(code)
    }

    /// The text of a number whose first byte is next.
    pub(super) fn number(&mut self) -> Result<&'a str, Syntax> {
        let start = self.at;
        let digits = |reader: &mut Self| {
            let before = reader.at;
            while reader.bytes.get(reader.at).is_some_and(u8::is_ascii_digit) {
                reader.at += 1;
            }
            reader.at > before
        };
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else if !digits(self) {
            return self.wrong("in numeric literal");
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if !digits(self) {
                return self.wrong("after decimal point in numeric literal");
            }
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            if !digits(self) {
                return self.wrong("in exponent of numeric literal");
            }
        }
        Ok(std::str::from_utf8(&self.bytes[start..self.at]).expect("digits are ASCII"))
    }

    /// `true`, `false` or `null`, by its first byte.
    pub(super) fn literal(&mut self) -> Result<Option<bool>, Syntax> {
        let (word, value) = match self.bytes.get(self.at) {
            Some(b't') => ("true", Some(true)),
            Some(b'f') => ("false", Some(false)),
            _ => ("null", None),
        };
        for (i, letter) in word.bytes().enumerate() {
            if self.bytes.get(self.at) != Some(&letter) {
                let expecting = char::from(letter);
                debug_assert!(i > 0, "the first byte was seen");
                return self.wrong(&format!("in literal {word} (expecting '{expecting}')"));
            }
            self.at += 1;
        }
        Ok(value)
    }

    /// Any value, kept whole.
    pub(super) fn any(&mut self) -> Result<Value, Syntax> {
        Ok(match self.kind()? {
            Kind::Object => {
                self.enter()?;
                let mut map = Map::new();
                let mut first = true;
                while let Some(key) = self.key(first)? {
                    first = false;
                    let value = self.any()?;
                    map.insert(key.into_owned(), value);
                }
                Value::Object(map)
            }
            Kind::Array => {
                self.enter()?;
                let mut list = Vec::new();
                while self.item(list.is_empty())? {
                    list.push(self.any()?);
                }
                Value::Array(list)
            }
            Kind::String => Value::String(self.string()?.into_owned()),
            Kind::Number => number(self.number()?),
            Kind::Bool | Kind::Null => self.literal()?.map_or(Value::Null, Value::Bool),
        })
    }

    /// Steps over a value.
    pub(super) fn skip(&mut self) -> Result<(), Syntax> {
        match self.kind()? {
            Kind::Object => {
                self.enter()?;
                let mut first = true;
                while self.key(first)?.is_some() {
                    first = false;
                    self.skip()?;
                }
            }
            Kind::Array => {
                self.enter()?;
                let mut first = true;
                while self.item(first)? {
                    first = false;
                    self.skip()?;
                }
            }
            Kind::String => drop(self.string()?),
            Kind::Number => drop(self.number()?),
            Kind::Bool | Kind::Null => drop(self.literal()?),
        }
        Ok(())
    }

    /// Nothing but white space may follow.
    pub(super) fn end(&mut self) -> Result<(), Syntax> {
        self.space();
        if self.at < self.bytes.len() {
            return self.wrong("after top-level value");
        }
        Ok(())
    }
}

/// A number as serde_json keeps it: whole numbers as integers, the rest as floats.
pub(super) fn number(text: &str) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        return Value::from(number);
    }
    if let Ok(number) = text.parse::<u64>() {
        return Value::from(number);
    }
    // Too large for a float: the largest one, since JSON has no infinity.
    let float = text.parse::<f64>().unwrap_or(0.0).clamp(f64::MIN, f64::MAX);
    Number::from_f64(float).map_or(Value::Null, Value::Number)
}

/// Go's `quoteChar`.
fn quote(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\\' => r"'\\'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        0x07 => r"'\a'".into(),
        0x08 => r"'\b'".into(),
        0x0b => r"'\v'".into(),
        0x0c => r"'\f'".into(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        let mut reader = Reader::new(text.as_bytes());
        let value = reader.any().map_err(|e| e.to_string())?;
        reader.end().map_err(|e| e.to_string())?;
        Ok(value)
    }

    #[test]
    fn errors_are_those_of_go() {
        for (text, want) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{a", "invalid character 'a' looking for beginning of object key string"),
            (r#"{"a""#, "unexpected end of JSON input"),
            (r#"{"a"]"#, "invalid character ']' after object key"),
            (r#"{"a":1]"#, "invalid character ']' after object key:value pair"),
            (
                r#"{"a":1,}"#,
                "invalid character '}' looking for beginning of object key string",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("tru", "unexpected end of JSON input"),
            ("trx", "invalid character 'x' in literal true (expecting 'u')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e]", "invalid character ']' in exponent of numeric literal"),
            ("01", "invalid character '1' after top-level value"),
            ("\"a\nb\"", r"invalid character '\n' in string literal"),
            (r#""\q""#, "invalid character 'q' in string escape code"),
            (
                r#""\u12g4""#,
                r"invalid character 'g' in \u hexadecimal character escape",
            ),
            ("'", r"invalid character '\'' looking for beginning of value"),
        ] {
            assert_eq!(read(text).unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn strings_survive_escapes_and_halves_of_surrogate_pairs() {
        for (text, want) in [
            (r#""é☃""#, "é☃"),
            (r#""\u00e9\ud83d\ude00""#, "é😀"),
            (r#""\ud83dx""#, "\u{fffd}x"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
            (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        ] {
            assert_eq!(read(text).unwrap(), Value::from(want), "{text}");
        }
        assert_eq!(Reader::new(b"\"a\xff\"").any().unwrap(), Value::from("a\u{fffd}"));
    }

    #[test]
    fn deep_nesting_is_refused_and_not_recursed_into() {
        assert_eq!(read(&"[".repeat(100_000)).unwrap_err(), "exceeded max depth");
        assert_eq!(read(&"{\"a\":".repeat(100_000)).unwrap_err(), "exceeded max depth");
        let fine = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(read(&fine).is_ok());
    }
}

//! Label and field selectors: parsed from their string form, matched against facts.
//!
//! The parser accepts what upstream accepts and complains in upstream's words, because clients see them.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::names;

/// A label selector (`app=web,tier in (a,b),!old`). The empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels {
    /// All of them must hold. Sorted by key when parsed.
    pub requirements: Vec<Requirement>,
}

/// One term of a label selector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's name.
    pub key: String,
    /// How the label's value is compared.
    pub operator: Operator,
    /// Sorted and without duplicates when parsed; empty for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The value is one of a set; with one value this is `=` and `==`.
    In,
    /// The label is absent or its value is not in the set; with one value this is `!=`.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The value is an integer above the one given.
    GreaterThan,
    /// The value is an integer below the one given.
    LessThan,
}

/// A field selector (`spec.nodeName=n1,status.phase!=Failed`). The empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fields {
    /// All of them must hold.
    pub terms: Vec<Term>,
}

/// One term of a field selector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Term {
    /// The path of the field, as the resource names it.
    pub field: String,
    /// Whether the value must be equal, or must differ.
    pub equal: bool,
    /// The value, unescaped.
    pub value: String,
}

/// A selector that cannot be understood; `Display` is the sentence for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Labels {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects nothing: what an absent `LabelSelector` means.
    pub fn nothing() -> Self {
        // No key at all may have a value from an empty set; the parser refuses to produce this form.
        let never = Requirement {
            key: String::new(),
            operator: Operator::In,
            values: Vec::new(),
        };
        Self {
            requirements: vec![never],
        }
    }

    /// Whether there is no requirement.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Selects objects that carry all of these labels.
    pub fn equal<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut requirements: Vec<_> = pairs
            .into_iter()
            .map(|(k, v)| Requirement {
                key: k.into(),
                operator: Operator::In,
                values: vec![v.into()],
            })
            .collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements }
    }

    /// Whether labels satisfy every requirement; `value_of` answers the value of a label.
    pub fn matches<'a>(&self, value_of: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.matches(value_of(&r.key)))
    }

    /// The requirements that demand one exact value, for an index to start from.
    pub fn equalities(&self) -> impl Iterator<Item = (&str, &str)> {
        self.requirements
            .iter()
            .filter_map(|r| match (r.operator, r.values.as_slice()) {
                (Operator::In, [value]) => Some((r.key.as_str(), value.as_str())),
                _ => None,
            })
    }

    /// From the structured form; an absent selector selects nothing.
    pub fn from_structured(selector: Option<&LabelSelector>) -> Result<Self, Error> {
        selector.map_or_else(|| Ok(Self::nothing()), Self::try_from)
    }
}

impl Requirement {
    /// A requirement that passed upstream's checks.
    pub fn new(key: String, operator: Operator, mut values: Vec<String>) -> Result<Self, Error> {
        values.sort();
        values.dedup();
        let mut errors = Vec::new();
        if let Err(Error(text)) = label_key("key", &key) {
            errors.push(text);
        }
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                errors.push(
                    "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".to_owned(),
                );
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                let shown = values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(",");
                errors.push(format!(
                    "values: Invalid value: [{shown}]: values set must be empty for exists and does not exist"
                ));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    let shown = values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(",");
                    errors.push(format!(
                        "values: Invalid value: [{shown}]: for 'Gt', 'Lt' operators, exactly one value is required"
                    ));
                }
                for (n, value) in values.iter().enumerate() {
                    if value.parse::<i64>().is_err() {
                        errors.push(format!(
                            "values[{n}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                        ));
                    }
                }
            }
            Operator::In | Operator::NotIn | Operator::Exists | Operator::DoesNotExist => {}
        }
        for (n, value) in values.iter().enumerate() {
            let complaints = names::label_value(value);
            if !complaints.is_empty() {
                errors.push(format!(
                    "values[{n}][{key}]: Invalid value: {value:?}: {}",
                    complaints.join("; ")
                ));
            }
        }
        match errors.len() {
            0 => Ok(Self { key, operator, values }),
            1 => Err(Error(errors.remove(0))),
            _ => Err(Error(format!("[{}]", errors.join(", ")))),
        }
    }

    /// Whether the value of the requirement's label (`None` where absent) satisfies it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let bound = || self.values.first().and_then(|v| v.parse::<i64>().ok());
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.iter().any(|w| w == v)),
            Operator::NotIn => value.is_none_or(|v| self.values.iter().all(|w| w != v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => value
                .and_then(|v| v.parse::<i64>().ok())
                .zip(bound())
                .is_some_and(|(have, bound)| have > bound),
            Operator::LessThan => value
                .and_then(|v| v.parse::<i64>().ok())
                .zip(bound())
                .is_some_and(|(have, bound)| have < bound),
        }
    }
}

impl TryFrom<&LabelSelector> for Labels {
    type Error = Error;

    fn try_from(selector: &LabelSelector) -> Result<Self, Error> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key.clone(), Operator::In, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(Error(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = expression.values.iter().flatten().cloned().collect();
            requirements.push(Requirement::new(expression.key.clone(), operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, requirement) in self.requirements.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match (self.operator, self.values.as_slice()) {
            (Operator::In, [value]) => write!(f, "{key}={value}"),
            (Operator::NotIn, [value]) => write!(f, "{key}!={value}"),
            (Operator::In, values) => write!(f, "{key} in ({})", values.join(",")),
            (Operator::NotIn, values) => write!(f, "{key} notin ({})", values.join(",")),
            (Operator::Exists, _) => f.write_str(key),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
            (Operator::GreaterThan, values) => write!(f, "{key}>{}", values.join(",")),
            (Operator::LessThan, values) => write!(f, "{key}<{}", values.join(",")),
        }
    }
}

impl FromStr for Labels {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut requirements = Parser { rest: text }.requirements()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }
}

fn label_key(path: &str, key: &str) -> Result<(), Error> {
    let complaints = names::qualified_name(key);
    if complaints.is_empty() {
        return Ok(());
    }
    Err(Error(format!(
        "{path}: Invalid value: {key:?}: {}",
        complaints.join("; ")
    )))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    End,
    Open,
    Close,
    Comma,
    Not,
    Equal,
    DoubleEqual,
    NotEqual,
    Greater,
    Less,
    /// Also the words `in` and `notin`: only an operator's place makes them operators.
    Word(&'a str),
}

impl Token<'_> {
    fn text(self) -> String {
        match self {
            Token::End => "",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::Not => "!",
            Token::Equal => "=",
            Token::DoubleEqual => "==",
            Token::NotEqual => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::Word(word) => word,
        }
        .to_owned()
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Token<'a> {
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        const SYMBOLS: [(&str, Token<'static>); 9] = [
            ("==", Token::DoubleEqual),
            ("!=", Token::NotEqual),
            ("=", Token::Equal),
            ("!", Token::Not),
            ("(", Token::Open),
            (")", Token::Close),
            (",", Token::Comma),
            (">", Token::Greater),
            ("<", Token::Less),
        ];
        for (symbol, token) in SYMBOLS {
            if let Some(rest) = text.strip_prefix(symbol) {
                self.rest = rest;
                return token;
            }
        }
        let end = text
            .find([' ', '\t', '\r', '\n', '=', '!', '(', ')', ',', '>', '<'])
            .unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.rest = rest;
        if word.is_empty() { Token::End } else { Token::Word(word) }
    }

    fn peek(&self) -> Token<'a> {
        Parser { rest: self.rest }.next()
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, Error> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) | Token::Not => {}
                Token::End => return Ok(requirements),
                other => {
                    return Err(Error(format!(
                        "found '{}', expected: !, identifier, or 'end of string'",
                        other.text()
                    )));
                }
            }
            let requirement = self
                .requirement()
                .map_err(|Error(text)| Error(format!("unable to parse requirement: {text}")))?;
            requirements.push(requirement);
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Comma => match self.peek() {
                    Token::Word(_) | Token::Not => {}
                    other => {
                        return Err(Error(format!(
                            "found '{}', expected: identifier after ','",
                            other.text()
                        )));
                    }
                },
                other => {
                    return Err(Error(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        other.text()
                    )));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, Error> {
        let mut token = self.next();
        let absent = token == Token::Not;
        if absent {
            token = self.next();
        }
        let Token::Word(key) = token else {
            return Err(Error(format!("found '{}', expected: identifier", token.text())));
        };
        // Upstream has no path to name here and prints the nil one.
        label_key("<nil>", key)?;
        let key = key.to_owned();
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let (operator, values) = match self.next() {
            Token::Word("in") => (Operator::In, self.set()?),
            Token::Word("notin") => (Operator::NotIn, self.set()?),
            Token::Equal | Token::DoubleEqual => (Operator::In, self.single()?),
            Token::NotEqual => (Operator::NotIn, self.single()?),
            Token::Greater => (Operator::GreaterThan, self.single()?),
            Token::Less => (Operator::LessThan, self.single()?),
            other => {
                return Err(Error(format!(
                    "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                    other.text()
                )));
            }
        };
        Requirement::new(key, operator, values)
    }

    fn single(&mut self) -> Result<Vec<String>, Error> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.next() {
            Token::Word(word) => Ok(vec![word.to_owned()]),
            other => Err(Error(format!("found '{}', expected: identifier", other.text()))),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, Error> {
        match self.next() {
            Token::Open => {}
            other => return Err(Error(format!("found '{}' expected: '('", other.text()))),
        }
        match self.peek() {
            Token::Close => {
                self.next();
                return Ok(Vec::new());
            }
            Token::Word(_) | Token::Comma => {}
            other => {
                return Err(Error(format!(
                    "found '{}', expected: ',', ')' or identifier",
                    other.text()
                )));
            }
        }
        // An empty place between commas is the empty value.
        let mut values = Vec::new();
        loop {
            match self.next() {
                Token::Word(word) => {
                    values.push(word.to_owned());
                    match self.peek() {
                        Token::Comma => {}
                        Token::Close => break,
                        other => return Err(Error(format!("found '{}', expected: ',' or ')'", other.text()))),
                    }
                }
                Token::Comma => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek() {
                        Token::Close => {
                            values.push(String::new());
                            break;
                        }
                        Token::Comma => {
                            self.next();
                            values.push(String::new());
                        }
                        _ => {}
                    }
                }
                other => return Err(Error(format!("found '{}', expected: ',', or identifier", other.text()))),
            }
        }
        match self.next() {
            Token::Close => Ok(values),
            other => Err(Error(format!("found '{}', expected: ')'", other.text()))),
        }
    }
}

impl Fields {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Whether there is no term.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether fields satisfy every term; a field without a value counts as empty, as upstream does.
    pub fn matches<'a>(&self, value_of: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms
            .iter()
            .all(|t| (value_of(&t.field).unwrap_or("") == t.value) == t.equal)
    }

    /// The terms that demand a value, for an index to start from.
    pub fn equalities(&self) -> impl Iterator<Item = (&str, &str)> {
        self.terms
            .iter()
            .filter(|t| t.equal)
            .map(|t| (t.field.as_str(), t.value.as_str()))
    }

    /// The value that a field must have, where the selector demands one.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.equalities()
            .find(|(name, _)| *name == field)
            .map(|(_, value)| value)
    }
}

impl FromStr for Fields {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let (field, equal, value) = split_term(part)
                .ok_or_else(|| Error(format!("invalid selector: '{text}'; can't understand '{part}'")))?;
            terms.push(Term {
                field: field.to_owned(),
                equal,
                value: unescape(value)?,
            });
        }
        Ok(Self { terms })
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, term) in self.terms.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}{}", term.field, if term.equal { "=" } else { "!=" })?;
            for c in term.value.chars() {
                if matches!(c, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(text: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in text.char_indices() {
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = text[at..].strip_prefix(operator) {
                return Some((&text[..at], equal, value));
            }
        }
    }
    None
}

fn unescape(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(Error(format!("invalid field selector: invalid escape sequence: \\{c}"))),
                None => return Err(Error("invalid field selector: invalid escape sequence: \\".to_owned())),
            },
            // Upstream prints the rune as its number.
            ',' | '=' => {
                return Err(Error(format!(
                    "invalid field selector: unescaped character in value: {}",
                    c as u32
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[track_caller]
    fn check(selector: &str, have: &[(&str, &str)], want: bool) {
        let got = labels(selector).matches(|k| have.iter().find(|(n, _)| *n == k).map(|(_, v)| *v));
        assert_eq!(got, want, "{selector} on {have:?}");
    }

    #[test]
    fn labels_are_matched() {
        check("", &[], true);
        check("a=b", &[("a", "b")], true);
        check("a==b", &[("a", "c")], false);
        check("a=", &[("a", "")], true);
        check("a=,b", &[("a", ""), ("b", "")], true);
        check("a!=b", &[], true);
        check("a!=b", &[("a", "b")], false);
        check("a", &[("a", "x")], true);
        check("!a", &[("a", "x")], false);
        check("! a", &[], true);
        check("a in (b,c)", &[("a", "c")], true);
        check("a in (b,c)", &[], false);
        check("a notin (b,c)", &[], true);
        check("a notin (b,c)", &[("a", "b")], false);
        check("a in (,b)", &[("a", "")], true);
        check("in in (in)", &[("in", "in")], true);
        check("a>5", &[("a", "6")], true);
        check("a>5", &[("a", "x")], false);
        check("a<5", &[("a", "4")], true);
        check("a<5", &[], false);
        check("example.com/a=b,c", &[("example.com/a", "b"), ("c", "")], true);
        assert!(!Labels::nothing().matches(|_| Some("")));
    }

    #[track_caller]
    fn refuse(selector: &str, want: &str) {
        let error = selector.parse::<Labels>().expect_err(selector).to_string();
        assert_eq!(error.split(" (e.g.").next().unwrap_or(&error), want, "{selector}");
    }

    #[test]
    fn bad_label_selectors_get_upstreams_words() {
        refuse("a=b,", "found '', expected: identifier after ','");
        refuse("=b", "found '=', expected: !, identifier, or 'end of string'");
        refuse(
            "a b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        );
        refuse("a in b", "unable to parse requirement: found 'b' expected: '('");
        refuse(
            "a in ()",
            "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        );
        refuse(
            "a in (b c)",
            "unable to parse requirement: found 'c', expected: ',' or ')'",
        );
        refuse("!a=b", "found '=', expected: ',' or 'end of string'");
        refuse(
            "a>b",
            "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
        );
        refuse(
            "-a=b",
            "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
        );
        refuse(
            "a=-b",
            "unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
        );
        refuse("a==)", "unable to parse requirement: found ')', expected: identifier");
    }

    #[test]
    fn label_selectors_print_what_they_parse() {
        for text in [
            "",
            "a=b",
            "a!=b",
            "a",
            "!a",
            "a in (b,c)",
            "a notin (b,c)",
            "a>1",
            "a<1",
            "a=b,c in (,d),!e",
        ] {
            assert_eq!(labels(text).to_string(), text);
            assert_eq!(labels(&labels(text).to_string()), labels(text));
        }
        assert_eq!(labels("b, a in (z,y,z)").to_string(), "a in (y,z),b");
        assert_eq!(
            labels("a=b,c!=d,e in (f),g in (h,i)").equalities().collect::<Vec<_>>(),
            [("a", "b"), ("e", "f")]
        );
    }

    #[test]
    fn structured_selectors() {
        let parse = |v: serde_json::Value| Labels::try_from(&serde_json::from_value::<LabelSelector>(v).unwrap());
        let have = parse(serde_json::json!({
            "matchLabels": {"b": "1"},
            "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "Exists"}],
        }));
        assert_eq!(have.unwrap().to_string(), "a in (x,y),b=1,c");
        assert!(parse(serde_json::json!({})).unwrap().is_everything());
        let bad = parse(serde_json::json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}));
        assert_eq!(
            bad.unwrap_err().to_string(),
            "\"Near\" is not a valid label selector operator"
        );
        assert_eq!(Labels::from_structured(None).unwrap(), Labels::nothing());
    }

    #[test]
    fn fields_are_parsed_and_matched() {
        let fields: Fields = "spec.nodeName=n1,status.phase!=Failed".parse().unwrap();
        let pod = |node: &'static str, phase: &'static str| {
            fields.matches(|f| match f {
                "spec.nodeName" => Some(node),
                "status.phase" => Some(phase),
                _ => None,
            })
        };
        assert!(pod("n1", "Running"));
        assert!(!pod("n1", "Failed"));
        assert!(!pod("n2", "Running"));
        assert_eq!(fields.required("spec.nodeName"), Some("n1"));
        assert_eq!(fields.required("status.phase"), None);
        let escaped: Fields = "a=b\\,c\\=d\\\\".parse().unwrap();
        assert_eq!(escaped.terms[0].value, "b,c=d\\");
        assert_eq!(escaped.to_string(), "a=b\\,c\\=d\\\\");
        assert!(",".parse::<Fields>().unwrap().is_everything());
        assert_eq!("a==b".parse::<Fields>().unwrap(), "a=b".parse::<Fields>().unwrap());
    }

    #[test]
    fn bad_field_selectors_get_upstreams_words() {
        for (text, want) in [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            ("a=b,c", "invalid selector: 'a=b,c'; can't understand 'c'"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
            ("a=\\b", "invalid field selector: invalid escape sequence: \\b"),
            ("a=\\", "invalid field selector: invalid escape sequence: \\"),
        ] {
            assert_eq!(text.parse::<Fields>().expect_err(text).to_string(), want);
        }
    }
}

//! One pass over the JSON of an object: where the resourceVersion goes, and the facts.
//! Comes in: stored bytes. Goes out: borrowed facts. It builds no tree, and looks only as closely as it must: bytes that
//! are no JSON at all are told apart, a wrong literal deep in a spec is not.

use std::borrow::Cow;

use bytes::Bytes;

use super::{Field, Splice};

/// What [`scan`] found.
#[derive(Debug)]
pub(super) struct Scanned<'a> {
    gap: usize,
    /// The member that has to go, with the comma that goes with it.
    cut: Option<(usize, usize)>,
    pub(super) uid: Cow<'a, str>,
    /// In the order of the bytes.
    pub(super) labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// As [`Field`] says, in the order of the spec.
    pub(super) fields: Vec<Cow<'a, str>>,
}

/// `None` where there is no JSON object with non-empty metadata.
pub(super) fn scan<'a>(json: &'a [u8], fields: &'a [Field]) -> Option<Scanned<'a>> {
    assert!(fields.len() <= MOST_FIELDS, "a row has a handful of selectable fields");
    let mut scanner = Scanner {
        json,
        at: 0,
        fields,
        found: Found::default(),
    };
    let mut values = vec![[None, None]; fields.len()];
    scanner.root(&mut values)?;
    let found = scanner.found;
    Some(Scanned {
        gap: found.gap?,
        cut: found.cut,
        uid: found.uid,
        labels: found.labels,
        fields: fields
            .iter()
            .zip(values)
            .map(|(field, [first, second])| first.or(second).unwrap_or(Cow::Borrowed(&*field.missing)))
            .collect(),
    })
}

impl Scanned<'_> {
    pub(super) fn splice(&self, json: &Bytes) -> Splice {
        match self.cut {
            None => Splice::member(json, self.gap),
            // Our own writes never store one, so the copy is rare.
            Some((from, to)) => {
                let mut rest = Vec::with_capacity(json.len() - (to - from));
                rest.extend_from_slice(&json[..from]);
                rest.extend_from_slice(&json[to..]);
                Splice::member(&rest.into(), self.gap)
            }
        }
    }
}

/// Two ways for each field, a bit for each.
const MOST_FIELDS: usize = 32;

type Values<'a> = Vec<[Option<Cow<'a, str>>; 2]>;

#[derive(Debug, Default)]
struct Found<'a> {
    gap: Option<usize>,
    cut: Option<(usize, usize)>,
    uid: Cow<'a, str>,
    labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

struct Scanner<'a> {
    json: &'a [u8],
    at: usize,
    fields: &'a [Field],
    found: Found<'a>,
}

/// Whose object is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Metadata,
    Elsewhere,
}

impl<'a> Scanner<'a> {
    fn root(&mut self, values: &mut Values<'a>) -> Option<()> {
        let ways = 2 * self.fields.len();
        let all = if ways == 64 { u64::MAX } else { (1 << ways) - 1 };
        self.space();
        self.object(Place::Root, all, 0, values)?;
        self.space();
        (self.at == self.json.len()).then_some(())
    }

    /// The ways of `ways` whose step `depth` is `step`: those that end there, those that go on.
    fn follow(&self, ways: u64, depth: usize, step: &str) -> (u64, u64) {
        let (mut ends, mut goes_on, mut rest) = (0, 0, ways);
        while rest != 0 {
            let way = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let field = &self.fields[way / 2];
            let path = if way.is_multiple_of(2) {
                &field.path
            } else {
                &field.otherwise
            };
            if path.get(depth).is_some_and(|s| **s == *step) {
                *(if path.len() == depth + 1 {
                    &mut ends
                } else {
                    &mut goes_on
                }) |= 1 << way;
            }
        }
        (ends, goes_on)
    }

    fn object(&mut self, place: Place, ways: u64, depth: usize, values: &mut Values<'a>) -> Option<()> {
        self.expect(b'{')?;
        let open = self.at;
        let mut members = 0;
        let mut before = self.at;
        loop {
            self.space();
            if self.peek()? == b'}' && members == 0 {
                self.at += 1;
                break;
            }
            let start = self.at;
            let key = self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
            let (ends, goes_on) = self.follow(ways, depth, &key);
            let mut counts = true;
            match (place, &*key) {
                (Place::Root, "metadata") => {
                    if self.peek()? != b'{' {
                        return None;
                    }
                    self.object(Place::Metadata, goes_on, depth + 1, values)?;
                }
                (Place::Metadata, "uid") if self.peek()? == b'"' => {
                    let uid = self.string()?;
                    fill(values, ends, uid.clone());
                    self.found.uid = uid;
                }
                (Place::Metadata, "labels") if self.peek()? == b'{' => self.labels()?,
                (Place::Metadata, "resourceVersion") => {
                    self.skip()?;
                    self.space();
                    self.found.cut = match self.peek()? {
                        b',' => Some((start, self.at + 1)),
                        _ => Some((before, self.at)),
                    };
                    counts = false;
                }
                _ => self.value(ends, goes_on, depth + 1, values)?,
            }
            members += usize::from(counts);
            self.space();
            // Where a last member's comma is.
            before = self.at;
            match self.next()? {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        if place == Place::Metadata {
            (members > 0).then_some(())?;
            self.found.gap = Some(open);
        }
        Some(())
    }

    fn value(&mut self, ends: u64, goes_on: u64, depth: usize, values: &mut Values<'a>) -> Option<()> {
        match self.peek()? {
            b'{' if goes_on != 0 => self.object(Place::Elsewhere, goes_on, depth, values),
            b'[' if goes_on != 0 => self.array(goes_on, depth, values),
            b'"' if ends != 0 => {
                let text = self.string()?;
                fill(values, ends, text);
                Some(())
            }
            b'{' | b'[' | b'"' => self.skip(),
            _ if ends != 0 => {
                let start = self.at;
                self.skip()?;
                let text = std::str::from_utf8(&self.json[start..self.at]).ok()?;
                if text != "null" {
                    fill(values, ends, Cow::Borrowed(text));
                }
                Some(())
            }
            _ => self.skip(),
        }
    }

    fn array(&mut self, ways: u64, depth: usize, values: &mut Values<'a>) -> Option<()> {
        self.expect(b'[')?;
        for index in 0usize.. {
            self.space();
            if self.peek()? == b']' && index == 0 {
                self.at += 1;
                return Some(());
            }
            let (ends, goes_on) = self.follow(ways, depth, itoa::Buffer::new().format(index));
            self.value(ends, goes_on, depth + 1, values)?;
            self.space();
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
        None
    }

    fn labels(&mut self) -> Option<()> {
        self.expect(b'{')?;
        self.space();
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.space();
            let key = self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
            if self.peek()? == b'"' {
                let value = self.string()?;
                self.found.labels.push((key, value));
            } else {
                self.skip()?;
            }
            self.space();
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Over one value of any kind.
    fn skip(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.skip_string(),
            b'{' | b'[' => {
                let mut depth = 0usize;
                loop {
                    let rest = &self.json[self.at..];
                    let step = rest
                        .iter()
                        .position(|b| matches!(b, b'"' | b'{' | b'}' | b'[' | b']'))?;
                    self.at += step;
                    match self.json[self.at] {
                        b'"' => {
                            self.skip_string()?;
                            continue;
                        }
                        b'{' | b'[' => depth += 1,
                        _ => depth -= 1,
                    }
                    self.at += 1;
                    if depth == 0 {
                        return Some(());
                    }
                }
            }
            _ => {
                let rest = &self.json[self.at..];
                let end = rest
                    .iter()
                    .position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'))
                    .unwrap_or(rest.len());
                self.at += end;
                (end > 0).then_some(())
            }
        }
    }

    fn skip_string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let rest = &self.json[self.at..];
            let stop = memchr::memchr2(b'"', b'\\', rest)?;
            self.at += stop + 1;
            match rest[stop] {
                b'"' => return Some(()),
                _ => self.at += 1,
            }
            if self.at > self.json.len() {
                return None;
            }
        }
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        self.skip_string()?;
        let quoted = &self.json[start..self.at];
        let inner = &quoted[1..quoted.len() - 1];
        if memchr::memchr(b'\\', inner).is_some() {
            return serde_json::from_slice::<String>(quoted).ok().map(Cow::Owned);
        }
        std::str::from_utf8(inner).ok().map(Cow::Borrowed)
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.json.get(self.at) {
            self.at += 1;
        }
    }
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }
    fn expect(&mut self, want: u8) -> Option<()> {
        (self.next()? == want).then_some(())
    }
}

fn fill<'a>(values: &mut Values<'a>, ways: u64, text: Cow<'a, str>) {
    if text.is_empty() {
        return;
    }
    let mut rest = ways;
    while rest != 0 {
        let way = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        values[way / 2][way % 2] = Some(text.clone());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn field(path: &str, otherwise: &str, missing: &str) -> Field {
        let way = |path: &str| path.split('.').filter(|s| !s.is_empty()).map(Into::into).collect();
        Field {
            name: path.into(),
            path: way(path),
            otherwise: way(otherwise),
            missing: missing.into(),
        }
    }

    #[test]
    fn facts_are_found_in_one_pass() {
        let fields = [
            field("spec.nodeName", "", ""),
            field("spec.hostNetwork", "", "false"),
            field("status.replicas", "", "0"),
            field("source.component", "reportingController", ""),
            field("status.podIPs.1.ip", "", ""),
            field("spec", "", "none"),
            field("metadata.generateName", "", ""),
        ];
        let json = json!({
            "metadata": {"name": "a", "generateName": "a-", "uid": "u-1", "labels": {"app": "w\"eb", "b": ""}, "annotations": {"x": "}{"}},
            "reportingController": "me",
            "source": {"component": ""},
            "spec": {"nodeName": "n1", "hostNetwork": true, "deep": [[{"nodeName": "no"}]]},
            "status": {"replicas": 3, "podIPs": [{"ip": "1"}, {"ip": "2"}]},
        });
        let bytes = serde_json::to_vec(&json).unwrap();
        let scanned = scan(&bytes, &fields).unwrap();
        assert_eq!(scanned.uid, "u-1");
        assert_eq!(
            scanned.labels,
            [("app".into(), "w\"eb".into()), ("b".into(), "".into())]
        );
        assert_eq!(scanned.fields, ["n1", "true", "3", "me", "2", "none", "a-"]);
        let bare = scan(br#"{"metadata":{"name":"a","labels":{}}}"#, &fields).unwrap();
        assert_eq!(bare.fields, ["", "false", "0", "", "", "none", ""]);
        assert!(bare.uid.is_empty() && bare.labels.is_empty());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            "[\"\\\\{}\\[\\],: ]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::hash_map("(spec|metadata|a|resourceVersion|\\PC)", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_object_with_metadata_comes_back_with_its_revision(spec in json(), name in "\\PC{1,9}", pretty in any::<bool>()) {
            let mut value = json!({"metadata": {"name": name, "x": spec}, "spec": spec, "status": {"metadata": spec}});
            let bytes = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
            let splice = Splice::find(bytes.into()).unwrap();
            let mut out = Vec::new();
            splice.write_to(crate::store::Revision(5), &mut out);
            value["metadata"]["resourceVersion"] = "5".into();
            prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), value);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0usize..200) {
            let fields = [field("spec.nodeName", "a.0", "")];
            scan(&bytes, &fields);
            let json = br#"{"metadata":{"labels":{"a":"\u00e9"},"uid":"\"","resourceVersion":"1"},"spec":{"nodeName":"n"},"a":[1]}"#;
            scan(&json[..cut.min(json.len())], &fields);
        }
    }
}

//! Bytes to an object, in one pass that the table drives. What comes out is what the server would write: unknown
//! fields dropped, values in their canonical form, empty optional fields gone, fields that are always there filled in.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::json::{Kind, Reader, Syntax};
use super::table::{Field, Shape, Ty, TypeRef, type_of};
use super::{leaf, shape, yaml};
use crate::object::Object;
use crate::status::Status;

/// What a request says of fields that its type does not have, and of fields that come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Validation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}

/// Group, version and kind that a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gvk<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
}

impl Gvk<'_> {
    /// `apps/v1`; `v1` for the core group.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }
}

#[derive(Debug)]
pub struct Decoded {
    /// With `apiVersion` and `kind`, also where the body left them out.
    pub object: Object,
    /// For Warning headers; empty unless the mode is [`Validation::Warn`].
    pub warnings: Vec<String>,
}

/// As many complaints about fields as upstream collects.
const MAX_COMPLAINTS: usize = 100;

/// Reads the body of a request about `expected`, whose type is `ty`.
pub fn decode(
    ty: TypeRef,
    expected: Gvk<'_>,
    format: Format,
    body: &[u8],
    mode: Validation,
) -> Result<Decoded, Status> {
    let mut from_yaml = Vec::new();
    let json = match format {
        Format::Json => Cow::Borrowed(body),
        Format::Yaml => {
            let read = yaml::to_json(body).map_err(|e| unrecognized(expected, body, &e))?;
            from_yaml = read.duplicates;
            Cow::Owned(read.json)
        }
    };
    let mut decoder = Decoder::new(&json, mode != Validation::Ignore);
    let root = decoder.root(ty).map_err(|e| match e {
        Root::Syntax(e) => unrecognized(expected, body, &format!("couldn't get version/kind; json parse error: {e}")),
        Root::NotAnObject(kind) => unrecognized(
            expected,
            body,
            &format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {kind} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
            ),
        ),
    })?;
    let mut object = Object(root);
    let named = name_kind(&mut object, ty, expected);
    let refuse = |what: &str| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {what}",
            object.kind(),
            object.api_version().rsplit('/').next().unwrap_or_default(),
            expected.kind
        ))
    };
    named.map_err(|misnamed| match misnamed {
        Misnamed::Version(why) => Status::bad_request(why),
        Misnamed::Kind(why) => refuse(&why),
    })?;
    if let Some(error) = decoder.error {
        return Err(refuse(&error));
    }
    if format == Format::Yaml {
        // Reported once already, with their line.
        decoder.complaints.retain(|c| !c.starts_with("duplicate"));
    }
    let mut complaints = from_yaml;
    complaints.append(&mut decoder.complaints);
    match mode {
        Validation::Strict if !complaints.is_empty() => {
            Err(refuse(&format!("strict decoding error: {}", complaints.join(", "))))
        }
        Validation::Warn => Ok(Decoded {
            object,
            warnings: complaints,
        }),
        _ => Ok(Decoded {
            object,
            warnings: Vec::new(),
        }),
    }
}

/// How upstream gets from a patched tree to an object, which its error texts show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patched {
    /// By way of JSON text: a body like any other, which may be of another kind by now.
    Text,
    /// By conversion of the tree, in a strategic merge. What the tree says of its kind plays no part.
    Tree,
}

/// A tree that a patch made, read again as if it came from a client. The complaints are about unknown fields; the
/// error is that of a type or of a kind.
pub fn check(ty: TypeRef, expected: Gvk<'_>, by: Patched, value: &Value) -> Result<(Object, Vec<String>), String> {
    let bytes = serde_json::to_vec(value).map_err(|e| e.to_string())?;
    let mut decoder = Decoder::new(&bytes, true);
    decoder.by = by;
    let root = decoder.root(ty).map_err(|e| match e {
        Root::Syntax(e) => e.to_string(),
        Root::NotAnObject(kind) => format!("json: cannot unmarshal {kind} into Go value of type {}", Ty::go_of(ty)),
    })?;
    if let Some(error) = decoder.error {
        return Err(error);
    }
    let mut object = Object(root);
    match by {
        Patched::Text => name_kind(&mut object, ty, expected).map_err(|misnamed| match misnamed {
            Misnamed::Version(why) | Misnamed::Kind(why) => why,
        })?,
        Patched::Tree => {
            object.0.insert("apiVersion".into(), expected.api_version().into());
            object.0.insert("kind".into(), expected.kind.into());
        }
    }
    Ok((object, decoder.complaints))
}

/// What a body says of its kind does not fit the request.
enum Misnamed {
    /// The text says it all.
    Version(String),
    /// The kind cannot become the one that is asked for, because of this.
    Kind(String),
}

/// Fills in what the body does not say of its kind, and refuses a body of another kind.
fn name_kind(object: &mut Object, ty: TypeRef, expected: Gvk<'_>) -> Result<(), Misnamed> {
    if object.kind().is_empty() {
        object.0.insert("kind".into(), expected.kind.into());
    }
    if object.api_version().is_empty() {
        object.0.insert("apiVersion".into(), expected.api_version().into());
    }
    let (api_version, kind) = (object.api_version(), object.kind());
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if (group == expected.group && version == expected.version || ty.is_meta()) && kind == expected.kind {
        return Ok(());
    }
    if version.contains('/') {
        return Err(Misnamed::Version(format!(
            "unexpected GroupVersion string: {api_version}"
        )));
    }
    Err(Misnamed::Kind(match type_of(group, version, kind) {
        None => format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        ),
        Some(_) if kind == expected.kind => {
            return Err(Misnamed::Version(format!(
                "the API version in the data ({api_version}) does not match the expected API version ({})",
                expected.api_version()
            )));
        }
        Some(found) => format!(
            "converting ({}) to ({}.{}): unknown conversion",
            Ty::go_of(found),
            match expected.group.split('.').next() {
                None | Some("") => "core",
                Some(first) => first,
            },
            expected.kind
        ),
    }))
}

/// The body is nothing whose kind can be read.
fn unrecognized(expected: Gvk<'_>, body: &[u8], what: &str) -> Status {
    const SHOWN: usize = 30;
    let shown = &body[..body.len().min(SHOWN)];
    let mut summary = match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().map(|b| format!("{b:02x}")).collect(),
    };
    if body.len() > SHOWN {
        summary.push_str(" ...");
    }
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {what} ({summary})",
        expected.kind
    ))
}

enum Root {
    Syntax(Syntax),
    NotAnObject(&'static str),
}

impl From<Syntax> for Root {
    fn from(e: Syntax) -> Self {
        Root::Syntax(e)
    }
}

/// The way from the root to the value at hand.
enum Step {
    Field(TypeRef, Field),
    Index(usize),
    Key(String),
}

struct Decoder<'a> {
    reader: Reader<'a>,
    strict: bool,
    by: Patched,
    path: Vec<Step>,
    /// The first value of a wrong type. Reading goes on, since bad syntax further down is the graver error.
    error: Option<String>,
    complaints: Vec<String>,
}

impl<'a> Decoder<'a> {
    fn new(bytes: &'a [u8], strict: bool) -> Self {
        Decoder {
            reader: Reader::new(bytes),
            strict,
            by: Patched::Text,
            path: Vec::new(),
            error: None,
            complaints: Vec::new(),
        }
    }

    fn root(&mut self, ty: TypeRef) -> Result<Map<String, Value>, Root> {
        let map = match self.reader.kind()? {
            Kind::Object => self.object(ty)?,
            Kind::Null => {
                self.reader.skip()?;
                shape::zero_object(ty)
            }
            other => {
                self.reader.skip()?;
                self.reader.end()?;
                return Err(Root::NotAnObject(other.word()));
            }
        };
        self.reader.end()?;
        Ok(map)
    }

    fn object(&mut self, ty: TypeRef) -> Result<Map<String, Value>, Syntax> {
        self.reader.enter()?;
        let mut map = Map::new();
        let mut seen: u128 = 0;
        let mut first = true;
        while let Some(key) = self.reader.key(first)? {
            first = false;
            let Some(field) = ty.field(&key) else {
                self.complain("unknown", &key);
                self.reader.skip()?;
                continue;
            };
            let bit = 1u128.checked_shl(ty.position(field)).unwrap_or(0);
            if seen & bit != 0 {
                self.complain("duplicate", &key);
                map.remove(field.name());
            }
            seen |= bit;
            self.path.push(Step::Field(ty, field));
            let value = self.value(field.ty())?;
            self.path.pop();
            if let Some(value) = value.and_then(|v| shape::kept(field, v)) {
                map.insert(key.into_owned(), value);
            }
        }
        shape::fill(ty, &mut map);
        Ok(map)
    }

    /// `None` for null and for what is of a wrong type.
    fn value(&mut self, ty: Ty) -> Result<Option<Value>, Syntax> {
        let kind = self.reader.kind()?;
        if kind == Kind::Null {
            self.reader.literal()?;
            return Ok(None);
        }
        Ok(match (ty.shape(), kind) {
            (Shape::Object(inner), Kind::Object) => Some(Value::Object(self.object(inner)?)),
            (Shape::List(inner), Kind::Array) => Some(self.list(inner)?),
            (Shape::Map(inner), Kind::Object) => Some(self.map(inner)?),
            (Shape::Items, Kind::Array) => Some(self.strings(ty)?),
            (Shape::String, Kind::String) => Some(Value::String(self.reader.string()?.into_owned())),
            (Shape::Bool, Kind::Bool) => self.reader.literal()?.map(Value::Bool),
            (Shape::Int32, Kind::Number) => self.integer(ty, i64::from(i32::MIN), i64::from(i32::MAX))?,
            (Shape::Int64, Kind::Number) => self.integer(ty, i64::MIN, i64::MAX)?,
            (Shape::Double, Kind::Number) => {
                let text = self.reader.number()?;
                match text.parse::<f64>() {
                    Ok(float) if float.is_finite() => Some(shape::float(float)),
                    _ => self.mismatch(&format!("number {text}"), ty),
                }
            }
            (Shape::Bytes, Kind::String) => {
                let text = self.reader.string()?;
                self.leaf(leaf::base64(&text).map(|bytes| leaf::print_base64(&bytes)))
            }
            (Shape::Quantity, Kind::String) => {
                let text = self.reader.string()?;
                self.leaf(leaf::quantity(&text))
            }
            (Shape::Quantity, Kind::Number) => {
                let text = self.reader.number()?;
                self.leaf(leaf::quantity(text))
            }
            (Shape::Quantity, _) => {
                self.reader.skip()?;
                self.leaf(leaf::quantity("x"))
            }
            (Shape::Time, Kind::String) => {
                let text = self.reader.string()?;
                self.leaf(leaf::time(&text))
            }
            (Shape::MicroTime, Kind::String) => {
                let text = self.reader.string()?;
                self.leaf(leaf::micro_time(&text))
            }
            (Shape::Duration, Kind::String) => {
                let text = self.reader.string()?;
                self.leaf(leaf::duration(&text).map(leaf::print_duration))
            }
            (Shape::IntOrString, Kind::String) => Some(Value::String(self.reader.string()?.into_owned())),
            (Shape::IntOrString, Kind::Number) => {
                let text = self.reader.number()?;
                match text.parse::<i32>() {
                    Ok(number) => Some(Value::from(number)),
                    Err(_) => self.fail(format!(
                        "json: cannot unmarshal number {text} into Go value of type int32"
                    )),
                }
            }
            (Shape::IntOrString, other) => {
                self.reader.skip()?;
                self.fail(format!(
                    "json: cannot unmarshal {} into Go value of type int32",
                    other.word()
                ))
            }
            (Shape::Time | Shape::MicroTime | Shape::Duration, other) => {
                self.reader.skip()?;
                self.fail(format!(
                    "json: cannot unmarshal {} into Go value of type string",
                    other.word()
                ))
            }
            (Shape::Raw | Shape::Json | Shape::Any | Shape::Fields, _) => Some(self.reader.any()?),
            (Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings, Kind::Object) => {
                Some(Value::Object(self.object(TypeRef::schema())?))
            }
            (Shape::SchemaOrArray, Kind::Array) => {
                let mut list = Vec::new();
                self.reader.enter()?;
                while self.reader.item(list.is_empty())? {
                    if self.reader.kind()? == Kind::Object {
                        list.push(Value::Object(self.object(TypeRef::schema())?));
                    } else {
                        self.reader.skip()?;
                        list.push(Value::Object(Map::new()));
                        self.fail::<()>("json: cannot unmarshal into Go value of type v1.JSONSchemaProps".into());
                    }
                }
                Some(Value::Array(list))
            }
            (Shape::SchemaOrBool, Kind::Bool) => self.reader.literal()?.map(Value::Bool),
            (Shape::SchemaOrBool, _) => {
                self.reader.skip()?;
                self.fail("boolean or JSON schema expected".into())
            }
            (Shape::SchemaOrStrings, Kind::Array) => Some(self.strings(ty)?),
            (_, kind) => {
                self.reader.skip()?;
                self.mismatch(kind.word(), ty)
            }
        })
    }

    fn list(&mut self, inner: Ty) -> Result<Value, Syntax> {
        self.reader.enter()?;
        let mut list = Vec::new();
        while self.reader.item(list.is_empty())? {
            self.path.push(Step::Index(list.len()));
            let value = self.value(inner)?;
            self.path.pop();
            list.push(value.unwrap_or_else(|| shape::zero(inner)));
        }
        Ok(Value::Array(list))
    }

    fn strings(&mut self, ty: Ty) -> Result<Value, Syntax> {
        self.reader.enter()?;
        let mut list = Vec::new();
        while self.reader.item(list.is_empty())? {
            let text = match self.reader.kind()? {
                Kind::String => self.reader.string()?.into_owned(),
                other => {
                    self.reader.skip()?;
                    if other != Kind::Null {
                        self.mismatch::<()>(other.word(), ty);
                    }
                    String::new()
                }
            };
            list.push(Value::String(text));
        }
        Ok(Value::Array(list))
    }

    fn map(&mut self, inner: Ty) -> Result<Value, Syntax> {
        self.reader.enter()?;
        let mut map = Map::new();
        let mut first = true;
        let structured = inner.object().is_some();
        while let Some(key) = self.reader.key(first)? {
            first = false;
            let key = key.into_owned();
            if structured {
                self.path.push(Step::Key(key.clone()));
            }
            let value = self.value(inner)?.unwrap_or_else(|| shape::zero(inner));
            if structured {
                self.path.pop();
            }
            if self.strict && map.contains_key(&key) {
                self.complain("duplicate", &key);
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }

    fn integer(&mut self, ty: Ty, low: i64, high: i64) -> Result<Option<Value>, Syntax> {
        let text = self.reader.number()?;
        Ok(match text.parse::<i64>() {
            Ok(number) if (low..=high).contains(&number) => Some(Value::from(number)),
            _ => self.mismatch(&format!("number {text}"), ty),
        })
    }

    fn leaf(&mut self, read: Result<String, String>) -> Option<Value> {
        match read {
            Ok(text) => Some(Value::String(text)),
            Err(error) => self.fail(error),
        }
    }

    fn fail<T>(&mut self, error: String) -> Option<T> {
        self.error.get_or_insert(error);
        None
    }

    fn mismatch<T>(&mut self, found: &str, ty: Ty) -> Option<T> {
        if self.by == Patched::Tree {
            return self.fail(unconvertible(found, ty));
        }
        let mut owner = None;
        let mut names = Vec::new();
        for step in &self.path {
            if let Step::Field(of, field) = step {
                owner = Some(*of);
                names.push(field.name());
            }
        }
        let into = match owner {
            Some(owner) => format!("Go struct field {}.{}", owner.name(), names.join(".")),
            None => "Go value".into(),
        };
        self.fail(format!(
            "json: cannot unmarshal {found} into {into} of type {}",
            ty.go()
        ))
    }

    fn complain(&mut self, what: &str, key: &str) {
        if !self.strict || self.complaints.len() >= MAX_COMPLAINTS {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Field(_, field) => push(&mut path, field.name()),
                Step::Key(key) => push(&mut path, key),
            }
        }
        push(&mut path, key);
        let complaint = format!("{what} field {path:?}");
        if !self.complaints.contains(&complaint) {
            self.complaints.push(complaint);
        }
    }
}

/// As Go's conversion of trees complains, which does not say where.
fn unconvertible(found: &str, ty: Ty) -> String {
    let digits = found.strip_prefix("number");
    let kind = match found {
        _ if digits.is_some_and(|digits| digits.contains(['.', 'e', 'E'])) => "float64",
        _ if digits.is_some() => "int64",
        "object" => "map",
        "array" => "slice",
        other => other,
    };
    match ty.shape() {
        Shape::Object(_) => format!("cannot restore struct from: {kind}"),
        Shape::Map(_) => format!("cannot restore map from {kind}"),
        Shape::List(_) | Shape::Items | Shape::Bytes => format!("cannot restore slice from {kind}"),
        Shape::String => "unrecognized type: string".into(),
        _ => format!("unrecognized type: {}", ty.go()),
    }
}

fn push(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn gvk(group: &'static str, version: &'static str, kind: &'static str) -> (TypeRef, Gvk<'static>) {
        (type_of(group, version, kind).unwrap(), Gvk { group, version, kind })
    }

    fn pod(text: &str, mode: Validation) -> Result<Decoded, String> {
        let (ty, gvk) = gvk("", "v1", "Pod");
        decode(ty, gvk, Format::Json, text.as_bytes(), mode).map_err(|s| s.message)
    }

    #[test]
    fn values_of_a_wrong_type_are_refused_in_the_words_of_go() {
        let cases = [
            (
                r#"{"spec":{"containers":[{"name":1}]}}"#,
                "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
            ),
            (
                r#"{"spec":{"terminationGracePeriodSeconds":"x"}}"#,
                "json: cannot unmarshal string into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
            ),
            (
                r#"{"spec":{"priority":3000000000}}"#,
                "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
            ),
            (
                r#"{"spec":{"priority":1.0}}"#,
                "json: cannot unmarshal number 1.0 into Go struct field PodSpec.spec.priority of type int32",
            ),
            (
                r#"{"metadata":{"labels":{"a":1}}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                r#"{"spec":[]}"#,
                "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
            ),
            (
                r#"{"spec":{"containers":["x"]}}"#,
                "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type v1.Container",
            ),
            (
                r#"{"spec":{"containers":{}}}"#,
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                r#"{"spec":{"restartPolicy":true}}"#,
                "json: cannot unmarshal bool into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
            ),
            (
                r#"{"metadata":{"creationTimestamp":"x"}}"#,
                r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#,
            ),
            (
                r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}"#,
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
        ];
        for (text, want) in cases {
            let want = format!("Pod in version \"v1\" cannot be handled as a Pod: {want}");
            assert_eq!(pod(text, Validation::Strict).unwrap_err(), want);
        }
    }

    #[test]
    fn bodies_without_a_kind_of_ours_are_refused() {
        for (text, want) in [
            (
                "",
                "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
            ),
            (
                "{",
                "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input ({)",
            ),
            (
                "hé",
                "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character 'h' looking for beginning of value (68c3a9)",
            ),
            (
                r#"{"kind":"Foo","apiVersion":"v1"}"#,
                r#"Foo in version "v1" cannot be handled as a Pod: no kind "Foo" is registered for version "v1" in scheme "pkg/api/legacyscheme/scheme.go:30""#,
            ),
            (
                r#"{"kind":"Deployment","apiVersion":"apps/v1"}"#,
                r#"Deployment in version "v1" cannot be handled as a Pod: converting (v1.Deployment) to (core.Pod): unknown conversion"#,
            ),
        ] {
            assert_eq!(pod(text, Validation::Ignore).unwrap_err(), want);
        }
        let (ty, expected) = gvk("apps", "v1", "Deployment");
        let body = br#"{"kind":"Deployment","apiVersion":"apps/v1beta1"}"#;
        assert_eq!(
            decode(ty, expected, Format::Json, body, Validation::Ignore)
                .unwrap_err()
                .message,
            "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)"
        );
    }

    #[test]
    fn unknown_and_duplicate_fields_are_ignored_warned_of_or_refused() {
        let text = r#"{"spec":{"foo":1,"containers":[{"name":"a","bar":{}},{"name":"b","bar":{}}],"nodeName":"x","nodeName":"y"},"metadata":{"labels":{"a":"1","a":"2"}}}"#;
        assert_eq!(pod(text, Validation::Ignore).unwrap().warnings, Vec::<String>::new());
        let fields = [
            r#"unknown field "spec.foo""#,
            r#"unknown field "spec.containers[0].bar""#,
            r#"unknown field "spec.containers[1].bar""#,
            r#"duplicate field "spec.nodeName""#,
            r#"duplicate field "metadata.labels.a""#,
        ];
        let read = pod(text, Validation::Warn).unwrap();
        assert_eq!(read.warnings, fields);
        assert_eq!(read.object.str_at(&["spec", "nodeName"]), "y");
        assert!(read.object.at(&["spec", "foo"]).is_none());
        assert_eq!(
            pod(text, Validation::Strict).unwrap_err(),
            format!(
                "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: {}",
                fields.join(", ")
            )
        );
    }

    #[test]
    fn what_is_kept_is_what_a_typed_server_keeps() {
        for (kind, body, want) in [
            (
                ("", "v1", "Pod"),
                json!({"metadata": {"name": "x", "labels": {}, "annotations": null, "creationTimestamp": null}, "spec": {
                    "hostNetwork": false, "terminationGracePeriodSeconds": 0, "volumes": [], "tolerations": null,
                    "containers": [{"name": "c", "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi", "x": 0.5}}, "args": [null]}]}}),
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "status": {}, "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi", "x": "500m"}}, "args": [""]}]}}),
            ),
            (
                ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
                json!({"metadata": {"name": "x"}, "rules": []}),
                json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "x"}, "rules": null}),
            ),
            (
                ("apps", "v1", "Deployment"),
                json!({"spec": {"replicas": 0}}),
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "status": {}, "spec": {
                    "replicas": 0, "selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": null}}}}),
            ),
            (
                ("", "v1", "Secret"),
                json!({"data": {"a": "YQ==", "b": ""}}),
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"a": "YQ==", "b": ""}}),
            ),
        ] {
            let (ty, gvk) = gvk(kind.0, kind.1, kind.2);
            let read = decode(
                ty,
                gvk,
                Format::Json,
                &serde_json::to_vec(&body).unwrap(),
                Validation::Strict,
            )
            .unwrap();
            assert_eq!(Value::Object(read.object.0), want);
        }
    }

    #[test]
    fn yaml_bodies_read_like_json_ones() {
        let (ty, gvk) = gvk("", "v1", "Pod");
        let body = b"kind: Pod\nspec:\n  priority: 1\n  foo: 1\n  containers:\n  - name: a\n    name: b\n";
        let read = decode(ty, gvk, Format::Yaml, body, Validation::Warn).unwrap();
        assert_eq!(
            read.warnings,
            [
                "yaml: unmarshal errors:\n  line 7: key \"name\" already set in map",
                "unknown field \"spec.foo\""
            ]
        );
        assert_eq!(read.object.at(&["spec", "priority"]), Some(&json!(1)));
        let error = decode(ty, gvk, Format::Yaml, b"just text", Validation::Warn)
            .unwrap_err()
            .message;
        assert!(error.starts_with("the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type struct"), "{error}");
    }
}

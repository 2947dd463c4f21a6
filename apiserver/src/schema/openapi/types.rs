//! Definitions of types, with the extensions that kubectl and other clients merge by.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::shape;
use super::super::table::{Field, ListType, Shape, Ty, TypeRef, type_of};
use super::sentences::Sentences;
use super::{Form, Members};

/// A definition: of a type of the table or of a value with a form of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Type(TypeRef),
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Duration,
    Raw,
    Json,
    Fields,
    Patch,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStrings,
}

impl Name {
    pub(super) fn of(ty: TypeRef) -> Name {
        if ty.id() == "meta/v1.Patch" {
            Name::Patch
        } else {
            Name::Type(ty)
        }
    }

    /// As the published definitions are called.
    pub(super) fn full(self) -> String {
        const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
        const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
        match self {
            Name::Type(ty) => {
                let package = ty.package().replace('/', ".");
                let prefix = match package.split('.').next().unwrap_or_default() {
                    "meta" => "io.k8s.apimachinery.pkg.apis",
                    "version" => "io.k8s.apimachinery.pkg",
                    "apiextensions" => "io.k8s.apiextensions-apiserver.pkg.apis",
                    "apiregistration" => "io.k8s.kube-aggregator.pkg.apis",
                    _ => "io.k8s.api",
                };
                format!("{prefix}.{package}.{}", ty.name())
            }
            Name::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity".into(),
            Name::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".into(),
            Name::Time => format!("{META}.Time"),
            Name::MicroTime => format!("{META}.MicroTime"),
            Name::Duration => format!("{META}.Duration"),
            Name::Fields => format!("{META}.FieldsV1"),
            Name::Patch => format!("{META}.Patch"),
            Name::Raw => "io.k8s.apimachinery.pkg.runtime.RawExtension".into(),
            Name::Json => format!("{EXTENSIONS}.JSON"),
            Name::SchemaOrArray => format!("{EXTENSIONS}.JSONSchemaPropsOrArray"),
            Name::SchemaOrBool => format!("{EXTENSIONS}.JSONSchemaPropsOrBool"),
            Name::SchemaOrStrings => format!("{EXTENSIONS}.JSONSchemaPropsOrStringArray"),
        }
    }
}

/// The definition that a value refers to, if it has one of its own.
fn refers(ty: Ty) -> Option<Name> {
    Some(match ty.shape() {
        Shape::Object(ty) => Name::of(ty),
        Shape::Quantity => Name::Quantity,
        Shape::IntOrString => Name::IntOrString,
        Shape::Time => Name::Time,
        Shape::MicroTime => Name::MicroTime,
        Shape::Duration => Name::Duration,
        Shape::Raw => Name::Raw,
        Shape::Json => Name::Json,
        Shape::Fields => Name::Fields,
        Shape::SchemaOrArray => Name::SchemaOrArray,
        Shape::SchemaOrBool => Name::SchemaOrBool,
        Shape::SchemaOrStrings => Name::SchemaOrStrings,
        _ => return None,
    })
}

/// Writes the definitions that are needed and those that they need.
pub(super) fn write(form: Form, mut needed: BTreeSet<Name>, served: &[(&str, &str)], out: &mut dyn Members) {
    let mut waiting: Vec<Name> = needed.iter().copied().collect();
    while let Some(name) = waiting.pop() {
        let Name::Type(ty) = name else { continue };
        for field in ty.fields() {
            let mut inner = field.ty();
            while let Shape::List(next) | Shape::Map(next) = inner.shape() {
                inner = next;
            }
            if let Some(name) = refers(inner)
                && needed.insert(name)
            {
                waiting.push(name);
            }
        }
    }
    let sentences = Sentences::read();
    let mut named: Vec<(String, Name)> = needed.into_iter().map(|name| (name.full(), name)).collect();
    named.sort();
    for (full, name) in named {
        out.member(&full, &definition(form, name, served, &sentences));
    }
}

fn definition(form: Form, name: Name, served: &[(&str, &str)], sentences: &Sentences) -> Value {
    let ty = match name {
        Name::Type(ty) => ty,
        Name::Quantity if form == Form::V3 => return json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Name::IntOrString if form == Form::V3 => {
            return json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]});
        }
        Name::Quantity | Name::Duration => return json!({"type": "string"}),
        Name::IntOrString => return json!({"type": "string", "format": "int-or-string"}),
        Name::Time | Name::MicroTime => return json!({"type": "string", "format": "date-time"}),
        Name::Raw | Name::Fields | Name::Patch => return json!({"type": "object"}),
        Name::Json | Name::SchemaOrArray | Name::SchemaOrBool | Name::SchemaOrStrings => return json!({}),
    };
    let mut made = Map::new();
    made.insert("type".into(), "object".into());
    let describe = |made: &mut Map<String, Value>, text: &str| {
        if !text.is_empty() {
            made.insert("description".into(), text.into());
        }
    };
    describe(&mut made, sentences.of_type(ty));
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (place, field) in ty.fields().enumerate() {
        let mut property = value(form, field);
        describe(&mut property, sentences.of_field(ty, place));
        extend(field, &mut property);
        properties.insert(field.name().into(), Value::Object(property));
        if field.is_required() {
            required.push(Value::from(field.name()));
        }
    }
    if !properties.is_empty() {
        made.insert("properties".into(), Value::Object(properties));
    }
    if !required.is_empty() {
        made.insert("required".into(), Value::Array(required));
    }
    if ty.is_atomic() {
        made.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if let Some((group, version)) = ty.group_version() {
        let own = (group, version);
        // Options of deletes and events of watches go with every group.
        let everywhere = matches!(ty.name(), "DeleteOptions" | "WatchEvent");
        let kinds: Vec<Value> = if everywhere { served } else { &[] }
            .iter()
            .chain(if everywhere { None } else { Some(&own) })
            .map(|(group, version)| json!({"group": group, "version": version, "kind": ty.name()}))
            .collect();
        made.insert("x-kubernetes-group-version-kind".into(), Value::Array(kinds));
    }
    Value::Object(made)
}

/// The type of a field, with v3's default of what is always there.
fn value(form: Form, field: Field) -> Map<String, Value> {
    let mut made = plain(form, field.ty());
    if form == Form::V2 {
        return made;
    }
    if let Some(reference) = made.remove("$ref") {
        made.insert("allOf".into(), json!([{"$ref": reference}]));
    }
    if let Some(text) = field.default() {
        let value = serde_json::from_str(text).expect("a test reads every default");
        made.insert("default".into(), value);
    } else if !field.is_pointer() {
        match field.ty().shape() {
            Shape::Object(_) => drop(made.insert("default".into(), json!({}))),
            Shape::String | Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double if !field.is_omitted() => {
                made.insert("default".into(), shape::zero(field.ty()));
            }
            _ => {}
        }
    }
    made
}

fn plain(form: Form, ty: Ty) -> Map<String, Value> {
    let fixed = |kind: &str, format: Option<&str>| {
        let mut made = Map::new();
        made.insert("type".into(), kind.into());
        if let Some(format) = format {
            made.insert("format".into(), format.into());
        }
        made
    };
    if let Some(name) = refers(ty) {
        let Value::Object(made) = form.reference(&name.full()) else {
            unreachable!("a reference is an object")
        };
        return made;
    }
    match ty.shape() {
        Shape::String => {
            let mut made = fixed("string", None);
            let values: Vec<Value> = ty.values().map(Value::from).collect();
            if !values.is_empty() && form == Form::V3 {
                made.insert("enum".into(), Value::Array(values));
            }
            made
        }
        Shape::Bytes => fixed("string", Some("byte")),
        Shape::Bool => fixed("boolean", None),
        Shape::Int32 => fixed("integer", Some("int32")),
        Shape::Int64 => fixed("integer", Some("int64")),
        Shape::Double => fixed("number", Some("double")),
        Shape::Items => {
            let mut made = fixed("array", None);
            let items = if form == Form::V3 {
                json!({"type": "string", "default": ""})
            } else {
                json!({"type": "string"})
            };
            made.insert("items".into(), items);
            made
        }
        Shape::List(inner) => {
            let mut made = fixed("array", None);
            made.insert("items".into(), Value::Object(item(form, inner)));
            made
        }
        Shape::Map(inner) => {
            let mut made = fixed("object", None);
            made.insert("additionalProperties".into(), Value::Object(item(form, inner)));
            made
        }
        _ => fixed("object", None),
    }
}

/// What a list or map holds.
fn item(form: Form, ty: Ty) -> Map<String, Value> {
    let mut made = plain(form, ty);
    if form == Form::V3 {
        if let Some(reference) = made.remove("$ref") {
            made.insert("allOf".into(), json!([{"$ref": reference}]));
        }
        match ty.shape() {
            Shape::Object(_) => drop(made.insert("default".into(), json!({}))),
            Shape::String | Shape::Int32 | Shape::Int64 | Shape::Bool => {
                made.insert("default".into(), shape::zero(ty));
            }
            _ => {}
        }
    }
    made
}

fn extend(field: Field, made: &mut Map<String, Value>) {
    let list = match field.list_type() {
        ListType::Unset => None,
        ListType::Atomic => Some("atomic"),
        ListType::Set => Some("set"),
        ListType::Map => Some("map"),
    };
    if let Some(list) = list {
        made.insert("x-kubernetes-list-type".into(), list.into());
    }
    let keys: Vec<Value> = field.keys().map(Value::from).collect();
    if !keys.is_empty() {
        made.insert("x-kubernetes-list-map-keys".into(), Value::Array(keys));
    }
    let patch = field.patch();
    let strategy = match (patch.merge, patch.retain_keys, patch.replace) {
        (true, true, _) => Some("merge,retainKeys"),
        (true, false, _) => Some("merge"),
        (false, true, _) => Some("retainKeys"),
        (_, _, true) => Some("replace"),
        _ => None,
    };
    if let Some(strategy) = strategy {
        made.insert("x-kubernetes-patch-strategy".into(), strategy.into());
    }
    if let Some(key) = field.merge_key() {
        made.insert("x-kubernetes-patch-merge-key".into(), key.into());
    }
    if field.is_granular() {
        made.insert("x-kubernetes-map-type".into(), "granular".into());
    }
    // Said of the field itself; of its type, the type's definition says it.
    if field.is_atomic_map() && !matches!(field.ty().shape(), Shape::Object(ty) if ty.is_atomic()) {
        made.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
}

/// The definition of a kind, if the table has it.
pub(super) fn kind(group: &str, version: &str, kind: &str) -> Option<Name> {
    type_of(group, version, kind).map(Name::of)
}

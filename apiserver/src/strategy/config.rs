//! ConfigMaps, Secrets and ServiceAccounts: data that pods are given.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::field::{Field, IMMUTABLE, same};
use super::{Context, Strategy, format};
use crate::object::Object;
use crate::status::Errors;

/// All values of one object together.
const MAX_BYTES: usize = 1024 * 1024;
const SEALED: &str = "field is immutable when `immutable` is set";

/// How many bytes base64 text stands for.
fn decoded(text: &str) -> usize {
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(text.len())
}

fn keys(field: &Field, errors: &mut Errors) {
    for (key, value) in field.entries() {
        for message in format::config_key(key) {
            value.invalid_as(errors, key, &message);
        }
    }
}

/// What `immutable` seals stays, and so does the seal.
fn sealed(new: &Object, old: &Object, fields: &[&str], errors: &mut Errors) {
    if !Field::root(old, "immutable").is_true() {
        return;
    }
    let seal = Field::root(new, "immutable");
    if !seal.is_true() {
        seal.forbidden(errors, SEALED);
    }
    for name in fields {
        let field = Field::root(new, name);
        if !same(field.value(), old.0.get(*name)) {
            field.forbidden(errors, SEALED);
        }
    }
}

#[derive(Debug)]
pub struct ConfigMaps;

impl Strategy for ConfigMaps {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let (data, binary) = (Field::root(new, "data"), Field::root(new, "binaryData"));
        keys(&data, errors);
        for (key, value) in data.entries() {
            if binary.key(key).present() {
                value.invalid_as(errors, key, "duplicate of key present in binaryData");
            }
        }
        keys(&binary, errors);
        let size: usize = data.entries().map(|(_, v)| v.str().len()).sum::<usize>()
            + binary.entries().map(|(_, v)| decoded(v.str())).sum::<usize>();
        if size > MAX_BYTES {
            errors.too_long("[]", MAX_BYTES);
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        sealed(new, old, &["data", "binaryData"], errors);
        self.validate(context, new, errors);
    }
}

#[derive(Debug)]
pub struct Secrets;

impl Strategy for Secrets {
    fn default(&self, new: &mut Object) {
        // `stringData` is for writing only: it becomes data, and is never read back.
        let Some(Value::Object(text)) = new.0.remove("stringData") else {
            return;
        };
        let data = new.entry("data");
        for (key, value) in text {
            data.insert(key, STANDARD.encode(value.as_str().unwrap_or("")).into());
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let data = Field::root(new, "data");
        keys(&data, errors);
        if data.entries().map(|(_, v)| decoded(v.str())).sum::<usize>() > MAX_BYTES {
            errors.too_long(data, MAX_BYTES);
        }
        let need = |key: &str, errors: &mut Errors| {
            let value = data.key(key);
            if !value.present() {
                value.required(errors, "");
            }
            value.str().to_owned()
        };
        match new.str_at(&["type"]) {
            "kubernetes.io/service-account-token" => {
                let annotations = Field::root(new, "metadata.annotations");
                let account = annotations.key("kubernetes.io/service-account.name");
                if account.str().is_empty() {
                    account.required(errors, "");
                }
            }
            "kubernetes.io/dockercfg" => json_value(&need(".dockercfg", errors), &data.key(".dockercfg"), errors),
            "kubernetes.io/dockerconfigjson" => {
                json_value(
                    &need(".dockerconfigjson", errors),
                    &data.key(".dockerconfigjson"),
                    errors,
                );
            }
            "kubernetes.io/basic-auth" if !data.key("username").present() && !data.key("password").present() => {
                data.key("username").required(errors, "");
                data.key("password").required(errors, "");
            }
            "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").str().is_empty() => {
                data.key("ssh-privatekey").required(errors, "");
            }
            "kubernetes.io/tls" => {
                need("tls.crt", errors);
                need("tls.key", errors);
            }
            _ => {}
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        let kind = Field::root(new, "type");
        if kind.str() != old.str_at(&["type"]) {
            kind.invalid(errors, IMMUTABLE);
        }
        sealed(new, old, &["data"], errors);
        self.validate(context, new, errors);
    }
}

/// Credentials of a registry are JSON. What they are is not repeated in a message.
fn json_value(text: &str, field: &Field, errors: &mut Errors) {
    if text.is_empty() {
        return;
    }
    let parsed = STANDARD
        .decode(text)
        .ok()
        .map(|bytes| serde_json::from_slice::<Value>(&bytes));
    if let Some(Err(error)) = parsed {
        field.invalid_as(errors, "<secret contents redacted>", &error.to_string());
    }
}

#[derive(Debug)]
pub struct ServiceAccounts;

impl ServiceAccounts {
    /// Of a referenced secret only the name counts.
    fn clean(new: &mut Object) {
        let Some(list) = new.0.get_mut("secrets").and_then(Value::as_array_mut) else {
            return;
        };
        for secret in list {
            *secret = json!({"name": secret["name"]});
        }
    }
}

impl Strategy for ServiceAccounts {
    fn prepare_create(&self, _context: &Context<'_>, new: &mut Object) {
        Self::clean(new);
    }
    fn prepare_update(&self, _context: &Context<'_>, new: &mut Object, _old: &Object) {
        Self::clean(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::User;

    fn object(value: Value) -> Object {
        Object(value.as_object().expect("map").clone())
    }
    #[track_caller]
    fn check(strategy: &dyn Strategy, new: Value, old: Option<Value>, want: &[&str]) {
        let user = User::default();
        let context = Context {
            user: &user,
            version: "v1",
            subresource: "",
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        let mut errors = Errors::default();
        match old {
            Some(old) => strategy.validate_update(&context, &object(new), &object(old), &mut errors),
            None => strategy.validate(&context, &object(new), &mut errors),
        }
        let got: Vec<String> = errors
            .into_causes()
            .into_iter()
            .map(|c| format!("{} {}", c.field, c.reason))
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn what_is_sealed_stays() {
        let old = json!({"immutable": true, "data": {"a": "b"}});
        check(&ConfigMaps, old.clone(), Some(old.clone()), &[]);
        check(
            &ConfigMaps,
            json!({"data": {"a": "c"}}),
            Some(old),
            &["immutable FieldValueForbidden", "data FieldValueForbidden"],
        );
        check(
            &Secrets,
            json!({"type": "Opaque"}),
            Some(json!({"type": "kubernetes.io/tls"})),
            &["type FieldValueInvalid"],
        );
    }
    #[test]
    fn keys_and_sizes_are_limited() {
        check(
            &ConfigMaps,
            json!({"data": {"a/b": ""}}),
            None,
            &["data[a/b] FieldValueInvalid"],
        );
        check(
            &ConfigMaps,
            json!({"data": {"a": ""}, "binaryData": {"a": ""}}),
            None,
            &["data[a] FieldValueInvalid"],
        );
        let big = "x".repeat(MAX_BYTES + 1);
        check(
            &ConfigMaps,
            json!({"data": {"a": big}}),
            None,
            &["[] FieldValueTooLong"],
        );
    }
    #[test]
    fn secrets_hold_what_their_type_says() {
        check(
            &Secrets,
            json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
            None,
            &["data[tls.key] FieldValueRequired"],
        );
        check(
            &Secrets,
            json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "eA=="}}),
            None,
            &["data[.dockercfg] FieldValueInvalid"],
        );
        check(
            &Secrets,
            json!({"type": "kubernetes.io/service-account-token"}),
            None,
            &["metadata.annotations[kubernetes.io/service-account.name] FieldValueRequired"],
        );
    }
    #[test]
    fn text_becomes_data() {
        let mut secret = object(json!({"data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}}));
        Secrets.default(&mut secret);
        assert_eq!(Value::Object(secret.0), json!({"data": {"a": "eQ==", "b": "eg=="}}));
    }
}

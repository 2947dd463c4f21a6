//! Certificate signing requests (kubernetes/pkg/apis/certificates/validation/validation.go, 1.36).

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::field::{Field, same};
use super::{Context, Reset, Shape, Strategy, format, meta};
use crate::object::Object;
use crate::status::Errors;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

#[derive(Debug)]
pub struct Requests;

impl Strategy for Requests {
    fn reset(&self, subresource: &str) -> Reset {
        match subresource {
            "" => Reset::Paths(&[&["spec"], &["status"]]),
            "status" => Reset::Paths(&[&["spec"], &["status", "conditions"]]),
            "approval" => Reset::Paths(&[&["spec"], &["status", "certificate"]]),
            _ => Reset::NOTHING,
        }
    }
    fn shape(&self) -> Shape {
        Shape::STATUS
    }
    fn prepare_create(&self, context: &Context<'_>, new: &mut Object) {
        self.shape().prepare_create(new);
        // Who asks is who is asking, not who the request says it is.
        let user = context.user;
        let spec = new.entry("spec");
        spec.insert("username".into(), user.name.clone().into());
        spec.insert("uid".into(), user.uid.clone().into());
        spec.insert("groups".into(), json!(user.groups));
        if user.extra.is_empty() {
            spec.remove("extra");
        } else {
            spec.insert("extra".into(), json!(user.extra));
        }
    }
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        let asked = new.0.get("status").cloned().unwrap_or_else(|| json!({}));
        let before = old.0.get("status").cloned().unwrap_or_else(|| json!({}));
        let meta = new.0.remove("metadata");
        new.0 = old.0.clone();
        if let Some(meta) = meta {
            new.0.insert("metadata".into(), meta);
        }
        let list = |status: &Value| status["conditions"].as_array().cloned().unwrap_or_default();
        let decided = |condition: &Value| matches!(condition["type"].as_str(), Some("Approved" | "Denied"));
        let (mut status, conditions) = match context.subresource {
            // Approving is its own permission: the conditions and nothing else.
            "approval" => (before.clone(), list(&asked)),
            // A signer writes the certificate, and leaves the decision alone.
            "status" => {
                let kept = list(&before).into_iter().filter(decided);
                (
                    asked.clone(),
                    kept.chain(list(&asked).into_iter().filter(|c| !decided(c))).collect(),
                )
            }
            _ => return,
        };
        let now = meta::seconds(context.now);
        let stamped: Vec<Value> = conditions
            .into_iter()
            .map(|mut condition| {
                let old = list(&before).into_iter().find(|c| c["type"] == condition["type"]);
                if condition["lastUpdateTime"].is_null() {
                    condition["lastUpdateTime"] = now.clone().into();
                }
                if condition["lastTransitionTime"].is_null() {
                    condition["lastTransitionTime"] = match old {
                        Some(old) if old["status"] == condition["status"] => old["lastTransitionTime"].clone(),
                        _ => now.clone().into(),
                    };
                }
                condition
            })
            .collect();
        if let Some(map) = status.as_object_mut() {
            if stamped.is_empty() {
                map.remove("conditions");
            } else {
                map.insert("conditions".into(), stamped.into());
            }
        }
        new.0.insert("status".into(), status);
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        let (request, usages, signer) = (spec.get("request"), spec.get("usages"), spec.get("signerName"));
        if let Err(why) = parse(request.str()) {
            request.invalid(errors, why);
        }
        if usages.is_empty() {
            usages.required(errors, "usages must be provided");
        }
        let mut seen = BTreeSet::new();
        for usage in usages.items() {
            usage.one_of(errors, USAGES);
            if !seen.insert(usage.str()) {
                usage.duplicate(errors);
            }
        }
        signer_name(&signer, errors);
        let seconds = spec.get("expirationSeconds");
        if seconds.int().is_some_and(|n| n < 600) {
            seconds.invalid(errors, "may not specify a duration less than 600 seconds (10 minutes)");
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        let (status, was) = (Field::root(new, "status"), Field::root(old, "status"));
        let conditions = status.get("conditions");
        let mut seen = BTreeSet::new();
        for condition in conditions.items() {
            let (kind, value) = (condition.get("type"), condition.get("status"));
            if kind.str().is_empty() {
                kind.required(errors, "");
            }
            match (kind.str(), value.str()) {
                (_, "") => value.required(errors, ""),
                ("Approved" | "Denied" | "Failed", "True") => {}
                ("Approved" | "Denied" | "Failed", _) => value.unsupported(errors, &["True"]),
                _ => {
                    value.one_of(errors, &["False", "True", "Unknown"]);
                }
            }
            if !seen.insert(kind.str()) {
                condition.duplicate_as(errors, kind.str());
            }
        }
        if seen.contains("Approved") && seen.contains("Denied") {
            conditions.invalid(errors, "Approved and Denied conditions are mutually exclusive");
        }
        // What was decided stays decided.
        if context.subresource == "approval" {
            for before in was.get("conditions").items() {
                let kind = before.get("type").str();
                let kept = conditions.items().any(|c| c.get("type").str() == kind);
                if matches!(kind, "Approved" | "Denied" | "Failed") && !kept {
                    conditions.forbidden(errors, &format!("updates may not remove a condition of type {kind:?}"));
                }
            }
        }
        let certificate = status.get("certificate");
        if !was.get("certificate").is_zero() && !same(certificate.value(), was.get("certificate").value()) {
            certificate.forbidden(errors, "updates may not modify existing certificate content");
        }
        if context.subresource == "status" && was.get("certificate").is_zero() && !certificate.is_zero() {
            let pem = STANDARD
                .decode(certificate.str())
                .ok()
                .and_then(|bytes| pem::parse_many(bytes).ok());
            let good =
                pem.is_some_and(|blocks| !blocks.is_empty() && blocks.iter().all(|block| block.tag() == "CERTIFICATE"));
            if !good {
                certificate.invalid_as(
                    errors,
                    "<certificate data>",
                    "must contain at least one CERTIFICATE PEM block",
                );
            }
        }
    }
    fn warnings(&self, _context: &Context<'_>, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }
}

/// A PEM block with a request in it, base64 around.
fn parse(text: &str) -> Result<(), &'static str> {
    const NOT_PEM: &str = "PEM block type must be CERTIFICATE REQUEST";
    let bytes = STANDARD.decode(text).map_err(|_| NOT_PEM)?;
    let block = pem::parse(&bytes).map_err(|_| NOT_PEM)?;
    if block.tag() != "CERTIFICATE REQUEST" {
        return Err(NOT_PEM);
    }
    use x509_parser::prelude::FromDer as _;
    x509_parser::certification_request::X509CertificationRequest::from_der(block.contents())
        .map(drop)
        .map_err(|_| "asn1: structure error")
}

/// `domain/path`, the domain of two labels at least.
fn signer_name(field: &Field, errors: &mut Errors) {
    const FORM: &str = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
    let name = field.str();
    if name.is_empty() {
        return field.required(errors, "");
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, path] = parts[..] else {
        return field.invalid(errors, FORM);
    };
    let problems = format::dns_subdomain(domain);
    if !problems.is_empty() {
        return field.invalid(errors, &format!("validating label {domain:?}: {}", problems.join(", ")));
    }
    if domain.split('.').count() < 2 {
        field.invalid(
            errors,
            "should be a domain with at least two segments separated by dots",
        );
    }
    for label in path.split('.') {
        let problems = format::dns_subdomain(label);
        if !problems.is_empty() {
            field.invalid(errors, &format!("validating label {label:?}: {}", problems.join(", ")));
        }
    }
}

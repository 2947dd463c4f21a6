//! Who decides about certificate signing requests: nobody approves, denies or signs for a signer that he may not speak for,
//! and nobody asks to become an administrator. After plugin/pkg/admission/certificates (1.36).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use serde_json::Value;
use x509_parser::prelude::FromDer as _;

use super::{Admit, Attributes, Operation};
use crate::authz::{Chain, Decision, Request, Target};
use crate::identity::MASTERS;
use crate::object::Object;
use crate::status::Status;

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// The right to decide (`approve`) or to sign (`sign`) for the signer that a request names.
#[derive(Debug)]
pub(super) struct Speaks {
    pub(super) authz: Arc<Chain>,
    pub(super) verb: &'static str,
}

impl Speaks {
    /// By the signer's name, or for all of its domain.
    async fn may(&self, attributes: &Attributes<'_>, signer: &str) -> bool {
        let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
        for name in [signer, &format!("{domain}/*")] {
            let request = Request {
                user: attributes.user,
                verb: self.verb,
                target: Target::Resource {
                    group: GROUP,
                    version: "*",
                    resource: "signers",
                    subresource: "",
                    namespace: "",
                    name,
                    fields: None,
                },
            };
            if matches!(self.authz.authorize(&request).await, Decision::Allow(_)) {
                return true;
            }
        }
        false
    }
}

impl Admit for Speaks {
    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let part = if self.verb == "approve" { "approval" } else { "status" };
            if attributes.operation != Operation::Update
                || !attributes.is_any(GROUP, REQUESTS)
                || attributes.subresource != part
            {
                return Ok(());
            }
            let (Some(new), Some(old)) = (new, old) else {
                return Ok(());
            };
            let of = |object: &Object, field: &str| object.at(&["status", field]).cloned().unwrap_or(Value::Null);
            let same = |field| of(new, field) == of(old, field);
            if self.verb == "sign" && same("certificate") && same("conditions") {
                return Ok(());
            }
            let signer = old.str_at(&["spec", "signerName"]);
            if self.may(attributes, signer).await {
                return Ok(());
            }
            let why = format!(
                "user not permitted to {} requests with signerName {signer:?}",
                self.verb
            );
            Err(attributes.forbidden(Some(new), &why))
        })
    }
}

/// No certificate makes a member of system:masters.
#[derive(Debug)]
pub(super) struct Subjects;

impl Admit for Subjects {
    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(new) = new else { return Ok(()) };
            if attributes.operation != Operation::Create
                || !attributes.is(GROUP, REQUESTS)
                || new.str_at(&["spec", "signerName"]) != CLIENT
            {
                return Ok(());
            }
            if groups(new.str_at(&["spec", "request"]))
                .iter()
                .any(|group| group == MASTERS)
            {
                let why = format!("use of {CLIENT} signer with {MASTERS} group is not allowed");
                return Err(attributes.forbidden(Some(new), &why));
            }
            Ok(())
        })
    }
}

/// Of a request that validation has read already.
fn groups(text: &str) -> Vec<String> {
    let Some(block) = STANDARD.decode(text).ok().and_then(|bytes| pem::parse(bytes).ok()) else {
        return Vec::new();
    };
    let read = x509_parser::certification_request::X509CertificationRequest::from_der(block.contents());
    let Ok((_, request)) = read else { return Vec::new() };
    let subject = &request.certification_request_info.subject;
    let groups = subject.iter_organization();
    groups.filter_map(|g| g.as_str().ok().map(str::to_owned)).collect()
}

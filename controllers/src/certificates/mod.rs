//! Certificate signing requests: those of nodes about themselves are approved, approved ones signed, old ones removed.
//! It comes from requests and Nodes; whether somebody may ask is the API server's word, and people approve the rest.
//! Holds: nothing is signed that its signer does not allow, and what was decided is never decided again.

pub mod approve;
pub mod clean;
pub mod sign;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

/// The signers of the cluster itself.
mod signer {
    pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
    pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
    pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
    pub(super) const LEGACY: &str = "kubernetes.io/legacy-unknown";
}

const NODE: &str = "system:node:";
const NODES: &str = "system:nodes";

fn condition<'a>(request: &'a CertificateSigningRequest, kind: &str) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind)
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(certificate.0.as_slice()).filter(|bytes| !bytes.is_empty())
}

fn usages(request: &CertificateSigningRequest) -> Vec<&str> {
    let usages = request.spec.usages.iter().flatten();
    usages.map(String::as_str).collect()
}

/// Exactly these, where a key may be good for encipherment or not.
fn usages_are(request: &CertificateSigningRequest, wanted: [&str; 2]) -> bool {
    let mut have: Vec<&str> = usages(request)
        .into_iter()
        .filter(|u| *u != "key encipherment")
        .collect();
    have.sort_unstable();
    have.dedup();
    have == wanted
}

/// What the signer of kubelets' client certificates allows (pkg/apis/certificates/v1/helpers.go, 1.36).
fn check_kubelet_client(
    request: &CertificateSigningRequest,
    asked: &daemon::requests::Request,
) -> Result<(), &'static str> {
    if asked.organizations != [NODES] {
        return Err("organization is not system:nodes");
    }
    if !asked.dns.is_empty() {
        return Err("DNS subjectAltNames are not allowed");
    }
    if !asked.addresses.is_empty() {
        return Err("IP subjectAltNames are not allowed");
    }
    check_names(asked)?;
    if !usages_are(request, ["client auth", "digital signature"]) {
        return Err("usages did not match expected values");
    }
    Ok(())
}

fn check_kubelet_serving(
    request: &CertificateSigningRequest,
    asked: &daemon::requests::Request,
) -> Result<(), &'static str> {
    if asked.organizations != [NODES] {
        return Err("organization is not system:nodes");
    }
    if asked.dns.is_empty() && asked.addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required");
    }
    check_names(asked)?;
    if !usages_are(request, ["digital signature", "server auth"]) {
        return Err("usages did not match expected values");
    }
    Ok(())
}

fn check_names(asked: &daemon::requests::Request) -> Result<(), &'static str> {
    if !asked.emails.is_empty() {
        return Err("email subjectAltNames are not allowed");
    }
    if !asked.uris.is_empty() {
        return Err("URI subjectAltNames are not allowed");
    }
    if !asked.common_name.starts_with(NODE) {
        return Err("subject common name does not begin with system:node: ");
    }
    Ok(())
}

fn text(request: &CertificateSigningRequest) -> &str {
    // Validation has read it: what is not text is no request either.
    std::str::from_utf8(&request.spec.request.0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::{Value, json};

    use super::*;

    pub(super) fn of(
        signer: &str,
        user: &str,
        text: &str,
        usages: &[&str],
        status: &Value,
    ) -> CertificateSigningRequest {
        let mut request: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r", "creationTimestamp": "2026-11-21T00:00:00Z"},
            "spec": {"request": "", "signerName": signer, "username": user, "usages": usages},
            "status": status,
        }))
        .unwrap();
        request.spec.request = ByteString(text.as_bytes().to_vec());
        request
    }

    #[test]
    fn a_node_asks_for_itself_and_for_nothing_else() {
        let usages = ["digital signature", "key encipherment", "client auth"];
        let check = |name: &str, group: Option<&str>, names: &[&str], usages: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            let (_, text) = daemon::requests::make(name, group, &names).unwrap();
            let asked = daemon::requests::Request::parse(&text).unwrap();
            check_kubelet_client(&of(signer::KUBELET_CLIENT, "u", &text, usages, &json!({})), &asked)
        };
        assert_eq!(check("system:node:n", Some(NODES), &[], &usages), Ok(()));
        assert_eq!(
            check("system:node:n", Some(NODES), &[], &[usages[0], usages[2]]),
            Ok(())
        );
        assert_eq!(
            check("system:node:n", Some("system:masters"), &[], &usages),
            Err("organization is not system:nodes")
        );
        assert_eq!(
            check("system:node:n", Some(NODES), &["n"], &usages),
            Err("DNS subjectAltNames are not allowed")
        );
        assert_eq!(
            check("jane", Some(NODES), &[], &usages),
            Err("subject common name does not begin with system:node: ")
        );
        let server = ["digital signature", "server auth", "client auth"];
        assert_eq!(
            check("system:node:n", Some(NODES), &[], &server),
            Err("usages did not match expected values")
        );
    }

    #[test]
    fn a_serving_certificate_names_something() {
        let usages = ["digital signature", "server auth"];
        let check = |names: &[String]| {
            let (_, text) = daemon::requests::make("system:node:n", Some(NODES), names).unwrap();
            let asked = daemon::requests::Request::parse(&text).unwrap();
            check_kubelet_serving(&of(signer::KUBELET_SERVING, "u", &text, &usages, &json!({})), &asked)
        };
        assert_eq!(check(&["n".to_owned()]), Ok(()));
        assert_eq!(check(&[]), Err("DNS or IP subjectAltName is required"));
    }
}

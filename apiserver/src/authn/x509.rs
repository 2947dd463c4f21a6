//! Client certificates. The connection verified the chain; here its subject becomes a user.

use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::identity::{Certificate, Certified, Peer, User};
use crate::status::Status;

/// The user's UID in the subject (KEP-5266, served as upstream's AllowParsingUserUIDFromCertAuth).
const UID: &[u64] = &[1, 3, 6, 1, 4, 1, 57683, 2];

/// Reads the subject of a verified leaf: the common name is the user, each organization a group. `None`: it names nobody.
pub fn read(der: &[u8]) -> Option<Certified> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let mut user = User {
        name: name.to_owned(),
        groups: subject
            .iter_organization()
            .filter_map(|o| o.as_str().ok())
            .map(str::to_owned)
            .collect(),
        ..User::default()
    };
    for attribute in subject.iter_attributes() {
        if attribute
            .attr_type()
            .iter()
            .is_some_and(|oid| oid.eq(UID.iter().copied()))
        {
            user.uid = attribute.as_str().ok()?.to_owned();
        }
    }
    user.extra.insert(
        super::CREDENTIAL_ID.to_owned(),
        vec![format!("X509SHA256={}", hex(&Sha256::digest(der)))],
    );
    Some(Certified {
        user,
        expires: jiff::Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
    })
}

/// The common name of a verified leaf.
pub fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// The user of a connection that has a client certificate. A certificate that names no user is 401: a front proxy's own
/// requests, too.
pub(super) fn authenticate(peer: &Peer, now: jiff::Timestamp) -> Result<Option<User>, Status> {
    match peer {
        Peer::Internal(_)
        | Peer::Tls {
            certificate: Certificate::None,
            ..
        } => Ok(None),
        Peer::Tls {
            certificate: Certificate::Verified {
                client: Some(client), ..
            },
            ..
        } if client.expires >= now => Ok(Some(client.user.clone())),
        Peer::Tls {
            certificate: Certificate::Verified { .. } | Certificate::Refused,
            ..
        } => Err(Status::unauthorized()),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use daemon::pki::{Authority, Leaf, Signer};

    use super::*;

    fn now() -> jiff::Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }
    fn der(common_name: &str, organization: Option<&str>) -> Vec<u8> {
        let (authority, _) = Authority::generate("ca", now()).unwrap();
        let leaf = Leaf::client(Signer::Cluster, common_name, organization);
        let pair = authority
            .issue(&leaf, std::time::Duration::from_secs(3600), now())
            .unwrap();
        pem::parse(pair.certificate).unwrap().into_contents()
    }

    #[test]
    fn the_common_name_is_the_user_and_organizations_are_groups() {
        let client = read(&der("system:node:n1", Some("system:nodes"))).unwrap();
        assert_eq!(client.user.name, "system:node:n1");
        assert_eq!(client.user.groups, ["system:nodes"]);
        let id = &client.user.extra["authentication.kubernetes.io/credential-id"][0];
        assert_eq!(id.len(), "X509SHA256=".len() + 64);
        assert_eq!(client.expires, now() + jiff::Span::new().hours(1));
    }

    #[test]
    fn a_certificate_without_a_common_name_names_nobody() {
        assert_eq!(read(&der("", Some("g"))), None);
    }

    #[test]
    fn a_connection_that_outlives_its_certificate_is_refused() {
        let client = read(&der("u", None)).unwrap();
        let expires = client.expires;
        let peer = Peer::Tls {
            certificate: Certificate::Verified {
                client: Some(client.into()),
                front_proxy: None,
            },
            address: ([127, 0, 0, 1], 1).into(),
        };
        assert!(authenticate(&peer, expires).unwrap().is_some());
        assert_eq!(
            authenticate(&peer, expires + jiff::Span::new().seconds(1))
                .unwrap_err()
                .code,
            401
        );
    }
}

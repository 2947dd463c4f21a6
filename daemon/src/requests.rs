//! Certificate signing requests (PKCS#10): read, made, and turned into certificates.
//! Comes in: PEM of somebody else. Goes out: what it asks for, and the certificate that an authority gives for it.
//! A certificate keeps subject, key and names of the request byte by byte; everything else is the signer's to say.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, KeyPair, SigningKey as _};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedCriAttribute, ParsedExtension, X509Certificate};
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, Tag};

/// Why a request is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NotPem,
    #[error("the request cannot be read")]
    Unreadable,
    #[error("the request is not signed by its own key")]
    Signature,
    #[error("the authority's certificate cannot be read")]
    Authority,
    #[error("the authority's key is of a kind that is not supported")]
    Key,
    #[error("the request cannot be made")]
    Make,
}

/// What somebody asks to be certified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
}

/// What a certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usages {
    pub client: bool,
    pub server: bool,
    pub key_encipherment: bool,
}

const SUBJECT_ALTERNATIVE_NAME: &[u64] = &[2, 5, 29, 17];
/// Peers' clocks may be behind.
const BACKDATE: Duration = Duration::from_secs(300);

fn block(pem_text: &str) -> Result<Vec<u8>, Error> {
    let block = pem::parse(pem_text).map_err(|_| Error::NotPem)?;
    if block.tag() != "CERTIFICATE REQUEST" {
        return Err(Error::NotPem);
    }
    Ok(block.into_contents())
}

impl Request {
    /// Reads a request whose signature verifies.
    pub fn parse(pem_text: &str) -> Result<Request, Error> {
        let der = block(pem_text)?;
        let (_, request) = X509CertificationRequest::from_der(&der).map_err(|_| Error::Unreadable)?;
        request.verify_signature().map_err(|_| Error::Signature)?;
        let subject = &request.certification_request_info.subject;
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
        let mut read = Request {
            common_name: subject.iter_common_name().last().and_then(text).unwrap_or_default(),
            organizations: subject.iter_organization().filter_map(text).collect(),
            ..Request::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else {
                continue;
            };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => read.dns.push((*name).to_owned()),
                    GeneralName::RFC822Name(name) => read.emails.push((*name).to_owned()),
                    GeneralName::URI(uri) => read.uris.push((*uri).to_owned()),
                    GeneralName::IPAddress(bytes) => {
                        let address = <[u8; 4]>::try_from(*bytes)
                            .map(IpAddr::from)
                            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                        read.addresses.push(address.map_err(|_| Error::Unreadable)?);
                    }
                    // A name that nobody can judge is nobody's to certify.
                    _ => return Err(Error::Unreadable),
                }
            }
        }
        Ok(read)
    }
}

/// A new key and a request for it, both PEM.
pub fn make(common_name: &str, organization: Option<&str>, names: &[String]) -> Result<(String, String), Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|_| Error::Make)?;
    let mut params = CertificateParams::new(names.to_vec()).map_err(|_| Error::Make)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    let request = params.serialize_request(&key).and_then(|r| r.pem());
    Ok((key.serialize_pem(), request.map_err(|_| Error::Make)?))
}

/// When a certificate (PEM) ends.
pub fn expiry(pem_text: &str) -> Option<Timestamp> {
    let block = pem::parse(pem_text).ok()?;
    let (_, certificate) = X509Certificate::from_der(block.contents()).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// The certificate for a request, as PEM. It never outlives the authority's own.
pub(crate) fn sign(
    authority: &str,
    key: &KeyPair,
    request: &str,
    usages: Usages,
    validity: Duration,
    now: Timestamp,
) -> Result<String, Error> {
    Request::parse(request)?;
    let der = block(request)?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|_| Error::Unreadable)?;
    let info = &request.certification_request_info;
    let issuer = pem::parse(authority).map_err(|_| Error::Authority)?;
    let (_, issuer) = X509Certificate::from_der(issuer.contents()).map_err(|_| Error::Authority)?;
    let first = now
        .checked_sub(BACKDATE)
        .unwrap_or(now)
        .max(stamp(issuer.validity().not_before.timestamp()));
    let last = now.checked_add(validity).unwrap_or(Timestamp::MAX);
    let last = last.min(stamp(issuer.validity().not_after.timestamp()));
    let mut serial: [u8; 16] = rand::random();
    // The first bit stays clear: serials are positive.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let algorithm = algorithm(key)?;
    let names = info.attributes().iter().find_map(|attribute| {
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else {
            return None;
        };
        let is_names = |oid: Option<Vec<u64>>| oid.as_deref() == Some(SUBJECT_ALTERNATIVE_NAME);
        let of = asked
            .extensions
            .iter()
            .find(|e| is_names(e.oid.iter().map(Iterator::collect)));
        of.map(|e| (e.critical, e.value.to_vec()))
    });
    let to_sign = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
            writer.next().write_bigint_bytes(&serial, true);
            algorithm.write(writer.next());
            writer.next().write_der(issuer.subject().as_raw());
            writer.next().write_sequence(|writer| {
                time(writer.next(), first);
                time(writer.next(), last);
            });
            writer.next().write_der(info.subject.as_raw());
            writer.next().write_der(info.subject_pki.raw);
            writer.next().write_tagged(Tag::context(3), |writer| {
                writer.write_sequence(|writer| {
                    extension(writer.next(), &[2, 5, 29, 15], true, &key_usage(usages));
                    if usages.client || usages.server {
                        extension(writer.next(), &[2, 5, 29, 37], false, &extended_usage(usages));
                    }
                    // basicConstraints without its default is an empty sequence: no authority.
                    extension(
                        writer.next(),
                        &[2, 5, 29, 19],
                        true,
                        &yasna::construct_der(|w| w.write_sequence(|_| {})),
                    );
                    if let Some(identifier) = key_identifier(&issuer) {
                        let value = yasna::construct_der(|w| {
                            w.write_sequence(|w| {
                                w.next()
                                    .write_tagged_implicit(Tag::context(0), |w| w.write_bytes(&identifier));
                            });
                        });
                        extension(writer.next(), &[2, 5, 29, 35], false, &value);
                    }
                    if let Some((critical, value)) = &names {
                        extension(writer.next(), SUBJECT_ALTERNATIVE_NAME, *critical, value);
                    }
                });
            });
        });
    });
    let signature = key.sign(&to_sign).map_err(|_| Error::Key)?;
    let whole = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&to_sign);
            algorithm.write(writer.next());
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    });
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    Ok(pem::encode_config(&pem::Pem::new("CERTIFICATE", whole), config))
}

fn stamp(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

/// How the authority's key signs.
struct Algorithm {
    oid: &'static [u64],
    /// RSA's identifier has a NULL after it.
    null: bool,
}

impl Algorithm {
    fn write(&self, writer: DERWriter<'_>) {
        writer.write_sequence(|writer| {
            writer.next().write_oid(&ObjectIdentifier::from_slice(self.oid));
            if self.null {
                writer.next().write_null();
            }
        });
    }
}

fn algorithm(key: &KeyPair) -> Result<Algorithm, Error> {
    let is = |algorithm| key.algorithm() == algorithm;
    let (oid, null): (&'static [u64], bool) = if is(&rcgen::PKCS_ECDSA_P256_SHA256) {
        (&[1, 2, 840, 10045, 4, 3, 2], false)
    } else if is(&rcgen::PKCS_ECDSA_P384_SHA384) {
        (&[1, 2, 840, 10045, 4, 3, 3], false)
    } else if is(&rcgen::PKCS_RSA_SHA256) {
        (&[1, 2, 840, 113549, 1, 1, 11], true)
    } else if is(&rcgen::PKCS_ED25519) {
        (&[1, 3, 101, 112], false)
    } else {
        return Err(Error::Key);
    };
    Ok(Algorithm { oid, null })
}

/// UTCTime until 2049, GeneralizedTime after (RFC 5280, 4.1.2.5).
fn time(writer: DERWriter<'_>, at: Timestamp) {
    let zoned = at.to_zoned(jiff::tz::TimeZone::UTC);
    let (tag, text) = if zoned.year() < 2050 {
        (0x17, zoned.strftime("%y%m%d%H%M%SZ").to_string())
    } else {
        (0x18, zoned.strftime("%Y%m%d%H%M%SZ").to_string())
    };
    let mut der = vec![tag, text.len() as u8];
    der.extend_from_slice(text.as_bytes());
    writer.write_der(&der);
}

fn extension(writer: DERWriter<'_>, oid: &[u64], critical: bool, value: &[u8]) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(value);
    });
}

fn key_usage(usages: Usages) -> Vec<u8> {
    // Bit 0 is digitalSignature, bit 2 keyEncipherment; DER leaves trailing zeros out.
    let (bits, length) = if usages.key_encipherment { (0xa0, 3) } else { (0x80, 1) };
    yasna::construct_der(|w| w.write_bitvec_bytes(&[bits], length))
}

fn extended_usage(usages: Usages) -> Vec<u8> {
    let of = |last| ObjectIdentifier::from_slice(&[1, 3, 6, 1, 5, 5, 7, 3, last]);
    yasna::construct_der(|w| {
        w.write_sequence(|w| {
            if usages.server {
                w.next().write_oid(&of(1));
            }
            if usages.client {
                w.next().write_oid(&of(2));
            }
        });
    })
}

fn key_identifier(issuer: &X509Certificate<'_>) -> Option<Vec<u8>> {
    issuer.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Leaf, Signer};

    fn now() -> Timestamp {
        "2026-11-21T08:00:00Z".parse().unwrap()
    }

    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

    #[test]
    fn what_is_made_is_read_again() {
        let (_, request) = make(
            "system:node:n1",
            Some("system:nodes"),
            &["n1".to_owned(), "192.0.2.7".to_owned()],
        )
        .unwrap();
        let want = Request {
            common_name: "system:node:n1".into(),
            organizations: vec!["system:nodes".into()],
            dns: vec!["n1".into()],
            addresses: vec!["192.0.2.7".parse().unwrap()],
            ..Request::default()
        };
        assert_eq!(Request::parse(&request).unwrap(), want);
        assert_eq!(Request::parse("x"), Err(Error::NotPem));
    }

    #[test]
    fn a_certificate_is_what_was_asked_for_and_verifies() {
        let (authority, _) = Authority::generate("ca", now()).unwrap();
        let (_, request) = make("jane", Some("dev"), &["n1".to_owned()]).unwrap();
        let usages = Usages {
            client: true,
            key_encipherment: true,
            ..Usages::default()
        };
        let certificate = authority.sign(&request, usages, WEEK, now()).unwrap();
        let (der, issuer) = (
            pem::parse(&certificate).unwrap(),
            pem::parse(authority.certificate()).unwrap(),
        );
        let (rest, certificate) = X509Certificate::from_der(der.contents()).unwrap();
        let (_, issuer) = X509Certificate::from_der(issuer.contents()).unwrap();
        assert!(rest.is_empty());
        certificate.verify_signature(Some(issuer.public_key())).unwrap();
        assert_eq!(certificate.subject().to_string(), "O=dev, CN=jane");
        assert_eq!(certificate.issuer(), issuer.subject());
        assert!(!certificate.is_ca());
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth);
        let names = certificate.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names, [GeneralName::DNSName("n1")]);
        let validity = certificate.validity();
        assert_eq!(validity.not_after.timestamp(), now().as_second() + 7 * 24 * 3600);
        assert_eq!(validity.not_before.timestamp(), now().as_second() - 300);
    }

    /// Made by `openssl req -new -newkey rsa:2048 -nodes -subj /O=app1/O=app2/CN=jane`.
    const TWO_GROUPS: &str = include_str!("testdata/two-groups.csr");

    #[test]
    fn every_group_of_a_request_is_certified() {
        let read = Request::parse(TWO_GROUPS).unwrap();
        assert_eq!(read.organizations, ["app1", "app2"]);
        let (authority, _) = Authority::generate("ca", now()).unwrap();
        let certificate = authority.sign(TWO_GROUPS, Usages::default(), WEEK, now()).unwrap();
        let der = pem::parse(&certificate).unwrap();
        let (_, certificate) = X509Certificate::from_der(der.contents()).unwrap();
        assert_eq!(certificate.subject().to_string(), "O=app1, O=app2, CN=jane");
    }

    #[test]
    fn no_certificate_outlives_its_authority() {
        let (authority, _) = Authority::generate("ca", now()).unwrap();
        let (_, request) = make("jane", None, &[]).unwrap();
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        let signed = authority.sign(&request, Usages::default(), century, now()).unwrap();
        let issuer = pem::parse(authority.certificate()).unwrap();
        let (_, issuer) = X509Certificate::from_der(issuer.contents()).unwrap();
        let der = pem::parse(&signed).unwrap();
        let (_, certificate) = X509Certificate::from_der(der.contents()).unwrap();
        assert_eq!(certificate.validity().not_after, issuer.validity().not_after);
    }

    #[test]
    fn tls_believes_what_is_signed() {
        let directory = tempfile::tempdir().unwrap();
        let (authority, _) = Authority::generate("ca", Timestamp::now()).unwrap();
        let (key, request) = make("system:node:n", Some("system:nodes"), &["127.0.0.1".to_owned()]).unwrap();
        let usages = Usages {
            server: true,
            ..Usages::default()
        };
        let certificate = authority.sign(&request, usages, WEEK, Timestamp::now()).unwrap();
        let paths = ["crt", "key"].map(|name| directory.path().join(name));
        std::fs::write(&paths[0], certificate).unwrap();
        std::fs::write(&paths[1], key).unwrap();
        crate::tls::server(&paths[0], &paths[1], None).unwrap();
        let leaf = Leaf::client(Signer::Cluster, "x", None);
        authority.issue(&leaf, WEEK, Timestamp::now()).unwrap();
    }
}

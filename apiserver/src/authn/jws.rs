//! Signed tokens (RFC 7515, compact form) on ring: ES256 and RS256, which is all that service accounts need. Pure.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RsaKeyPair,
    UnparsedPublicKey,
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};

/// A key file that cannot be used. Nothing to retry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{0} holds no usable key: {1}")]
    Key(PathBuf, &'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Es256,
    Rs256,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
        }
    }
}

/// A key that verifies.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// As upstream derives it: the SHA-256 of the SubjectPublicKeyInfo.
    pub id: String,
    pub algorithm: Algorithm,
    /// The curve's point, or a PKCS#1 RSAPublicKey.
    raw: Vec<u8>,
}

enum Private {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
}

/// A key that signs.
pub struct Signer {
    private: Private,
    public: PublicKey,
    random: SystemRandom,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// A token whose signature may be verified.
#[derive(Debug)]
pub struct Token<'a> {
    header: Header,
    signed: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// `None`: not of this form at all.
    pub fn parse(text: &'a str) -> Option<Token<'a>> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        Some(Token {
            header: serde_json::from_slice(&BASE64.decode(header).ok()?).ok()?,
            signed,
            payload: BASE64.decode(payload).ok()?,
            signature: BASE64.decode(signature).ok()?,
        })
    }
    /// What it claims. Believe it only after [`Token::is_signed_by`].
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
    /// Whether one of `keys` signed it.
    pub fn is_signed_by(&self, keys: &[PublicKey]) -> bool {
        keys.iter()
            .filter(|key| self.header.kid.is_empty() || self.header.kid == key.id)
            // The key says the algorithm; a header that names another is never tried.
            .filter(|key| self.header.alg == key.algorithm.name())
            .any(|key| key.verifies(self.signed.as_bytes(), &self.signature))
    }
}

impl PublicKey {
    fn from_spki(der: &[u8]) -> Result<PublicKey, &'static str> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| "no SubjectPublicKeyInfo")?;
        let raw = info.subject_public_key.data.to_vec();
        let algorithm = match info.parsed() {
            Ok(x509_parser::public_key::PublicKey::EC(point)) if point.key_size() == 256 => Algorithm::Es256,
            Ok(x509_parser::public_key::PublicKey::RSA(_)) => Algorithm::Rs256,
            _ => return Err("only ECDSA P-256 and RSA are supported"),
        };
        Ok(PublicKey {
            id: BASE64.encode(Sha256::digest(der)),
            algorithm,
            raw,
        })
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn signature::VerificationAlgorithm = match self.algorithm {
            Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, &self.raw)
            .verify(message, signature)
            .is_ok()
    }

    /// As a member of a JSON Web Key Set.
    pub fn jwk(&self) -> serde_json::Value {
        let common =
            |kind: &str| serde_json::json!({"use": "sig", "kty": kind, "kid": self.id, "alg": self.algorithm.name()});
        match self.algorithm {
            Algorithm::Es256 => {
                let mut key = common("EC");
                key["crv"] = "P-256".into();
                key["x"] = BASE64.encode(&self.raw[1..33]).into();
                key["y"] = BASE64.encode(&self.raw[33..65]).into();
                key
            }
            Algorithm::Rs256 => {
                let mut key = common("RSA");
                if let Some((modulus, exponent)) = rsa_numbers(&self.raw) {
                    key["n"] = BASE64.encode(modulus).into();
                    key["e"] = BASE64.encode(exponent).into();
                }
                key
            }
        }
    }
}

fn rsa_numbers(pkcs1: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, key) = x509_parser::public_key::RSAPublicKey::from_der(pkcs1).ok()?;
    let strip = |bytes: &[u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect();
    Some((strip(key.modulus), strip(key.exponent)))
}

/// All keys of a file: public ones, or the public halves of private ones. An issuer may have several while it rotates.
pub fn read_public_keys(path: &Path) -> Result<Vec<PublicKey>, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::Read(path.to_owned(), e))?;
    let unusable = |why| Error::Key(path.to_owned(), why);
    let mut keys = Vec::new();
    for block in pem::parse_many(&text).map_err(|_| unusable("not PEM"))? {
        keys.push(match block.tag() {
            "PUBLIC KEY" => PublicKey::from_spki(block.contents()).map_err(unusable)?,
            "CERTIFICATE" => {
                let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(block.contents())
                    .map_err(|_| unusable("not a certificate"))?;
                PublicKey::from_spki(certificate.public_key().raw).map_err(unusable)?
            }
            "EC PARAMETERS" => continue,
            _ => Signer::from_block(&block).map_err(unusable)?.public,
        });
    }
    if keys.is_empty() {
        return Err(unusable("no key in it"));
    }
    Ok(keys)
}

impl Signer {
    pub fn read(path: &Path) -> Result<Signer, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::Read(path.to_owned(), e))?;
        Signer::from_pem(&text).map_err(|why| Error::Key(path.to_owned(), why))
    }

    pub fn from_pem(text: &str) -> Result<Signer, &'static str> {
        let blocks = pem::parse_many(text).map_err(|_| "not PEM")?;
        let block = blocks
            .iter()
            .find(|block| block.tag() != "EC PARAMETERS")
            .ok_or("no key in it")?;
        Signer::from_block(block)
    }

    fn from_block(block: &pem::Pem) -> Result<Signer, &'static str> {
        let random = SystemRandom::new();
        let der = block.contents();
        let ec = |der: &[u8]| EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random);
        let private = match block.tag() {
            "PRIVATE KEY" => match ec(der) {
                Ok(key) => Private::Es256(key),
                Err(_) => Private::Rs256(RsaKeyPair::from_pkcs8(der).map_err(|_| "not an ECDSA P-256 or RSA key")?),
            },
            "EC PRIVATE KEY" => Private::Es256(ec(&sec1_to_pkcs8(der)).map_err(|_| "not an ECDSA P-256 key")?),
            "RSA PRIVATE KEY" => Private::Rs256(RsaKeyPair::from_der(der).map_err(|_| "not an RSA key")?),
            _ => return Err("no private key in it"),
        };
        let spki = match &private {
            Private::Es256(key) => spki(EC_P256, key.public_key().as_ref()),
            Private::Rs256(key) => spki(RSA, key.public_key().as_ref()),
        };
        Ok(Signer {
            public: PublicKey::from_spki(&spki)?,
            private,
            random,
        })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The compact form of a token with this payload.
    pub fn sign(&self, payload: &serde_json::Value) -> Result<String, ring::error::Unspecified> {
        let header = serde_json::json!({"alg": self.public.algorithm.name(), "kid": self.public.id});
        let mut text = BASE64.encode(header.to_string());
        text.push('.');
        BASE64.encode_string(payload.to_string(), &mut text);
        let signature = match &self.private {
            Private::Es256(key) => key.sign(&self.random, text.as_bytes())?.as_ref().to_vec(),
            Private::Rs256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(
                    &signature::RSA_PKCS1_SHA256,
                    &self.random,
                    text.as_bytes(),
                    &mut signature,
                )?;
                signature
            }
        };
        text.push('.');
        BASE64.encode_string(signature, &mut text);
        Ok(text)
    }
}

/// AlgorithmIdentifier id-ecPublicKey with prime256v1.
const EC_P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];
/// AlgorithmIdentifier rsaEncryption.
const RSA: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let mut bits = vec![0];
    bits.extend_from_slice(key);
    let mut content = algorithm.to_vec();
    content.extend(der(0x03, &bits));
    der(0x30, &content)
}

/// What `openssl ecparam -genkey` writes, wrapped as ring reads it.
fn sec1_to_pkcs8(sec1: &[u8]) -> Vec<u8> {
    let mut content = vec![0x02, 0x01, 0x00];
    content.extend_from_slice(EC_P256);
    content.extend(der(0x04, sec1));
    der(0x30, &content)
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().position(|b| *b != 0).unwrap_or(length.len() - 1)..];
    if content.len() >= 128 {
        out.push(0x80 | u8::try_from(significant.len()).expect("a usize has at most eight bytes"));
    }
    out.extend_from_slice(significant);
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        let key = rcgen::KeyPair::generate().unwrap();
        Signer::from_pem(&key.serialize_pem()).unwrap()
    }

    #[test]
    fn a_token_verifies_with_its_key_only_and_not_when_changed() {
        let (one, other) = (signer(), signer());
        let text = one.sign(&serde_json::json!({"sub": "me"})).unwrap();
        let token = Token::parse(&text).unwrap();
        assert_eq!(token.payload(), br#"{"sub":"me"}"#);
        assert!(token.is_signed_by(&[other.public().clone(), one.public().clone()]));
        assert!(!token.is_signed_by(&[other.public().clone()]));
        let mut same_id = other.public().clone();
        same_id.id = one.public().id.clone();
        assert!(!token.is_signed_by(&[same_id]));

        let parts: Vec<&str> = text.split('.').collect();
        let forged = format!("{}.{}.{}", parts[0], BASE64.encode(r#"{"sub":"you"}"#), parts[2]);
        assert!(!Token::parse(&forged).unwrap().is_signed_by(&[one.public().clone()]));
        let none = format!("{}.{}.", BASE64.encode(r#"{"alg":"none"}"#), parts[1]);
        assert!(!Token::parse(&none).unwrap().is_signed_by(&[one.public().clone()]));
        assert!(Token::parse("not a token").is_none());
    }

    #[test]
    fn the_key_id_is_upstreams_and_public_files_give_the_same_key() {
        let key = rcgen::KeyPair::generate().unwrap();
        let signer = Signer::from_pem(&key.serialize_pem()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let public = directory.path().join("sa.pub");
        std::fs::write(&public, key.public_key_pem()).unwrap();
        let private = directory.path().join("sa.key");
        std::fs::write(&private, key.serialize_pem()).unwrap();
        for path in [&public, &private] {
            let keys = read_public_keys(path).unwrap();
            assert_eq!(keys.len(), 1);
            assert_eq!(keys[0].id, signer.public().id);
            assert_eq!(keys[0].raw, signer.public().raw);
        }
        let spki = pem::parse(key.public_key_pem()).unwrap();
        assert_eq!(signer.public().id, BASE64.encode(Sha256::digest(spki.contents())));
    }
}

//! TLS from files that may be renewed while the process runs: each handshake looks whether they have changed, so no
//! timer and no restart is needed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio::time::Instant;
use tracing::{info, warn};

/// Files are looked at this often at most.
const LOOK: Duration = Duration::from_secs(1);

/// The files are not what they should be. A reload that fails is logged, and what was loaded before stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {}", .0.display())]
    Read(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("{} holds no certificate", .0.display())]
    Empty(PathBuf),
    #[error("using {} with {}", .0.display(), .1.display())]
    Pair(PathBuf, PathBuf, #[source] rustls::Error),
    #[error("using the client CA {}", .0.display())]
    Authority(PathBuf, #[source] BoxedCause),
    #[error("the TLS protocol versions")]
    Versions(#[source] rustls::Error),
    #[error("making a certificate")]
    Make(#[source] BoxedCause),
}

type BoxedCause = crate::BoxError;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A server's configuration: certificate and key from files, and where `client_ca` is given, client certificates are
/// asked for and verified against it, but not demanded. Speaks HTTP/2 and HTTP/1.1.
pub fn server(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<ServerConfig, Error> {
    let pair = Arc::new(Pair::new(certificate, key)?);
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(Error::Versions)?;
    let builder = match client_ca {
        Some(path) => {
            builder.with_client_cert_verifier(Arc::new(Authority(Reloading::new(vec![path.into()], verifier)?)))
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(pair);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A server's configuration with a certificate that nobody signed, made now: for health and metrics of a process that
/// was given none, as upstream's components do.
pub fn self_signed(names: Vec<String>) -> Result<ServerConfig, Error> {
    let made = rcgen::generate_simple_self_signed(names).map_err(|cause| Error::Make(cause.into()))?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(Error::Versions)?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .map_err(|cause| Error::Make(cause.into()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client's configuration: servers are verified against the certificates in `ca`; `pair` is the certificate and key
/// to present, if any.
pub fn client(ca: &Path, pair: Option<(&Path, &Path)>) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots
            .add(certificate)
            .map_err(|cause| Error::Authority(ca.into(), cause.into()))?;
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(Error::Versions)?
        .with_root_certificates(roots);
    Ok(match pair {
        Some((certificate, key)) => builder.with_client_cert_resolver(Arc::new(Pair::new(certificate, key)?)),
        None => builder.with_no_client_auth(),
    })
}

/// The certificates of a PEM file; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = |cause| Error::Read(path.into(), cause);
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(read)?.collect();
    let all = all.map_err(read)?;
    if all.is_empty() {
        Err(Error::Empty(path.into()))
    } else {
        Ok(all)
    }
}

/// What is made of files, made again when one of them has changed.
struct Reloading<T> {
    files: Vec<PathBuf>,
    make: fn(&[PathBuf]) -> Result<Arc<T>, Error>,
    state: Mutex<Loaded<T>>,
}

struct Loaded<T> {
    made: Arc<T>,
    stamps: Vec<Option<SystemTime>>,
    looked: Instant,
}

impl<T> Reloading<T> {
    fn new(files: Vec<PathBuf>, make: fn(&[PathBuf]) -> Result<Arc<T>, Error>) -> Result<Self, Error> {
        let stamps = stamps(&files);
        let made = make(&files)?;
        let looked = Instant::now();
        Ok(Reloading {
            files,
            make,
            state: Mutex::new(Loaded { made, stamps, looked }),
        })
    }

    fn get(&self) -> Arc<T> {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        if state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            let stamps = stamps(&self.files);
            if stamps != state.stamps {
                match (self.make)(&self.files) {
                    Ok(made) => {
                        info!(files = ?self.files, "TLS files reloaded");
                        state.made = made;
                        state.stamps = stamps;
                    }
                    // A pair is seldom replaced in one step: the next handshake looks again.
                    Err(error) => warn!(error = %crate::chain(&error), "TLS files not reloaded"),
                }
            }
        }
        state.made.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<SystemTime>> {
    let stamp = |file: &PathBuf| fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
    files.iter().map(stamp).collect()
}

/// A certificate chain with its key.
struct Pair(Reloading<CertifiedKey>);

impl Pair {
    fn new(certificate: &Path, key: &Path) -> Result<Self, Error> {
        Reloading::new(vec![certificate.into(), key.into()], pair).map(Pair)
    }
}

fn pair(files: &[PathBuf]) -> Result<Arc<CertifiedKey>, Error> {
    let (certificate, key) = (&files[0], &files[1]);
    let chain = certificates(certificate)?;
    let der = PrivateKeyDer::from_pem_file(key).map_err(|cause| Error::Read(key.clone(), cause))?;
    let pair = CertifiedKey::from_der(chain, der, &provider());
    pair.map(Arc::new)
        .map_err(|cause| Error::Pair(certificate.clone(), key.clone(), cause))
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pair").field(&self.0.files).finish()
    }
}

impl ResolvesServerCert for Pair {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get())
    }
}

impl ResolvesClientCert for Pair {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct Authority(Reloading<Verifier>);

/// A sized home for rustls' trait object.
struct Verifier(Arc<dyn ClientCertVerifier>);

fn verifier(files: &[PathBuf]) -> Result<Arc<Verifier>, Error> {
    let path = &files[0];
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|cause| Error::Authority(path.clone(), cause.into()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build();
    let verifier = verifier.map_err(|cause| Error::Authority(path.clone(), cause.into()))?;
    Ok(Arc::new(Verifier(verifier)))
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authority").field(&self.0.files).finish()
    }
}

impl ClientCertVerifier for Authority {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    // Hints borrow from the verifier, which may be replaced; clients do without them.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.get().0.verify_client_cert(leaf, chain, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.get().0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.get().0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.get().0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::pki::{Authority, Leaf, Signer};

    fn write(folder: &Path, authority: &Authority, name: &str) {
        let leaf = Leaf::server(Signer::Cluster, name, vec![name.to_owned()]);
        let pair = authority
            .issue(&leaf, Duration::from_secs(3600), Timestamp::now())
            .unwrap();
        fs::write(folder.join("tls.crt"), pair.certificate).unwrap();
        fs::write(folder.join("tls.key"), pair.key).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, _) = Authority::generate("test", Timestamp::now()).unwrap();
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
        write(folder.path(), &authority, "one");
        let pair = Pair::new(&certificate, &key).unwrap();
        let first = pair.0.get();
        assert!(Arc::ptr_eq(&first, &pair.0.get()));

        write(folder.path(), &authority, "two");
        // The stamp of a file has the grain of the kernel's tick.
        let later = SystemTime::now() + Duration::from_secs(5);
        fs::File::options()
            .write(true)
            .open(&certificate)
            .unwrap()
            .set_modified(later)
            .unwrap();
        tokio::time::advance(LOOK).await;
        let second = pair.0.get();
        assert_ne!(first.cert, second.cert);

        fs::write(&certificate, "broken").unwrap();
        tokio::time::advance(LOOK).await;
        assert!(Arc::ptr_eq(&second, &pair.0.get()));
        assert!(server(&certificate, &key, None).is_err());
    }

    #[test]
    fn clients_are_verified_against_the_named_authority() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, pair) = Authority::generate("test", Timestamp::now()).unwrap();
        write(folder.path(), &authority, "one");
        let ca = folder.path().join("ca.crt");
        fs::write(&ca, pair.certificate).unwrap();
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
        let config = server(&certificate, &key, Some(&ca)).unwrap();
        assert_eq!(config.alpn_protocols.len(), 2);
        let client = client(&ca, Some((&certificate, &key))).unwrap();
        assert!(client.client_auth_cert_resolver.has_certs());
    }
}

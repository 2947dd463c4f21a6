//! The cluster's keys and certificates: made once, kept with the right modes, renewed when they run out or no longer fit.
//! Comes in: a directory and the names of the cluster. Goes out: PEM files under upstream's file names, and kubeconfigs.
//! It never replaces an authority or the service-account key: all that they signed would be worthless.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::requests;

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// As kubeadm: authorities live ten years, what they sign one.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A certificate is renewed at a start when less than this is left of it.
const RENEW_BEFORE: Duration = Duration::from_secs(120 * 24 * 3600);

/// Nothing here is worth retrying as it is: a file or its content has to change first.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} does not hold {what}")]
    Content { path: PathBuf, what: &'static str },
    #[error("{have} is there but {missing} is not: restore it, or remove both and everything that they signed")]
    Half { have: PathBuf, missing: PathBuf },
    #[error("cannot make a certificate for {subject}")]
    Certificate {
        subject: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
}

/// What the certificates of a cluster speak of.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub node_name: String,
    /// Addresses and further names of this node: for the kubelet's and the API server's serving certificates.
    pub node_addresses: Vec<String>,
    /// Further DNS names or addresses under which clients reach the API server.
    pub server_names: Vec<String>,
    /// The first address of the service range: the `kubernetes` Service.
    pub service_address: IpAddr,
    /// `cluster.local`.
    pub domain: String,
}

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    Cluster,
    FrontProxy,
}

impl Signer {
    /// The file without its ending.
    pub fn file(self) -> &'static str {
        match self {
            Signer::Cluster => "ca",
            Signer::FrontProxy => "front-proxy-ca",
        }
    }
    fn common_name(self) -> &'static str {
        match self {
            Signer::Cluster => "kubernetes-ca",
            Signer::FrontProxy => "front-proxy-ca",
        }
    }
}

/// A certificate that is no authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    pub signer: Signer,
    /// The user's name, for a client.
    pub common_name: String,
    /// The user's groups, for a client.
    pub organization: Option<String>,
    /// DNS names and addresses, for a server.
    pub names: Vec<String>,
    pub client: bool,
    pub server: bool,
}

impl Leaf {
    pub fn client(signer: Signer, common_name: &str, organization: Option<&str>) -> Leaf {
        Leaf {
            signer,
            common_name: common_name.into(),
            organization: organization.map(Into::into),
            names: Vec::new(),
            client: true,
            server: false,
        }
    }
    pub fn server(signer: Signer, common_name: &str, names: Vec<String>) -> Leaf {
        Leaf {
            signer,
            common_name: common_name.into(),
            organization: None,
            names,
            client: false,
            server: true,
        }
    }
}

/// A key with its certificate, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// A certificate authority that can sign.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// The files of a cluster under one directory, by upstream's names: `ca.crt`, `ca.key`, `apiserver.crt` …
#[derive(Debug, Clone)]
pub struct Layout {
    directory: PathBuf,
}

/// Every certificate that a node with a control plane has, by the file it is kept in.
pub fn leaves(cluster: &Cluster) -> Vec<(&'static str, Leaf)> {
    let mut server = vec![
        "kubernetes".to_owned(),
        "kubernetes.default".into(),
        "kubernetes.default.svc".into(),
        format!("kubernetes.default.svc.{}", cluster.domain),
        "localhost".into(),
        cluster.node_name.clone(),
        "127.0.0.1".into(),
        "::1".into(),
        cluster.service_address.to_string(),
    ];
    server.extend(cluster.server_names.iter().chain(&cluster.node_addresses).cloned());
    let mut node = vec![cluster.node_name.clone()];
    node.extend(cluster.node_addresses.iter().cloned());
    for names in [&mut server, &mut node] {
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    }
    let user = format!("system:node:{}", cluster.node_name);
    let client = |name: &str, group| Leaf::client(Signer::Cluster, name, group);
    vec![
        ("apiserver", Leaf::server(Signer::Cluster, "kube-apiserver", server)),
        (
            "apiserver-kubelet-client",
            client("kube-apiserver-kubelet-client", Some("system:masters")),
        ),
        (
            "front-proxy-client",
            Leaf::client(Signer::FrontProxy, "front-proxy-client", None),
        ),
        ("admin", client("kubernetes-admin", Some("system:masters"))),
        ("controller-manager", client("system:kube-controller-manager", None)),
        ("scheduler", client("system:kube-scheduler", None)),
        ("kube-proxy", client("system:kube-proxy", None)),
        ("kubelet-client", client(&user, Some("system:nodes"))),
        (
            "kubelet",
            // As the signer kubernetes.io/kubelet-serving would have it, so that a renewal by request is no change.
            Leaf {
                organization: Some("system:nodes".into()),
                ..Leaf::server(Signer::Cluster, &user, node)
            },
        ),
    ]
}

impl Layout {
    pub fn new(directory: impl Into<PathBuf>) -> Layout {
        Layout {
            directory: directory.into(),
        }
    }
    pub fn directory(&self) -> &Path {
        &self.directory
    }
    /// `apiserver` → `…/apiserver.crt`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.crt"))
    }
    /// `apiserver` → `…/apiserver.key`.
    pub fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }
    pub fn cluster_ca(&self) -> PathBuf {
        self.certificate(Signer::Cluster.file())
    }
    pub fn service_account_key(&self) -> PathBuf {
        self.key("sa")
    }
    pub fn service_account_public_key(&self) -> PathBuf {
        self.directory.join("sa.pub")
    }

    /// Makes what is missing, renews what runs out or no longer fits, corrects modes; leaves everything else alone.
    /// Says which names were written, so that a second run is seen to do nothing.
    pub fn ensure(&self, cluster: &Cluster, now: Timestamp) -> Result<Vec<String>, Error> {
        make_directory(&self.directory)?;
        let mut written = Vec::new();
        let mut authorities = Vec::new();
        for signer in [Signer::Cluster, Signer::FrontProxy] {
            let (authority, new) = self.ensure_authority(signer, now)?;
            if new {
                written.push(signer.file().to_owned());
            }
            authorities.push((signer, authority));
        }
        if self.ensure_service_account_key()? {
            written.push("sa".to_owned());
        }
        for (name, leaf) in leaves(cluster) {
            let (_, authority) = authorities
                .iter()
                .find(|(signer, _)| *signer == leaf.signer)
                .expect("both signers were made above");
            if self.ensure_leaf(name, &leaf, authority, now)? {
                written.push(name.to_owned());
            }
        }
        Ok(written)
    }

    /// The authority that is there, or a new one. True: it is new.
    pub fn ensure_authority(&self, signer: Signer, now: Timestamp) -> Result<(Authority, bool), Error> {
        let (certificate, key) = (self.certificate(signer.file()), self.key(signer.file()));
        match self.read_pair(signer.file())? {
            Some(pair) => {
                set_mode(&key, 0o600)?;
                Ok((Authority::from_pem(&pair, &certificate)?, false))
            }
            None => {
                let pair = new_authority(signer.common_name(), now)?;
                // The key first: a certificate without its key could not be repaired by a second run.
                write_file(&key, pair.key.as_bytes(), 0o600)?;
                write_file(&certificate, pair.certificate.as_bytes(), 0o644)?;
                Ok((Authority::from_pem(&pair, &certificate)?, true))
            }
        }
    }

    /// Makes the certificate `name` unless the one that is there still does. True: it was written.
    pub fn ensure_leaf(&self, name: &str, leaf: &Leaf, signer: &Authority, now: Timestamp) -> Result<bool, Error> {
        let (certificate, key) = (self.certificate(name), self.key(name));
        // Half a pair is of no use to anybody here and is simply made again.
        if let (Some(have), true) = (read_optional(&certificate)?, key.exists())
            && fits(&have, leaf, signer, now)
        {
            set_mode(&key, 0o600)?;
            return Ok(false);
        }
        let pair = signer.issue(leaf, YEAR, now)?;
        write_file(&key, pair.key.as_bytes(), 0o600)?;
        write_file(&certificate, pair.certificate.as_bytes(), 0o644)?;
        Ok(true)
    }

    fn ensure_service_account_key(&self) -> Result<bool, Error> {
        let (key, public) = (self.service_account_key(), self.service_account_public_key());
        let (pem, new) = match read_optional(&key)? {
            Some(pem) => (pem, false),
            None => (new_key()?.serialize_pem(), true),
        };
        let pair = KeyPair::from_pem(&pem).map_err(|_| Error::Content {
            path: key.clone(),
            what: "a private key",
        })?;
        if new {
            write_file(&key, pem.as_bytes(), 0o600)?;
        } else {
            set_mode(&key, 0o600)?;
        }
        if !public.exists() {
            write_file(&public, pair.public_key_pem().as_bytes(), 0o644)?;
        }
        Ok(new)
    }

    fn read_pair(&self, name: &str) -> Result<Option<Pair>, Error> {
        let (certificate, key) = (self.certificate(name), self.key(name));
        match (read_optional(&certificate)?, read_optional(&key)?) {
            (Some(certificate), Some(key)) => Ok(Some(Pair { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(Error::Half {
                have: certificate,
                missing: key,
            }),
            // The run that made the key died before the certificate: nothing can have been signed.
            (None, Some(_)) => Ok(None),
        }
    }

    /// A kubeconfig for the client certificate `name` with everything embedded.
    pub fn kubeconfig(&self, name: &str, cluster: &str, server: &str) -> Result<String, Error> {
        let authority = read(&self.cluster_ca())?;
        let pair = Pair {
            certificate: read(&self.certificate(name))?,
            key: read(&self.key(name))?,
        };
        Ok(kubeconfig(cluster, server, &authority, name, &pair))
    }

    /// Writes [`Layout::kubeconfig`] to `path`, mode 0600.
    pub fn write_kubeconfig(&self, name: &str, cluster: &str, server: &str, path: &Path) -> Result<(), Error> {
        let text = self.kubeconfig(name, cluster, server)?;
        if read_optional(path)?.is_some_and(|have| have == text) {
            return set_mode(path, 0o600);
        }
        write_file(path, text.as_bytes(), 0o600)
    }
}

impl Authority {
    /// A new authority that lives in memory only: for tests, and for whoever keeps it elsewhere.
    pub fn generate(common_name: &str, now: Timestamp) -> Result<(Authority, Pair), Error> {
        let pair = new_authority(common_name, now)?;
        let authority = Authority::from_pem(&pair, Path::new(common_name))?;
        Ok((authority, pair))
    }

    /// `path` is only for the error.
    pub fn from_pem(pair: &Pair, path: &Path) -> Result<Authority, Error> {
        let content = |what| Error::Content {
            path: path.to_owned(),
            what,
        };
        let key = KeyPair::from_pem(&pair.key).map_err(|_| content("the certificate of a usable private key"))?;
        let issuer =
            Issuer::from_ca_cert_pem(&pair.certificate, key).map_err(|_| content("the certificate of an authority"))?;
        Ok(Authority {
            certificate: pair.certificate.clone(),
            issuer,
        })
    }

    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A new key and its certificate.
    pub fn issue(&self, leaf: &Leaf, validity: Duration, now: Timestamp) -> Result<Pair, Error> {
        let failed = |source| Error::Certificate {
            subject: leaf.common_name.clone(),
            source,
        };
        let mut params = CertificateParams::new(leaf.names.clone()).map_err(failed)?;
        set_validity(&mut params, validity, now);
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(organization) = &leaf.organization {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization.as_str());
        }
        params
            .distinguished_name
            .push(DnType::CommonName, leaf.common_name.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if leaf.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if leaf.client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Signs a request (PEM, PKCS#10) whose signature verifies: its subject and names, but never its wish to be an
    /// authority; the usages are the signer's to decide. Returns the certificate as PEM.
    pub fn sign(
        &self,
        request: &str,
        usages: requests::Usages,
        validity: Duration,
        now: Timestamp,
    ) -> Result<String, requests::Error> {
        requests::sign(&self.certificate, self.issuer.key(), request, usages, validity, now)
    }
}

/// A kubeconfig with one cluster, one user and one context named after the cluster.
pub fn kubeconfig(cluster: &str, server: &str, authority: &str, user: &str, pair: &Pair) -> String {
    let base64 = |pem: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(pem)
    };
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {cluster}\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {authority}\nusers:\n- name: {user}\n  user:\n    \
         client-certificate-data: {certificate}\n    client-key-data: {key}\ncontexts:\n- name: {cluster}\n  context:\n    \
         cluster: {cluster}\n    user: {user}\ncurrent-context: {cluster}\n",
        cluster = quote(cluster),
        server = quote(server),
        authority = base64(authority),
        user = quote(user),
        certificate = base64(&pair.certificate),
        key = base64(&pair.key),
    )
}

/// A new ECDSA P-256 key: a millisecond, where RSA takes a second.
fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(Error::Key)
}

fn new_authority(common_name: &str, now: Timestamp) -> Result<Pair, Error> {
    let mut params = CertificateParams::default();
    set_validity(&mut params, AUTHORITY_VALIDITY, now);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    let key = new_key()?;
    let certificate = params.self_signed(&key).map_err(|source| Error::Certificate {
        subject: common_name.into(),
        source,
    })?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn set_validity(params: &mut CertificateParams, validity: Duration, now: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(now.as_second().max(0).unsigned_abs());
    // An hour back, for a peer whose clock is behind.
    params.not_before = epoch + now.saturating_sub(HOUR);
    params.not_after = epoch + now + validity;
    // Never derived from the key: the same key may be signed twice. The first bit stays clear, serials are positive.
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

/// Whether the certificate still is what `leaf` asks for, signed by `signer`, with time left.
fn fits(pem: &str, leaf: &Leaf, signer: &Authority, now: Timestamp) -> bool {
    let Ok(block) = pem::parse(pem) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(block.contents()) else {
        return false;
    };
    let Ok(authority) = pem::parse(&signer.certificate) else {
        return false;
    };
    let Ok((_, authority)) = X509Certificate::from_der(authority.contents()) else {
        return false;
    };
    if certificate.verify_signature(Some(authority.public_key())).is_err() {
        return false;
    }
    let validity = certificate.validity();
    let renew = i64::try_from(RENEW_BEFORE.as_secs()).expect("a constant");
    if validity.not_after.timestamp() - renew < now.as_second() || validity.not_before.timestamp() > now.as_second() {
        return false;
    }
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().next().and_then(|a| a.as_str().ok());
    let organization = subject.iter_organization().next().and_then(|a| a.as_str().ok());
    if common_name != Some(&leaf.common_name) || organization != leaf.organization.as_deref() {
        return false;
    }
    let mut have: Vec<String> = Vec::new();
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => have.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let address = <[u8; 4]>::try_from(*bytes)
                        .map(IpAddr::from)
                        .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                    if let Ok(address) = address {
                        have.push(address.to_string());
                    }
                }
                // Nothing that this file makes has other names.
                _ => return false,
            }
        }
    }
    leaf.names.iter().all(|name| have.contains(name))
}

fn make_directory(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::Io {
        action: "make",
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    let failed = |source| Error::Io {
        action: "set the mode of",
        path: path.to_owned(),
        source,
    };
    let have = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if have == mode {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

/// Replaces `path` in one step, so that a reader or a crash sees the old content or the new. The file is never readable
/// by others than `mode` says, not even for a moment.
pub fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |source| Error::Io {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    make_directory(directory)?;
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let written = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        // The mode above is masked by the umask and ignored for a file that was there.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(directory)?.sync_all()
    })();
    written.map_err(|source| {
        // The temporary file may not have been made; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        failed(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        Cluster {
            node_name: "n1".into(),
            node_addresses: vec!["192.0.2.1".into()],
            server_names: vec!["api.example".into()],
            service_address: "10.96.0.1".parse().unwrap(),
            domain: "cluster.local".into(),
        }
    }
    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }
    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_second_run_writes_nothing_and_repairs_modes() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        let written = layout.ensure(&cluster(), now()).unwrap();
        assert_eq!(written.len(), 12, "{written:?}");
        for name in ["ca", "sa", "apiserver", "admin", "kubelet"] {
            assert_eq!(mode(&layout.key(name)), 0o600, "{name}");
        }
        assert_eq!(mode(&layout.cluster_ca()), 0o644);
        fs::set_permissions(layout.key("ca"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(layout.ensure(&cluster(), now()).unwrap(), Vec::<String>::new());
        assert_eq!(mode(&layout.key("ca")), 0o600);
    }

    #[test]
    fn a_leaf_is_renewed_when_it_runs_out_or_lacks_a_name_and_the_authority_stays() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.ensure(&cluster(), now()).unwrap();
        let authority = fs::read(layout.cluster_ca()).unwrap();
        let mut moved = cluster();
        moved.node_addresses = vec!["192.0.2.2".into()];
        assert_eq!(layout.ensure(&moved, now()).unwrap(), ["apiserver", "kubelet"]);
        let later = now() + Duration::from_secs(300 * 24 * 3600);
        assert_eq!(layout.ensure(&moved, later).unwrap().len(), leaves(&moved).len());
        assert_eq!(fs::read(layout.cluster_ca()).unwrap(), authority);
    }

    #[test]
    fn an_authority_without_its_key_is_an_error_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.ensure(&cluster(), now()).unwrap();
        fs::remove_file(layout.key("ca")).unwrap();
        let error = layout.ensure(&cluster(), now()).unwrap_err();
        assert!(matches!(error, Error::Half { .. }), "{error}");
    }

    #[test]
    fn a_node_certificate_names_the_node_and_its_group() {
        let (authority, _) = Authority::generate("ca", now()).unwrap();
        let leaf = Leaf::client(Signer::Cluster, "system:node:n1", Some("system:nodes"));
        let pair = authority.issue(&leaf, YEAR, now()).unwrap();
        assert!(fits(&pair.certificate, &leaf, &authority, now()));
        let other = Leaf::client(Signer::Cluster, "system:node:n2", Some("system:nodes"));
        assert!(!fits(&pair.certificate, &other, &authority, now()));
        let (stranger, _) = Authority::generate("ca", now()).unwrap();
        assert!(!fits(&pair.certificate, &leaf, &stranger, now()));
    }

    #[test]
    fn a_request_is_signed_without_its_wish_to_be_an_authority() {
        let (authority, _) = Authority::generate("ca", now()).unwrap();
        let key = new_key().unwrap();
        let mut params = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let certificate = authority
            .sign(&request, requests::Usages::default(), YEAR, now())
            .unwrap();
        let block = pem::parse(&certificate).unwrap();
        let (_, certificate) = X509Certificate::from_der(block.contents()).unwrap();
        assert!(!certificate.is_ca());
        assert_eq!(certificate.subject().to_string(), "CN=system:node:n1");
    }

    #[test]
    fn a_kubeconfig_reads_back_through_kube() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.ensure(&cluster(), now()).unwrap();
        let path = directory.path().join("admin.conf");
        layout
            .write_kubeconfig("admin", "coracle", "https://127.0.0.1:6443", &path)
            .unwrap();
        assert_eq!(mode(&path), 0o600);
        let config = kube::config::Kubeconfig::from_yaml(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("coracle"));
        assert_eq!(
            config.clusters[0].cluster.as_ref().unwrap().server.as_deref(),
            Some("https://127.0.0.1:6443")
        );
    }
}

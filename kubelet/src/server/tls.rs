//! The endpoint's certificate: from its files, or made once and kept there when there are none.

use std::{fs, io, os::unix::fs::OpenOptionsExt, path::PathBuf};

use crate::config::Server;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Files(#[from] daemon::tls::Error),
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

pub fn config(server: &Server, names: Vec<String>) -> Result<rustls::ServerConfig, Error> {
    if !server.certificate.exists() && !server.key.exists() {
        make(server, names)?;
    }
    let mut config = daemon::tls::server(&server.certificate, &server.key, server.client_ca.as_deref())?;
    // Upgrades are a thing of HTTP/1.1, and the API server asks for little else.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn make(server: &Server, names: Vec<String>) -> Result<(), Error> {
    let mut params = rcgen::CertificateParams::new(names)?;
    let now = std::time::SystemTime::now();
    params.not_before = (now - std::time::Duration::from_secs(300)).into();
    params.not_after = (now + std::time::Duration::from_secs(365 * 24 * 3600)).into();
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    for (path, text, mode) in [
        (&server.certificate, certificate.pem(), 0o644),
        (&server.key, key.serialize_pem(), 0o600),
    ] {
        let write = || {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(mode)
                .open(path)?;
            io::Write::write_all(&mut file, text.as_bytes())
        };
        write().map_err(|e| Error::Write(path.clone(), e))?;
    }
    Ok(())
}

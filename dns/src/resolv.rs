//! The resolvers that the host itself uses.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// More than this a resolver library does not use either.
const MOST: usize = 3;

/// Which files name the resolvers, and which addresses are this server's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The host's resolv.conf.
    pub main: PathBuf,
    /// What systemd-resolved really uses, where the main file names only its stub.
    pub behind_stub: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            main: "/etc/resolv.conf".into(),
            behind_stub: "/run/systemd/resolve/resolv.conf".into(),
        }
    }
}

/// The resolvers as last read, and how to see that the files have changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolvers {
    pub(crate) servers: Vec<SocketAddr>,
    stamps: [Option<SystemTime>; 2],
}

impl Files {
    fn stamps(&self) -> [Option<SystemTime>; 2] {
        [&self.main, &self.behind_stub].map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
    }

    /// Reads the files again if they have changed. A server that is one of `own` would ask itself.
    pub(crate) fn refresh(&self, now: &mut Resolvers, own: &HashSet<IpAddr>) -> bool {
        let stamps = self.stamps();
        if now.stamps == stamps && stamps != [None, None] {
            return false;
        }
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map(|text| parse(&text))
                .unwrap_or_default()
        };
        let stub = |address: &IpAddr| matches!(address, IpAddr::V4(a) if a.octets() == [127, 0, 0, 53] || a.octets() == [127, 0, 0, 54]);
        let mut servers = read(&self.main);
        if !servers.is_empty() && servers.iter().all(stub) {
            let real = read(&self.behind_stub);
            if !real.is_empty() {
                servers = real;
            }
        }
        servers.retain(|address| !own.contains(address));
        servers.truncate(MOST);
        now.servers = servers
            .into_iter()
            .map(|address| SocketAddr::new(address, 53))
            .collect();
        now.stamps = stamps;
        true
    }
}

fn parse(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(Ok(address)) = words.next().map(str::parse)
            && !servers.contains(&address)
        {
            servers.push(address);
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_is_looked_behind_and_ourselves_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files {
            main: dir.path().join("main"),
            behind_stub: dir.path().join("real"),
        };
        let own = HashSet::from(["10.96.0.10".parse().unwrap()]);
        let read = |main: &str, real: Option<&str>| {
            std::fs::write(&files.main, main).unwrap();
            match real {
                Some(text) => std::fs::write(&files.behind_stub, text).unwrap(),
                None => drop(std::fs::remove_file(&files.behind_stub)),
            }
            let mut now = Resolvers::default();
            files.refresh(&mut now, &own);
            now.servers
                .iter()
                .map(SocketAddr::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            read("# x\nnameserver 192.0.2.1\nsearch a\nnameserver fd00::1\n", None),
            "192.0.2.1:53 [fd00::1]:53"
        );
        assert_eq!(
            read("nameserver 127.0.0.53\n", Some("nameserver 192.0.2.2")),
            "192.0.2.2:53"
        );
        assert_eq!(read("nameserver 127.0.0.53\n", None), "127.0.0.53:53");
        assert_eq!(
            read("nameserver 10.96.0.10\nnameserver 192.0.2.1\n", None),
            "192.0.2.1:53"
        );
        assert_eq!(read("nameserver nonsense\nnameserver fe80::1%eth0\n", None), "");
    }

    #[test]
    fn files_are_read_again_only_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files {
            main: dir.path().join("main"),
            behind_stub: dir.path().join("real"),
        };
        std::fs::write(&files.main, "nameserver 192.0.2.1").unwrap();
        let mut now = Resolvers::default();
        assert!(files.refresh(&mut now, &HashSet::new()));
        assert!(!files.refresh(&mut now, &HashSet::new()));
    }
}

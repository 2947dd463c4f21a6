//! A real etcd for a test, gone with it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};

use super::{Config, Etcd, Verbatim};

/// Which etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.4.23, whose watches cannot say how far they are.
    Older,
    /// 3.5.
    Newer,
}

/// A cluster of etcd members on loopback, each with its own directory.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
}

#[derive(Debug)]
pub(crate) struct Member {
    program: PathBuf,
    arguments: Vec<String>,
    pub(crate) client: String,
    process: Option<Child>,
    _directory: tempfile::TempDir,
}

/// The tools' folder, filled once.
fn tools() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/tools.sh");
        let done = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(done.status.success(), "the tools were not fetched");
        String::from_utf8(done.stdout).unwrap().trim().into()
    })
}

/// Ports that nobody listens on now.
fn ports(count: usize) -> Vec<u16> {
    let open: Vec<_> = (0..count)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    open.iter().map(|l| l.local_addr().unwrap().port()).collect()
}

impl Cluster {
    pub(crate) fn start(version: Version, more: &[&str]) -> Cluster {
        Self::of(1, version, more)
    }

    pub(crate) fn of(count: usize, version: Version, more: &[&str]) -> Cluster {
        let program = tools().join(match version {
            Version::Older => "etcd-older/usr/bin/etcd",
            Version::Newer => "etcd-newer/usr/bin/etcd",
        });
        let ports = ports(2 * count);
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[2 * n + 1]);
        let all: Vec<String> = (0..count).map(|n| format!("m{n}={}", peer(n))).collect();
        let mut members: Vec<Member> = (0..count)
            .map(|n| {
                let directory = tempfile::tempdir().unwrap();
                let client = format!("http://127.0.0.1:{}", ports[2 * n]);
                let mut arguments = vec![
                    format!("--name=m{n}"),
                    format!("--data-dir={}", directory.path().display()),
                    format!("--listen-client-urls={client}"),
                    format!("--advertise-client-urls={client}"),
                    format!("--listen-peer-urls={}", peer(n)),
                    format!("--initial-advertise-peer-urls={}", peer(n)),
                    format!("--initial-cluster={}", all.join(",")),
                    "--logger=zap".into(),
                    "--log-level=info".into(),
                ];
                if count == 1 {
                    arguments.extend(["--heartbeat-interval=10".into(), "--election-timeout=100".into()]);
                }
                arguments.extend(more.iter().map(|&word| word.into()));
                Member {
                    program: program.clone(),
                    arguments,
                    client,
                    process: None,
                    _directory: directory,
                }
            })
            .collect();
        for member in &mut members {
            member.spawn();
        }
        for member in &mut members {
            member.serves();
        }
        Cluster { members }
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            servers: self.members.iter().map(|m| m.client.clone()).collect(),
            authority: None,
            identity: None,
            prefix: "/registry".into(),
        }
    }

    pub(crate) async fn open(&self) -> Etcd {
        Etcd::open(self.config(), Arc::new(Verbatim)).await.unwrap()
    }
}

impl Member {
    fn spawn(&mut self) {
        let process = Command::new(&self.program)
            .args(&self.arguments)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Reads its log until it says that it serves, and on from there in a thread: a full pipe would stop it.
    fn serves(&mut self) {
        let process = self.process.as_mut().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| {
            log.push_str(&line);
            log.push('\n');
            [
                "serving insecure client requests",
                "serving client traffic",
                "ready to serve",
            ]
            .iter()
            .any(|words| line.contains(words))
        });
        assert!(ready, "etcd ended: {log}");
        std::thread::spawn(move || lines.for_each(drop));
    }

    pub(crate) fn start(&mut self) {
        self.spawn();
        self.serves();
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

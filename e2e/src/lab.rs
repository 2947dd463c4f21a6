//! Lab nodes: network, mount, pid, uts, ipc and cgroup namespaces of their own, with their own `/run`, state and logs,
//! joined by a switch in a namespace that has no link to the outside.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::tools::Tools;
use crate::{eventually, run};

/// The word with which this test program becomes a lab's first process.
pub const INIT: &str = "lab-init";
const V1: [&str; 9] = [
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd",
];

/// A machine of its own, as far as a cluster can tell.
#[derive(Debug)]
pub struct Node {
    name: String,
    tools: Tools,
    folder: tempfile::TempDir,
    /// `unshare`, which waits for the node's first process.
    outer: Option<Child>,
    init: Pid,
    switch: String,
}

impl Node {
    /// Makes a switch and a node on it, with address 172.30.0.11.
    pub fn start(name: &str, tools: &Tools) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("coracle-lab-").tempdir()?;
        let name = format!("{name}-{}", std::process::id());
        let mut node = Node {
            switch: format!("{name}-sw"),
            name,
            tools: tools.clone(),
            folder,
            outer: None,
            init: Pid::from_raw(0),
        };
        // From here on a failure is cleaned up by `drop`.
        node.network()?;
        node.cgroups()?;
        node.boot()?;
        Ok(node)
    }

    fn network(&self) -> anyhow::Result<()> {
        let (node, switch) = (self.name.as_str(), self.switch.as_str());
        for line in [
            format!("netns add {switch}"),
            format!("-n {switch} link add br0 type bridge"),
            format!("-n {switch} link set br0 up"),
            format!("netns add {node}"),
            format!("-n {node} link add eth0 type veth peer name port0 netns {switch}"),
            format!("-n {switch} link set port0 master br0 up"),
            format!("-n {node} link set lo up"),
            format!("-n {node} address add 172.30.0.11/24 dev eth0"),
            format!("-n {node} link set eth0 up"),
        ] {
            run(Command::new("ip").args(line.split(' ')))?;
        }
        Ok(())
    }

    /// The cgroup directories that the node is rooted in, made where they are not.
    fn cgroups(&self) -> anyhow::Result<Vec<PathBuf>> {
        let root = Path::new("/sys/fs/cgroup");
        let parents: Vec<PathBuf> = if unified() {
            vec![root.into()]
        } else {
            V1.iter().map(|c| root.join(c)).collect()
        };
        let mut folders = Vec::new();
        for parent in parents.iter().filter(|parent| parent.is_dir()) {
            let labs = parent.join("coracle-e2e");
            if !labs.exists() {
                fs::create_dir(&labs)?;
                if parent.ends_with("cpuset") {
                    fs::write(labs.join("cgroup.clone_children"), "1")?;
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        fs::write(labs.join(file), fs::read(parent.join(file))?)?;
                    }
                }
                if unified() {
                    fs::write(labs.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
                }
            }
            let folder = labs.join(&self.name);
            if !folder.exists() {
                fs::create_dir(&folder)?;
            }
            folders.push(folder);
        }
        Ok(folders)
    }

    fn boot(&mut self) -> anyhow::Result<()> {
        let root = self.folder.path();
        for folder in ["state", "log", "home", "cni"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::write(root.join("resolv.conf"), "nameserver 172.30.0.1\n")?;
        let mounts = if unified() {
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup".to_owned()
        } else {
            let controllers = "for c in cpu cpuacct cpuset memory devices freezer blkio pids; do mkdir /sys/fs/cgroup/$c; \
                mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c; done";
            format!(
                "mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup\n{controllers}\nmkdir /sys/fs/cgroup/systemd\n\
                 mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd"
            )
        };
        let script = format!(
            r#"set -e
hostname {name}
mount --make-rprivate /
mount -t sysfs sysfs /sys
{mounts}
mount -t proc proc /proc
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock
mount --bind {state} /var/lib
mount --bind {log} /var/log
mount -t tmpfs -o mode=755 opt /opt
mkdir -p /opt/cni/bin
mount --bind {cni} /opt/cni/bin
mount --bind {resolv} /etc/resolv.conf
mount --make-rshared /
exec {me} {INIT} {ready}
"#,
            name = self.name,
            state = root.join("state").display(),
            log = root.join("log").display(),
            cni = self.tools.packaged("usr/lib/cni").display(),
            resolv = root.join("resolv.conf").display(),
            me = std::env::current_exe()?.display(),
            ready = root.join("ready").display(),
        );
        fs::write(root.join("init.sh"), script)?;
        let log = fs::File::create(root.join("init.log"))?;
        let mut command = self.enter_cgroups()?;
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .args(["unshare", "-m", "-p", "-u", "-i", "-C", "--fork", "--kill-child", "sh"])
            .arg(root.join("init.sh"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // A test that is killed takes its lab along.
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        #[allow(unsafe_code, reason = "code between fork and exec is unsafe by nature")]
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        let child = command.spawn().context("cannot make the node's namespaces")?;
        let outer = child.id();
        self.outer = Some(child);
        eventually("the lab node boots", || {
            let said = fs::read_to_string(root.join("init.log"))?;
            if !root.join("ready").exists() {
                bail!("not booted: {said}");
            }
            // Seen from outside, the first process is the only child of `unshare`.
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
            self.init = Pid::from_raw(children.trim().parse().context("unshare has no child")?);
            Ok(())
        })
    }

    /// `nsenter`, run by a shell that has joined the node's cgroups.
    fn enter_cgroups(&self) -> anyhow::Result<Command> {
        let joins: Vec<String> = self
            .cgroups()?
            .iter()
            .map(|folder| format!("echo $$ > {}/cgroup.procs", folder.display()))
            .collect();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{}; exec nsenter \"$@\"", joins.join("; ")), "nsenter"]);
        Ok(command)
    }

    /// A command that runs on the node.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.enter_cgroups().expect("the node's cgroups were made at its start");
        command.args([
            "-t",
            &self.init.to_string(),
            "-m",
            "-p",
            "-u",
            "-i",
            "-n",
            "-C",
            "--",
            program,
        ]);
        command.current_dir("/").env_clear();
        command
            .env("PATH", self.tools.path())
            .env("HOME", self.folder.path().join("home"))
            .env("LC_ALL", "C");
        command.stdin(Stdio::null());
        command
    }

    /// Our command on the node; its output.
    pub fn coracle(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.command(&self.tools.coracle.display().to_string()).args(arguments))
    }

    /// kubectl on the node, as the user who typed `up`.
    pub fn kubectl(&self, arguments: &str) -> anyhow::Result<String> {
        run(self.command("kubectl").args(arguments.split(' ')))
    }

    /// A shell command on the node.
    pub fn sh(&self, script: &str) -> anyhow::Result<String> {
        run(self.command("sh").args(["-c", script]))
    }

    /// The body that an HTTP address answers, asked from the node.
    pub fn get(&self, url: &str) -> anyhow::Result<String> {
        let busybox = self.tools.packaged("bin/busybox");
        run(self
            .command("timeout")
            .arg("5")
            .arg(busybox)
            .args(["wget", "-q", "-O", "-", url]))
    }

    /// A file that the node and the test both see.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The node's first process, as seen from outside.
    pub fn init(&self) -> u32 {
        self.init.as_raw().cast_unsigned()
    }

    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// What the cluster's own logs say, for the message of a failure.
    pub fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.folder.path().join("log/coracle").join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(60)..].join("\n"))
        };
        tail("coracle.log") + &tail("containerd.log")
    }
}

impl Drop for Node {
    /// Pulls the plug: every process of the node dies with its first one.
    fn drop(&mut self) {
        if let Some(mut outer) = self.outer.take() {
            // --kill-child takes the first process along. Failures of a take-down are seen by the next test's snapshot.
            let _ = kill(Pid::from_raw(outer.id().cast_signed()), Signal::SIGKILL);
            let _ = outer.wait();
        }
        for namespace in [&self.name, &self.switch] {
            let _ = Command::new("ip")
                .args(["netns", "delete", namespace])
                .stderr(Stdio::null())
                .status();
        }
        let root = Path::new("/sys/fs/cgroup");
        for controller in V1.iter().map(|c| root.join(c)).chain([root.to_path_buf()]) {
            let labs = controller.join("coracle-e2e");
            let _ = eventually("the node's cgroups empty", || remove_cgroups(&labs.join(&self.name)));
            let _ = fs::remove_dir(labs);
        }
    }
}

/// Removes a cgroup and those below it; their processes must have ended.
fn remove_cgroups(folder: &Path) -> anyhow::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroups(&entry.path())?;
    }
    Ok(fs::remove_dir(folder)?)
}

fn unified() -> bool {
    fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|list| list.contains("memory"))
}

/// The life of a lab's first process: it reaps until it is killed. `ready` is the file that tells that it lives.
pub fn init(ready: &str) -> ! {
    fs::write(ready, "").expect("the lab's folder can be written");
    let mut signals = nix::sys::signal::SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().expect("signals can be blocked");
    loop {
        while matches!(nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)), Ok(s) if s.pid().is_some())
        {
        }
        // Interrupted waits are started again.
        let _ = signals.wait();
    }
}

//! The server as a daemon: a unit where systemd runs, a session of its own where it does not. Comes in: the flags of
//! `up`. Goes out: a process that runs on when the terminal closes. What runs inside it is `serve`.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::config::{Cli, Command as Chosen, Up};
use crate::host;
use crate::layout::Layout;
use crate::runtime::containerd;

pub(crate) const UNIT: &str = "coracle.service";
const UNIT_FILE: &str = "/etc/systemd/system/coracle.service";
/// The server drains its connections; pods are not its children.
const STOP: Duration = Duration::from_secs(20);

/// Starts `coracle serve` detached.
pub(crate) fn start(layout: &Layout, up: &Up) -> anyhow::Result<()> {
    std::fs::create_dir_all(&layout.log)?;
    let program = std::env::current_exe()?;
    if host::systemd() {
        start_unit(&program, up)
    } else {
        start_session(layout, &program, up)
    }
}

fn start_session(layout: &Layout, program: &Path, up: &Up) -> anyhow::Result<()> {
    let log = OpenOptions::new().create(true).append(true).open(layout.server_log())?;
    let mut command = Command::new(program);
    command
        .args(arguments(up))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    host::own_session(&mut command);
    command
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(())
}

/// The unit is installed, so that the cluster comes back after a reboot.
fn start_unit(program: &Path, up: &Up) -> anyhow::Result<()> {
    let quoted: Vec<String> = arguments(up).iter().map(|argument| format!("{argument:?}")).collect();
    let unit = format!(
        "[Unit]\nDescription=Coracle, a Kubernetes cluster on this machine\nAfter=network.target\n\n\
         [Service]\nExecStart={:?} {}\nRestart=always\nRestartSec=1\nLimitNOFILE=1048576\nOOMScoreAdjust=-999\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        program.display().to_string(),
        quoted.join(" ")
    );
    std::fs::write(UNIT_FILE, unit).with_context(|| format!("cannot write {UNIT_FILE}"))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--quiet", UNIT])?;
    systemctl(&["restart", UNIT])
}

/// Stops the server, however it was started. False when none ran.
pub(crate) async fn stop(layout: &Layout) -> anyhow::Result<bool> {
    let Some(pid) = pid(layout) else { return Ok(false) };
    if Path::new(UNIT_FILE).exists() && host::systemd() {
        systemctl(&["stop", UNIT])?;
    } else {
        kill(pid, Signal::SIGTERM).context("cannot stop the server")?;
    }
    if tokio::time::timeout(STOP, containerd::ended(pid)).await.is_err() {
        kill(pid, Signal::SIGKILL)?;
        containerd::ended(pid).await?;
    }
    Ok(true)
}

/// The unit must not bring the cluster back at the next boot.
pub(crate) fn forget() -> anyhow::Result<()> {
    if Path::new(UNIT_FILE).exists() {
        systemctl(&["disable", "--quiet", UNIT])?;
        std::fs::remove_file(UNIT_FILE)?;
        systemctl(&["daemon-reload"])?;
    }
    Ok(())
}

/// What the server that runs was started with.
pub(crate) fn options(layout: &Layout) -> anyhow::Result<Up> {
    let pid = pid(layout).context("no server runs")?;
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).context("the server ended")?;
    let words = words.strip_suffix(&[0]).unwrap_or(&words).split(|byte| *byte == 0);
    match Cli::try_parse_from(words.map(OsStr::from_bytes))?.command {
        Chosen::Serve(up) => Ok(up),
        _ => bail!("process {pid} is no server"),
    }
}

/// The server's process, if it is alive.
pub(crate) fn pid(layout: &Layout) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(layout.pid()).ok()?.trim().parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "coracle").then(|| Pid::from_raw(pid))
}

/// Becomes the program that shows a log: the journal's where systemd keeps it, `tail` where it is a file. Returns only
/// when it could not.
pub(crate) fn logs(layout: &Layout, follow: bool, lines: u32, of_containerd: bool) -> anyhow::Error {
    use std::os::unix::process::CommandExt;
    let mut command = if !of_containerd && Path::new(UNIT_FILE).exists() && host::systemd() {
        let mut command = Command::new("journalctl");
        command.args(["--no-pager", "--output=cat", "--unit", UNIT]);
        command.args(follow.then_some("--follow"));
        command.arg(format!("--lines={lines}"));
        command
    } else {
        let file = if of_containerd {
            layout.containerd_log()
        } else {
            layout.server_log()
        };
        if !file.exists() {
            return anyhow::anyhow!("there is no log yet ({} is missing): coracle up", file.display());
        }
        let mut command = Command::new("tail");
        command.arg(format!("--lines={lines}"));
        command.args(follow.then_some("--follow=name"));
        command.arg(file);
        command
    };
    let program = command.get_program().to_owned();
    anyhow::Error::from(command.exec()).context(format!("cannot run {}", program.display()))
}

fn arguments(up: &Up) -> Vec<String> {
    let Up {
        node_name,
        node_ip,
        secure_port,
        no_kubeconfig: _,
        // Kept in a file that the server reads.
        etcd: _,
        log_level,
    } = up;
    let mut arguments = vec![
        "serve".to_owned(),
        format!("--secure-port={secure_port}"),
        format!("--log-level={log_level}"),
    ];
    arguments.extend(node_name.iter().map(|name| format!("--node-name={name}")));
    arguments.extend(node_ip.iter().map(|address| format!("--node-ip={address}")));
    arguments
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("systemctl").args(arguments).output()?;
    if !output.status.success() {
        bail!(
            "systemctl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

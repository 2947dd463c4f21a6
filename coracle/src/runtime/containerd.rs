//! Our containerd: started once, adopted by every later Coracle, started again when it ends. It lives in a session (or
//! under systemd in a unit) of its own, so that nothing that happens to Coracle reaches it or its containers.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::BoxFuture;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::programs::Programs;
use crate::host;
use crate::layout::Layout;

/// The name of our unit where systemd runs.
pub(crate) const UNIT: &str = "coracle-containerd.service";
/// A cold start on a busy machine with many images.
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(10);

/// Keeps containerd running until `stop`, which it survives. `ready` is called each time it answers.
pub(crate) async fn keep(
    layout: Layout,
    programs: Programs,
    stop: CancellationToken,
    ready: impl Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send,
) -> anyhow::Result<()> {
    let mut delay = Duration::from_millis(200);
    loop {
        let pid = match running(&layout).await {
            Some(pid) => pid,
            None => start(&layout, &programs).await?,
        };
        ready().await?;
        let since = tokio::time::Instant::now();
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            ended = ended(pid) => ended?,
        }
        if since.elapsed() > Duration::from_secs(60) {
            delay = Duration::from_millis(200);
        }
        warn!(%pid, "containerd ended");
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
        delay = (delay * 2).min(Duration::from_secs(30));
    }
}

/// The containerd that runs and answers, if there is one.
pub(crate) async fn running(layout: &Layout) -> Option<Pid> {
    let pid = pid(layout)?;
    UnixStream::connect(layout.containerd_socket()).await.ok()?;
    Some(pid)
}

/// The process that the pid file names, if it is alive and still containerd.
fn pid(layout: &Layout) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(layout.containerd_pid())
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "containerd").then(|| Pid::from_raw(pid))
}

/// Starts containerd and waits until it answers.
pub(crate) async fn start(layout: &Layout, programs: &Programs) -> anyhow::Result<Pid> {
    std::fs::create_dir_all(&layout.run)?;
    std::fs::create_dir_all(&layout.log)?;
    std::fs::create_dir_all(layout.cni_config())?;
    let version = version(programs).await?;
    std::fs::write(layout.containerd_config(), config(layout, programs, version))?;
    if let Some(half) = pid(layout) {
        // Alive without a socket: it is starting, or stuck. Both end when it is told to.
        end(half).await?;
    }
    let pid = if host::systemd() {
        start_unit(layout, programs).await?
    } else {
        start_session(layout, programs)?
    };
    std::fs::write(layout.containerd_pid(), pid.to_string())?;
    answering(layout, pid).await?;
    info!(%pid, version = %format!("{}.{}", version.0, version.1), "containerd started");
    Ok(pid)
}

/// Waits until the socket takes connections. The folder is watched, so the wait costs nothing and ends at once.
async fn answering(layout: &Layout, pid: Pid) -> anyhow::Result<()> {
    let wait = async {
        let mut pause = Duration::from_millis(5);
        while UnixStream::connect(layout.containerd_socket()).await.is_err() {
            if kill(pid, None).is_err() {
                bail!("containerd ended at once");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(())
    };
    let log = layout.containerd_log();
    match tokio::time::timeout(START, wait).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error).with_context(|| format!("{}\nits log: {}", last_words(&log), log.display())),
        Err(_) => bail!(
            "containerd did not answer within {} s; its log: {}",
            START.as_secs(),
            log.display()
        ),
    }
}

/// The last error that containerd logged.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let line = text
        .lines()
        .rev()
        .find(|line| line.contains("fatal") || line.contains("rror"));
    line.or(text.lines().last()).unwrap_or("it said nothing").to_owned()
}

fn start_session(layout: &Layout, programs: &Programs) -> anyhow::Result<Pid> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(layout.containerd_log())?;
    let mut command = std::process::Command::new(&programs.containerd);
    command.arg("--config").arg(layout.containerd_config());
    command
        .envs(environment(programs))
        .current_dir("/")
        .stdin(std::process::Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    host::own_session(&mut command);
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {}", programs.containerd.display()))?;
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

async fn start_unit(layout: &Layout, programs: &Programs) -> anyhow::Result<Pid> {
    let log = layout.containerd_log();
    let mut command = Command::new("systemd-run");
    command.args([
        "--quiet",
        "--collect",
        &format!("--unit={UNIT}"),
        "--description=containerd of Coracle",
    ]);
    for property in [
        "Delegate=yes",
        "KillMode=process",
        "LimitNOFILE=infinity",
        "TasksMax=infinity",
        "OOMScoreAdjust=-999",
    ] {
        command.args(["-p", property]);
    }
    command.args(["-p", &format!("StandardOutput=append:{0}", log.display())]);
    command.args(["-p", &format!("StandardError=append:{0}", log.display())]);
    for (name, value) in environment(programs) {
        command.arg(format!("--setenv={name}={value}"));
    }
    command
        .arg(&programs.containerd)
        .arg("--config")
        .arg(layout.containerd_config());
    let output = command.output().await?;
    if !output.status.success() {
        bail!("systemd-run: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let output = Command::new("systemctl")
        .args(["show", "-p", "MainPID", "--value", UNIT])
        .output()
        .await?;
    let pid = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .context("systemd does not name containerd's process")?;
    Ok(Pid::from_raw(pid))
}

fn environment(programs: &Programs) -> Vec<(&'static str, String)> {
    let folder = |path: &Path| {
        path.parent()
            .map(|p| p.display().to_string())
            .unwrap_or_else(|| "/usr/bin".into())
    };
    let path = [
        folder(&programs.containerd),
        folder(&programs.runc),
        "/usr/sbin:/usr/bin:/sbin:/bin".into(),
    ]
    .join(":");
    let mut environment = vec![("PATH", path)];
    if let Some(libraries) = &programs.libraries {
        environment.push(("LD_LIBRARY_PATH", libraries.display().to_string()));
    }
    environment
}

/// Major and minor.
async fn version(programs: &Programs) -> anyhow::Result<(u32, u32)> {
    let output = Command::new(&programs.containerd)
        .arg("--version")
        .envs(environment(programs))
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).with_context(|| format!("{} does not say its version: {text}", programs.containerd.display()))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let word = text
        .split_whitespace()
        .find(|w| w.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()))?;
    let mut numbers = word.trim_start_matches('v').split(['.', '~', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The configuration file for containerd of `version`. Since 2.0 the CRI plug-in is two, with other names.
fn config(layout: &Layout, programs: &Programs, version: (u32, u32)) -> String {
    let two = version.0 >= 2;
    let text = |path: &Path| format!("{:?}", path.display().to_string());
    let root = layout.containerd_root();
    let mut toml = String::new();
    let mut line = |args: std::fmt::Arguments<'_>| writeln!(toml, "{args}").expect("a String takes all");
    line(format_args!("version = {}", if two { 3 } else { 2 }));
    line(format_args!("root = {}", text(&root)));
    line(format_args!("state = {}", text(&layout.containerd_state())));
    // Snapshotters that are not used cost memory and log lines; `opt` would make /opt/containerd.
    line(format_args!(
        "disabled_plugins = [{}]",
        [
            "io.containerd.snapshotter.v1.aufs",
            "io.containerd.snapshotter.v1.btrfs",
            "io.containerd.snapshotter.v1.devmapper",
            "io.containerd.snapshotter.v1.zfs",
            "io.containerd.snapshotter.v1.blockfile",
            "io.containerd.internal.v1.opt",
            "io.containerd.internal.v1.tracing",
            "io.containerd.tracing.processor.v1.otlp",
            "io.containerd.nri.v1.nri",
        ]
        .map(|plugin| format!("{plugin:?}"))
        .join(", ")
    ));
    line(format_args!(
        "[grpc]\n  address = {}",
        text(&layout.containerd_socket())
    ));
    let cgroups = if host::systemd_cgroups() { "true" } else { "false" };
    let runtime = if two {
        "io.containerd.cri.v1.runtime"
    } else {
        "io.containerd.grpc.v1.cri"
    };
    let images = if two {
        "io.containerd.cri.v1.images"
    } else {
        "io.containerd.grpc.v1.cri"
    };
    line(format_args!("[plugins.{runtime:?}]"));
    if !two {
        line(format_args!("  sandbox_image = {:?}", crate::image::pause::NAME));
        line(format_args!(
            "  stream_server_address = \"127.0.0.1\"\n  stream_server_port = \"0\""
        ));
    }
    line(format_args!("  disable_apparmor = {}", !host::apparmor()));
    line(format_args!(
        "  restrict_oom_score_adj = {}",
        !host::may_lower_oom_score()
    ));
    line(format_args!(
        "  enable_unprivileged_ports = true\n  enable_unprivileged_icmp = true"
    ));
    line(format_args!("  netns_mounts_under_state_dir = true"));
    line(format_args!("  [plugins.{runtime:?}.cni]"));
    line(format_args!(
        "    conf_dir = {}\n    max_conf_num = 1",
        text(&layout.cni_config())
    ));
    let bins = if version >= (2, 1) {
        format!("bin_dirs = [{}]", text(&programs.cni))
    } else {
        format!("bin_dir = {}", text(&programs.cni))
    };
    line(format_args!("    {bins}"));
    line(format_args!(
        "  [plugins.{runtime:?}.containerd]\n    default_runtime_name = \"runc\""
    ));
    line(format_args!(
        "  [plugins.{runtime:?}.containerd.runtimes.runc]\n    runtime_type = \"io.containerd.runc.v2\""
    ));
    line(format_args!("  [plugins.{runtime:?}.containerd.runtimes.runc.options]"));
    line(format_args!(
        "    BinaryName = {}\n    SystemdCgroup = {cgroups}",
        text(&programs.runc)
    ));
    if two {
        line(format_args!(
            "[plugins.{images:?}.pinned_images]\n  sandbox = {:?}",
            crate::image::pause::NAME
        ));
    }
    line(format_args!(
        "[plugins.{images:?}.registry]\n  config_path = {}",
        text(layout.registries())
    ));
    toml
}

/// Stops containerd. Containers that still run are left to their shims.
pub(crate) async fn stop(layout: &Layout) -> anyhow::Result<()> {
    if let Some(pid) = pid(layout) {
        end(pid).await?;
    }
    Ok(())
}

async fn end(pid: Pid) -> anyhow::Result<()> {
    if kill(pid, Signal::SIGTERM).is_err() {
        return Ok(());
    }
    if tokio::time::timeout(STOP, ended(pid)).await.is_err() {
        kill(pid, Signal::SIGKILL)?;
        ended(pid).await?;
    }
    Ok(())
}

/// Resolves when the process has ended; it need not be a child.
pub(crate) async fn ended(pid: Pid) -> std::io::Result<()> {
    // SAFETY: pidfd_open takes a pid and flags and returns a new descriptor or -1.
    #[allow(unsafe_code, reason = "no safe wrapper of pidfd_open is at hand")]
    let fd = unsafe {
        match libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) {
            -1 => return Ok(()),
            fd => OwnedFd::from_raw_fd(i32::try_from(fd).expect("descriptors are small")),
        }
    };
    // A pidfd becomes readable when its process ends.
    // SAFETY: the descriptor is owned by what is registered, so it is open, and the same one, until it is taken out.
    #[allow(unsafe_code, reason = "registering asks for the promise above")]
    let process = unsafe { AsyncFd::register(fd) }?;
    process.readable().await?.retain_ready();
    // A child of ours would stay a zombie.
    let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_packages_are_understood() {
        for (text, want) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3",
                (1, 6),
            ),
            ("containerd containerd.io 1.7.24 88bf19b", (1, 7)),
            ("containerd github.com/containerd/containerd/v2 v2.1.9 abc", (2, 1)),
        ] {
            assert_eq!(parse_version(text), Some(want), "{text}");
        }
    }

    #[test]
    fn each_major_version_gets_its_own_plugin_names() {
        let programs = Programs {
            containerd: "/c".into(),
            runc: "/r".into(),
            cni: "/n".into(),
            libraries: None,
        };
        let old = config(&Layout::default(), &programs, (1, 6));
        assert!(
            old.contains("io.containerd.grpc.v1.cri") && old.contains("sandbox_image") && old.contains("bin_dir = ")
        );
        let new = config(&Layout::default(), &programs, (2, 1));
        assert!(!new.contains("grpc.v1.cri\"") && new.contains("pinned_images") && new.contains("bin_dirs = "));
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        ended(Pid::from_raw(i32::try_from(child.id()).unwrap())).await.unwrap();
        // Reaped by `ended` or here.
        let _ = child.wait();
    }
}

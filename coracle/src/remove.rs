//! `down` and `reset`: the way back. `down` stops everything and keeps what is stored; `reset` leaves the machine as it
//! was before the first `up`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kubelet::resources::cgroups::Cgroups;
use kubelet::runtime::cri::Cri;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::before::Before;
use crate::config::Environment;
use crate::host;
use crate::kubeconfig::Owner;
use crate::layout::Layout;
use crate::progress::{Progress, say};
use crate::runtime::containerd;
use crate::runtime::programs::Programs;
use crate::server_process;

/// The bridge of the default pod network.
const BRIDGE: &str = "cni0";
/// Pods get their own grace, but no longer than this all together.
const GRACE: Duration = Duration::from_secs(10);

/// Stops the server, the pods, the runtime, and takes the packet rules and links away.
pub(crate) async fn down(layout: &Layout, environment: &Environment) -> anyhow::Result<()> {
    let mut progress = Progress::start();
    server_process::forget()?;
    if server_process::stop(layout).await? {
        progress.done("server stopped", "");
    }
    match remove_pods(layout, environment).await {
        Ok(Some(removed)) => progress.done("containers stopped", &format!("{removed} pods")),
        Ok(None) => {}
        // Without its help they are ended by force below.
        Err(error) => say(&format!("  ! the runtime does not help: {error:#}")),
    }
    containerd::stop(layout).await?;
    let cgroups = Cgroups::new("/sys/fs/cgroup", "/", host::cgroup_driver());
    end_leftovers(layout, &cgroups).await?;
    progress.done("runtime stopped", "");
    unmount_below(&[&layout.run, &layout.kubelet])?;
    proxy::cleanup().context("cannot remove the packet rules")?;
    proxy::route::remove_bridge(BRIDGE).context("cannot remove the pods' bridge")?;
    dns::cleanup(&dns::Config::default()).context("cannot remove the resolver's address")?;
    cgroups.remove_all().context("cannot remove the pods' cgroups")?;
    progress.done("network removed", "");
    Before::recall(layout)?.restore_settings()?;
    progress.finish("The cluster is down: coracle up brings it back");
    Ok(())
}

/// `down`, then everything that the node ever wrote.
pub(crate) async fn reset(layout: &Layout, environment: &Environment) -> anyhow::Result<()> {
    down(layout, environment).await?;
    let before = Before::recall(layout)?;
    for directory in layout.shared() {
        if !before.had(directory) {
            remove(directory)?;
        }
    }
    unmount_below(&[&layout.data])?;
    remove(&layout.cni_state.join("networks/coracle"))?;
    for directory in [&layout.run, &layout.log, &layout.data] {
        remove(directory)?;
    }
    let owner = Owner::invoking(environment)?;
    owner.remove()?;
    say("Nothing of the cluster is left.");
    Ok(())
}

/// Has the runtime remove its pods; one that does not run is started for it. `None` where there never was one.
async fn remove_pods(layout: &Layout, environment: &Environment) -> anyhow::Result<Option<usize>> {
    if !layout.containerd_root().exists() {
        return Ok(None);
    }
    if containerd::running(layout).await.is_none() {
        let programs = Programs::find(layout, &environment.path)
            .map_err(|missing| anyhow::anyhow!("no {}", missing.join(", ")))?;
        containerd::start(layout, &programs).await?;
    }
    let endpoint = format!("unix://{}", layout.containerd_socket().display());
    let removed = kubelet::removal::remove_pods(Arc::new(Cri::new(&endpoint, None)), GRACE).await;
    Ok(Some(removed.context("the runtime does not remove its pods")?))
}

/// Ends what the runtime left behind: processes in pods' cgroups, and shims that serve our containerd.
async fn end_leftovers(layout: &Layout, cgroups: &Cgroups) -> anyhow::Result<()> {
    let socket = layout.containerd_socket().display().to_string();
    let mut left: Vec<Pid> = cgroups.processes().into_iter().map(Pid::from_raw).collect();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        // A process that ends meanwhile has no command line.
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        let shim = words
            .first()
            .is_some_and(|program| program.ends_with(b"containerd-shim-runc-v2"));
        if shim && words.contains(&socket.as_bytes()) {
            left.push(Pid::from_raw(pid));
        }
    }
    for pid in &left {
        // One that has ended by itself is what is wanted.
        let _ = kill(*pid, Signal::SIGKILL);
    }
    for pid in left {
        containerd::ended(pid).await?;
    }
    Ok(())
}

/// Unmounts whatever is mounted below `roots`, innermost first.
fn unmount_below(roots: &[&PathBuf]) -> anyhow::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    for mount in mounts_below(&mounts, roots) {
        umount2(&mount, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", mount.display()))?;
    }
    Ok(())
}

/// Mount points strictly below `roots` in `/proc/self/mounts`, the latest first.
fn mounts_below(mounts: &str, roots: &[&PathBuf]) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| roots.iter().any(|root| path.starts_with(root) && path != *root))
        .rev()
        .collect()
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_mounts_go_first_and_strangers_stay() {
        let mounts = "proc /proc proc rw 0 0\no /run/coracle/a overlay rw 0 0\nt /run/coracle/a/shm tmpfs rw 0 0\n\
            x /run/coracle-other tmpfs rw 0 0\nd /run/coracle tmpfs rw 0 0\n";
        let root = PathBuf::from("/run/coracle");
        assert_eq!(
            mounts_below(mounts, &[&root]),
            [Path::new("/run/coracle/a/shm"), Path::new("/run/coracle/a")]
        );
    }
}

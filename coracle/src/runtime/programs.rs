//! containerd, runc and the CNI plug-ins: those of the machine, or a copy of the distribution's packages in a folder of
//! our own. Nothing is installed on the machine and no service of it is started.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::layout::Layout;

/// Where containerd, its shim and runc are looked for beside `PATH`.
const SYSTEM: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
const CNI: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
const PLUGINS: [&str; 3] = ["bridge", "host-local", "loopback"];
const PACKAGES: [&str; 4] = ["containerd", "runc", "containernetworking-plugins", "libseccomp2"];

/// The programs that a node runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Programs {
    pub containerd: PathBuf,
    pub runc: PathBuf,
    pub cni: PathBuf,
    /// Libraries that the machine lacks too.
    pub libraries: Option<PathBuf>,
}

impl Programs {
    /// What is there. `Err` lists what is missing.
    pub(crate) fn find(layout: &Layout, path: &str) -> Result<Self, Vec<&'static str>> {
        let own = layout.programs();
        let folders: Vec<PathBuf> = std::env::split_paths(path)
            .chain(SYSTEM.iter().map(PathBuf::from))
            .chain([own.join("usr/bin"), own.join("usr/sbin")])
            .collect();
        let program = |name: &str| {
            folders
                .iter()
                .map(|folder| folder.join(name))
                .find(|path| path.is_file())
        };
        // The shim is looked up beside containerd and in its PATH, so the pair must come from one place.
        let containerd = program("containerd").filter(|_| program("containerd-shim-runc-v2").is_some());
        let runc = program("runc");
        let cni = CNI
            .iter()
            .map(PathBuf::from)
            .chain([own.join("usr/lib/cni")])
            .find(|folder| PLUGINS.iter().all(|plugin| folder.join(plugin).is_file()));
        match (containerd, runc, cni) {
            (Some(containerd), Some(runc), Some(cni)) => {
                let ours = |program: &Path| program.starts_with(&own);
                let libraries = (ours(&containerd) || ours(&runc)).then(|| own.join("lib"));
                Ok(Programs {
                    containerd,
                    runc,
                    cni,
                    libraries,
                })
            }
            (containerd, runc, cni) => Err([
                ("containerd", containerd.is_none()),
                ("runc", runc.is_none()),
                ("CNI plug-ins (bridge, host-local, loopback)", cni.is_none()),
            ]
            .into_iter()
            .filter_map(|(name, missing)| missing.then_some(name))
            .collect()),
        }
    }

    /// What is there, after fetching what is not.
    pub(crate) async fn find_or_fetch(layout: &Layout, path: &str) -> anyhow::Result<Self> {
        let Err(missing) = Self::find(layout, path) else {
            return Self::find(layout, path).map_err(|_| anyhow::anyhow!("the runtime's programs went away"));
        };
        fetch(&layout.programs()).await.with_context(|| {
            format!(
                "this machine lacks {}: install them, then run this again",
                missing.join(", ")
            )
        })?;
        Self::find(layout, path).map_err(|missing| {
            anyhow::anyhow!(
                "the distribution's packages lack {}: install them by hand",
                missing.join(", ")
            )
        })
    }
}

/// Downloads the distribution's packages and unpacks them into `folder`.
async fn fetch(folder: &Path) -> anyhow::Result<()> {
    if which("apt-get").is_none() || which("dpkg").is_none() {
        bail!("they can be fetched by themselves only where apt-get is");
    }
    let spool = tempfile::tempdir()?;
    if run("apt-get", &[&["download", "-q"], &PACKAGES[..]].concat(), spool.path())
        .await
        .is_err()
    {
        // The lists of a fresh machine are empty.
        run("apt-get", &["update", "-q"], spool.path()).await?;
        run("apt-get", &[&["download", "-q"], &PACKAGES[..]].concat(), spool.path()).await?;
    }
    // Unpacked aside and renamed, so that a half-done fetch is never taken for a whole one.
    let fresh = folder.with_extension("new");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh)?;
    }
    std::fs::create_dir_all(&fresh)?;
    for entry in std::fs::read_dir(spool.path())? {
        let package = entry?.path();
        let package = package.to_str().context("package names are ASCII")?;
        let target = fresh.to_str().context("our own paths are ASCII")?;
        run("dpkg", &["-x", package, target], spool.path()).await?;
    }
    let libraries = fresh
        .join("usr/lib")
        .join(format!("{}-linux-gnu", std::env::consts::ARCH));
    if libraries.is_dir() {
        std::fs::rename(libraries, fresh.join("lib-shared"))?;
    }
    // Merged or not, the libraries end up in one folder.
    let lib = fresh.join("lib");
    if lib.exists() {
        std::fs::remove_dir_all(&lib)?;
    }
    if fresh.join("lib-shared").exists() {
        std::fs::rename(fresh.join("lib-shared"), &lib)?;
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::rename(fresh, folder)?;
    Ok(())
}

async fn run(program: &str, arguments: &[&str], folder: &Path) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program} {} failed: {}",
            arguments.join(" "),
            said.lines().last().unwrap_or("without a word")
        );
    }
    Ok(())
}

fn which(program: &str) -> Option<PathBuf> {
    SYSTEM
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let layout = Layout {
            data: empty.path().into(),
            ..Layout::default()
        };
        if let Err(missing) = Programs::find(&layout, "") {
            assert!(!missing.is_empty());
        }
    }

    #[test]
    fn programs_of_our_own_are_found_with_their_libraries() {
        let data = tempfile::tempdir().unwrap();
        let layout = Layout {
            data: data.path().into(),
            ..Layout::default()
        };
        let bin = layout.programs().join("usr/bin");
        std::fs::create_dir_all(&bin).unwrap();
        for name in ["containerd", "containerd-shim-runc-v2", "runc"] {
            std::fs::write(bin.join(name), "").unwrap();
        }
        let cni = layout.programs().join("usr/lib/cni");
        std::fs::create_dir_all(&cni).unwrap();
        for name in PLUGINS {
            std::fs::write(cni.join(name), "").unwrap();
        }
        let found = Programs::find(&layout, "").expect("all are there");
        assert!(found.containerd.is_file() && found.cni.join("bridge").is_file());
    }
}

//! What the host was like before the first `up`. Written once; `reset` puts it back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// Kernel settings that a node changes, as files under `/proc/sys`.
const SETTINGS: [&str; 7] = [
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/forwarding",
    "net/ipv4/conf/default/forwarding",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/all/rp_filter",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
];

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Before {
    settings: BTreeMap<String, String>,
    /// Directories of [`Layout::shared`] that were there.
    directories: Vec<PathBuf>,
}

impl Before {
    /// Remembers the host as it is, unless an earlier `up` did.
    pub(crate) fn remember(layout: &Layout) -> anyhow::Result<()> {
        let path = layout.before();
        if path.exists() {
            return Ok(());
        }
        let settings = SETTINGS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::fs::read_to_string(setting(name)).ok()?)))
            .collect();
        let directories = layout
            .shared()
            .iter()
            .filter(|path| path.exists())
            .map(|path| path.to_path_buf())
            .collect();
        let bytes = serde_json::to_vec_pretty(&Before { settings, directories })?;
        std::fs::create_dir_all(&layout.data)?;
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What an earlier `up` remembered; nothing where there was none.
    pub(crate) fn recall(layout: &Layout) -> anyhow::Result<Self> {
        match std::fs::read(layout.before()) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Before::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether `directory` was there before us.
    pub(crate) fn had(&self, directory: &Path) -> bool {
        self.directories.iter().any(|known| known == directory)
    }

    /// Puts the kernel settings back.
    pub(crate) fn restore_settings(&self) -> anyhow::Result<()> {
        for (name, value) in &self.settings {
            let path = setting(name);
            if std::fs::read_to_string(&path).is_ok_and(|now| now != *value) {
                std::fs::write(&path, value).with_context(|| format!("cannot restore {name}"))?;
            }
        }
        Ok(())
    }
}

fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

//! The node's own choices: made at the first start, kept over all later ones.

use std::net::Ipv4Addr;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::config::Up;
use crate::host;
use crate::layout::Layout;

/// What a node is called and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) node_name: String,
    pub(crate) node_ip: Ipv4Addr,
    pub(crate) secure_port: u16,
}

impl Settings {
    /// What flags say wins, then what was chosen before, then what the host says.
    pub(crate) fn settle(layout: &Layout, up: &Up) -> anyhow::Result<Self> {
        let path = layout.node();
        let kept: Option<Settings> = match std::fs::read(&path) {
            Ok(bytes) => {
                Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let name = up
            .node_name
            .clone()
            .or(kept.as_ref().map(|kept| kept.node_name.clone()));
        let settings = Settings {
            node_name: name.map_or_else(host::name, Ok)?,
            // A laptop changes networks: only an address that was asked for is kept.
            node_ip: match up.node_ip {
                Some(address) => address,
                None => host::address()?
                    .context("no interface has an IPv4 address but loopback: name one with --node-ip")?,
            },
            secure_port: up.secure_port,
        };
        if !api::names::dns1123_subdomain(&settings.node_name).is_empty() {
            bail!(
                "{:?} cannot be a node's name: choose one with --node-name",
                settings.node_name
            );
        }
        if kept.as_ref() != Some(&settings) {
            std::fs::create_dir_all(&layout.data)?;
            std::fs::write(&path, serde_json::to_vec_pretty(&settings)?)?;
        }
        Ok(settings)
    }
}

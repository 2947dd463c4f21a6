//! The one process that runs the cluster's parts, each under a supervisor of its own.

mod clients;
mod settings;

use crate::config::{Environment, Up};
use crate::layout::Layout;

pub(crate) const KUBELET_PORT: u16 = 10250;

pub(crate) async fn run(layout: &Layout, _environment: &Environment, up: &Up) -> anyhow::Result<()> {
    settings::Settings::settle(layout, up)?;
    Ok(())
}

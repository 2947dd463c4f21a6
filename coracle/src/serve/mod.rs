//! The one process that runs the cluster's parts, each under a supervisor of its own: a part that fails is restarted
//! alone and the others do not notice. Comes in: the node's settings. Goes out: a report that `up` and `status` read.
//! The parts reach the API server through connections in memory, each with the identity of its upstream counterpart.

mod born;
mod clients;
pub(crate) mod lock;
mod parts;
mod ready;
mod settings;

use anyhow::Context;
use daemon::signal::Signals;
use daemon::supervise;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::{Environment, Up};
use crate::control::{self, Board};
use crate::image;
use crate::layout::Layout;
use crate::runtime::containerd;
use crate::runtime::programs::Programs;
use clients::Gateway;
use settings::Settings;

pub(crate) const KUBELET_PORT: u16 = 10250;

/// Everything that a part is made from.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) layout: Layout,
    pub(crate) settings: Settings,
    pub(crate) gateway: Gateway,
    pub(crate) board: Board,
}

/// Runs the cluster until a signal.
pub(crate) async fn run(layout: &Layout, environment: &Environment, up: &Up) -> anyhow::Result<()> {
    daemon::telemetry::init(0, Some(&up.log_level), daemon::telemetry::Format::Text)?;
    std::fs::create_dir_all(&layout.run)?;
    let _lock = lock::take(&layout.pid())?;
    crate::store::choose(layout, up)?;
    let settings = Settings::settle(layout, up)?;
    let programs = Programs::find_or_fetch(layout, &environment.path).await?;
    let node = Node {
        layout: layout.clone(),
        settings,
        gateway: Gateway::default(),
        board: Board::new(),
    };
    parts::keys(&node)?;
    node.board.done("keys made", "");

    let stop = CancellationToken::new();
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let running = async {
        tokio::join!(
            control(&node, &stop),
            runtime(&node, &programs, &stop),
            supervise("apiserver", stop.clone(), |stop| parts::apiserver(node.clone(), stop)),
            supervise("scheduler", stop.clone(), |stop| parts::scheduler(node.clone(), stop)),
            supervise("kubelet", stop.clone(), |stop| parts::kubelet(node.clone(), stop)),
            supervise("controllers", stop.clone(), |stop| parts::controllers(
                node.clone(),
                stop
            )),
            supervise("proxy", stop.clone(), |stop| parts::proxy(node.clone(), stop)),
            supervise("provisioner", stop.clone(), |stop| parts::provisioner(
                node.clone(),
                stop
            )),
            supervise("dns", stop.clone(), |stop| parts::dns(node.clone(), stop)),
            supervise("ready", stop.clone(), |stop| ready::tell(node.clone(), stop)),
        )
    };
    let signal = async {
        let signal = signals.next().await;
        info!(signal, "stopping; containers run on");
        stop.cancel();
    };
    tokio::join!(running, signal);
    Ok(())
}

async fn control(node: &Node, stop: &CancellationToken) {
    supervise("control", stop.clone(), |stop| {
        let node = node.clone();
        async move { control::serve(&node.layout.control(), node.board, stop).await }
    })
    .await;
}

/// Keeps containerd running, with the image that holds pods' namespaces.
async fn runtime(node: &Node, programs: &Programs, stop: &CancellationToken) {
    supervise("containerd", stop.clone(), |stop| {
        let (node, programs) = (node.clone(), programs.clone());
        async move {
            let kept = containerd::keep(node.layout.clone(), programs, stop, || prepare(node.clone()).boxed()).await;
            if let Err(error) = &kept {
                node.board.trouble(format!("containerd: {error:#}"));
            }
            kept
        }
    })
    .await;
}

/// What a runtime that has just come up needs before pods do.
async fn prepare(node: Node) -> anyhow::Result<()> {
    image::pause::load(&node.layout.containerd_socket()).await?;
    node.board.done("containerd runs", "");
    Ok(())
}

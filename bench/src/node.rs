//! A whole node in a lab: how long it takes to be there, and what it costs to be idle.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::lab::Node;
use e2e::tools::Tools;
use tokio::time::Instant;

use crate::figures::{Figure, Figures};
use crate::process::{Cost, in_namespace_of};

/// The idle minute.
const IDLE: Duration = Duration::from_secs(60);
/// What happens at a start has settled after this.
const SETTLE: Duration = Duration::from_secs(30);

pub(crate) async fn measure(tools: &Tools, figures: &mut Figures) -> anyhow::Result<()> {
    let size = std::fs::metadata(&tools.coracle)?.len();
    figures.add(Figure::at_most("binary", size as f64 / 1e6, "MB", 30.0));

    let node = Node::start("bench", tools)?;
    // The first start makes keys and fills the image store: images present is what the second one measures.
    node.coracle(&["up"])?;
    let archive = node.file("busybox.tar");
    e2e::images::busybox(tools, &archive)?;
    node.coracle(&["image", "load", &archive.display().to_string()])?;
    node.coracle(&["reset"])?;
    let since = Instant::now();
    node.coracle(&["up"])?;
    figures.add(Figure::at_most("up to Ready", since.elapsed().as_secs_f64(), "s", 3.0));
    node.coracle(&["image", "load", &archive.display().to_string()])?;

    tokio::time::sleep(SETTLE).await;
    let pid = *in_namespace_of(node.init(), "coracle")?
        .first()
        .context("no coracle runs in the lab")?;
    let before = Cost::of(pid)?;
    tokio::time::sleep(IDLE).await;
    let idle = Cost::of(pid)?.since(before);
    figures.add(Figure::at_most(
        "idle: RSS of everything of ours",
        idle.resident as f64 / f64::from(1 << 20),
        "MiB",
        60.0,
    ));
    figures.add(Figure::at_most(
        "idle: CPU",
        idle.cpu * 100.0 / IDLE.as_secs_f64(),
        "%",
        0.5,
    ));
    figures.add(Figure::at_most(
        "idle: disk writes",
        idle.written as f64 / 1024.0 / IDLE.as_secs_f64(),
        "KiB/s",
        5.0,
    ));

    let mut fastest = f64::MAX;
    for round in 0..5 {
        let name = format!("one-{round}");
        let since = Instant::now();
        node.kubectl(&format!("create deployment {name} --image=busybox:1.36 -- sleep 86400"))?;
        node.kubectl(&format!(
            "wait --for=condition=Available deployment/{name} --timeout=60s"
        ))?;
        fastest = fastest.min(since.elapsed().as_secs_f64());
        node.kubectl(&format!("delete deployment {name} --wait=false"))?;
    }
    ensure!(fastest < f64::MAX);
    figures.add(Figure::told(
        "create Deployment to Available, with two kubectl runs",
        fastest,
        "s",
    ));
    node.coracle(&["reset"])?;
    Ok(())
}

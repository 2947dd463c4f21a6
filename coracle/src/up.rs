//! `up`: from nothing to a Ready node, telling each step. Running it again changes nothing that is right.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::before::Before;
use crate::config::{Environment, Up};
use crate::control::{self, Report, Reports};
use crate::doctor::{self, Subject};
use crate::kubeconfig::Owner;
use crate::layout::Layout;
use crate::progress::{Progress, say};
use crate::runtime::programs::Programs;
use crate::server_process;
use crate::store;

/// How long a step may take before `up` gives up waiting; the server goes on trying.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a fresh server takes to open its control socket, at the very worst.
const APPEAR: Duration = Duration::from_secs(10);

pub(crate) async fn run(layout: &Layout, environment: &Environment, up: &Up) -> anyhow::Result<()> {
    let mut progress = Progress::start();
    let running = control::ask(&layout.control()).await?;
    let healthy = doctor::examine(
        &Subject {
            layout,
            path: &environment.path,
            secure_port: up.secure_port,
            running: running.is_some(),
        },
        false,
    );
    if !healthy {
        bail!("this machine cannot run a cluster yet");
    }
    progress.done("machine examined", "");
    let other_store = store::choose(layout, up)?;
    match running {
        Some(report) if report.build == control::build() && !other_store => {}
        Some(_) => {
            server_process::stop(layout).await?;
            progress.done("server stopped", "its containers run on");
            server_process::start(layout, up)?;
        }
        None => {
            Before::remember(layout)?;
            if Programs::find(layout, &environment.path).is_err() {
                Programs::find_or_fetch(layout, &environment.path).await?;
                progress.done("runtime fetched", "");
            }
            server_process::start(layout, up)?;
        }
    }
    follow(layout, &mut progress).await?;
    if !up.no_kubeconfig {
        let owner = Owner::invoking(environment)?;
        owner.merge(&admin(layout)?)?;
        progress.done(
            "kubectl configured",
            &format!("context coracle in {}", owner.path.display()),
        );
    }
    progress.finish("The cluster is ready: kubectl get nodes");
    Ok(())
}

/// Tells the server's steps as they are done, until it is ready.
pub(crate) async fn follow(layout: &Layout, progress: &mut Progress) -> anyhow::Result<()> {
    let mut reports = appear(layout).await?;
    let mut told = 0;
    let mut trouble = None;
    loop {
        let next = tokio::time::timeout(PATIENCE, reports.next()).await;
        let Ok(next) = next else {
            let why = trouble.unwrap_or_else(|| "nothing stands in the way that it knows of".to_owned());
            bail!(
                "not ready after {} s: {why}\nthe server's log: {}",
                PATIENCE.as_secs(),
                layout.server_log().display()
            );
        };
        let Some(Report {
            steps,
            trouble: now,
            ready,
            ..
        }) = next?
        else {
            bail!("{}", last_words(&layout.server_log()));
        };
        for step in &steps[told..] {
            progress.done(&step.name, &step.detail);
        }
        told = steps.len();
        if let Some(now) = now
            && trouble.as_ref() != Some(&now)
        {
            say(&format!("  … {now}"));
            trouble = Some(now);
        }
        if ready {
            return Ok(());
        }
    }
}

async fn appear(layout: &Layout) -> anyhow::Result<Reports> {
    let deadline = tokio::time::Instant::now() + APPEAR;
    loop {
        if let Some(reports) = Reports::connect(&layout.control()).await {
            return Ok(reports);
        }
        if tokio::time::Instant::now() > deadline {
            bail!("{}", last_words(&layout.server_log()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    format!(
        "the server ended. Its last words ({}):\n{}",
        log.display(),
        lines.join("\n")
    )
}

/// The administrator's kubeconfig, as the server wrote it.
pub(crate) fn admin(layout: &Layout) -> anyhow::Result<serde_json::Value> {
    let path = layout.admin_kubeconfig();
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "there is no cluster here yet ({} is missing): coracle up",
            path.display()
        )
    })?;
    Ok(serde_saphyr::from_str(&text)?)
}

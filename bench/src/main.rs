//! Measures Coracle and compares with its budgets. Server CPU is the figure that counts: machines are shared and noisy.
//! Each run is kept as a line of `bench/history.jsonl`.

mod api;
mod client;
mod figures;
mod node;
mod process;
mod scheduler;

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::Parser;
use e2e::lab;
use e2e::tools::Tools;
use figures::Figures;

#[derive(Parser)]
struct Flags {
    /// Which part: `api`, `watch` (one load of it), `scheduler`, `memory` (of a whole cluster), `node`, or `all`.
    #[arg(default_value = "all")]
    part: String,
    /// Do not add this run to the history.
    #[arg(long)]
    forget: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(lab::INIT) {
        lab::init(&words.next().context("the lab names its ready file")?);
    }
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(scheduler::FILL) {
        let pki = words.next().context("the bench names the keys")?;
        scheduler::fill(Path::new(&pki))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Flags { part, forget } = Flags::parse();
    let folder = std::env::current_exe()?
        .parent()
        .context("a program lies in a folder")?
        .to_path_buf();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let figures = runtime.block_on(measure(&part, &folder))?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !forget {
        let commit = e2e::run(
            Command::new("git")
                .args(["rev-parse", "--short", "HEAD"])
                .current_dir(here),
        )?;
        figures.keep(&here.join("history.jsonl"), commit.trim())?;
    }
    Ok(if figures.all_within() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn measure(part: &str, folder: &Path) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let server = folder.join("apiserver");
    match part {
        "all" | "api" => api::measure(&server, &mut figures).await?,
        "watch" => api::measure_watch_alone(&server, &mut figures).await?,
        "scheduler" | "memory" | "node" => {}
        other => anyhow::bail!("no part is called {other:?}"),
    }
    if matches!(part, "all" | "scheduler") {
        scheduler::measure(&server, &folder.join("scheduler"), &mut figures).await?;
    }
    if matches!(part, "all" | "memory") {
        let tools = Tools {
            folder: Tools::fetch()?,
            coracle: folder.join("coracle"),
        };
        scheduler::measure_memory(&tools, &mut figures).await?;
    }
    if matches!(part, "all" | "node") {
        let tools = Tools {
            folder: Tools::fetch()?,
            coracle: folder.join("coracle"),
        };
        node::measure(&tools, &mut figures).await?;
    }
    Ok(figures)
}

fn say(line: &str) {
    // Nothing can be told to a reader that has gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}

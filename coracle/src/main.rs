//! `coracle`, the command people type. It starts, stops and describes a cluster on this machine; `serve` is the one
//! process that runs the cluster's parts, each under a supervisor of its own.

mod before;
mod config;
mod control;
mod doctor;
mod host;
mod image;
mod kubeconfig;
mod layout;
mod progress;
mod remove;
mod runtime;
mod serve;
mod server_process;
mod store;
mod up;

use std::process::ExitCode;

use anyhow::bail;
use clap::{CommandFactory, Parser};

use config::{Cli, Command, Environment, ImageCommand, StoreCommand};
use layout::Layout;
use progress::say;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment = Environment::read();
    let layout = Layout::default();
    let threads = if matches!(cli.command, Command::Serve(_)) { 2 } else { 1 };
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli.command, &layout, &environment)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("coracle: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, layout: &Layout, environment: &Environment) -> anyhow::Result<()> {
    match command {
        Command::Up(options) => up::run(layout, environment, &options).await,
        Command::Down => remove::down(layout, environment).await,
        Command::Reset => remove::reset(layout, environment).await,
        Command::Status => status(layout).await,
        Command::Doctor => {
            let running = control::ask(&layout.control()).await?.is_some();
            let subject = doctor::Subject {
                layout,
                path: &environment.path,
                secure_port: 6443,
                running,
            };
            if !doctor::examine(&subject, true) {
                bail!("this machine cannot run a cluster yet");
            }
            Ok(())
        }
        Command::Image(ImageCommand::Load { archive }) => {
            for loaded in image::load(&layout.containerd_socket(), &archive).await? {
                let image::Loaded {
                    name,
                    digest,
                    sent,
                    blobs,
                } = loaded;
                say(&format!("{name}  {digest}  ({sent} of {blobs} blobs sent)"));
            }
            Ok(())
        }
        Command::Image(ImageCommand::List) => {
            for line in image::present::list(&layout.containerd_socket()).await? {
                say(&line);
            }
            Ok(())
        }
        Command::Image(ImageCommand::Prune) => {
            let (names, bytes) = image::present::prune(&layout.containerd_socket()).await?;
            for name in &names {
                say(name);
            }
            say(&format!("{} images removed, {:.1} MB", names.len(), bytes as f64 / 1e6));
            Ok(())
        }
        Command::Logs {
            follow,
            tail,
            containerd,
        } => Err(server_process::logs(layout, follow, tail, containerd)),
        Command::Kubeconfig { print } => {
            let admin = up::admin(layout)?;
            if print {
                say(serde_saphyr::to_string(&admin)?.trim_end());
                return Ok(());
            }
            let owner = kubeconfig::Owner::invoking(environment)?;
            owner.merge(&admin)?;
            say(&format!("context coracle is in {}", owner.path.display()));
            Ok(())
        }
        Command::Store(StoreCommand::Move { etcd, embedded }) => store::run_move(layout, &etcd, embedded).await,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "coracle", &mut std::io::stdout());
            Ok(())
        }
        Command::Serve(options) => serve::run(layout, environment, &options).await,
    }
}

async fn status(layout: &Layout) -> anyhow::Result<()> {
    let Some(report) = control::ask(&layout.control()).await? else {
        bail!("the cluster is down: coracle up");
    };
    let state = if report.ready { "ready" } else { "starting" };
    say(&format!("server      {state} (process {})", report.pid));
    match runtime::containerd::running(layout).await {
        Some(pid) => say(&format!("containerd  running (process {pid})")),
        None => say("containerd  down"),
    }
    for step in &report.steps {
        say(&format!("  ✓ {:<28} {}", step.name, step.detail));
    }
    match report.trouble {
        Some(trouble) => bail!("{trouble}"),
        None => Ok(()),
    }
}

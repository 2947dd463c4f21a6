//! Whole clusters, as a user meets them: the built `coracle`, real containerd, real kubectl, real packet rules.
//! A lab node is a set of namespaces on a switch that has no route to the outside; images are made from files.
//! `tests/` holds the scenarios. What fails leaves its logs in the message, and every lab is taken down again.

pub mod images;
pub mod lab;
pub mod snapshot;
pub mod tools;

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, bail};

/// How long anything in a lab may take; the machines that run tests are small and busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Says something to whoever runs the tests.
pub fn say(line: &str) {
    use std::io::Write;
    // Nothing can be told to a reader that has gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs a command; its standard output, or an error with all that it said.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    said(&format!("{command:?}"), output)
}

/// The standard output of a command that succeeded.
pub fn said(what: &str, output: Output) -> anyhow::Result<String> {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{what}: {}\n{out}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(out)
}

/// Asks until the answer is there. For what cannot be watched; `kubectl wait` and `get -w` come first.
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test process of its own, in real time"
)]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if std::time::Instant::now() > deadline => return Err(error.context(format!("in vain: {what}"))),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

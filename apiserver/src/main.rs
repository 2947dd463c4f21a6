//! Flags, logs, run.

use std::process::ExitCode;

use apiserver::{Config, Flags};
use clap::Parser as _;

#[expect(clippy::print_stderr, reason = "there is no log yet")]
fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Err(error) = flags.logging.init() {
        eprintln!("apiserver: {error}");
        return ExitCode::FAILURE;
    }
    let config = match Config::try_from(flags) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("apiserver: {error}");
            return ExitCode::FAILURE;
        }
    };
    daemon::process::run("apiserver", |stop| apiserver::run(config, stop))
}

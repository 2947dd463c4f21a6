//! One server on a node: whoever holds the lock on the pid file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};

/// Takes the lock and writes our pid. The kernel gives it back however this process ends.
pub(crate) fn take(path: &Path) -> anyhow::Result<Flock<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            Ok(file)
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!("a server runs on this machine already (coracle status)"),
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

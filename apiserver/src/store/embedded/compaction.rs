//! From a long log to a snapshot, beside the writer.
//! Comes in: the map as it was at one moment. Goes out: files. One thread for each step, so that the writer only switches
//! from one log to the next and never waits for a large file.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::disk::Disk;
use super::log::{self, Log};
use super::queue::Queue;
use super::snapshot::{self, Meta};
use crate::store::Key;
use crate::store::state::Stored;
use crate::store::tree::Tree;

/// The blocks of an old log, to be used again.
pub(super) const SPARE: &str = "log.spare";
/// A larger one is not worth keeping.
const MOST_SPARE: u64 = 64 << 20;

/// What the writer hears.
#[derive(Debug)]
pub(super) enum Progress {
    /// The next log is there.
    Prepared(io::Result<Log>),
    /// The snapshot is there, or not; its size.
    Written(io::Result<u64>),
}

/// Makes the log of `generation`.
pub(super) fn prepare(
    disk: Arc<dyn Disk>,
    queue: Arc<Queue>,
    generation: u32,
    grow: u64,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("store-log".into()).spawn(move || {
        let prepared = next_log(&*disk, generation, grow);
        queue.compaction(Progress::Prepared(prepared));
    })
}

fn next_log(disk: &dyn Disk, generation: u32, grow: u64) -> io::Result<Log> {
    let spare = disk.names()?.iter().any(|name| name == SPARE);
    Log::create(disk, generation, spare.then_some(SPARE), grow)
}

/// Writes the snapshot that the log of `meta.generation` goes on from, then removes what came before.
pub(super) fn write(
    disk: Arc<dyn Disk>,
    queue: Arc<Queue>,
    meta: Meta,
    entries: Tree<Key, Stored>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("store-snapshot".into())
        .spawn(move || {
            let result = snapshot::write(&*disk, meta, &entries).inspect(|_| {
                // What stays is removed at the next start.
                if let Err(error) = remove_before(&*disk, meta.generation) {
                    tracing::warn!(%error, "old files of the store stay");
                }
            });
            drop(entries);
            queue.compaction(Progress::Written(result));
        })
}

/// Removes all files that the snapshot of `generation` replaces; keeps one log's blocks.
pub(super) fn remove_before(disk: &dyn Disk, generation: u32) -> io::Result<()> {
    let names = disk.names()?;
    let mut spare = names.iter().any(|name| name == SPARE);
    for name in &names {
        match numbered(name) {
            Some((Kind::Snapshot, of)) if of < generation => disk.remove(name)?,
            Some((Kind::Log, of)) if of < generation => {
                if !spare && disk.open(name)?.len()? <= MOST_SPARE {
                    disk.rename(name, SPARE)?;
                    spare = true;
                } else {
                    disk.remove(name)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Log,
    Snapshot,
}

/// What a file of ours is.
pub(super) fn numbered(name: &str) -> Option<(Kind, u32)> {
    let (kind, number) = name.split_once('.')?;
    let number: u32 = number.parse().ok()?;
    match kind {
        "log" if name == log::name(number) => Some((Kind::Log, number)),
        "snapshot" if name == snapshot::name(number) => Some((Kind::Snapshot, number)),
        _ => None,
    }
}

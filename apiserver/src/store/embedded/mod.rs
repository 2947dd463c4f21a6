//! The default store: a map in memory, made durable by a log and snapshots in one directory.
//! Comes in and goes out: [`Store`]'s. It knows bytes and no kind. One thread writes; readers and watchers see what is
//! synced (or was accepted lazily), and never wait for the disk.
//! Holds at all times: the newest snapshot and the logs from its generation on are the whole state. A revision that was
//! shown is never given to another write, also when a lazy write was lost: revisions are reserved in durable blocks, and
//! after an unclean stop they go on above the block.
//!
//! ```text
//! put ─► queue ─► writer: check ─► log, one sync ─► shared state ─► get, list, watch
//!                   └─ compaction: next log, snapshot, old files away
//! ```

mod compaction;
mod disk;
mod log;
mod queue;
mod record;
mod recover;
#[cfg(test)]
mod simulated;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::BoxStream;

use disk::{Directory, Disk};
use queue::{Queue, Write};
use writer::{Fatal, Writer};

use super::shared::Shared;
use super::state::{Limits, State};
use super::{Batch, Entry, Error, Expect, Key, Listing, Options, Page, Revision, Store};

/// Held by whoever uses the directory.
const LOCK: &str = "lock";
/// The version of the files that this code writes; it reads all up to it.
const FORMAT: u32 = 1;

/// Why a store cannot be opened. Nothing was changed, whichever it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process uses the store in {}", .0.display())]
    Locked(PathBuf),
    #[error("the store's files cannot be used")]
    Io(#[from] io::Error),
    /// What was acknowledged is not readable any more. A copy of the directory may help somebody; this code will not guess.
    #[error("the store's file {file} is damaged at byte {at}")]
    Damaged { file: String, at: u64 },
    #[error("the store's file {0} is missing")]
    Missing(String),
    #[error("the store's file {file} has format {version}, newer than this program's {FORMAT}")]
    Newer { file: String, version: u32 },
}

/// What to do when the disk failed and nobody knows what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// End the process: the next start reads what is really there.
    Abort,
    /// Answer `Unavailable` from now on, and tell [`Embedded::failed`].
    Report,
}

#[derive(Debug, Clone)]
pub struct Config {
    pub directory: PathBuf,
    pub limits: Limits,
    pub on_failure: OnFailure,
}

impl Config {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Config {
            directory: directory.into(),
            limits: Limits::default(),
            on_failure: OnFailure::Abort,
        }
    }
}

/// Sizes and times that only tests change.
#[derive(Debug, Clone, Copy)]
struct Tuning {
    /// The log grows by at least so much at a time.
    grow: u64,
    /// Logs shorter than this are not compacted.
    compact_from: u64,
    /// How long a lazy write may stay out of the log.
    lazy_delay: Duration,
    /// Revisions that one reserve covers.
    reserve: u64,
}

const TUNING: Tuning = Tuning {
    grow: 1 << 20,
    compact_from: 8 << 20,
    lazy_delay: Duration::from_secs(5),
    reserve: 10_000,
};

/// See the module.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    failed: tokio::sync::watch::Receiver<Option<Arc<io::Error>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held as long as the files may be written: whoever opens the store next may not be kept waiting by a reader of this
    /// one.
    lock: Mutex<Option<std::fs::File>>,
}

impl Embedded {
    /// Reads what is there, or begins anew in an empty directory. Blocks for as long as that takes.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let Config {
            directory,
            limits,
            on_failure,
        } = config;
        let lock = lock(&directory)?;
        Self::start(Arc::new(Directory(directory)), limits, TUNING, on_failure, Some(lock))
    }

    /// Whether a store was ever begun there.
    pub fn is_used(directory: &Path) -> io::Result<bool> {
        let mut names = match std::fs::read_dir(directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        names.try_fold(false, |used, name| Ok(used || name?.file_name() != LOCK))
    }

    /// Makes a store of `entries` with their revisions, which goes on above `revision`. Each may live for a time from now
    /// on. The directory must not be used.
    pub fn fill(
        directory: &Path,
        entries: impl Iterator<Item = (Entry, Option<Duration>)>,
        revision: Revision,
    ) -> Result<(), OpenError> {
        let _lock = lock(directory)?;
        let mut state = State::new(Limits::default());
        for (entry, lives) in entries {
            let stored = super::state::Stored {
                value: entry.value,
                revision: entry.revision,
                created: entry.created,
                expires: lives.map_or(0, |lives| unix_milliseconds() + lives.as_millis() as u64),
            };
            state.restore(entry.key, Some(stored));
        }
        let disk = Directory(directory.into());
        let meta = snapshot::Meta {
            generation: 1,
            revision,
            reserved: revision,
        };
        // A snapshot without its log is refused, so what is half made is never taken for a store.
        snapshot::write(&disk, meta, &state.snapshot())?;
        log::Log::create(&disk, 1, None, TUNING.grow)?;
        Ok(())
    }

    fn start(
        disk: Arc<dyn Disk>,
        limits: Limits,
        tuning: Tuning,
        on_failure: OnFailure,
        lock: Option<std::fs::File>,
    ) -> Result<Self, OpenError> {
        let mut state = State::new(limits);
        let recovered = recover::recover(&disk, &tuning, &mut state)?;
        state.start_at(recovered.revision);
        let shared = Shared::new(state);
        let queue = Queue::new();
        let writer = Writer::start(disk, shared.clone(), queue.clone(), tuning, recovered)?;
        let (tell, failed) = tokio::sync::watch::channel(None);
        let requests = queue.clone();
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || {
            // A panic is a bug, and what is half done then is as unknown as after a failed sync.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.run()));
            let error = match ended {
                Ok(Ok(())) => {
                    requests.fail();
                    return;
                }
                Ok(Err(Fatal(error))) => error,
                Err(_) => io::Error::other("the writer panicked"),
            };
            tracing::error!(%error, "the store's disk failed");
            // After a failed sync the kernel may have dropped what it could not write. Only a new start, which reads the
            // disk, knows what is there.
            tell.send_replace(Some(Arc::new(error)));
            if on_failure == OnFailure::Abort {
                std::process::abort();
            }
            requests.fail();
        })?;
        Ok(Embedded {
            shared,
            queue,
            failed,
            thread: Mutex::new(Some(thread)),
            lock: Mutex::new(lock),
        })
    }

    /// When the disk has failed; never, in good order.
    pub async fn failed(&self) -> Arc<io::Error> {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(error) => error.clone().expect("waited for it"),
            Err(_) => std::future::pending().await,
        }
    }

    /// Writes down what is queued and the exact revision, and lets go of the files. Blocks until that is done; writes
    /// that come later are refused. Dropping the store does the same.
    pub fn close(&self) {
        self.queue.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's thread panicked");
        }
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock(directory: &Path) -> Result<std::fs::File, OpenError> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let ancestors = || directory.ancestors().take_while(|d| !d.as_os_str().is_empty());
    let missing = ancestors().take_while(|d| !d.exists()).count();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    // What is durable in a directory that is not is not.
    for made in ancestors().take(missing) {
        let parent = match made.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::File::open(parent)?.sync_all()?;
    }
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::Locked(directory.into())),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Expiry is written down, so it is in the world's time.
fn unix_milliseconds() -> u64 {
    jiff::Timestamp::now().as_millisecond().max(0) as u64
}

impl Store for Embedded {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, Error>> {
        let entry = self.shared.read().get(key);
        std::future::ready(Ok(entry)).boxed()
    }

    fn list(&self, prefix: &str, page: Page) -> BoxFuture<'_, Result<Listing, Error>> {
        let listing = self.shared.list(prefix, &page);
        std::future::ready(listing).boxed()
    }

    fn put(&self, key: &Key, value: Bytes, expect: Expect, options: Options) -> BoxFuture<'_, Result<Revision, Error>> {
        let write = Write::Put { value, expect, options };
        self.queue.write(key.clone(), write).boxed()
    }

    fn delete(&self, key: &Key, at: Revision) -> BoxFuture<'_, Result<Revision, Error>> {
        self.queue.write(key.clone(), Write::Delete { at }).boxed()
    }

    fn watch(&self, prefix: &str, after: Revision) -> BoxStream<'static, Result<Batch, Error>> {
        self.shared.watch(prefix, after)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        let revision = self.shared.read().revision();
        std::future::ready(Ok(revision)).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>> {
        let result = self.shared.change(|state| state.compact(revision));
        std::future::ready(result).boxed()
    }
}

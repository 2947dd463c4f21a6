//! The one thread that writes.
//! Comes in: requests. Goes out: frames in the log, then effects in the shared state, then answers. It joins all requests
//! that wait into one sync, and checks each against the state and those before it in the same batch.
//! Holds at all times: what is published is durable, or was lazy and its revision is below the durable reserve.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use super::compaction::{self, Progress};
use super::disk::Disk;
use super::log::{Failure, Log};
use super::queue::{Queue, Request, Work, Write};
use super::recover::Recovered;
use super::snapshot::Meta;
use super::{Tuning, record, unix_milliseconds};
use crate::store::shared::Shared;
use crate::store::state::{Effect, Plan};
use crate::store::{Durability, Error, Key, Revision};

/// Entries that one batch expires.
const EXPIRE_AT_ONCE: usize = 256;
/// Payload of one batch, about: bounds the frame's memory and the time of one sync.
const BATCH_BYTES: usize = 8 << 20;
/// Only deletes may use the last of the space: a full store can be emptied.
const FOR_DELETES: usize = 64 << 10;
/// A batch waits for others no longer than this, however slow the disk is.
const LONGEST_GATHER: Duration = Duration::from_micros(400);

#[derive(Debug)]
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    tuning: Tuning,
    log: Log,
    /// No revision above this may be shown before the log says so.
    reserved: Revision,
    /// Lazy writes that are not in the log yet: keys, because only the last value counts; with the revision (for a
    /// delete) and the bytes it will take.
    dirty: BTreeMap<Key, (Revision, usize)>,
    dirty_bytes: usize,
    flush_at: Option<Instant>,
    /// The size of the last batch and the time of its sync: what the next may wait for.
    expected: usize,
    gather: Duration,
    compaction: Option<JoinHandle<()>>,
    snapshot_bytes: u64,
    older_log_bytes: u64,
    /// Where a compaction that failed is tried again.
    compact_from: u64,
}

/// The disk failed; the log cannot be trusted any more.
#[derive(Debug)]
pub(super) struct Fatal(pub(super) io::Error);

/// The batch is not in the log; nothing of it is done.
#[derive(Debug)]
struct NoSpace;

impl Writer {
    /// Makes the reserve durable; after this, requests may come.
    pub(super) fn start(
        disk: Arc<dyn Disk>,
        shared: Arc<Shared>,
        queue: Arc<Queue>,
        tuning: Tuning,
        recovered: Recovered,
    ) -> io::Result<Self> {
        let mut writer = Writer {
            disk,
            shared,
            queue,
            log: recovered.log,
            reserved: recovered.revision,
            dirty: BTreeMap::new(),
            dirty_bytes: 0,
            flush_at: None,
            expected: 0,
            gather: Duration::ZERO,
            compaction: None,
            snapshot_bytes: recovered.snapshot_bytes,
            older_log_bytes: recovered.older_log_bytes,
            compact_from: tuning.compact_from,
            tuning,
        };
        // After a stop in good order this also takes back that it was one.
        writer.log.room(record::OVERHEAD)?;
        writer.reserve(recovered.revision);
        match writer.log.commit() {
            Ok(()) => Ok(writer),
            Err(Failure::Full(error) | Failure::Broken(error)) => Err(error),
        }
    }

    /// Until the queue is closed and empty; then stops in good order.
    pub(super) fn run(mut self) -> Result<(), Fatal> {
        let result = self.serve();
        if let Some(thread) = self.compaction.take() {
            // It has nothing to say any more: what it leaves behind is seen to at the next start.
            let _ = thread.join();
        }
        result
    }

    fn serve(&mut self) -> Result<(), Fatal> {
        let mut rest = Vec::new();
        loop {
            let work = match rest.is_empty() {
                true => self.queue.take(self.deadline(), self.expected, self.gather),
                // More waits than one batch takes.
                false => Work {
                    requests: Vec::new(),
                    compaction: None,
                    closing: false,
                },
            };
            if let Some(progress) = work.compaction {
                self.compacted(progress)?;
            }
            let mut requests = std::mem::take(&mut rest);
            requests.extend(work.requests);
            let idle = requests.is_empty();
            rest = self.batch(requests)?;
            if self.flush_at.is_some_and(|at| at <= Instant::now()) {
                self.flush()?;
            }
            self.compact();
            if work.closing && idle {
                return self.stop();
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let expiry = self.shared.read().next_expiry().map(|at| {
            let wait = at.saturating_sub(unix_milliseconds());
            Instant::now() + Duration::from_millis(wait)
        });
        expiry.into_iter().chain(self.flush_at).min()
    }

    /// Does as many of the requests as fit into one batch, and what has expired; returns the others.
    fn batch(&mut self, mut requests: Vec<Request>) -> Result<Vec<Request>, Fatal> {
        let (mut bytes, mut count) = (0, 0);
        for request in &requests {
            bytes += size_of(request);
            if count > 0 && bytes > BATCH_BYTES {
                break;
            }
            count += 1;
        }
        let rest = requests.split_off(count);
        let now = unix_milliseconds();
        if requests.is_empty() && self.shared.read().next_expiry().is_none_or(|at| at > now) {
            return Ok(rest);
        }
        let fixed = self.dirty_bytes + 2 * record::OVERHEAD;
        let room = self.log.room(fixed + bytes + FOR_DELETES).map_err(Fatal)?;
        let mut used = fixed;
        let mut durable = false;
        let mut answers = Vec::with_capacity(requests.len());
        let mut plan;
        {
            let state = self.shared.read();
            plan = Plan::new(&state);
            plan.expire(&state, now, EXPIRE_AT_ONCE);
            for Request { key, write, reply, .. } in requests {
                let size = size(&key, &write);
                let result = match write {
                    Write::Put { .. } if used + size + FOR_DELETES > room => Err(no_space()),
                    Write::Delete { .. } if used + size > room => Err(no_space()),
                    Write::Put { value, expect, options } => {
                        let expires = options
                            .time_to_live
                            .map_or(0, |time| now.saturating_add(time.as_millis() as u64).max(1));
                        plan.put(&state, &key, &value, expect, expires)
                            .inspect(|_| durable |= options.durability == Durability::Durable)
                    }
                    Write::Delete { at } => plan.delete(&state, &key, at).inspect(|_| durable = true),
                };
                if result.is_ok() {
                    used += size;
                }
                answers.push((reply, result));
            }
        }
        let revision = plan.revision();
        if durable || revision > self.reserved {
            match self.log(&plan.effects, revision, used <= room)? {
                Ok(()) => {}
                Err(NoSpace) => {
                    // None of it is done. Refusals that the batch led to may be wrong now, so they are answered alike.
                    for (reply, _) in answers {
                        let _ = reply.send(Err(no_space()));
                    }
                    return Ok(rest);
                }
            }
        } else {
            for effect in &plan.effects {
                self.soil(effect);
            }
        }
        self.shared.apply(plan.effects);
        for (reply, result) in answers {
            // A caller that is gone has no use for it.
            let _ = reply.send(result);
        }
        Ok(rest)
    }

    /// Makes a batch durable, with the lazy writes before it.
    fn log(&mut self, effects: &[Effect], revision: Revision, with_dirty: bool) -> Result<Result<(), NoSpace>, Fatal> {
        let before = self.reserved;
        if revision.0 + self.tuning.reserve / 2 > self.reserved.0 {
            self.reserve(revision);
        }
        if with_dirty {
            self.write_dirty();
        }
        let frame = self.log.frame();
        for effect in effects {
            match &effect.now {
                Some(stored) => record::put(frame, &effect.key, stored),
                None => record::delete(frame, &effect.key, effect.revision),
            }
        }
        let started = Instant::now();
        match self.log.commit() {
            Ok(()) => {
                // A batch of the same clients comes back after this one; a sync is worth waiting for a part of itself.
                self.expected = effects.len() * 3 / 4;
                self.gather = (started.elapsed() / 3).min(LONGEST_GATHER);
                match with_dirty {
                    true => self.clear_dirty(),
                    // The newer value is in the log: an older one must not come after it.
                    false => effects.iter().for_each(|effect| self.forget_dirty(&effect.key)),
                }
                Ok(Ok(()))
            }
            Err(Failure::Full(error)) => {
                tracing::debug!(%error, "a batch found no space");
                self.reserved = before;
                Ok(Err(NoSpace))
            }
            Err(Failure::Broken(error)) => Err(Fatal(error)),
        }
    }

    fn reserve(&mut self, revision: Revision) {
        self.reserved = Revision(revision.0 + self.tuning.reserve);
        record::reserve(self.log.frame(), self.reserved);
    }

    /// Notes a lazy write that is about to be published.
    fn soil(&mut self, effect: &Effect) {
        self.forget_dirty(&effect.key);
        let size = record_size(&effect.key, effect.now.as_ref().map_or(0, |stored| stored.value.len()));
        self.dirty_bytes += size;
        self.dirty.insert(effect.key.clone(), (effect.revision, size));
        self.flush_at
            .get_or_insert_with(|| Instant::now() + self.tuning.lazy_delay);
    }

    fn forget_dirty(&mut self, key: &Key) {
        if let Some((_, size)) = self.dirty.remove(key) {
            self.dirty_bytes -= size;
        }
    }

    fn write_dirty(&mut self) {
        debug_assert_eq!(
            self.dirty_bytes,
            self.dirty.values().map(|(_, size)| size).sum::<usize>()
        );
        let state = self.shared.read();
        for (key, (revision, _)) in &self.dirty {
            match state.stored(key) {
                Some(stored) => record::put(self.log.frame(), key, stored),
                None => record::delete(self.log.frame(), key, *revision),
            }
        }
    }

    fn clear_dirty(&mut self) {
        self.dirty.clear();
        self.dirty_bytes = 0;
        self.flush_at = None;
    }

    fn flush(&mut self) -> Result<(), Fatal> {
        if self.dirty.is_empty() {
            self.flush_at = None;
            return Ok(());
        }
        let room = self.log.room(self.dirty_bytes + record::OVERHEAD).map_err(Fatal)?;
        let written = match room >= self.dirty_bytes + record::OVERHEAD {
            true => {
                let revision = self.shared.read().revision();
                self.log(&[], revision, true)?.is_ok()
            }
            false => false,
        };
        if !written {
            tracing::warn!(bytes = self.dirty_bytes, "no space for lazy writes; trying again");
            self.flush_at = Some(Instant::now() + self.tuning.lazy_delay.max(Duration::from_secs(1)));
        }
        Ok(())
    }

    /// Begins a compaction when the logs have outgrown the snapshot.
    fn compact(&mut self) {
        let logs = self.older_log_bytes + self.log.len();
        if self.compaction.is_some() || logs < self.compact_from.max(self.snapshot_bytes) {
            return;
        }
        let generation = self.log.generation + 1;
        let thread = compaction::prepare(self.disk.clone(), self.queue.clone(), generation, self.tuning.grow);
        self.started(thread);
    }

    fn started(&mut self, thread: io::Result<JoinHandle<()>>) {
        match thread {
            Ok(thread) => self.compaction = Some(thread),
            Err(error) => self.compaction_failed(&error),
        }
    }

    fn compaction_failed(&mut self, error: &io::Error) {
        tracing::warn!(%error, "the log could not be compacted");
        let logs = self.older_log_bytes + self.log.len();
        self.compact_from = logs + self.tuning.compact_from;
    }

    fn compacted(&mut self, progress: Progress) -> Result<(), Fatal> {
        if let Some(thread) = self.compaction.take() {
            // Its last act was to tell us.
            let _ = thread.join();
        }
        match progress {
            Progress::Prepared(Ok(next)) => {
                self.log.room(1).map_err(Fatal)?;
                record::seal(self.log.frame());
                match self.log.commit() {
                    Ok(()) => {}
                    Err(Failure::Full(error)) => {
                        self.compaction_failed(&error);
                        return Ok(());
                    }
                    Err(Failure::Broken(error)) => return Err(Fatal(error)),
                }
                self.older_log_bytes += self.log.len();
                self.log = next;
                let (entries, revision) = {
                    let state = self.shared.read();
                    (state.snapshot(), state.revision())
                };
                let meta = Meta {
                    generation: self.log.generation,
                    revision,
                    reserved: self.reserved,
                };
                let thread = compaction::write(self.disk.clone(), self.queue.clone(), meta, entries);
                self.started(thread);
            }
            Progress::Written(Ok(size)) => {
                self.snapshot_bytes = size;
                self.older_log_bytes = 0;
                self.compact_from = self.tuning.compact_from;
            }
            Progress::Prepared(Err(error)) | Progress::Written(Err(error)) => self.compaction_failed(&error),
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Fatal> {
        let revision = self.shared.read().revision();
        self.log.room(self.dirty_bytes + 2 * record::OVERHEAD).map_err(Fatal)?;
        self.write_dirty();
        record::clean(self.log.frame(), revision);
        match self.log.commit() {
            Ok(()) => Ok(()),
            // Then it was no stop in good order: the next start goes on above the reserve.
            Err(Failure::Full(error)) => {
                tracing::warn!(%error, "no space to note a stop in good order");
                Ok(())
            }
            Err(Failure::Broken(error)) => Err(Fatal(error)),
        }
    }
}

fn size_of(request: &Request) -> usize {
    size(&request.key, &request.write)
}

fn size(key: &Key, write: &Write) -> usize {
    let value = match write {
        Write::Put { value, .. } => value.len(),
        Write::Delete { .. } => 0,
    };
    record_size(key, value)
}

fn record_size(key: &Key, value: usize) -> usize {
    record::OVERHEAD + key.len() + value
}

fn no_space() -> Error {
    Error::Full(io::ErrorKind::StorageFull.into())
}

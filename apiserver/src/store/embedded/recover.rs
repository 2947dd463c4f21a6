//! From files to state, at start.

use std::sync::Arc;

use super::compaction::{Kind, numbered, remove_before};
use super::disk::Disk;
use super::log::{self, Log};
use super::record::{self, Record};
use super::snapshot;
use super::{OpenError, Tuning};
use crate::store::Revision;
use crate::store::state::State;

/// What was found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) log: Log,
    pub(super) snapshot_bytes: u64,
    /// Of logs before the current one that the next snapshot replaces.
    pub(super) older_log_bytes: u64,
    /// No revision above this was ever shown.
    pub(super) revision: Revision,
}

/// Fills `state` with what is durable and makes files where there are none.
pub(super) fn recover(disk: &Arc<dyn Disk>, tuning: &Tuning, state: &mut State) -> Result<Recovered, OpenError> {
    let names = disk.names()?;
    for name in names
        .iter()
        .filter(|name| *name == log::TEMPORARY || *name == snapshot::TEMPORARY)
    {
        disk.remove(name)?;
    }
    let of_kind = |wanted| {
        let mut numbers: Vec<u32> = names
            .iter()
            .filter_map(|name| numbered(name))
            .filter(|(kind, _)| *kind == wanted)
            .map(|(_, number)| number)
            .collect();
        numbers.sort_unstable();
        numbers
    };
    let (snapshots, logs) = (of_kind(Kind::Snapshot), of_kind(Kind::Log));
    let mut found = Found {
        snapshot_bytes: 0,
        last: state.revision(),
        reserved: state.revision(),
        clean: None,
        sealed: false,
    };
    let first = match snapshots.last() {
        Some(generation) => {
            let (meta, size) = snapshot::read(&**disk, *generation, state)?;
            found.snapshot_bytes = size;
            found.last = meta.revision;
            found.reserved = meta.reserved;
            *generation
        }
        None if logs.is_empty() => {
            let log = Log::create(&**disk, 1, None, tuning.grow)?;
            return Ok(found.end(log, 0));
        }
        None => 1,
    };
    let mut chain: Vec<u32> = logs.into_iter().filter(|number| *number >= first).collect();
    if chain.first() != Some(&first) {
        return Err(OpenError::Missing(log::name(first)));
    }
    let (mut older, mut generation) = (0, first);
    loop {
        chain.remove(0);
        found.sealed = false;
        let log = Log::open(&**disk, generation, tuning.grow, |payload| found.frame(state, payload))?;
        let Some(next) = chain.first().copied() else {
            if found.sealed {
                return Err(OpenError::Missing(log::name(generation + 1)));
            }
            remove_before(&**disk, first)?;
            return Ok(found.end(log, older));
        };
        if !found.sealed {
            // The next log was made, and then the writer did not come to use it.
            let after = Log::open(&**disk, next, tuning.grow, |_| true)?;
            if !after.is_empty() || chain.len() > 1 {
                return Err(OpenError::Damaged {
                    file: log::name(generation),
                    at: log.len(),
                });
            }
            disk.remove(&log::name(next))?;
            disk.sync()?;
            remove_before(&**disk, first)?;
            return Ok(found.end(log, older));
        }
        if next != generation + 1 {
            return Err(OpenError::Missing(log::name(generation + 1)));
        }
        older += log.len();
        generation = next;
    }
}

struct Found {
    snapshot_bytes: u64,
    last: Revision,
    reserved: Revision,
    /// Set by a clean stop, if nothing came after it.
    clean: Option<Revision>,
    sealed: bool,
}

impl Found {
    fn frame(&mut self, state: &mut State, mut payload: &[u8]) -> bool {
        if self.sealed {
            return false;
        }
        while !payload.is_empty() {
            self.clean = None;
            match record::take(&mut payload) {
                Some(Record::Put { key, stored }) => {
                    self.last = self.last.max(stored.revision);
                    state.restore(key, Some(stored));
                }
                Some(Record::Delete { key, revision }) => {
                    self.last = self.last.max(revision);
                    state.restore(key, None);
                }
                Some(Record::Reserve(up_to)) => self.reserved = self.reserved.max(up_to),
                Some(Record::Clean(revision)) => self.clean = Some(revision),
                Some(Record::Seal) => self.sealed = true,
                None => return false,
            }
        }
        true
    }

    fn end(self, log: Log, older_log_bytes: u64) -> Recovered {
        Recovered {
            log,
            snapshot_bytes: self.snapshot_bytes,
            older_log_bytes,
            revision: self.clean.unwrap_or(self.reserved.max(self.last)),
        }
    }
}

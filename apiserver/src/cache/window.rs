//! Recent changes of one resource, once for all its watchers.
//! Comes in: changes from `feed`, in order. Goes out: records by sequence number, which watchers keep as their cursor.
//! Holds at all times: every change after `floor` is here. Bounded by number, by the bytes that only history holds, and
//! by the compaction that the feeder does.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Item;
use crate::store::Revision;

/// What history may hold. A watcher that is further behind must list again.
const MOST_RECORDS: usize = 64 << 10;
const MOST_BYTES: usize = 16 << 20;

#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) revision: Revision,
    pub(super) old: Option<Arc<Item>>,
    pub(super) new: Option<Arc<Item>>,
}

#[derive(Debug, Default)]
pub(super) struct Window {
    records: VecDeque<Record>,
    /// The sequence number of the first record.
    start: u64,
    floor: Revision,
    bytes: usize,
}

impl Window {
    /// Nothing before this.
    pub(super) fn reset(&mut self, floor: Revision) {
        // One number is left out, so that a watcher at the old end is behind, not up to date.
        *self = Window {
            start: self.end() + 1,
            floor,
            ..Window::default()
        };
    }

    pub(super) fn push(&mut self, record: Record) {
        self.bytes += record.held();
        self.records.push_back(record);
        while self.records.len() > MOST_RECORDS || self.bytes > MOST_BYTES {
            self.pop();
        }
    }

    /// Forgets changes up to and including `revision`.
    pub(super) fn compact(&mut self, revision: Revision) {
        while self.records.front().is_some_and(|r| r.revision <= revision) {
            self.pop();
        }
        self.floor = self.floor.max(revision);
        if self.records.capacity() > 64 && self.records.capacity() / 4 > self.records.len() {
            self.records.shrink_to(self.records.len() * 2);
        }
    }

    fn pop(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= record.held();
            self.start += 1;
            self.floor = record.revision;
        }
    }

    /// All changes after this revision are here.
    pub(super) fn floor(&self) -> Revision {
        self.floor
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// The sequence number of the next record to come.
    pub(super) fn end(&self) -> u64 {
        self.start + self.records.len() as u64
    }

    /// The first record after `revision`, by number.
    pub(super) fn after(&self, revision: Revision) -> u64 {
        self.start + self.records.partition_point(|r| r.revision <= revision) as u64
    }

    /// Records from `cursor` on, which must not be before the start.
    pub(super) fn from(&self, cursor: u64) -> impl DoubleEndedIterator<Item = &Record> {
        self.records.range((cursor - self.start) as usize..)
    }
}

impl Record {
    /// Bytes that nothing but history holds.
    fn held(&self) -> usize {
        let json = |item: &Arc<Item>| item.json().head.len() + item.json().tail.len();
        self.old.as_ref().map_or(0, json)
    }
}

//! What the log and the snapshots are made of.

use bytes::Bytes;

use super::super::state::Stored;
use super::super::{Key, Revision};

/// One entry of a log's frame or a snapshot's block. Numbers are little endian.
#[derive(Debug)]
pub(super) enum Record {
    Put {
        key: Key,
        stored: Stored,
    },
    Delete {
        key: Key,
        revision: Revision,
    },
    /// No revision above this was ever shown to anybody.
    Reserve(Revision),
    /// A stop in good order: the revision is exact.
    Clean(Revision),
    /// The log goes on in the next generation's file.
    Seal,
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const RESERVE: u8 = 3;
const CLEAN: u8 = 4;
const SEAL: u8 = 5;

/// Bytes of a put beside its key and value; no other record has more beside its key.
pub(super) const OVERHEAD: usize = 1 + 3 * 8 + 2 * 4;

pub(super) fn put(out: &mut Vec<u8>, key: &str, stored: &Stored) {
    out.push(PUT);
    out.extend_from_slice(&stored.revision.0.to_le_bytes());
    out.extend_from_slice(&stored.created.0.to_le_bytes());
    out.extend_from_slice(&stored.expires.to_le_bytes());
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(&(stored.value.len() as u32).to_le_bytes());
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(&stored.value);
}

pub(super) fn delete(out: &mut Vec<u8>, key: &str, revision: Revision) {
    out.push(DELETE);
    out.extend_from_slice(&revision.0.to_le_bytes());
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(key.as_bytes());
}

pub(super) fn reserve(out: &mut Vec<u8>, up_to: Revision) {
    out.push(RESERVE);
    out.extend_from_slice(&up_to.0.to_le_bytes());
}

pub(super) fn clean(out: &mut Vec<u8>, revision: Revision) {
    out.push(CLEAN);
    out.extend_from_slice(&revision.0.to_le_bytes());
}

pub(super) fn seal(out: &mut Vec<u8>) {
    out.push(SEAL);
}

/// Takes one record from the front. `None`: these bytes are no records, though their checksum was right.
pub(super) fn take(bytes: &mut &[u8]) -> Option<Record> {
    let kind = *bytes.first()?;
    *bytes = &bytes[1..];
    Some(match kind {
        PUT => {
            let (revision, created, expires) = (number(bytes)?, number(bytes)?, number(bytes)?);
            let (key, value) = (length(bytes)?, length(bytes)?);
            Record::Put {
                key: text(bytes, key)?,
                stored: Stored {
                    // A copy, so that one value does not keep its neighbours in memory.
                    value: Bytes::copy_from_slice(split(bytes, value)?),
                    revision: Revision(revision),
                    created: Revision(created),
                    expires,
                },
            }
        }
        DELETE => {
            let revision = Revision(number(bytes)?);
            let key = length(bytes)?;
            Record::Delete {
                key: text(bytes, key)?,
                revision,
            }
        }
        RESERVE => Record::Reserve(Revision(number(bytes)?)),
        CLEAN => Record::Clean(Revision(number(bytes)?)),
        SEAL => Record::Seal,
        _ => return None,
    })
}

fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(front)
}
fn number(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(split(bytes, 8)?.try_into().ok()?))
}
fn length(bytes: &mut &[u8]) -> Option<usize> {
    Some(u32::from_le_bytes(split(bytes, 4)?.try_into().ok()?) as usize)
}
fn text(bytes: &mut &[u8], length: usize) -> Option<Key> {
    Some(std::str::from_utf8(split(bytes, length)?).ok()?.into())
}

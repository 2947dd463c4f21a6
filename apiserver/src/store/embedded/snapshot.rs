//! The whole state in one file, written beside the log and read at start.
//!
//! ```text
//! header  magic 16 | version u32 | generation u32 | revision u64 | reserved u64 | crc u32
//! block   length u32 | crc u32 | put records
//! end     0 u32 | crc u32 of the number of entries | that number u64
//! ```

use std::io;

use super::disk::{Disk, File};
use super::record::{self, Record};
use super::{FORMAT, OpenError};
use crate::store::state::{State, Stored};
use crate::store::tree::Tree;
use crate::store::{Key, Revision};

const MAGIC: &[u8; 16] = b"coracle-state\0\0\n";
const HEADER: usize = 44;
const BLOCK: usize = 128 << 10;
/// Written between two syncs, so that the log's own syncs do not queue behind all of it.
const SYNC_EVERY: u64 = 4 << 20;

/// What a snapshot says beside the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) generation: u32,
    pub(super) revision: Revision,
    pub(super) reserved: Revision,
}

/// A snapshot that is being written.
pub(super) const TEMPORARY: &str = "snapshot.tmp";

pub(super) fn name(generation: u32) -> String {
    format!("snapshot.{generation}")
}

/// Writes a snapshot, durable when this returns; its size.
pub(super) fn write(disk: &dyn Disk, meta: Meta, entries: &Tree<Key, Stored>) -> io::Result<u64> {
    let result = write_file(disk, TEMPORARY, meta, entries);
    match result {
        Ok(size) => {
            disk.rename(TEMPORARY, &name(meta.generation))?;
            disk.sync()?;
            Ok(size)
        }
        Err(error) => {
            // It may be what fills the disk. A failure to remove it changes nothing: the next start does.
            let _ = disk.remove(TEMPORARY);
            Err(error)
        }
    }
}

fn write_file(disk: &dyn Disk, name: &str, meta: Meta, entries: &Tree<Key, Stored>) -> io::Result<u64> {
    let file = disk.create(name)?;
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    header[16..20].copy_from_slice(&FORMAT.to_le_bytes());
    header[20..24].copy_from_slice(&meta.generation.to_le_bytes());
    header[24..32].copy_from_slice(&meta.revision.0.to_le_bytes());
    header[32..40].copy_from_slice(&meta.reserved.0.to_le_bytes());
    let crc = crc32fast::hash(&header[..40]);
    header[40..].copy_from_slice(&crc.to_le_bytes());
    file.write_at(0, &header)?;
    let (mut at, mut synced) = (HEADER as u64, 0);
    let mut block = vec![0; 8];
    for (key, stored) in entries.iter() {
        record::put(&mut block, key, stored);
        if block.len() >= BLOCK {
            at = write_block(&*file, at, &mut block)?;
            if at - synced >= SYNC_EVERY {
                file.sync()?;
                synced = at;
            }
        }
    }
    if block.len() > 8 {
        at = write_block(&*file, at, &mut block)?;
    }
    let count = (entries.len() as u64).to_le_bytes();
    let mut end = [0; 16];
    end[4..8].copy_from_slice(&crc32fast::hash(&count).to_le_bytes());
    end[8..].copy_from_slice(&count);
    file.write_at(at, &end)?;
    file.sync()?;
    Ok(at + end.len() as u64)
}

fn write_block(file: &dyn File, at: u64, block: &mut Vec<u8>) -> io::Result<u64> {
    let length = (block.len() - 8) as u32;
    let crc = crc32fast::hash(&block[8..]);
    block[..4].copy_from_slice(&length.to_le_bytes());
    block[4..8].copy_from_slice(&crc.to_le_bytes());
    file.write_at(at, block)?;
    let end = at + block.len() as u64;
    block.truncate(8);
    // One large value must not stay allocated for the rest.
    block.shrink_to(2 * BLOCK);
    Ok(end)
}

/// Reads a snapshot into `state`; what it says, and its size.
pub(super) fn read(disk: &dyn Disk, generation: u32, state: &mut State) -> Result<(Meta, u64), OpenError> {
    let file = disk.open(&name(generation))?;
    let damaged = |at| OpenError::Damaged {
        file: name(generation),
        at,
    };
    let mut header = [0; HEADER];
    let read = file.read_at(0, &mut header)?;
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    if read < HEADER || header[..16] != *MAGIC {
        return Err(damaged(0));
    }
    if number(16) > FORMAT {
        return Err(OpenError::Newer {
            file: name(generation),
            version: number(16),
        });
    }
    if number(40) != crc32fast::hash(&header[..40]) || number(20) != generation {
        return Err(damaged(0));
    }
    let meta = Meta {
        generation,
        revision: Revision(long(24)),
        reserved: Revision(long(32)),
    };
    let size = file.len()?;
    let (mut at, mut count, mut block) = (HEADER as u64, 0u64, Vec::new());
    loop {
        let mut head = [0; 8];
        if file.read_at(at, &mut head)? < head.len() {
            return Err(damaged(at));
        }
        let length = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
        let crc = u32::from_le_bytes(head[4..].try_into().expect("four bytes"));
        let wanted = if length == 0 { 8 } else { length };
        if at + 8 + wanted as u64 > size {
            return Err(damaged(at));
        }
        block.resize(wanted, 0);
        if file.read_at(at + 8, &mut block)? < wanted || crc != crc32fast::hash(&block) {
            return Err(damaged(at));
        }
        if length == 0 {
            if *block != count.to_le_bytes() {
                return Err(damaged(at));
            }
            return Ok((meta, size));
        }
        let mut rest = &*block;
        while !rest.is_empty() {
            match record::take(&mut rest) {
                Some(Record::Put { key, stored }) => state.restore(key, Some(stored)),
                _ => return Err(damaged(at)),
            }
            count += 1;
        }
        at += 8 + length as u64;
    }
}

//! The append log of one generation: a preallocated file of checksummed frames, one for each batch.
//! Comes in: frames. Goes out: after a restart, the frames again. It knows bytes, not what they mean.
//! Holds at all times: a frame is written only after the one before it was synced. So after a crash only the last one can
//! be torn, and a bad frame with a good one behind it is damage, which is refused.
//!
//! ```text
//! header  magic 16 | version u32 | generation u32 | salt u64 | crc u32, in a page of its own
//! frame   salt u64 | number u64 | length u32 | crc u32 | payload, padded to 8
//! ```
//! The salt is new for each generation: what an older use of the same blocks left behind, or what somebody put into a
//! value, is never taken for a frame.

use std::io;

use super::disk::{Disk, File, is_full, zero};
use super::{FORMAT, OpenError};

const MAGIC: &[u8; 16] = b"coracle-log\0\0\0\0\n";
/// Where frames start.
const START: u64 = 4096;
pub(super) const FRAME: usize = 24;

/// Why a frame is not in the log.
#[derive(Debug)]
pub(super) enum Failure {
    /// No space; nothing of it will be read after a restart, and the log goes on.
    Full(io::Error),
    /// Nobody knows what is on the disk. The log must not be used any more.
    Broken(io::Error),
}

#[derive(Debug)]
pub(super) struct Log {
    file: Box<dyn File>,
    pub(super) generation: u32,
    salt: u64,
    /// Where the next frame goes.
    tail: u64,
    /// The space that is ours.
    capacity: u64,
    number: u64,
    grow: u64,
    frame: Vec<u8>,
}

/// A log that is being made.
pub(super) const TEMPORARY: &str = "log.tmp";

pub(super) fn name(generation: u32) -> String {
    format!("log.{generation}")
}

impl Log {
    /// A new log, durable when this returns. Reuses the blocks of `spare`, if there is one.
    pub(super) fn create(disk: &dyn Disk, generation: u32, spare: Option<&str>, grow: u64) -> io::Result<Self> {
        let file = match spare {
            Some(spare) => {
                disk.rename(spare, TEMPORARY)?;
                disk.open(TEMPORARY)?
            }
            None => disk.create(TEMPORARY)?,
        };
        let mut capacity = file.len()?;
        if capacity < START + grow {
            file.allocate(capacity, START + grow)?;
            // Only the beginning: a log that grows under load must not write everything twice, and its blocks are used
            // again by the next generation.
            zero(&*file, capacity, START + grow)?;
            capacity = START + grow;
        }
        let salt = rand::random();
        file.write_at(0, &header(generation, salt))?;
        file.sync()?;
        disk.rename(TEMPORARY, &name(generation))?;
        disk.sync()?;
        Ok(Log {
            file,
            generation,
            salt,
            tail: START,
            capacity,
            number: 0,
            grow,
            frame: Vec::new(),
        })
    }

    /// Reads a log that is there; `each` gets every payload in order. It goes on after the last whole frame.
    pub(super) fn open(
        disk: &dyn Disk,
        generation: u32,
        grow: u64,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<Self, OpenError> {
        let file = disk.open(&name(generation))?;
        let capacity = file.len()?;
        let mut reader = Reader::new(&*file);
        let damaged = |at| OpenError::Damaged {
            file: name(generation),
            at,
        };
        let start = reader.get(0, HEADER)?.ok_or_else(|| damaged(0))?;
        let salt = salt_of(start, generation).map_err(|error| match error {
            Header::Damaged => damaged(0),
            Header::Newer(version) => OpenError::Newer {
                file: name(generation),
                version,
            },
        })?;
        let (mut tail, mut number) = (START, 0);
        while let Some((length, payload)) = reader.frame(tail, salt, |n| n == number)? {
            if !each(payload) {
                return Err(damaged(tail));
            }
            tail += length;
            number += 1;
        }
        // Whatever is there at the tail, was it the last?
        let mut at = tail + 8;
        while at + FRAME as u64 <= capacity {
            at = match reader.find(at, salt)? {
                Some(at) => at,
                None => break,
            };
            if reader.frame(at, salt, |n| n > number)?.is_some() {
                return Err(damaged(tail));
            }
            at += 8;
        }
        Ok(Log {
            file,
            generation,
            salt,
            tail,
            capacity,
            number,
            grow,
            frame: Vec::new(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.number == 0
    }

    /// Bytes that frames take.
    pub(super) fn len(&self) -> u64 {
        self.tail - START
    }

    /// How many bytes of payload the next frame may have, after an attempt to make it `wanted`.
    pub(super) fn room(&mut self, wanted: usize) -> io::Result<usize> {
        let end = self.tail + (FRAME + wanted + 8) as u64;
        if end > self.capacity {
            // More at a time as the log grows.
            let step = (self.capacity / 2).clamp(self.grow, 8 * self.grow);
            let to = end.max(self.capacity + step);
            match self.file.allocate(self.capacity, to) {
                Ok(()) => self.capacity = to,
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let room = (self.capacity - self.tail).saturating_sub(FRAME as u64 + 8);
        Ok(room as usize)
    }

    /// The payload of the next frame, to be appended to.
    pub(super) fn frame(&mut self) -> &mut Vec<u8> {
        if self.frame.is_empty() {
            self.frame.resize(FRAME, 0);
        }
        &mut self.frame
    }

    /// Writes the frame and makes it durable.
    pub(super) fn commit(&mut self) -> Result<(), Failure> {
        let mut frame = std::mem::take(&mut self.frame);
        let length = (frame.len() - FRAME) as u32;
        frame[..8].copy_from_slice(&self.salt.to_le_bytes());
        frame[8..16].copy_from_slice(&self.number.to_le_bytes());
        frame[16..20].copy_from_slice(&length.to_le_bytes());
        let crc = checksum(&frame[..20], &frame[FRAME..]);
        frame[20..FRAME].copy_from_slice(&crc.to_le_bytes());
        frame.resize(frame.len().next_multiple_of(8), 0);
        let written = self.file.write_at(self.tail, &frame);
        let size = frame.len() as u64;
        // The buffer is used again, unless one large batch made it so.
        if frame.capacity() <= 1 << 20 {
            frame.clear();
            self.frame = frame;
        }
        if let Err(error) = written {
            if !is_full(&error) {
                return Err(Failure::Broken(error));
            }
            // It could be whole all the same; the next sync makes sure that it is not.
            return match self.file.write_at(self.tail, &[0; FRAME]) {
                Ok(()) => Err(Failure::Full(error)),
                Err(_) => Err(Failure::Broken(error)),
            };
        }
        self.file.sync().map_err(Failure::Broken)?;
        self.tail += size;
        self.capacity = self.capacity.max(self.tail);
        self.number += 1;
        Ok(())
    }
}

const HEADER: usize = 36;

enum Header {
    Damaged,
    Newer(u32),
}

fn header(generation: u32, salt: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    header[16..20].copy_from_slice(&FORMAT.to_le_bytes());
    header[20..24].copy_from_slice(&generation.to_le_bytes());
    header[24..32].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32fast::hash(&header[..32]);
    header[32..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn salt_of(header: &[u8], generation: u32) -> Result<u64, Header> {
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    if header[..16] != *MAGIC {
        return Err(Header::Damaged);
    }
    // Before the checksum: a newer format may have it elsewhere.
    if number(16) > FORMAT {
        return Err(Header::Newer(number(16)));
    }
    if number(32) != crc32fast::hash(&header[..32]) || number(20) != generation {
        return Err(Header::Damaged);
    }
    Ok(u64::from_le_bytes(header[24..32].try_into().expect("eight bytes")))
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(payload);
    crc.finalize()
}

/// A file through a buffer, mostly read forwards.
struct Reader<'a> {
    file: &'a dyn File,
    at: u64,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a dyn File) -> Self {
        Reader {
            file,
            at: 0,
            buffer: Vec::new(),
        }
    }

    /// `None` where the file ends before.
    fn get(&mut self, at: u64, length: usize) -> io::Result<Option<&[u8]>> {
        let inside = at >= self.at && at + length as u64 <= self.at + self.buffer.len() as u64;
        if !inside {
            self.buffer.resize(length.max(256 << 10), 0);
            self.at = at;
            let read = self.file.read_at(at, &mut self.buffer)?;
            self.buffer.truncate(read);
        }
        let start = (at - self.at) as usize;
        Ok(self.buffer.get(start..start + length))
    }

    /// The frame at `at`, if there is a whole one whose number is wanted: its size and payload.
    fn frame(&mut self, at: u64, salt: u64, wanted: impl Fn(u64) -> bool) -> io::Result<Option<(u64, &[u8])>> {
        let Some(head) = self.get(at, FRAME)? else {
            return Ok(None);
        };
        let number = |range: std::ops::Range<usize>| u64::from_le_bytes(head[range].try_into().expect("eight bytes"));
        if number(0..8) != salt || !wanted(number(8..16)) {
            return Ok(None);
        }
        let length = u32::from_le_bytes(head[16..20].try_into().expect("four bytes")) as usize;
        if at + (FRAME + length) as u64 > self.file.len()? {
            return Ok(None);
        }
        let Some(frame) = self.get(at, FRAME + length)? else {
            return Ok(None);
        };
        let crc = u32::from_le_bytes(frame[20..FRAME].try_into().expect("four bytes"));
        if crc != checksum(&frame[..20], &frame[FRAME..]) {
            return Ok(None);
        }
        Ok(Some(((FRAME + length).next_multiple_of(8) as u64, &frame[FRAME..])))
    }

    /// The next place at or after `at`, which is a multiple of eight, where a frame could start.
    fn find(&mut self, mut at: u64, salt: u64) -> io::Result<Option<u64>> {
        const STEP: usize = 64 << 10;
        let end = self.file.len()?;
        while at < end {
            let length = STEP.min((end - at) as usize);
            let Some(bytes) = self.get(at, length)? else {
                return Ok(None);
            };
            if let Some(found) = bytes.chunks_exact(8).position(|chunk| chunk == salt.to_le_bytes()) {
                return Ok(Some(at + 8 * found as u64));
            }
            at += length as u64;
        }
        Ok(None)
    }
}

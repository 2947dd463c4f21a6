//! A directory in memory that fails on demand and loses what was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::disk::{Disk, File};

const SECTOR: usize = 512;

/// A clone is the same disk.
#[derive(Debug, Clone)]
pub(super) struct Simulated(Arc<Mutex<World>>);

/// When something goes wrong: operations are counted, and this is a number of one to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// From this operation on nothing works, as if the power were off. A write may be half done.
    PowerOff { at: u64 },
    /// This sync, and only it, fails.
    Sync { nth: u64 },
}

#[derive(Debug)]
struct World {
    names: BTreeMap<String, usize>,
    /// Names as they were at the last directory sync, and what happened since.
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<BTreeMap<String, usize>>,
    files: Vec<Content>,
    random: StdRng,
    fault: Option<Fault>,
    operations: u64,
    syncs: u64,
    written: u64,
    off: bool,
    /// Bytes that all files may have together.
    space: u64,
}

#[derive(Debug, Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Debug)]
struct Open {
    world: Arc<Mutex<World>>,
    file: usize,
}

impl Simulated {
    pub(super) fn new(seed: u64) -> Self {
        Simulated(Arc::new(Mutex::new(World {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            files: Vec::new(),
            random: StdRng::seed_from_u64(seed),
            fault: None,
            operations: 0,
            syncs: 0,
            written: 0,
            off: false,
            space: u64::MAX,
        })))
    }

    /// Arms a fault that counts from now.
    pub(super) fn arm(&self, fault: Option<Fault>) {
        let mut world = lock(&self.0);
        (world.operations, world.syncs) = (0, 0);
        world.fault = fault;
    }

    pub(super) fn limit(&self, space: u64) {
        lock(&self.0).space = space;
    }

    pub(super) fn used(&self) -> u64 {
        lock(&self.0).used()
    }

    /// Bytes that were written, apart from allocation.
    pub(super) fn written(&self) -> u64 {
        lock(&self.0).written
    }

    /// What a power failure leaves: what was synced, and any part of the rest.
    pub(super) fn crash(&self) -> Simulated {
        let mut old = lock(&self.0);
        let mut random = StdRng::seed_from_u64(old.random.random());
        let survived = random.random_range(0..=old.pending_names.len());
        let names = match survived {
            0 => old.durable_names.clone(),
            n => old.pending_names[n - 1].clone(),
        };
        let files = old.files.iter().map(|content| content.crash(&mut random)).collect();
        old.off = true;
        let new = Simulated::new(random.random());
        {
            let mut world = lock(&new.0);
            world.durable_names = names.clone();
            world.names = names;
            world.files = files;
            world.space = old.space;
        }
        new
    }

    /// Another disk with what a power failure leaves here; this one goes on.
    pub(super) fn peek(&self) -> Simulated {
        let off = lock(&self.0).off;
        let copy = self.crash();
        lock(&self.0).off = off;
        copy
    }

    pub(super) fn is_off(&self) -> bool {
        lock(&self.0).off
    }

    /// Changes a byte of a file in place; false where there is none.
    pub(super) fn corrupt(&self, name: &str, at: usize) -> bool {
        let mut world = lock(&self.0);
        let Some(file) = world.names.get(name).copied() else {
            return false;
        };
        let content = &mut world.files[file];
        match content.bytes.get_mut(at) {
            Some(byte) => {
                *byte ^= 0x20;
                content.durable = content.bytes.clone();
                true
            }
            None => false,
        }
    }

    pub(super) fn cut(&self, name: &str, length: usize) {
        let mut world = lock(&self.0);
        let file = world.names[name];
        world.files[file].bytes.truncate(length);
        world.files[file].durable = world.files[file].bytes.clone();
    }
}

impl Content {
    fn crash(&self, random: &mut StdRng) -> Content {
        let mut bytes = self.durable.clone();
        // A size is metadata: it may have changed although the data did not arrive.
        if self.bytes.len() > bytes.len() && random.random() {
            bytes.resize(self.bytes.len(), 0);
        }
        for sector in &self.dirty {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.bytes.len());
            if range.start < range.end && random.random() {
                if bytes.len() < range.end {
                    bytes.resize(range.end, 0);
                }
                bytes[range.clone()].copy_from_slice(&self.bytes[range]);
            }
        }
        Content {
            durable: bytes.clone(),
            bytes,
            dirty: BTreeSet::new(),
        }
    }
}

impl World {
    fn used(&self) -> u64 {
        self.names
            .values()
            .map(|file| self.files[*file].bytes.len() as u64)
            .sum()
    }

    /// Counts an operation that changes something.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        if let Some(Fault::PowerOff { at }) = self.fault {
            self.off |= self.operations >= at;
        }
        match self.off {
            true => Err(io::Error::other("the power is off")),
            false => Ok(()),
        }
    }

    fn renamed(&mut self) {
        let names = self.names.clone();
        self.pending_names.push(names);
    }

    fn write(&mut self, file: usize, at: usize, bytes: &[u8]) {
        let content = &mut self.files[file];
        if content.bytes.len() < at + bytes.len() {
            content.bytes.resize(at + bytes.len(), 0);
        }
        content.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        if !bytes.is_empty() {
            content.dirty.extend(at / SECTOR..=(at + bytes.len() - 1) / SECTOR);
        }
    }

    fn space_for(&self, file: usize, to: u64) -> io::Result<()> {
        let more = to.saturating_sub(self.files[file].bytes.len() as u64);
        match self.used() + more > self.space && more > 0 {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap()
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, name)
}

impl Disk for Simulated {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let file = *lock(&self.0).names.get(name).ok_or_else(|| missing(name))?;
        Ok(Box::new(Open {
            world: self.0.clone(),
            file,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut world = lock(&self.0);
        world.step()?;
        let file = world.files.len();
        world.files.push(Content::default());
        world.names.insert(name.into(), file);
        world.renamed();
        Ok(Box::new(Open {
            world: self.0.clone(),
            file,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = lock(&self.0);
        world.step()?;
        let file = world.names.remove(from).ok_or_else(|| missing(from))?;
        world.names.insert(to.into(), file);
        world.renamed();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = lock(&self.0);
        world.step()?;
        world.names.remove(name).ok_or_else(|| missing(name))?;
        world.renamed();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = lock(&self.0);
        world.step()?;
        world.durable_names = world.names.clone();
        world.pending_names.clear();
        Ok(())
    }
}

impl File for Open {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.world).files[self.file].bytes.len() as u64)
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let world = lock(&self.world);
        let bytes = &world.files[self.file].bytes;
        let start = (at as usize).min(bytes.len());
        let length = buffer.len().min(bytes.len() - start);
        buffer[..length].copy_from_slice(&bytes[start..start + length]);
        Ok(length)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = lock(&self.world);
        let before = world.off;
        if let Err(error) = world.step() {
            if !before {
                let part = world.random.random_range(0..=bytes.len());
                world.write(self.file, at as usize, &bytes[..part]);
            }
            return Err(error);
        }
        if let Err(error) = world.space_for(self.file, at + bytes.len() as u64) {
            let end = world.files[self.file].bytes.len();
            let part = end.saturating_sub(at as usize).min(bytes.len());
            world.write(self.file, at as usize, &bytes[..part]);
            return Err(error);
        }
        world.write(self.file, at as usize, bytes);
        world.written += bytes.len() as u64;
        Ok(())
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        let mut world = lock(&self.world);
        world.step()?;
        world.space_for(self.file, to)?;
        world.write(self.file, from as usize, &vec![0; (to - from) as usize]);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = lock(&self.world);
        world.step()?;
        world.syncs += 1;
        let content = &mut world.files[self.file];
        content.durable = content.bytes.clone();
        content.dirty.clear();
        if world.fault == Some(Fault::Sync { nth: world.syncs }) {
            return Err(io::Error::other("the disk did not take it"));
        }
        Ok(())
    }
}

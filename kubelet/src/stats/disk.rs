//! Room on file systems, and how much of it a directory takes.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde_json::{Value, json};

/// A file system as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    pub capacity: u64,
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// What is below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    pub bytes: u64,
    pub inodes: u64,
}

impl std::ops::AddAssign for Taken {
    fn add_assign(&mut self, other: Taken) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// The file system that holds the path.
pub fn room(path: &Path) -> Option<Room> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let size = stat.fragment_size() as u64;
    Some(Room {
        capacity: stat.blocks() as u64 * size,
        available: stat.blocks_available() as u64 * size,
        inodes: stat.files() as u64,
        inodes_free: stat.files_available() as u64,
    })
}

/// Everything below the directory on its own file system; a file with several names counts once. What goes while it is looked
/// at is not there.
pub fn taken(path: &Path) -> Taken {
    let mut taken = Taken::default();
    let Ok(top) = fs::symlink_metadata(path) else {
        return taken;
    };
    let mut seen = HashSet::new();
    let mut left: Vec<PathBuf> = vec![path.to_owned()];
    let mut add = |meta: &fs::Metadata| {
        if meta.nlink() > 1 && !meta.is_dir() && !seen.insert(meta.ino()) {
            return;
        }
        taken.bytes += meta.blocks() * 512;
        taken.inodes += 1;
    };
    add(&top);
    while let Some(dir) = left.pop() {
        for entry in entries(&dir) {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() {
                continue;
            }
            add(&meta);
            if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    taken
}

fn entries(dir: &Path) -> impl Iterator<Item = fs::DirEntry> {
    let read: io::Result<fs::ReadDir> = fs::read_dir(dir);
    read.into_iter().flatten().flatten()
}

/// As upstream's FsStats; without a `taken` the file system's own use.
pub fn shown(at: Timestamp, room: Option<Room>, taken: Option<Taken>) -> Value {
    let mut value = json!({"time": at.to_string()});
    if let Some(room) = room {
        value["availableBytes"] = room.available.into();
        value["capacityBytes"] = room.capacity.into();
        value["usedBytes"] = room.capacity.saturating_sub(room.available).into();
        value["inodesFree"] = room.inodes_free.into();
        value["inodes"] = room.inodes.into();
        value["inodesUsed"] = room.inodes.saturating_sub(room.inodes_free).into();
    }
    if let Some(taken) = taken {
        value["usedBytes"] = taken.bytes.into();
        value["inodesUsed"] = taken.inodes.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_takes_what_its_files_take_once() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        fs::write(root.path().join("d/a"), vec![1u8; 100_000]).unwrap();
        fs::hard_link(root.path().join("d/a"), root.path().join("b")).unwrap();
        let taken = taken(root.path());
        assert_eq!(taken.inodes, 3);
        assert!((100_000..300_000).contains(&taken.bytes), "{taken:?}");
        assert_eq!(super::taken(&root.path().join("absent")), Taken::default());
    }
}

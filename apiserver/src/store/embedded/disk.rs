//! The files of one directory, as little of them as the store needs: a trait, so that tests can make them fail.

use std::fmt::Debug;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A directory.
pub(super) trait Disk: Debug + Send + Sync + 'static {
    fn names(&self) -> io::Result<Vec<String>>;
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// A new empty file, in place of one that is there.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync(&self) -> io::Result<()>;
}

/// A file; every method may be called from any thread.
pub(super) trait File: Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    /// Reads until `buffer` is full or the file ends.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of it, or fails with any part of it written.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes sure that writes up to `to` find space. What was not written before reads as zeros.
    fn allocate(&self, from: u64, to: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// The real thing.
#[derive(Debug)]
pub(super) struct Directory(pub(super) PathBuf);

impl Disk for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            // What is not UTF-8 is not ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.0.join(name))?;
        Ok(Box::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            // Secrets are in here.
            .mode(0o600)
            .open(self.0.join(name))?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.0.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        std::fs::File::open(&self.0)?.sync_all()
    }
}

impl File for std::fs::File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match FileExt::read_at(self, &mut buffer[read..], at + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        let (offset, length) = (from as i64, (to - from) as i64);
        match nix::fcntl::posix_fallocate(self, offset, length) {
            Ok(()) => Ok(()),
            // Not every file system can; zeros take the space as well.
            Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::EINVAL) => zero(self, from, to),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Writes zeros: blocks that were written once have nothing but data to make durable at a later sync.
///
/// A page at a time: the page cache keeps what one write brought as one folio, and a later small write dirties all of its folio.
pub(super) fn zero(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let zeros = [0; 4 << 10];
    let mut at = from;
    while at < to {
        let step = (to - at).min(zeros.len() as u64);
        file.write_at(at, &zeros[..step as usize])?;
        at += step;
    }
    Ok(())
}

/// Whether an error says that there is no space, rather than that something is broken.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

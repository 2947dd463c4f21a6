//! Images without a registry: archives are read, and what the runtime lacks of them is sent to containerd's content
//! store; what nothing uses is removed. Comes in: a file or the built-in pause image. Goes out: images that pods can
//! name. Nothing is pulled here.

mod archive;
mod containerd;
pub(crate) mod pause;
pub(crate) mod present;
mod reference;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::{Context, bail};
use flate2::read::GzDecoder;

use archive::Archive;
use containerd::Containerd;

/// What one load did.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub name: String,
    pub digest: String,
    /// Blobs that were sent, of those that the image has.
    pub sent: usize,
    pub blobs: usize,
}

/// Loads every image of an archive (`docker save` or OCI layout, plain or gzip; `-` is standard input) into the
/// containerd that listens on `socket`. Blobs that are already there are not sent again.
pub(crate) async fn load(socket: &Path, archive: &Path) -> anyhow::Result<Vec<Loaded>> {
    let file = open(archive)?;
    let archive = Archive::read(file).with_context(|| format!("{} is no image archive", archive.display()))?;
    let images = archive.images()?;
    if images.is_empty() {
        bail!("the archive holds no image for this platform");
    }
    let mut containerd = Containerd::connect(socket).await?;
    let lease = containerd.lease().await?;
    let mut loaded = Vec::new();
    for image in &images {
        if image.names.is_empty() {
            bail!(
                "image {} of the archive has no name: save it as name:tag",
                image.manifest.digest
            );
        }
        let mut sent = 0;
        for blob in &image.blobs {
            sent += usize::from(containerd.put(&lease, blob, archive.open(blob)?).await?);
        }
        sent += usize::from(containerd.put_manifest(&lease, image).await?);
        for name in &image.names {
            containerd.name(name, &image.manifest).await?;
            loaded.push(Loaded {
                name: name.clone(),
                digest: image.manifest.digest.clone(),
                sent,
                blobs: image.blobs.len() + 1,
            });
        }
    }
    containerd.release(&lease).await?;
    Ok(loaded)
}

/// A seekable view of the archive: pipes and gzip are first spooled to an unnamed temporary file.
fn open(path: &Path) -> anyhow::Result<File> {
    let mut source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut magic = [0; 2];
        let read = file.read(&mut magic)?;
        file.rewind()?;
        if magic[..read] != [0x1f, 0x8b] {
            return Ok(file);
        }
        Box::new(file)
    };
    let mut magic = [0; 2];
    source.read_exact(&mut magic).context("the archive is empty")?;
    let gzip = magic == [0x1f, 0x8b];
    let whole = magic.as_slice().chain(source);
    let mut spool = tempfile::tempfile().context("cannot make a temporary file")?;
    if gzip {
        std::io::copy(&mut GzDecoder::new(whole), &mut spool)?;
    } else {
        let mut whole = whole;
        std::io::copy(&mut whole, &mut spool)?;
    }
    spool.flush()?;
    spool.rewind()?;
    Ok(spool)
}

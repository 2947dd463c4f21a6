//! Image archives: the OCI layout and the older `docker save` form, as an index of a tar file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reference;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Manifests and indexes are read into memory; nothing honest is larger.
const MAX_DOCUMENT: u64 = 4 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing)]
    pub annotations: HashMap<String, String>,
    #[serde(default, skip_serializing)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// One image of an archive.
#[derive(Debug)]
pub(crate) struct Image {
    /// In full form.
    pub names: Vec<String>,
    pub manifest: Descriptor,
    pub manifest_bytes: Vec<u8>,
    /// Config first, then the layers.
    pub blobs: Vec<Blob>,
}

/// A blob and where the archive keeps it.
#[derive(Debug)]
pub(crate) struct Blob {
    pub descriptor: Descriptor,
    path: String,
}

/// A seekable archive with the places of its files.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    files: HashMap<String, (u64, u64)>,
}

impl Archive {
    /// Indexes the archive; nothing but headers is read.
    pub(crate) fn read(file: File) -> anyhow::Result<Self> {
        let mut files = HashMap::new();
        let mut links = Vec::new();
        {
            let mut tar = tar::Archive::new(&file);
            for entry in tar.entries_with_seek()? {
                let entry = entry?;
                let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
                if let Some(target) = entry.link_name()? {
                    // Older `docker save` links a layer that several images share.
                    links.push((path, target.to_string_lossy().trim_start_matches("../").to_owned()));
                } else {
                    files.insert(path, (entry.raw_file_position(), entry.size()));
                }
            }
        }
        for (path, target) in links {
            if let Some(place) = files.get(&target).copied() {
                files.insert(path, place);
            }
        }
        Ok(Archive { file, files })
    }

    /// The images for this machine's platform.
    pub(crate) fn images(&self) -> anyhow::Result<Vec<Image>> {
        let mut images = Vec::new();
        if self.files.contains_key("index.json") {
            let index: Index = serde_json::from_slice(&self.document("index.json")?)?;
            for descriptor in index.manifests {
                let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
                    .iter()
                    .filter_map(|key| descriptor.annotations.get(*key))
                    .filter(|name| name.contains([':', '/']))
                    .map(|name| reference::normalize(name))
                    .take(1)
                    .collect();
                self.resolve(descriptor, names, &mut images)?;
            }
        }
        if self.files.contains_key("manifest.json") {
            let saved: Vec<Saved> = serde_json::from_slice(&self.document("manifest.json")?)?;
            for image in saved {
                self.add_saved(image, &mut images)?;
            }
        }
        Ok(images)
    }

    /// The bytes of a blob.
    pub(crate) fn open(&self, blob: &Blob) -> anyhow::Result<impl Read + Send + 'static> {
        self.reader(&blob.path)
    }

    fn reader(&self, path: &str) -> anyhow::Result<impl Read + Send + 'static> {
        let (offset, size) = *self
            .files
            .get(path)
            .with_context(|| format!("the archive lacks {path}"))?;
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.take(size))
    }

    fn document(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let reader = self.reader(path)?;
        reader.take(MAX_DOCUMENT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn resolve(&self, descriptor: Descriptor, names: Vec<String>, images: &mut Vec<Image>) -> anyhow::Result<()> {
        let bytes = self.document(&blob_path(&descriptor.digest)?)?;
        if descriptor.media_type == OCI_INDEX || descriptor.media_type == DOCKER_INDEX {
            let index: Index = serde_json::from_slice(&bytes)?;
            let here = index.manifests.into_iter().find(|entry| {
                entry
                    .platform
                    .as_ref()
                    .is_none_or(|p| p.os == "linux" && p.architecture == architecture())
            });
            return match here {
                Some(entry) => self.resolve(entry, names, images),
                None => Ok(()),
            };
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).context("a manifest does not parse")?;
        let blobs = std::iter::once(manifest.config)
            .chain(manifest.layers)
            .map(|descriptor| {
                Ok(Blob {
                    path: blob_path(&descriptor.digest)?,
                    descriptor,
                })
            })
            .collect::<anyhow::Result<_>>()?;
        images.push(Image {
            names,
            manifest: descriptor,
            manifest_bytes: bytes,
            blobs,
        });
        Ok(())
    }

    /// An image of the old form has no manifest: one is made of its config and layers. Newer `docker save` archives
    /// hold both forms; there the old one adds the names that the index lacks.
    fn add_saved(&self, saved: Saved, images: &mut Vec<Image>) -> anyhow::Result<()> {
        let names: Vec<String> = saved
            .repo_tags
            .unwrap_or_default()
            .iter()
            .map(|n| reference::normalize(n))
            .collect();
        let mut config = self.describe(&saved.config, OCI_CONFIG)?;
        let known = images
            .iter_mut()
            .find(|image| image.blobs[0].descriptor.digest == config.descriptor.digest);
        if let Some(image) = known {
            for name in names {
                if !image.names.contains(&name) {
                    image.names.push(name);
                }
            }
            return Ok(());
        }
        config.descriptor.media_type = OCI_CONFIG.to_owned();
        let mut blobs = vec![config];
        for layer in &saved.layers {
            blobs.push(self.describe(layer, OCI_LAYER)?);
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config: blobs[0].descriptor.clone(),
            layers: blobs[1..].iter().map(|blob| blob.descriptor.clone()).collect(),
        };
        let manifest_bytes = serde_json::to_vec(&manifest)?;
        images.push(Image {
            names,
            manifest: describe_bytes(&manifest_bytes, OCI_MANIFEST),
            manifest_bytes,
            blobs,
        });
        Ok(())
    }

    fn describe(&self, path: &str, media_type: &str) -> anyhow::Result<Blob> {
        let mut hash = Sha256::new();
        let size = std::io::copy(&mut self.reader(path)?, &mut hash)?;
        let mut magic = [0; 2];
        let gzip = self.reader(path)?.read(&mut magic)? == 2 && magic == [0x1f, 0x8b];
        let media_type = format!("{media_type}{}", if gzip { "+gzip" } else { "" });
        let digest = format!("sha256:{}", hex(&hash.finalize()));
        let descriptor = Descriptor {
            media_type,
            digest,
            size,
            annotations: HashMap::new(),
            platform: None,
        };
        Ok(Blob {
            descriptor,
            path: path.to_owned(),
        })
    }
}

/// The descriptor of bytes in hand.
pub(crate) fn describe_bytes(bytes: &[u8], media_type: &str) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: format!("sha256:{}", hex(&Sha256::digest(bytes))),
        size: bytes.len() as u64,
        annotations: HashMap::new(),
        platform: None,
    }
}

fn blob_path(digest: &str) -> anyhow::Result<String> {
    match digest.split_once(':') {
        Some((algorithm, hash)) if hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(format!("blobs/{algorithm}/{hash}"))
        }
        _ => bail!("{digest:?} is no digest"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests;

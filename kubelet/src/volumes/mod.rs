//! Volumes of a pod come in by their definitions and go out as directories of the node, filled and kept up to date.
//! Nothing here knows containers or their states, or writes to the API but for tokens.
//! Invariant: everything of a pod lies below its own directory, and `remove` leaves nothing of it mounted.

pub mod atomic;
pub mod claims;
pub mod mount;
pub mod objects;
pub mod ownership;
pub mod source;
pub mod subpath;
pub mod tokens;

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use tokio::time::Instant;

use self::{atomic::Payload, claims::Claims, objects::Objects, tokens::Tokens};
use crate::pods::{env, translate::Mounted};

/// Upstream's text of a FailedMount event.
#[derive(Debug, Clone, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
pub struct Error {
    pub volume: String,
    pub message: String,
}

#[derive(Debug, Clone)]
pub struct Volumes {
    root: PathBuf,
    objects: Objects,
    tokens: Arc<Tokens>,
    claims: Arc<Claims>,
}

/// Volumes that are ready, and when the first of them wants to be looked at again.
#[derive(Debug, Default)]
pub struct Prepared {
    pub mounts: HashMap<String, Mounted>,
    pub refresh: Option<Instant>,
}

impl Volumes {
    /// `root` is the node agent's directory.
    pub fn new(root: PathBuf, objects: Objects, tokens: Tokens, claims: Claims) -> Self {
        Volumes {
            root,
            objects,
            tokens: Arc::new(tokens),
            claims: Arc::new(claims),
        }
    }

    /// Makes or updates all volumes of the pod. Doing it again changes only what differs, so it is also how updates arrive.
    pub async fn prepare(&self, pod: &Pod, world: &env::World) -> Result<Prepared, Error> {
        let mut ready = Prepared::default();
        let Some(spec) = &pod.spec else { return Ok(ready) };
        for volume in spec.volumes.iter().flatten() {
            let fail = |message: String| Error {
                volume: volume.name.clone(),
                message,
            };
            let (mounted, refresh) = self.one(pod, volume, world).await.map_err(fail)?;
            ready.mounts.insert(volume.name.clone(), mounted);
            ready.refresh = [ready.refresh, refresh].into_iter().flatten().min();
        }
        Ok(ready)
    }

    /// Where one mount of a container sees only a part of its volume: made, and mounted below the pod's own directory.
    pub fn part(&self, uid: &str, volume: &Path, mount: (&str, &str, usize), sub: &str) -> Result<PathBuf, String> {
        let (name, container, position) = mount;
        let target = self.root.join("pods").join(uid).join("volume-subpaths");
        let target = target.join(name).join(container).join(position.to_string());
        match subpath::bind(volume, sub, &target) {
            Ok(()) => Ok(target),
            Err(error) => {
                tracing::info!(uid, volume = name, container, sub, %error, "a subPath is not ready");
                Err(format!(
                    "failed to prepare subPath for volumeMount \"{name}\" of container \"{container}\""
                ))
            }
        }
    }

    /// Takes everything of a pod away, mounts first.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        self.objects.release(uid);
        self.tokens.forget(uid);
        self.claims.release(uid);
        let dir = self.root.join("pods").join(uid);
        if !dir.exists() {
            return Ok(());
        }
        mount::unmount_below(&dir)?;
        remove_dir(&dir)
    }

    /// UIDs of pods that have a directory here.
    pub fn pods(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join("pods")) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .collect()
    }

    async fn one(&self, pod: &Pod, volume: &Volume, world: &env::World) -> Result<(Mounted, Option<Instant>), String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let dir = |plugin: &str| {
            self.root
                .join("pods")
                .join(uid)
                .join("volumes")
                .join(plugin)
                .join(&volume.name)
        };
        let writable = |path: PathBuf| Mounted { path, read_only: false };
        if let Some(source) = &volume.host_path {
            return host_path(source).map(|path| (writable(path), None));
        }
        let group = fs_group(pod);
        if let Some(source) = &volume.empty_dir {
            let path = dir("kubernetes.io~empty-dir");
            let most = memory_of(pod, world.memory);
            empty_dir(&path, source, group, most).map_err(|e| e.to_string())?;
            return Ok((writable(path), None));
        }
        if api::volume::claim_of("", volume).is_some() {
            return self.claims.mount(pod, volume, group).await.map(|it| (it, None));
        }
        let source = source::Context {
            pod,
            uid,
            world,
            objects: &self.objects,
            tokens: &self.tokens,
            group,
        };
        let (plugin, payload, memory) = if let Some(config_map) = &volume.config_map {
            ("kubernetes.io~configmap", source.config_map(config_map).await?, false)
        } else if let Some(secret) = &volume.secret {
            ("kubernetes.io~secret", source.secret(secret).await?, true)
        } else if let Some(downward) = &volume.downward_api {
            ("kubernetes.io~downward-api", source.downward(downward)?, true)
        } else if let Some(projected) = &volume.projected {
            ("kubernetes.io~projected", source.projected(projected).await?, true)
        } else {
            return Err("this kind of volume is not supported by this node".to_owned());
        };
        let path = dir(plugin);
        let written = if memory {
            mount::tmpfs(&path, None)
        } else {
            fs::create_dir_all(&path)
        }
        .and_then(|()| open_dir(&path, 0o777, group))
        .and_then(|()| atomic::write(&path, &payload.files, &stamp()));
        written.map_err(|e| e.to_string())?;
        // Writing to these would be undone by the next update, so upstream mounts them read-only whatever is asked for.
        Ok((Mounted { path, read_only: true }, payload.refresh))
    }
}

/// Files, and when they want to be made again.
#[derive(Debug, Default)]
pub struct Filled {
    pub files: Payload,
    pub refresh: Option<Instant>,
}

pub fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn stamp() -> String {
    // The form of upstream's directories, which people recognise.
    jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string()
}

/// A directory that the pod's group may use.
fn open_dir(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    let mode = if group.is_some() { mode | 0o2770 } else { mode };
    chown(path, None, group)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, group: Option<u32>, memory: i64) -> io::Result<()> {
    let limit = crate::resources::qos::whole(source.size_limit.as_ref());
    match source.medium.as_deref() {
        None | Some("") => {
            if path.exists() {
                return Ok(());
            }
            fs::create_dir_all(path)?;
        }
        Some("Memory") => {
            if mount::is_mounted(path)? {
                return Ok(());
            }
            let size = [limit.filter(|&l| l > 0), Some(memory).filter(|&m| m > 0)]
                .into_iter()
                .flatten()
                .min();
            mount::tmpfs(path, size.and_then(|s| u64::try_from(s).ok()))?;
        }
        Some(other) => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("unknown storage medium: {other}"),
            ));
        }
    }
    open_dir(path, 0o777, group)
}

/// What a volume in memory can grow to: the pod's own limit, where each container has one, else the node's memory.
fn memory_of(pod: &Pod, node: i64) -> i64 {
    match crate::resources::qos::pod(pod).memory {
        Some(limit) if node > 0 => limit.min(node),
        Some(limit) => limit,
        None => node,
    }
}

fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or("");
    let fail = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", source.path));
    let meta = fs::metadata(&path).ok();
    match kind {
        "" => {}
        "DirectoryOrCreate" => match &meta {
            None => {
                fs::create_dir_all(&path).map_err(|e| e.to_string())?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
            }
            Some(meta) if !meta.is_dir() => return fail("a directory"),
            Some(_) => {}
        },
        "FileOrCreate" => match &meta {
            None => fs::write(&path, "").map_err(|e| e.to_string())?,
            Some(meta) if !meta.is_file() => return fail("a file"),
            Some(_) => {}
        },
        "Directory" if !meta.as_ref().is_some_and(fs::Metadata::is_dir) => return fail("a directory"),
        "File" if !meta.as_ref().is_some_and(fs::Metadata::is_file) => return fail("a file"),
        "Socket" if !meta.as_ref().is_some_and(|m| m.file_type().is_socket()) => return fail("a socket"),
        "CharDevice" if !meta.as_ref().is_some_and(|m| m.file_type().is_char_device()) => {
            return fail("a character device");
        }
        "BlockDevice" if !meta.as_ref().is_some_and(|m| m.file_type().is_block_device()) => {
            return fail("a block device");
        }
        "Directory" | "File" | "Socket" | "CharDevice" | "BlockDevice" => {}
        other => return Err(format!("{other} is an invalid volume type")),
    }
    Ok(path)
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// How long to wait before a volume that failed is tried again: upstream's 500 ms doubling to two minutes.
pub fn retry_after(failures: u32) -> Duration {
    Duration::from_millis(500)
        .saturating_mul(1 << failures.min(8))
        .min(Duration::from_secs(122))
}

//! Keeps logs bounded: a file that has grown too long is put aside and the runtime begins another.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    pods::{shared::Shared, translate::log_path},
    runtime::{ContainerState, label},
};

/// On the list of things that poll: nothing tells of a file's size, and a log does not grow by much in this time.
const PERIOD: Duration = Duration::from_secs(60);

pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        if let Err(error) = look(&shared).await {
            tracing::debug!(%error, "looking at the sizes of logs failed");
        }
    }
}

async fn look(shared: &Shared) -> Result<(), crate::runtime::Error> {
    // Directories are cheaper to look at than the runtime is to ask; it is asked only when a log is too long.
    let long = too_long(&shared.config.logs_dir, shared.config.log_max_size);
    if long.is_empty() {
        return Ok(());
    }
    for container in shared.runtime.containers(None).await? {
        if container.state != ContainerState::Running as i32 {
            continue;
        }
        let of = |key: &str| container.labels.get(key).map(String::as_str).unwrap_or_default();
        let attempt = container.metadata.as_ref().map_or(0, |m| m.attempt);
        let dir = shared
            .config
            .pod_logs(of(label::POD_NAMESPACE), of(label::POD_NAME), of(label::POD_UID));
        let path = dir.join(log_path(of(label::CONTAINER_NAME), attempt));
        if !long.contains(&path) {
            continue;
        }
        match set_aside(&path, shared.config.log_max_files) {
            Ok(aside) => {
                if let Err(error) = shared.runtime.reopen_log(&container.id).await {
                    // The runtime writes on to the same file, and readers look for it by its name.
                    if !path.exists() {
                        put_back(&aside, &path);
                    }
                    return Err(error);
                }
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "a log was not rotated"),
        }
    }
    Ok(())
}

fn too_long(root: &Path, most: u64) -> Vec<PathBuf> {
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let pods = list(root);
    let containers = pods.flat_map(|p| list(&p.path()).collect::<Vec<_>>());
    let files = containers.flat_map(|c| list(&c.path()).collect::<Vec<_>>());
    files
        .filter(|f| f.file_name().to_string_lossy().ends_with(".log") && f.metadata().is_ok_and(|m| m.len() > most))
        .map(|f| f.path())
        .collect()
}

/// Renames the log and forgets the oldest of those put aside, so that `files` remain with the new one.
fn set_aside(path: &Path, files: u32) -> io::Result<PathBuf> {
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let mut target = path.as_os_str().to_owned();
    target.push(format!(".{stamp}"));
    fs::rename(path, &target)?;
    let mut old = aside(path)?;
    let keep = usize::try_from(files.saturating_sub(1)).unwrap_or(usize::MAX);
    let surplus = old.len().saturating_sub(keep);
    for path in old.drain(..surplus) {
        fs::remove_file(path)?;
    }
    Ok(target.into())
}

/// The files that this log was put aside as, the oldest first.
pub(super) fn aside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let dir = path.parent().unwrap_or(path);
    let mut old: Vec<PathBuf> = fs::read_dir(dir)?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect();
    old.sort();
    Ok(old)
}

fn put_back(aside: &Path, path: &Path) {
    if let Err(error) = fs::rename(aside, path) {
        tracing::warn!(path = %path.display(), %error, "a log could not be put back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_logs_are_found_and_the_oldest_go() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("ns_pod_uid/c");
        fs::create_dir_all(&dir).unwrap();
        let log = dir.join("0.log");
        for name in ["0.log", "0.log.20260101-000000", "0.log.20260102-000000", "1.log"] {
            fs::write(dir.join(name), if name == "0.log" { "0123456789" } else { "" }).unwrap();
        }
        assert_eq!(too_long(root.path(), 5), std::slice::from_ref(&log));
        set_aside(&log, 3).unwrap();
        let mut left: Vec<String> = fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left.len(), 3);
        assert_eq!((left[0].as_str(), left[2].as_str()), ("0.log.20260102-000000", "1.log"));
    }
}

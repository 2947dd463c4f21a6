//! Gives the files of a volume to a pod's group, as fsGroup asks: owner, rights of the group, and the bit by which new
//! files follow. After pkg/volume/volume_linux.go (1.36).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

const READ_WRITE: u32 = 0o660;
const READ: u32 = 0o440;
const ENTER: u32 = 0o110;
const FOLLOW: u32 = 0o2000;

/// Everything at and below `path`. With `only_root` nothing, where the top is in order already.
pub fn give(path: &Path, group: u32, read_only: bool, only_root: bool) -> io::Result<()> {
    if only_root && in_order(&fs::metadata(path)?, group, read_only) {
        return Ok(());
    }
    below(path, group, read_only)
}

fn rights(directory: bool, read_only: bool) -> u32 {
    let files = if read_only { READ } else { READ_WRITE };
    if directory { files | ENTER | FOLLOW } else { files }
}

fn in_order(found: &fs::Metadata, group: u32, read_only: bool) -> bool {
    let wanted = rights(true, read_only);
    found.gid() == group && found.mode() & wanted == wanted
}

/// The content first: a run that was cut short is seen at the top, and made again.
fn below(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            below(&entry?.path(), group, read_only)?;
        }
    }
    lchown(path, None, Some(group))?;
    // A link has no rights of its own, and where it leads is not ours to change.
    if found.is_symlink() {
        return Ok(());
    }
    let mode = (found.mode() & 0o7777) | rights(found.is_dir(), read_only);
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_the_groups_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let file = dir.path().join("sub/file");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        // The group of whoever runs the test: only root may give files to another.
        let group = nix::unistd::getgid().as_raw();
        give(dir.path(), group, false, false).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&file), 0o660);
        assert_eq!(mode(&dir.path().join("sub")) & 0o2070, 0o2070);
        assert_eq!(mode(outside.path()), 0o600);
        // In order at the top: what is below is let be.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        give(dir.path(), group, false, true).unwrap();
        assert_eq!(mode(&file), 0o600);
    }
}

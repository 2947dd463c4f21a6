//! One file or directory of a volume instead of all of it, found and made without ever leaving the volume.
//!
//! What lies in a volume belongs to the pod's containers, which may put links there and change them at any moment. So the way
//! down is walked by the kernel below an open directory (`RESOLVE_BENEATH`), and what was found is mounted by its descriptor.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    mount::{MntFlags, MsFlags},
    sys::stat::{Mode, fchmod, mkdirat},
};

/// Mounts `sub` of the volume at `target`, which is made to fit. Done again it shows what is there now.
pub fn bind(volume: &Path, sub: &str, target: &Path) -> io::Result<()> {
    let found = find(volume, sub)?;
    let seen = format!("/proc/self/fd/{}", found.as_raw_fd());
    let directory = fs::metadata(&seen)?.is_dir();
    if super::mount::is_mounted(target)? {
        nix::mount::umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    make_target(target, directory)?;
    nix::mount::mount(
        Some(Path::new(&seen)),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )?;
    Ok(())
}

fn make_target(target: &Path, directory: bool) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(had) if had.is_dir() == directory => return Ok(()),
        Ok(had) if had.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if directory {
        fs::create_dir_all(target)
    } else {
        target.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(target, "")
    }
}

/// Opens the place below the volume; directories that are not there are made with the volume's own permissions.
fn find(volume: &Path, sub: &str) -> io::Result<OwnedFd> {
    let root = open(volume, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let parts: Vec<&str> = sub.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.is_empty() {
        return Ok(root);
    }
    let below = |path: &Path, flags| {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&root, path, how)
    };
    let whole: PathBuf = parts.iter().collect();
    match below(&whole, OFlag::O_PATH) {
        Err(nix::Error::ENOENT) => {}
        found => return found.map_err(explain),
    }
    let mode = fs::metadata(volume)?.mode() & 0o7777;
    let mut at = PathBuf::new();
    let mut parent = below(Path::new("."), OFlag::O_PATH).map_err(explain)?;
    for part in parts {
        at.push(part);
        let next = match below(&at, OFlag::O_PATH) {
            Err(nix::Error::ENOENT) => {
                match mkdirat(&parent, part, Mode::from_bits_truncate(mode)) {
                    Ok(()) => {
                        // The mask of this process does not count; a link that somebody put in its place is not followed.
                        let made = nix::fcntl::openat(
                            &parent,
                            part,
                            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                            Mode::empty(),
                        )?;
                        let set = fs::metadata(format!("/proc/self/fd/{}", made.as_raw_fd()))?.mode() & 0o7000;
                        fchmod(&made, Mode::from_bits_truncate(mode | set))?;
                    }
                    Err(nix::Error::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                below(&at, OFlag::O_PATH)
            }
            found => found,
        };
        parent = next.map_err(explain)?;
    }
    Ok(parent)
}

fn explain(error: nix::Error) -> io::Error {
    match error {
        nix::Error::EXDEV | nix::Error::ELOOP => {
            io::Error::new(io::ErrorKind::PermissionDenied, "subpath leads out of the volume")
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn shown(fd: &OwnedFd) -> PathBuf {
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
    }

    #[test]
    fn directories_are_made_with_the_volumes_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().canonicalize().unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
        let found = find(&volume, "a/./b/").unwrap();
        assert_eq!(shown(&found), volume.join("a/b"));
        assert_eq!(fs::metadata(volume.join("a/b")).unwrap().mode() & 0o777, 0o777);
        assert_eq!(shown(&find(&volume, "a/b").unwrap()), volume.join("a/b"));
    }

    #[test]
    fn links_are_followed_inside_and_refused_outside() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().canonicalize().unwrap().join("v");
        fs::create_dir_all(volume.join("..2026")).unwrap();
        fs::write(volume.join("..2026/key"), "1").unwrap();
        symlink("..2026", volume.join("..data")).unwrap();
        symlink("..data/key", volume.join("key")).unwrap();
        assert_eq!(shown(&find(&volume, "key").unwrap()), volume.join("..2026/key"));
        for (name, target) in [("up", ".."), ("abs", "/etc"), ("far", "..data/../../outside")] {
            symlink(target, volume.join(name)).unwrap();
            let refused = find(&volume, name).unwrap_err().to_string();
            assert_eq!(refused, "subpath leads out of the volume", "{name}");
            assert!(find(&volume, &format!("{name}/new")).is_err(), "{name}/new");
        }
        assert!(!dir.path().join("new").exists());
        assert!(find(&volume, "key/below").is_err(), "a file has nothing below");
    }
}

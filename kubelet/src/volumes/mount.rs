//! Mounts of the node: made, found and undone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags};

/// A tmpfs at the path, once.
pub fn tmpfs(path: &Path, size: Option<u64>) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if is_mounted(path)? {
        return Ok(());
    }
    let options = size.map(|s| format!("size={s}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), flags, options.as_deref())?;
    Ok(())
}

pub fn is_mounted(path: &Path) -> io::Result<bool> {
    match path.canonicalize() {
        Ok(path) => Ok(points()?.contains(&path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Undoes every mount at or below the directory, the inner ones first.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    let mut below: Vec<PathBuf> = points()?.into_iter().filter(|p| p.starts_with(&dir)).collect();
    below.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    for point in below {
        match nix::mount::umount2(&point, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL) => {}
            // A reader that is slow to close must not keep the pod; the mount goes when it does.
            Err(nix::Error::EBUSY) => nix::mount::umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn points() -> io::Result<Vec<PathBuf>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?))
}

fn parse(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .collect()
}

/// Blanks and the like are written as `\` and three octal digits.
fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest
            .get(at + 1..at + 4)
            .and_then(|code| u8::from_str_radix(code, 8).ok())
        {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let text = "22 1 0:20 / /sys rw - sysfs sysfs rw\n23 1 0:21 / /a\\040b rw shared:1 - tmpfs tmpfs rw\n";
        assert_eq!(parse(text), [PathBuf::from("/sys"), PathBuf::from("/a b")]);
    }
}

//! Writes a set of files so that readers see either all of the old or all of the new, as upstream's volumes do:
//! names are links through `..data`, which is a link to a dated directory and is replaced by rename.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink},
    path::{Component, Path, PathBuf},
};

/// Relative path to content.
pub type Payload = BTreeMap<String, File>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    pub owner: Option<u32>,
    pub group: Option<u32>,
}

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Makes `target` hold exactly the payload. `stamp` names the new directory. True when something was written.
pub fn write(target: &Path, payload: &Payload, stamp: &str) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    let link = target.join(DATA);
    let old = fs::read_link(&link).ok();
    if let Some(old) = &old
        && same(&target.join(old), payload)?
    {
        return Ok(false);
    }
    let name = format!("..{stamp}");
    let dir = target.join(&name);
    make_dir(&dir)?;
    for (path, file) in payload {
        write_file(&dir, path, file)?;
    }
    let next = target.join(NEXT);
    match fs::remove_file(&next) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    symlink(&name, &next)?;
    fs::rename(&next, &link)?;
    let mut tops: Vec<&str> = payload
        .keys()
        .filter_map(|p| p.split('/').find(|c| !c.is_empty()))
        .collect();
    tops.dedup();
    for top in &tops {
        let visible = target.join(top);
        if fs::symlink_metadata(&visible).is_err() {
            symlink(Path::new(DATA).join(top), &visible)?;
        }
    }
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops.contains(&name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old {
        match fs::remove_dir_all(target.join(old)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(true)
}

fn check(path: &str) -> io::Result<()> {
    let clean = Path::new(path);
    let plain = clean.components().all(|c| matches!(c, Component::Normal(_)));
    let first_hidden = path.starts_with("..");
    if path.is_empty() || !plain || first_hidden {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("invalid path: must not contain '..': {path}"),
        ));
    }
    Ok(())
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

fn write_file(dir: &Path, path: &str, file: &File) -> io::Result<()> {
    use std::io::Write;
    let full = dir.join(path);
    if let Some(parent) = full.parent() {
        make_dir(parent)?;
    }
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&full)?;
    out.write_all(&file.data)?;
    if file.owner.is_some() || file.group.is_some() {
        chown(&full, file.owner, file.group)?;
    }
    // After the change of owner, which clears bits, and past the umask.
    fs::set_permissions(&full, fs::Permissions::from_mode(file.mode))
}

fn same(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = Vec::new();
    match walk(dir, dir, &mut found) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    }
    if found.len() != payload.len() {
        return Ok(false);
    }
    for path in found {
        let Some(want) = path.to_str().and_then(|p| payload.get(p)) else {
            return Ok(false);
        };
        let full = dir.join(&path);
        let mode = fs::metadata(&full)?.permissions().mode() & 0o7777;
        if mode != want.mode || fs::read(&full)? != want.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(root, &entry.path(), found)?;
        } else if let Ok(path) = entry.path().strip_prefix(root) {
            found.push(path.to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File {
            data: data.as_bytes().to_vec(),
            mode: 0o644,
            owner: None,
            group: None,
        };
        files
            .iter()
            .map(|(path, data)| ((*path).to_owned(), file(data)))
            .collect()
    }

    fn read(dir: &Path, path: &str) -> String {
        fs::read_to_string(dir.join(path)).unwrap()
    }

    #[test]
    fn files_appear_through_links_and_change_together() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        assert!(write(at, &payload(&[("a", "1"), ("sub/b", "2")]), "t1").unwrap());
        assert_eq!((read(at, "a"), read(at, "sub/b")), ("1".into(), "2".into()));
        assert!(fs::symlink_metadata(at.join("a")).unwrap().is_symlink());
        assert_eq!(fs::read_link(at.join("..data")).unwrap(), Path::new("..t1"));
        assert!(write(at, &payload(&[("a", "3"), ("c", "4")]), "t2").unwrap());
        assert_eq!((read(at, "a"), read(at, "c")), ("3".into(), "4".into()));
        assert!(!at.join("sub").exists());
        assert!(!at.join("..t1").exists());
    }

    #[test]
    fn an_unchanged_payload_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), &payload(&[("a", "1")]), "t1").unwrap());
        assert!(!write(dir.path(), &payload(&[("a", "1")]), "t2").unwrap());
    }

    #[test]
    fn a_changed_mode_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = payload(&[("a", "1")]);
        write(dir.path(), &files, "t1").unwrap();
        files.get_mut("a").unwrap().mode = 0o400;
        assert!(write(dir.path(), &files, "t2").unwrap());
    }

    #[test]
    fn an_empty_payload_empties_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1")]), "t1").unwrap();
        assert!(write(dir.path(), &payload(&[]), "t2").unwrap());
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "..data", ""] {
            assert!(write(dir.path(), &payload(&[(path, "1")]), "t").is_err(), "{path}");
        }
    }
}

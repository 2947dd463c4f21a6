//! The user's kubeconfig: the context `coracle` is merged in, everything else stays as it is.

use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

/// The name of the cluster, the user and the context.
pub(crate) const NAME: &str = "coracle";

/// Somebody's kubeconfig file.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub path: PathBuf,
    uid: u32,
    gid: u32,
}

impl Owner {
    /// The user who typed the command, also through sudo. `KUBECONFIG` wins over the home directory, as with kubectl.
    pub(crate) fn invoking(environment: &crate::config::Environment) -> anyhow::Result<Self> {
        let user = match environment.sudo_uid {
            Some(uid) => nix::unistd::User::from_uid(uid.into())?,
            None => nix::unistd::User::from_uid(nix::unistd::Uid::current())?,
        }
        .context("the invoking user has no account")?;
        let path = environment
            .kubeconfig
            .as_ref()
            .and_then(|list| list.split(':').find(|path| !path.is_empty()))
            .map_or_else(
                || match (&environment.home, environment.sudo_uid) {
                    // HOME is root's under sudo.
                    (Some(home), None) => Path::new(home).join(".kube/config"),
                    _ => user.dir.join(".kube/config"),
                },
                PathBuf::from,
            );
        Ok(Owner {
            path,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        })
    }

    /// Merges `cluster` (a kubeconfig with one cluster, user and context) in and makes it current.
    pub(crate) fn merge(&self, cluster: &Value) -> anyhow::Result<()> {
        let mut config = self
            .read()?
            .unwrap_or_else(|| json!({"apiVersion": "v1", "kind": "Config"}));
        merge(&mut config, cluster)?;
        self.write(&config)
    }

    /// Takes the context out again. A file that holds nothing else is removed.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        let Some(mut config) = self.read()? else { return Ok(()) };
        if !remove(&mut config) {
            return Ok(());
        }
        let empty = LISTS
            .iter()
            .all(|list| config[*list].as_array().is_none_or(Vec::is_empty));
        if empty {
            Ok(std::fs::remove_file(&self.path)?)
        } else {
            self.write(&config)
        }
    }

    fn read(&self) -> anyhow::Result<Option<Value>> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) if text.trim().is_empty() => return Ok(None),
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        };
        let value: Value = serde_saphyr::from_str(&text)
            .with_context(|| format!("{} does not parse: it is left as it is", self.path.display()))?;
        if !value.is_object() {
            bail!("{} is no kubeconfig: it is left as it is", self.path.display());
        }
        Ok(Some(value))
    }

    /// Replaces the file in one step, so that a reader sees the old one or the new one.
    fn write(&self, config: &Value) -> anyhow::Result<()> {
        let folder = self.path.parent().context("a kubeconfig lies in a folder")?;
        if !folder.exists() {
            std::fs::create_dir_all(folder)?;
            chown(folder, Some(self.uid), Some(self.gid))?;
        }
        // A link to the real file is followed, not replaced.
        let target = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let fresh = target.with_extension(format!("coracle-{}", std::process::id()));
        let written = (|| {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&fresh)?;
            std::io::Write::write_all(&mut file, serde_saphyr::to_string(config)?.as_bytes())?;
            file.sync_all()?;
            chown(&fresh, Some(self.uid), Some(self.gid))?;
            std::fs::rename(&fresh, &target)?;
            anyhow::Ok(())
        })();
        if written.is_err() {
            // The error that is returned says more than a failed clean-up.
            let _ = std::fs::remove_file(&fresh);
        }
        written.with_context(|| format!("cannot write {}", target.display()))
    }
}

const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

fn merge(config: &mut Value, cluster: &Value) -> anyhow::Result<()> {
    let config = config.as_object_mut().context("a kubeconfig is an object")?;
    for list in LISTS {
        let entries = list_of(config, list)?;
        entries.retain(|entry| entry["name"] != NAME);
        entries.extend(cluster[list].as_array().into_iter().flatten().cloned());
    }
    config.insert("current-context".into(), NAME.into());
    Ok(())
}

/// Whether anything was there to remove.
fn remove(config: &mut Value) -> bool {
    let Some(config) = config.as_object_mut() else {
        return false;
    };
    let mut found = false;
    for list in LISTS {
        if let Some(entries) = config.get_mut(list).and_then(Value::as_array_mut) {
            let before = entries.len();
            entries.retain(|entry| entry["name"] != NAME);
            found |= entries.len() != before;
        }
    }
    if config.get("current-context").is_some_and(|current| current == NAME) {
        let other = config
            .get("contexts")
            .and_then(|c| c[0]["name"].as_str())
            .unwrap_or_default()
            .to_owned();
        config.insert("current-context".into(), other.into());
    }
    found
}

fn list_of<'a>(config: &'a mut Map<String, Value>, name: &str) -> anyhow::Result<&'a mut Vec<Value>> {
    let slot = config.entry(name).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut().with_context(|| format!("{name} is no list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(server: &str) -> Value {
        json!({
            "clusters": [{"name": NAME, "cluster": {"server": server}}],
            "users": [{"name": NAME, "user": {}}],
            "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        })
    }

    fn theirs() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "work", "preferences": {"colors": true},
            "clusters": [{"name": "work", "cluster": {"server": "https://work"}}],
            "users": null,
            "contexts": [{"name": "work", "context": {"cluster": "work", "user": "me"}}],
        })
    }

    fn owner(folder: &Path) -> Owner {
        let uid = nix::unistd::Uid::current().as_raw();
        let gid = nix::unistd::Gid::current().as_raw();
        Owner {
            path: folder.join("kube/config"),
            uid,
            gid,
        }
    }

    #[test]
    fn other_contexts_are_kept_and_ours_is_replaced() {
        let mut config = theirs();
        merge(&mut config, &ours("https://old")).unwrap();
        merge(&mut config, &ours("https://new")).unwrap();
        assert_eq!(config["clusters"].as_array().unwrap().len(), 2);
        assert_eq!(config["clusters"][1]["cluster"]["server"], "https://new");
        assert_eq!(config["current-context"], NAME);
        assert_eq!(config["preferences"]["colors"], true);
    }

    #[test]
    fn removing_ours_falls_back_to_what_was_there() {
        let mut config = theirs();
        merge(&mut config, &ours("https://x")).unwrap();
        assert!(remove(&mut config));
        assert_eq!(config["current-context"], "work");
        assert!(!remove(&mut config));
    }

    #[test]
    fn the_file_is_private_and_goes_when_nothing_is_left() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let owner = owner(folder.path());
        owner.merge(&ours("https://x")).unwrap();
        assert_eq!(
            std::fs::metadata(&owner.path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        owner.remove().unwrap();
        assert!(!owner.path.exists());
    }

    #[test]
    fn a_file_that_does_not_parse_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let owner = owner(folder.path());
        std::fs::create_dir_all(owner.path.parent().unwrap()).unwrap();
        std::fs::write(&owner.path, "clusters: [").unwrap();
        assert!(owner.merge(&ours("https://x")).is_err());
        assert_eq!(std::fs::read_to_string(&owner.path).unwrap(), "clusters: [");
    }
}

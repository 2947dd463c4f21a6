//! Where this cluster keeps its objects: in the embedded store, or in an etcd that somebody runs. Comes in: flags. Goes
//! out: a choice that is kept, and a move from one to the other. It knows no object; the API server reads and writes them.
//! The choice changes by a move alone: a cluster never starts empty beside its objects.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use apiserver::config::Etcd as Flags;
use apiserver::registry::rows::rows;
use apiserver::registry::stored::{Media, Stored};
use apiserver::store::transfer::{self, Failed, Moved};
use apiserver::store::{Embedded, Etcd, Store, embedded, etcd};
use serde::{Deserialize, Serialize};

use crate::config::Up;
use crate::control;
use crate::layout::Layout;
use crate::progress::Progress;
use crate::serve;
use crate::server_process;
use crate::up;

/// An etcd, as it was named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Choice {
    servers: Vec<String>,
    authority: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    prefix: String,
}

impl Choice {
    /// `None`: the flags name no etcd.
    fn named(flags: &Flags) -> anyhow::Result<Option<Self>> {
        let Some(etcd::Config {
            servers,
            authority,
            identity,
            prefix,
        }) = flags.clone().reach()?
        else {
            return Ok(None);
        };
        // The server runs in another directory.
        let absolute = |path: PathBuf| {
            path.canonicalize()
                .with_context(|| format!("cannot read {}", path.display()))
        };
        let (certificate, key) = identity.unzip();
        Ok(Some(Choice {
            servers,
            authority: authority.map(absolute).transpose()?,
            certificate: certificate.map(absolute).transpose()?,
            key: key.map(absolute).transpose()?,
            prefix,
        }))
    }

    /// What the node uses; `None`: the embedded store.
    pub(crate) fn kept(layout: &Layout) -> anyhow::Result<Option<Self>> {
        let path = layout.etcd();
        match std::fs::read(&path) {
            Ok(bytes) => {
                let kept = serde_json::from_slice(&bytes);
                Ok(Some(kept.with_context(|| format!("{} is damaged", path.display()))?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn keep(choice: Option<&Self>, layout: &Layout) -> anyhow::Result<()> {
        let path = layout.etcd();
        match choice {
            Some(choice) => {
                std::fs::create_dir_all(&layout.data)?;
                daemon::pki::write_file(&path, &serde_json::to_vec_pretty(choice)?, 0o600)
                    .with_context(|| format!("cannot write {}", path.display()))
            }
            None => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("cannot remove {}", path.display()))
                }
                _ => Ok(()),
            },
        }
    }

    /// As the API server's flags say it.
    pub(crate) fn flags(&self) -> Vec<String> {
        let file = |name: &str, path: &Option<PathBuf>| path.as_ref().map(|p| format!("--{name}={}", p.display()));
        let mut flags = vec![
            format!("--etcd-servers={}", self.servers.join(",")),
            format!("--etcd-prefix={}", self.prefix),
        ];
        flags.extend(file("etcd-cafile", &self.authority));
        flags.extend(file("etcd-certfile", &self.certificate));
        flags.extend(file("etcd-keyfile", &self.key));
        flags
    }

    async fn open(&self) -> anyhow::Result<Etcd> {
        let config = etcd::Config {
            servers: self.servers.clone(),
            authority: self.authority.clone(),
            identity: self.certificate.clone().zip(self.key.clone()),
            prefix: self.prefix.clone(),
        };
        Ok(Etcd::open(config, Arc::new(Stored::new(rows(), Media::Json))).await?)
    }

    /// Another way to the same keys is no other store.
    fn same_store(&self, other: &Self) -> bool {
        self.prefix == other.prefix && self.servers.iter().any(|server| other.servers.contains(server))
    }
}

/// Takes what the flags of `up` or `serve` name. True: a server that runs does not use it yet.
pub(crate) fn choose(layout: &Layout, up: &Up) -> anyhow::Result<bool> {
    let Some(named) = Choice::named(&up.etcd)? else {
        return Ok(false);
    };
    let refuse = "coracle store move takes the cluster's objects along";
    match Choice::kept(layout)? {
        Some(kept) if kept == named => return Ok(false),
        Some(kept) if kept.same_store(&named) => {}
        Some(kept) => bail!(
            "this cluster keeps its objects in the etcd at {}: {refuse}",
            kept.servers.join(",")
        ),
        None if Embedded::is_used(&layout.store())? => {
            bail!("this cluster keeps its objects in its own store: {refuse}")
        }
        None => {}
    }
    Choice::keep(Some(&named), layout)?;
    Ok(true)
}

/// `coracle store move`: stops the server, moves, and starts it again if it ran. Containers run on.
pub(crate) async fn run_move(layout: &Layout, flags: &Flags, embedded: bool) -> anyhow::Result<()> {
    let target = match (Choice::named(flags)?, embedded) {
        (Some(_), true) | (None, false) => bail!("name the target: either --etcd-servers or --embedded"),
        (target, _) => target,
    };
    let source = Choice::kept(layout)?;
    match (&source, &target) {
        (None, None) => bail!("the objects are in the embedded store already"),
        (Some(source), Some(target)) if source.same_store(target) => {
            bail!("the objects are in this etcd already")
        }
        _ => {}
    }
    if source.is_none() && !Embedded::is_used(&layout.store())? {
        bail!("there is no cluster here yet: coracle up --etcd-servers begins one in etcd");
    }
    let mut progress = Progress::start();
    let running = control::ask(&layout.control()).await?.is_some();
    let options = running.then(|| server_process::options(layout)).transpose()?;
    if running {
        server_process::stop(layout).await?;
        progress.done("server stopped", "its containers run on");
    }
    let moved = transfer(layout, source.as_ref(), target.as_ref()).await;
    if let Ok(Moved { objects, revision }) = &moved {
        progress.done("objects moved", &format!("{objects}, at revision {revision}"));
    }
    // Whatever became of the move, a cluster that ran runs again, on the store that is chosen now.
    if let Some(options) = options {
        server_process::start(layout, &options)?;
        up::follow(layout, &mut progress).await?;
    }
    moved?;
    progress.finish(match target {
        Some(_) => "The cluster's objects are in etcd",
        None => "The cluster's objects are in its own store; what etcd holds of it is left as it was",
    });
    Ok(())
}

async fn transfer(layout: &Layout, source: Option<&Choice>, target: Option<&Choice>) -> anyhow::Result<Moved> {
    std::fs::create_dir_all(&layout.run)?;
    let _lock = serve::lock::take(&layout.pid())?;
    let rows = rows();
    let lives = |key: &str| {
        let rest = key.strip_prefix("/registry/")?;
        let of = |prefix: &str| rest.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        rows.iter().find(|row| of(&row.prefix))?.time_to_live
    };
    let directory = layout.store();
    let source: Box<dyn Store> = match source {
        Some(etcd) => Box::new(etcd.open().await?),
        None => Box::new(Embedded::open(embedded::Config::new(&directory))?),
    };
    let done = match target {
        Some(etcd) => transfer::into_etcd(&*source, &etcd.open().await?, &lives).await,
        None => transfer::into_embedded(&*source, &directory, &lives).await,
    };
    let moved = match done {
        Err(Failed::NotEmpty) => bail!("{}", not_empty(target, &directory)),
        done => done?,
    };
    drop(source);
    Choice::keep(target, layout)?;
    if target.is_some() && Embedded::is_used(&directory)? {
        // Out of the way of the move back, and still there if somebody wants it.
        let aside = layout.data.join(format!("store-until-{}", moved.revision));
        std::fs::rename(&directory, &aside).with_context(|| format!("cannot rename {}", directory.display()))?;
    }
    Ok(moved)
}

fn not_empty(target: Option<&Choice>, directory: &Path) -> String {
    match target {
        Some(etcd) => format!(
            "the etcd at {} holds objects already: choose another --etcd-prefix, or delete what is there \
             (etcdctl del --prefix {}/)",
            etcd.servers.join(","),
            etcd.prefix
        ),
        None => format!("{} holds a store already: move it away", directory.display()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::{Cli, Command};

    fn up(arguments: &[&str]) -> Up {
        match Cli::try_parse_from(["coracle", "up"].iter().chain(arguments))
            .unwrap()
            .command
        {
            Command::Up(up) => up,
            other => panic!("{other:?}"),
        }
    }

    fn layout(folder: &Path) -> Layout {
        Layout {
            data: folder.to_path_buf(),
            ..Layout::default()
        }
    }

    #[test]
    fn an_etcd_is_chosen_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout(folder.path());
        assert!(!choose(&layout, &up(&[])).unwrap());
        assert!(Choice::kept(&layout).unwrap().is_none());
        assert!(choose(&layout, &up(&["--etcd-servers=http://127.0.0.1:2379"])).unwrap());
        assert!(!choose(&layout, &up(&["--etcd-servers=http://127.0.0.1:2379"])).unwrap());
        assert!(!choose(&layout, &up(&[])).unwrap());
        let kept = Choice::kept(&layout).unwrap().unwrap();
        assert_eq!(
            kept.flags(),
            ["--etcd-servers=http://127.0.0.1:2379", "--etcd-prefix=/registry"]
        );
        let more = "--etcd-servers=http://127.0.0.1:2379,http://127.0.0.2:2379";
        assert!(choose(&layout, &up(&[more])).unwrap(), "a further member");
        let other = choose(&layout, &up(&["--etcd-servers=http://127.0.0.9:2379"]));
        assert!(other.unwrap_err().to_string().contains("coracle store move"));
    }

    #[test]
    fn a_cluster_with_objects_of_its_own_is_not_begun_anew_in_etcd() {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout(folder.path());
        drop(Embedded::open(embedded::Config::new(layout.store())).unwrap());
        let refused = choose(&layout, &up(&["--etcd-servers=http://127.0.0.1:2379"]));
        assert!(refused.unwrap_err().to_string().contains("coracle store move"));
        assert!(Choice::kept(&layout).unwrap().is_none());
    }
}

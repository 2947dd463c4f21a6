//! Claims whose class names this provisioner come in, with the node that was chosen for them; directories of that node
//! and volumes that stand for them go out, and go when their claims are gone.
//! It knows no pods and chooses no node and no volume: the scheduler and the binder do, as with any provisioner.
//! A volume's object exists only while its directory does: the directory is made before it and removed before it goes.

pub mod plan;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::volume::class_of_claim;
use daemon::events::{EventType, Recorder, reference};
use daemon::informer::{Change, Lister, Options};
use daemon::tasks::{self, Tasks};
use daemon::{Clients, Informers, Next, Queue};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::info;

use plan::{ClaimStep, VolumeStep};

/// Volumes at once.
const WORKERS: usize = 4;

/// What a node's provisioner is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node that it makes directories on: the one that it runs on.
    pub node_name: String,
    /// Where.
    pub directory: PathBuf,
}

/// All are retried with growing pauses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API refused")]
    Api(#[from] kube::Error),
    #[error("a cached object cannot be read")]
    Decode(#[from] daemon::informer::DecodeError),
    #[error("the directory {0}")]
    Directory(PathBuf, #[source] io::Error),
    #[error("the node {0} is not registered yet")]
    NoNode(String),
    #[error("the work on a directory ended early")]
    Panic(#[from] tokio::task::JoinError),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Claim(Arc<str>, Arc<str>),
    Volume(Arc<str>),
}

struct Provisioner {
    config: Config,
    client: kube::Client,
    recorder: Recorder,
    claims: Lister<PersistentVolumeClaim>,
    volumes: Lister<PersistentVolume>,
    classes: Lister<StorageClass>,
    nodes: Lister<Node>,
}

/// Makes and removes directories until `stop`. They stay when it stops.
pub async fn run(config: Config, clients: Arc<dyn Clients>, stop: CancellationToken) -> Result<(), tasks::Error> {
    let client = clients.own();
    let informers = Informers::new(client.clone());
    let provisioner = Arc::new(Provisioner {
        recorder: Recorder::new(
            client.clone(),
            format!("{}_{}", plan::NAME, config.node_name),
            config.node_name.clone(),
        ),
        claims: informers.of(Options::default()),
        volumes: informers.of(Options::default()),
        classes: informers.of(Options::default()),
        nodes: informers.of(Options {
            fields: format!("metadata.name={}", config.node_name),
            ..Options::default()
        }),
        config,
        client,
    });
    let mut tasks = Tasks::under(&stop);
    tasks.spawn("informers", |stop| informers.run(stop));
    tasks.spawn("volumes", |stop| async move {
        let ready = async {
            provisioner.volumes.synced().await;
            provisioner.classes.synced().await;
            provisioner.nodes.synced().await;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = ready => {}
        }
        let queue = Queue::new();
        provisioner.listen(&queue);
        daemon::work(queue, WORKERS, stop, move |key| {
            let provisioner = provisioner.clone();
            async move { provisioner.reconcile(&key).await }
        })
        .await
    });
    tasks.run(stop.cancelled()).await
}

impl Provisioner {
    fn listen(&self, queue: &Queue<Key>) {
        let into = queue.clone();
        self.claims.on_change(move |change| {
            if let Change::Applied { new, .. } = change {
                into.add(Key::Claim(new.namespace.clone(), new.name.clone()));
            }
        });
        let into = queue.clone();
        self.volumes.on_change(move |change| {
            if let Change::Applied { new, .. } = change {
                into.add(Key::Volume(new.name.clone()));
            }
        });
        let (into, claims) = (queue.clone(), self.claims.clone());
        self.classes.on_change(move |change| {
            if let Change::Applied { .. } = change {
                for claim in claims.list() {
                    into.add(Key::Claim(claim.namespace.clone(), claim.name.clone()));
                }
            }
        });
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        match key {
            Key::Claim(namespace, name) => self.claim(namespace, name).await?,
            Key::Volume(name) => self.volume(name).await?,
        }
        Ok(Next::Done)
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let Some(entry) = self.claims.get(namespace, name) else {
            return Ok(());
        };
        let claim = entry.typed()?;
        let class = self.classes.get("", class_of_claim(&claim));
        let class = class.map(|class| class.typed()).transpose()?;
        let volume = api::volume::volume_name(&claim).and_then(|name| self.volumes.get("", name));
        let volume = volume.map(|volume| volume.typed()).transpose()?;
        let about = reference(&*claim);
        match plan::claim(&claim, class.as_deref(), volume.as_deref(), &self.config.node_name) {
            ClaimStep::Nothing => {}
            ClaimStep::Refuse(why) => {
                self.recorder
                    .publish(&about, EventType::Warning, "ProvisioningFailed", why);
            }
            ClaimStep::Make(class) => {
                let text = format!("External provisioner is provisioning volume for claim \"{namespace}/{name}\"");
                self.recorder.publish(&about, EventType::Normal, "Provisioning", text);
                match self.make(&claim, class).await {
                    Ok(Some(volume)) => {
                        let text = format!("Successfully provisioned volume {volume}");
                        self.recorder
                            .publish(&about, EventType::Normal, "ProvisioningSucceeded", text);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let text = format!("failed to provision volume: {}", daemon::chain(&error));
                        self.recorder
                            .publish(&about, EventType::Warning, "ProvisioningFailed", text);
                        return Err(error);
                    }
                }
            }
            ClaimStep::Grow { volume, size } => {
                let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
                let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
                let capacity = json!({"storage": size});
                let change = json!({"spec": {"capacity": capacity}});
                volumes
                    .patch(&volume, &PatchParams::default(), &Patch::Merge(change))
                    .await?;
                let change = json!({"metadata": {"uid": claim.metadata.uid}, "status": {"capacity": capacity}});
                claims
                    .patch_status(name, &PatchParams::default(), &Patch::Merge(change))
                    .await?;
                let text = "Resize volume succeeded";
                self.recorder
                    .publish(&about, EventType::Normal, "VolumeResizeSuccessful", text);
            }
        }
        Ok(())
    }

    /// Says the volume's name, unless somebody else made it.
    async fn make(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<Option<String>, Error> {
        let node = self.nodes.get("", &self.config.node_name);
        let Some(node) = node.map(|node| node.typed()).transpose()? else {
            return Err(Error::NoNode(self.config.node_name.clone()));
        };
        let path = self.config.directory.join(plan::directory(claim));
        let volume = plan::volume(claim, class, &node, &path);
        let name = volume.metadata.name.clone().unwrap_or_default();
        make_directory(&path).map_err(|error| Error::Directory(path.clone(), error))?;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        match volumes.create(&PostParams::default(), &volume).await {
            Ok(_) => {
                info!(volume = %name, path = %path.display(), "volume made");
                Ok(Some(name))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let have = volumes.get(&name).await?;
                if !plan::is_ours(&have, &self.config.node_name) {
                    // Another node was faster, and nobody will use what was made here.
                    std::fs::remove_dir(&path).map_err(|error| Error::Directory(path, error))?;
                }
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn volume(&self, name: &str) -> Result<(), Error> {
        let Some(entry) = self.volumes.get("", name) else {
            return Ok(());
        };
        let volume = entry.typed()?;
        match plan::end(&volume, &self.config.node_name, &self.config.directory) {
            VolumeStep::Nothing => Ok(()),
            VolumeStep::Refuse(why) => {
                let about = reference(&*volume);
                self.recorder
                    .publish(&about, EventType::Warning, "VolumeFailedDelete", why);
                Ok(())
            }
            VolumeStep::LetGo => self.let_go(&volume).await,
            VolumeStep::Remove(path) => {
                let gone = path.clone();
                let removed = tokio::task::spawn_blocking(move || remove_directory(&gone)).await?;
                if let Err(error) = removed {
                    let text = format!("{}: {error}", path.display());
                    let about = reference(&*volume);
                    self.recorder
                        .publish(&about, EventType::Warning, "VolumeFailedDelete", text);
                    return Err(Error::Directory(path, error));
                }
                info!(volume = name, path = %path.display(), "volume removed");
                self.delete(&volume).await?;
                self.let_go(&volume).await
            }
        }
    }

    async fn delete(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: volume.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        match volumes.delete(name, &params).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            answer => answer.map(drop).map_err(Error::from),
        }
    }

    /// Takes our finalizer off.
    async fn let_go(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let Some(mut now) = volumes.get_opt(name).await? else {
            return Ok(());
        };
        if now.metadata.uid != volume.metadata.uid || !plan::let_go(&mut now) {
            return Ok(());
        }
        match volumes.replace(name, &PostParams::default(), &now).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            answer => answer.map(drop).map_err(Error::from),
        }
    }
}

/// A directory that any user of a container may write to.
fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

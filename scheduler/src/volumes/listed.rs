//! What informers show of claims, volumes and classes.

use std::sync::Arc;

use daemon::informer::{Informers, Kind, Lister, Options};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use tokio::sync::watch;

use super::Source;

/// The three listers, and a signal at each change of one.
#[derive(Debug, Clone)]
pub struct Listed {
    claims: Lister<PersistentVolumeClaim>,
    volumes: Lister<PersistentVolume>,
    classes: Lister<StorageClass>,
    changes: watch::Sender<()>,
}

impl Listed {
    /// `changed` is called at each change.
    pub fn new(informers: &Informers, changed: impl Fn() + Send + Sync + Clone + 'static) -> Self {
        let listed = Listed {
            claims: informers.of(Options::default()),
            volumes: informers.of(Options::default()),
            classes: informers.of(Options::default()),
            changes: watch::Sender::new(()),
        };
        fn tell<K: Kind>(lister: &Lister<K>, changes: &watch::Sender<()>, changed: impl Fn() + Send + Sync + 'static) {
            let changes = changes.clone();
            lister.on_change(move |_| {
                changes.send_replace(());
                changed();
            });
        }
        tell(&listed.claims, &listed.changes, changed.clone());
        tell(&listed.volumes, &listed.changes, changed.clone());
        tell(&listed.classes, &listed.changes, changed);
        listed
    }

    pub async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
    }

    /// Told of each change from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

fn typed<K: Kind>(lister: &Lister<K>, namespace: &str, name: &str) -> Option<Arc<K>> {
    let entry = lister.get(namespace, name)?;
    match entry.typed() {
        Ok(typed) => Some(typed),
        Err(error) => {
            tracing::error!(%namespace, %name, %error, "an object does not decode");
            None
        }
    }
}

impl Source for Listed {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        typed(&self.claims, namespace, name)
    }
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        typed(&self.volumes, "", name)
    }
    fn volumes(&self) -> Vec<Arc<PersistentVolume>> {
        let all = self.volumes.list().into_iter();
        all.filter_map(|entry| entry.typed().ok()).collect()
    }
    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        typed(&self.classes, "", name)
    }
}

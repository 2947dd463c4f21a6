//! What all caches of a store share: how far the feeder has come, and how long a read waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Error;
use super::item::Hot;
use crate::store::{Revision, Store};

/// As long as upstream's cacher blocks a read that asks for a revision it has not seen.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Progress {
    pub(super) store: Arc<dyn Store>,
    /// Every change up to here is in its cache. 0 until the initial list is in.
    seen: watch::Sender<Revision>,
    pub(super) hot: Arc<Hot>,
}

impl Progress {
    pub(super) fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Progress {
            store,
            seen: watch::Sender::new(Revision(0)),
            hot: Arc::default(),
        })
    }

    pub(super) fn seen(&self) -> Revision {
        *self.seen.borrow()
    }

    /// Called after every cache has what is at most `revision`.
    pub(super) fn advance(&self, revision: Revision) {
        self.seen
            .send_if_modified(|seen| revision > *seen && std::mem::replace(seen, revision) != revision);
    }

    pub(super) async fn loaded(&self) {
        // The sender is in self: it does not close meanwhile.
        let _ = self.seen.subscribe().wait_for(|seen| seen.0 > 0).await;
    }

    pub(super) async fn at_least(&self, revision: Revision) -> Result<(), Error> {
        if self.seen() >= revision && self.seen().0 > 0 {
            return Ok(());
        }
        // Whoever names it was told it by another server on the same store, or sees the store further than this one: its
        // watch is to say how far it is, also where nothing of ours was written.
        if let Err(error) = self.store.revision().await {
            return Err(Error::Unavailable(Arc::new(error)));
        }
        self.reaches(revision).await
    }

    async fn reaches(&self, revision: Revision) -> Result<(), Error> {
        let mut seen = self.seen.subscribe();
        let reached = seen.wait_for(|seen| *seen >= revision && seen.0 > 0);
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::TooLarge {
                asked: revision,
                current: self.seen(),
            }),
        }
    }

    pub(super) async fn fresh(&self) -> Result<Revision, Error> {
        let revision = match self.store.revision().await {
            Ok(revision) => revision,
            Err(error) => return Err(Error::Unavailable(Arc::new(error))),
        };
        if self.seen() < revision || self.seen().0 == 0 {
            self.reaches(revision).await?;
        }
        Ok(revision)
    }
}

//! The state where readers and watchers find it.
//! Comes in: effects that may be seen. Goes out: the reading half of [`super::Store`]. Knows no disk.
//! Holds at all times: what is in `state` is published; `revision` is told after it.

use std::sync::{Arc, RwLock, RwLockReadGuard};

use futures::stream::BoxStream;
use tokio::sync::watch;

use super::state::{self, Effect, State};
use super::{Batch, Error, Listing, Page, Revision};

/// Changes that a watch yields at once, at most: bounds how long the lock is held.
const BATCH: usize = 1024;

#[derive(Debug)]
pub(super) struct Shared {
    state: RwLock<State>,
    revision: watch::Sender<Revision>,
}

impl Shared {
    pub(super) fn new(state: State) -> Arc<Self> {
        let (revision, _) = watch::channel(state.revision());
        Arc::new(Shared {
            state: RwLock::new(state),
            revision,
        })
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("nothing panics while it holds this lock")
    }

    pub(super) fn list(&self, prefix: &str, page: &Page) -> Result<Listing, Error> {
        let (entries, revision) = {
            let state = self.read();
            if page.at.is_some_and(|at| at != state.revision()) {
                return state.list(prefix, page);
            }
            (state.snapshot(), state.revision())
        };
        // A long list is no reason for a writer to wait.
        Ok(state::list(&entries, revision, prefix, page))
    }

    pub(super) fn apply(&self, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        self.change(|state| state.apply(effects));
    }

    /// Changes the state and tells watchers. All writers must be one after the other.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.write().expect("nothing panics while it holds this lock");
        let result = change(&mut state);
        let revision = state.revision();
        drop(state);
        self.revision.send_if_modified(|told| {
            let newer = revision > *told;
            *told = revision.max(*told);
            newer
        });
        result
    }

    pub(super) fn watch(self: &Arc<Self>, prefix: &str, after: Revision) -> BoxStream<'static, Result<Batch, Error>> {
        struct Watch {
            shared: Arc<Shared>,
            told: watch::Receiver<Revision>,
            prefix: String,
            /// `None` after an error.
            after: Option<Revision>,
        }
        let watch = Watch {
            shared: self.clone(),
            told: self.revision.subscribe(),
            prefix: prefix.into(),
            after: Some(after),
        };
        Box::pin(futures::stream::unfold(watch, |mut watch| async move {
            loop {
                let after = watch.after?;
                // Marked as seen before looking, so that a change while we look is not missed.
                watch.told.borrow_and_update();
                let changes = watch.shared.read().changes(&watch.prefix, after, BATCH);
                match changes {
                    Ok(Some(batch)) => {
                        watch.after = Some(batch.revision);
                        return Some((Ok(batch), watch));
                    }
                    Ok(None) => watch.told.changed().await.ok()?,
                    Err(error) => {
                        watch.after = None;
                        return Some((Err(error), watch));
                    }
                }
            }
        }))
    }
}

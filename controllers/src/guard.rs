//! Keeps a controller from acting on listers that do not show its own last write yet: it would do it again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use crate::context::Key;

/// After this long the write is taken to have been undone in a way that nobody was told of.
const PATIENCE: Duration = Duration::from_secs(30);

/// By key of the owner: the revision that the lister of the owned has to reach.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    writes: Arc<Mutex<HashMap<Key, (u64, Instant)>>>,
}

impl Guard {
    /// Something that belongs to `key` was written.
    pub fn wrote(&self, key: &Key, written: &ObjectMeta) {
        let revision = written.resource_version.as_deref().and_then(|text| text.parse().ok());
        let Some(revision) = revision else { return };
        let mut writes = self.writes.lock().expect("no holder of this lock panics");
        let write = writes.entry(key.clone()).or_insert((0, Instant::now()));
        *write = (write.0.max(revision), Instant::now());
    }

    /// Whether a lister that has reached `revision` shows all that was written for `key`.
    pub fn is_open(&self, key: &Key, revision: u64) -> bool {
        let mut writes = self.writes.lock().expect("no holder of this lock panics");
        match writes.get(key) {
            Some((wanted, at)) if *wanted > revision && at.elapsed() < PATIENCE => false,
            Some(_) => {
                writes.remove(key);
                true
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stale_lister_is_waited_for_but_not_for_ever() {
        let (guard, key) = (Guard::default(), Key::new("n", "a"));
        let at = |revision: &str| ObjectMeta {
            resource_version: Some(revision.to_owned()),
            ..Default::default()
        };
        guard.wrote(&key, &at("7"));
        guard.wrote(&key, &at("5"));
        assert!(!guard.is_open(&key, 6));
        assert!(guard.is_open(&Key::new("n", "b"), 6));
        assert!(guard.is_open(&key, 7));
        guard.wrote(&key, &at("9"));
        tokio::time::advance(PATIENCE).await;
        assert!(guard.is_open(&key, 7));
    }
}

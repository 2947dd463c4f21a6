//! A cluster's objects from one store into another, empty one, while no server runs.
//! Comes in: the store to read and the one to fill. Goes out: how much was moved. Knows no kind but how long one lives.
//! Holds at all times: the target's revision ends at or above the source's, so no client ever sees one that went back.

use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::embedded::{Embedded, OpenError};
use super::{Durability, Error, Etcd, Expect, Listing, Options, Page, Revision, Store};

const ROOT: &str = "/registry/";
/// Writes on their way at once: etcd syncs many together.
const TOGETHER: usize = 256;

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub objects: usize,
    /// Where the target goes on.
    pub revision: Revision,
}

/// Why nothing, or not everything, was moved. The source is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("the target is not empty")]
    NotEmpty,
    #[error("the source cannot be read")]
    Source(#[source] Error),
    #[error("the target was not written completely: empty it before another attempt")]
    Target(#[source] Error),
    #[error("the target's files")]
    Files(#[from] OpenError),
}

/// How long an entry lives, by its key.
pub type TimeToLive<'a> = &'a (dyn Fn(&str) -> Option<Duration> + Sync);

/// Objects get new revisions, above all that the source ever gave.
pub async fn into_etcd(from: &dyn Store, to: &Etcd, lives: TimeToLive<'_>) -> Result<Moved, Failed> {
    let first = Page {
        limit: 1,
        ..Page::default()
    };
    if !to.list(ROOT, first).await.map_err(Failed::Target)?.entries.is_empty() {
        return Err(Failed::NotEmpty);
    }
    let Listing { entries, revision, .. } = from.list(ROOT, Page::default()).await.map_err(Failed::Source)?;
    to.advance(revision, TOGETHER).await.map_err(Failed::Target)?;
    let objects = entries.len();
    futures::stream::iter(entries)
        .map(|entry| async move {
            let options = Options {
                durability: Durability::Durable,
                time_to_live: lives(&entry.key),
            };
            to.put(&entry.key, entry.value, Expect::Absent, options).await
        })
        .buffer_unordered(TOGETHER)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await
        .map_err(Failed::Target)?;
    let revision = to.revision().await.map_err(Failed::Target)?;
    Ok(Moved { objects, revision })
}

/// Objects keep their revisions.
pub async fn into_embedded(from: &dyn Store, directory: &Path, lives: TimeToLive<'_>) -> Result<Moved, Failed> {
    if Embedded::is_used(directory).map_err(OpenError::Io)? {
        return Err(Failed::NotEmpty);
    }
    let Listing { entries, revision, .. } = from.list(ROOT, Page::default()).await.map_err(Failed::Source)?;
    // What was written and deleted since the list's last entry has revisions too.
    let revision = revision.max(from.revision().await.map_err(Failed::Source)?);
    let objects = entries.len();
    let entries = entries.into_iter().map(|entry| {
        let lives = lives(&entry.key);
        (entry, lives)
    });
    Embedded::fill(directory, entries, revision)?;
    Ok(Moved { objects, revision })
}

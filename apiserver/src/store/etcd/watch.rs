//! One watch of a prefix that outlives connections and members.
//! It goes on after the last revision it told. When somebody was told a revision that the watch has not seen (because what
//! was written is outside the prefix), it asks etcd for its progress; an etcd that answers that wrongly is asked by a
//! quorum read whether anything happened under the prefix.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Event, EventType, GetOptions, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchRequestSender, WatchResponse,
    WatchResponseStream,
};
use futures::stream::BoxStream;
use tokio::sync::watch as told;
use tokio::time::Instant;

use super::endpoints::{Call, Endpoints, Member};
use super::failure::{self, Failure, Said};
use super::{Inner, after_all, revision_of};
use crate::store::{Batch, Change, Entry, Error, Revision};

/// What is on its way mostly comes within this time, without a question.
const GRACE: Duration = Duration::from_millis(2);
/// Between two questions for progress.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Between two attempts to reach an etcd that is away: from the one, doubling, to the other.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

pub(super) fn follow(inner: Arc<Inner>, prefix: &str, after: Revision) -> BoxStream<'static, Result<Batch, Error>> {
    let follower = Follower {
        prefix: inner.outer(prefix),
        wanted: inner.wanted.subscribe(),
        inner,
        after: after.0,
        live: None,
        back_off: BACK_OFF.0,
        ask_at: None,
    };
    Box::pin(futures::stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(batch) => Some((Ok(batch), Some(follower))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

struct Follower {
    inner: Arc<Inner>,
    prefix: String,
    wanted: told::Receiver<u64>,
    /// Everything up to here was told.
    after: u64,
    live: Option<Live>,
    back_off: Duration,
    /// When to ask for progress next, while somebody waits.
    ask_at: Option<Instant>,
}

struct Live {
    requests: WatchRequestSender,
    responses: WatchResponseStream,
    /// Whether this etcd's answer about its progress can be believed.
    honest: bool,
}

/// What comes next, of what the follower waits for.
enum Next {
    Said(Result<Option<WatchResponse>, etcd_client::Error>),
    Ask,
}

impl Follower {
    async fn next(&mut self) -> Result<Batch, Error> {
        loop {
            let Some(live) = &mut self.live else {
                self.connect().await?;
                continue;
            };
            let next = tokio::select! {
                biased;
                said = live.responses.message() => Next::Said(said),
                () = behind(&mut self.wanted, self.after, &mut self.ask_at) => Next::Ask,
            };
            let told = match next {
                Next::Said(Ok(Some(response))) => self.take(&response)?,
                Next::Said(Ok(None)) => {
                    self.lost("etcd ended the watch");
                    None
                }
                Next::Said(Err(error)) => {
                    self.lost(&failure::chain(&error));
                    None
                }
                Next::Ask => self.ask().await?,
            };
            if let Some(batch) = told {
                self.after = batch.revision.0;
                self.back_off = BACK_OFF.0;
                if self.after >= *self.wanted.borrow() {
                    self.ask_at = None;
                }
                return Ok(batch);
            }
        }
    }

    /// Opens the watch at the next revision; waits a while where that fails.
    async fn connect(&mut self) -> Result<(), Error> {
        // Compaction may take the mark of a deletion that happened at its very revision, so a watch that begins there
        // could miss it.
        match self.inner.compacted().await {
            Ok(compacted) if compacted.0 > self.after => return Err(Error::Compacted(compacted)),
            Ok(_) => {}
            Err(error) => {
                self.wait(&failure::chain(&error)).await;
                return Ok(());
            }
        }
        let (name, member) = self.inner.endpoints.current();
        let name = name.to_owned();
        match open(member, &self.prefix, self.after).await {
            Ok(live) => {
                tracing::debug!(member = name, after = self.after, "watching etcd");
                self.live = Some(live);
            }
            Err(failure) => {
                self.inner.endpoints.turn();
                let error = Error::from(failure);
                self.wait(&failure::chain(&error)).await;
            }
        }
        Ok(())
    }

    async fn wait(&mut self, why: &str) {
        tracing::warn!(why, after = self.after, "etcd cannot be watched");
        tokio::time::sleep(self.back_off).await;
        self.back_off = (self.back_off * 2).min(BACK_OFF.1);
    }

    fn lost(&mut self, why: &str) {
        tracing::info!(why, after = self.after, "the watch of etcd broke and is opened again");
        self.live = None;
    }

    fn take(&mut self, response: &WatchResponse) -> Result<Option<Batch>, Error> {
        if response.canceled() {
            let compacted = response.compact_revision();
            if compacted > 0 {
                return Err(Error::Compacted(Revision(compacted as u64)));
            }
            self.lost(response.cancel_reason());
            return Ok(None);
        }
        if let Some(last) = response.events().last() {
            let mut changes = Vec::with_capacity(response.events().len());
            for event in response.events() {
                let Some(change) = self.change(event) else { continue };
                // After a progress that was told too early: only a new list is right again.
                if change.revision().0 <= self.after {
                    return Err(Error::Compacted(Revision(self.after)));
                }
                changes.push(change);
            }
            let revision = last.kv().map_or(self.after, |kv| kv.mod_revision() as u64);
            return Ok(Some(Batch {
                changes,
                revision: Revision(revision),
            }));
        }
        let revision = revision_of(response.header());
        let believed = self.live.as_ref().is_some_and(|live| live.honest);
        if response.created() || !believed || revision <= self.after {
            return Ok(None);
        }
        Ok(Some(progress(revision)))
    }

    fn change(&self, event: &Event) -> Option<Change> {
        let kv = event.kv()?;
        let previous = event.prev_kv().and_then(|kv| self.inner.entry(kv));
        Some(match event.event_type() {
            EventType::Put => Change::Put {
                entry: self.inner.entry(kv)?,
                previous,
            },
            EventType::Delete => Change::Delete {
                revision: Revision(kv.mod_revision() as u64),
                previous: match previous {
                    Some(previous) => previous,
                    // What it was is compacted; that it was is not.
                    None => Entry {
                        key: self.inner.inner(kv.key())?,
                        value: bytes::Bytes::new(),
                        revision: Revision(0),
                        created: Revision(0),
                    },
                },
            },
        })
    }

    /// Somebody waits for a revision that the watch did not bring.
    async fn ask(&mut self) -> Result<Option<Batch>, Error> {
        self.ask_at = Some(Instant::now() + ASK_AGAIN);
        let Some(live) = &mut self.live else { return Ok(None) };
        if live.honest {
            if let Err(error) = live.requests.request_progress().await {
                self.lost(&error.to_string());
            }
            return Ok(None);
        }
        match quiet(&self.inner.endpoints, &self.prefix, self.after).await {
            Ok(Some(revision)) if revision > self.after => Ok(Some(progress(revision))),
            Ok(_) => Ok(None),
            Err(failure) if failure.said() == Said::Compacted => {
                Err(self.inner.refused(failure, Revision(self.after)).await)
            }
            Err(_) => Ok(None),
        }
    }
}

fn progress(revision: u64) -> Batch {
    Batch {
        changes: Vec::new(),
        revision: Revision(revision),
    }
}

/// Returns when progress is to be asked for: somebody wants more than `after`, and it did not come by itself. May be
/// dropped at any await.
async fn behind(wanted: &mut told::Receiver<u64>, after: u64, ask_at: &mut Option<Instant>) {
    loop {
        if *wanted.borrow_and_update() > after {
            let at = *ask_at.get_or_insert_with(|| Instant::now() + GRACE);
            tokio::time::sleep_until(at).await;
            return;
        }
        *ask_at = None;
        if wanted.changed().await.is_err() {
            // The follower holds the sender, so this does not happen; and nobody would wait any more.
            return std::future::pending().await;
        }
    }
}

async fn open(mut member: Member, prefix: &str, after: u64) -> Result<Live, Failure> {
    let opened = async {
        let version = member.maintenance.status().await?;
        let options = WatchOptions::new()
            .with_range(after_all(prefix))
            .with_start_revision(after as i64 + 1)
            .with_prev_key()
            .with_progress_notify();
        let stream = member.watch.watch(prefix, Some(options)).await?;
        Ok((version, stream))
    };
    let opened = tokio::time::timeout(Duration::from_secs(10), opened).await;
    let (status, stream) = opened.map_err(|_| Failure::Late)?.map_err(Failure::Etcd)?;
    let (requests, responses) = stream.split();
    Ok(Live {
        requests,
        responses,
        honest: is_honest(status.version()),
    })
}

/// Versions whose answers about the progress of a watch are right; the others may tell it before the events.
fn is_honest(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    let mut next = || numbers.next().flatten();
    match (next(), next(), next()) {
        (Some(3), Some(4), Some(patch)) => patch >= 31,
        (Some(3), Some(5), Some(patch)) => patch >= 13,
        (Some(3), Some(minor), _) => minor > 5,
        (Some(major), ..) => major > 3,
        _ => false,
    }
}

/// The newest revision, if nothing under `prefix` was put after `after` and there are as many keys as then; `None` where
/// something was, which the watch is about to bring.
async fn quiet(endpoints: &Endpoints, prefix: &str, after: u64) -> Result<Option<u64>, Failure> {
    let range = || GetOptions::new().with_range(after_all(prefix));
    let changed = range()
        .with_keys_only()
        .with_min_mod_revision(after as i64 + 1)
        .with_limit(1);
    let before = range().with_count_only().with_revision(after as i64);
    let txn = Txn::new().and_then([TxnOp::get(prefix, Some(changed)), TxnOp::get(prefix, Some(before))]);
    let response = endpoints
        .call(Call::Read, |member| {
            let (mut kv, txn) = (member.kv, txn.clone());
            async move { kv.txn(txn).await }
        })
        .await?;
    let answers = response.op_responses();
    let [TxnOpResponse::Get(changed), TxnOpResponse::Get(before)] = &answers[..] else {
        return Ok(None);
    };
    let quiet = changed.kvs().is_empty() && changed.count() == before.count();
    Ok(quiet.then(|| revision_of(response.header())))
}

#[cfg(test)]
mod tests {
    use super::is_honest;

    #[test]
    fn progress_is_believed_from_the_versions_that_tell_it_rightly() {
        for (version, honest) in [
            ("3.4.23", false),
            ("3.4.31", true),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.5.30", true),
            ("3.6.0-rc.1", true),
            ("4.0.0", true),
            ("3.3.27", false),
            ("", false),
            ("x", false),
        ] {
            assert_eq!(is_honest(version), honest, "{version}");
        }
    }
}

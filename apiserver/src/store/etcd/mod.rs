//! The store over etcd: upstream's keys and revisions, so that several API servers, ours and upstream's, may share one.
//! Comes in and goes out: [`Store`]'s. It knows bytes and no kind; what values look like in etcd is a [`Values`]' affair.
//! Holds at all times: a revision is etcd's own; a write is one transaction that compares the key's modification revision;
//! a watch goes on at the next revision after whatever cut it, or says that it cannot.
//!
//! ```text
//! put, delete ─► transaction ─┐                ┌─► get, list (linearizable)
//!                             ├─► endpoints ───┤
//! compact ─► compact_rev_key ─┘                └─► watch ─► batches, progress when somebody waits for a revision
//! ```

mod endpoints;
mod failure;
mod leases;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::watch as told;

use super::{Batch, Entry, Error, Expect, Key, Listing, Options, Page, Revision, Store};
use endpoints::{Call, Endpoints};
use failure::{Failure, Said};
use leases::Leases;

/// What every key of this crate begins with; in etcd it is the configured prefix.
const ROOT: &str = "/registry";
/// Where all API servers on one etcd agree who compacts: its version counts the compactions, its value is the last one's
/// revision. The name is upstream's.
const COMPACTED: &str = "compact_rev_key";
/// Entries that one range request of a list without a limit asks for.
const CHUNK: usize = 5_000;
/// How long a starting server waits for an etcd that starts too.
const APPEAR: Duration = Duration::from_secs(20);

/// How to reach etcd.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://10.0.0.1:2379`; the next one is taken when one does not answer.
    pub servers: Vec<String>,
    /// What verifies https servers.
    pub authority: Option<PathBuf>,
    /// The client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What stands for `/registry` in etcd.
    pub prefix: String,
}

/// Why etcd cannot be the store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{0}: not an etcd server's address")]
    Address(String, #[source] tonic::transport::Error),
    #[error("etcd at {servers} does not answer: {why}")]
    Silent { servers: String, why: String },
}

/// How values are spelled in etcd, where others may have written them.
pub trait Values: Send + Sync + std::fmt::Debug {
    /// What this server works with. A value that cannot be understood is given back as it is.
    fn read(&self, key: &str, stored: &[u8]) -> Bytes;
    /// What etcd gets.
    fn write(&self, key: &str, value: Bytes) -> Vec<u8>;
}

/// Values as they come.
#[derive(Debug, Clone, Copy)]
pub struct Verbatim;

impl Values for Verbatim {
    fn read(&self, _: &str, stored: &[u8]) -> Bytes {
        Bytes::copy_from_slice(stored)
    }
    fn write(&self, _: &str, value: Bytes) -> Vec<u8> {
        value.into()
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Etcd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoints: Endpoints,
    values: Arc<dyn Values>,
    /// Without a slash at its end.
    prefix: String,
    leases: Leases,
    /// The newest revision that somebody was told: watches ask etcd for progress until they have seen it.
    wanted: told::Sender<u64>,
    /// The version of `compact_rev_key` when this server last saw it; negative before.
    compactions: AtomicI64,
}

impl Etcd {
    /// Waits until an etcd answers, for as long as one that starts at the same time may take.
    pub async fn open(config: Config, values: Arc<dyn Values>) -> Result<Self, OpenError> {
        let store = Self::new(&config, values).await?;
        let deadline = tokio::time::Instant::now() + APPEAR;
        loop {
            match store.0.current().await {
                Ok(_) => return Ok(store),
                Err(error) if tokio::time::Instant::now() >= deadline => {
                    return Err(OpenError::Silent {
                        servers: config.servers.join(", "),
                        why: failure::chain(&error),
                    });
                }
                Err(error) => tracing::info!(error = failure::chain(&error), "waiting for etcd"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn new(config: &Config, values: Arc<dyn Values>) -> Result<Self, OpenError> {
        Ok(Etcd(Arc::new(Inner {
            endpoints: Endpoints::new(config).await?,
            values,
            prefix: config.prefix.trim_end_matches('/').to_owned(),
            leases: Leases::default(),
            wanted: told::Sender::new(0),
            compactions: AtomicI64::new(-1),
        })))
    }
}

/// What [`Etcd::advance`] writes, outside every prefix.
const ADVANCE: &str = "coracle_advance";

impl Etcd {
    /// Raises the revision to `revision` at least, `together` writes at once: etcd knows no other way.
    pub(super) async fn advance(&self, revision: Revision, together: usize) -> Result<(), Error> {
        loop {
            let missing = revision.0.saturating_sub(self.0.current().await?.0);
            if missing == 0 {
                break;
            }
            let puts = futures::stream::iter(0..missing).map(|_| {
                self.0.endpoints.call(Call::Write, |member| {
                    let mut kv = member.kv;
                    async move { kv.put(ADVANCE, "", None).await }
                })
            });
            puts.buffer_unordered(together)
                .try_for_each(|_| std::future::ready(Ok(())))
                .await?;
        }
        self.0
            .endpoints
            .call(Call::Write, |member| {
                let mut kv = member.kv;
                async move { kv.delete(ADVANCE, None).await }
            })
            .await?;
        Ok(())
    }
}

impl Inner {
    /// The key as etcd has it.
    fn outer(&self, key: &str) -> String {
        let rest = key.strip_prefix(ROOT).unwrap_or(key);
        let mut outer = String::with_capacity(self.prefix.len() + rest.len() + 1);
        outer.push_str(&self.prefix);
        if !rest.starts_with('/') {
            outer.push('/');
        }
        outer.push_str(rest);
        outer
    }

    /// The key as this server has it; `None` for one that is no text.
    fn inner(&self, key: &[u8]) -> Option<Key> {
        let key = std::str::from_utf8(key).ok()?;
        match key.strip_prefix(&*self.prefix) {
            Some(_) if self.prefix == ROOT => Some(key.into()),
            Some(rest) => Some(format!("{ROOT}{rest}").into()),
            None => None,
        }
    }

    fn entry(&self, kv: &KeyValue) -> Option<Entry> {
        let key = self.inner(kv.key())?;
        Some(Entry {
            value: self.values.read(&key, kv.value()),
            key,
            revision: Revision(kv.mod_revision() as u64),
            created: Revision(kv.create_revision() as u64),
        })
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let outer = self.outer(key);
        let response = self
            .endpoints
            .call(Call::Read, |member| {
                let (mut kv, outer) = (member.kv, outer.clone());
                async move { kv.get(outer, None).await }
            })
            .await?;
        Ok(response.kvs().first().and_then(|kv| self.entry(kv)))
    }

    async fn list(&self, prefix: &str, page: Page) -> Result<Listing, Error> {
        let start = self.outer(prefix);
        let end = after_all(&start);
        let mut from = match &page.after {
            Some(after) if **after >= *prefix => just_after(&self.outer(after)),
            _ => start.into_bytes(),
        };
        let mut listing = Listing {
            entries: Vec::new(),
            revision: page.at.unwrap_or_default(),
            more: false,
        };
        loop {
            let limit = match page.limit {
                0 => CHUNK,
                limit => (limit - listing.entries.len()).min(CHUNK),
            };
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(limit as i64);
            if listing.revision.0 > 0 {
                options = options.with_revision(listing.revision.0 as i64);
            }
            let answer = self
                .endpoints
                .call(Call::Read, |member| {
                    let (mut kv, from, options) = (member.kv, from.clone(), options.clone());
                    async move { kv.get(from, Some(options)).await }
                })
                .await;
            let response = match answer {
                Ok(response) => response,
                Err(failure) => return Err(self.refused(failure, listing.revision).await),
            };
            if listing.revision.0 == 0 {
                listing.revision = Revision(revision_of(response.header()));
            }
            listing.more = response.more();
            if let Some(last) = response.kvs().last() {
                from = [last.key(), b"\0"].concat();
            }
            listing
                .entries
                .extend(response.kvs().iter().filter_map(|kv| self.entry(kv)));
            if !listing.more || (page.limit != 0 && listing.entries.len() >= page.limit) {
                return Ok(listing);
            }
        }
    }

    /// etcd does not say up to where history is gone, nor how far it is.
    async fn refused(&self, failure: Failure, asked: Revision) -> Error {
        match failure.said() {
            Said::Compacted => match self.compacted().await {
                Ok(at) => Error::Compacted(at.max(Revision(asked.0 + 1))),
                Err(error) => error,
            },
            Said::Future => match self.current().await {
                Ok(current) => Error::Future { asked, current },
                Err(error) => error,
            },
            _ => failure.into(),
        }
    }

    /// Where the last compaction that API servers agreed on was.
    async fn compacted(&self) -> Result<Revision, Error> {
        Ok(self.compaction().await?.at)
    }

    async fn compaction(&self) -> Result<Compaction, Error> {
        let response = self
            .endpoints
            .call(Call::Read, |member| {
                let mut kv = member.kv;
                async move { kv.get(COMPACTED, None).await }
            })
            .await?;
        let kv = response.kvs().first();
        let at = kv.and_then(|kv| kv.value_str().ok()?.parse().ok());
        Ok(Compaction {
            at: Revision(at.unwrap_or(0)),
            version: kv.map_or(0, KeyValue::version),
            now: Revision(revision_of(response.header())),
        })
    }

    async fn current(&self) -> Result<Revision, Error> {
        let response = self
            .endpoints
            .call(Call::Read, |member| {
                let mut kv = member.kv;
                let options = GetOptions::new().with_count_only();
                async move { kv.get(COMPACTED, Some(options)).await }
            })
            .await?;
        let revision = revision_of(response.header());
        self.wanted
            .send_if_modified(|wanted| revision > std::mem::replace(wanted, revision.max(*wanted)));
        Ok(Revision(revision))
    }

    /// Commits `write` if the key was last modified at `at` (0: is not there), or says what is there instead.
    async fn write(&self, key: &Key, at: Revision, write: TxnOp) -> Result<Revision, Failure> {
        let outer = self.outer(key);
        let txn = Txn::new()
            .when([Compare::mod_revision(outer.clone(), CompareOp::Equal, at.0 as i64)])
            .and_then([write])
            .or_else([TxnOp::get(outer, None)]);
        let response = self
            .endpoints
            .call(Call::Write, |member| {
                let (mut kv, txn) = (member.kv, txn.clone());
                async move { kv.txn(txn).await }
            })
            .await?;
        if response.succeeded() {
            return Ok(Revision(revision_of(response.header())));
        }
        let current = match response.op_responses().first() {
            Some(TxnOpResponse::Get(get)) => get.kvs().first().and_then(|kv| self.entry(kv)),
            _ => None,
        };
        Err(Failure::Store(Error::Conflict {
            current: current.map(Box::new),
        }))
    }

    async fn put(&self, key: &Key, value: Bytes, expect: Expect, options: Options) -> Result<Revision, Error> {
        let at = match expect {
            Expect::Absent => Revision(0),
            // A revision that no entry has: 0 would mean that there is none.
            Expect::At(Revision(0)) => {
                let current = self.get(key).await?.map(Box::new);
                return Err(Error::Conflict { current });
            }
            Expect::At(at) => at,
        };
        let value = self.values.write(key, value);
        loop {
            let lease = match options.time_to_live {
                Some(time) => Some(self.leases.find(&self.endpoints, time).await?),
                None => None,
            };
            let with = lease.map(|lease| PutOptions::new().with_lease(lease));
            let put = TxnOp::put(self.outer(key), value.clone(), with);
            match (self.write(key, at, put).await, lease) {
                (Ok(revision), _) => return Ok(revision),
                // It ran out between the two.
                (Err(failure), Some(lease)) if failure.said() == Said::LeaseGone => self.leases.forget(lease).await,
                (Err(failure), _) => return Err(failure.into()),
            }
        }
    }

    async fn delete(&self, key: &Key, at: Revision) -> Result<Revision, Error> {
        if at.0 == 0 {
            let current = self.get(key).await?.map(Box::new);
            return Err(Error::Conflict { current });
        }
        let delete = TxnOp::delete(self.outer(key), None::<DeleteOptions>);
        Ok(self.write(key, at, delete).await?)
    }

    /// Whoever first raises the key's version from what all knew compacts; the others learn that somebody did.
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let seen = self.compaction().await?;
        if revision > seen.now {
            return Err(Error::Future {
                asked: revision,
                current: seen.now,
            });
        }
        let known = match self.compactions.load(Ordering::Relaxed) {
            known if known < 0 => seen.version,
            known => known,
        };
        if known != seen.version || revision <= seen.at {
            self.compactions.store(seen.version, Ordering::Relaxed);
            return Ok(());
        }
        let txn = Txn::new()
            .when([Compare::version(COMPACTED, CompareOp::Equal, known)])
            .and_then([TxnOp::put(COMPACTED, revision.to_string(), None)]);
        let won = self
            .endpoints
            .call(Call::Write, |member| {
                let (mut kv, txn) = (member.kv, txn.clone());
                async move { kv.txn(txn).await }
            })
            .await?;
        if !won.succeeded() {
            self.compactions.store(-1, Ordering::Relaxed);
            return Ok(());
        }
        self.compactions.store(known + 1, Ordering::Relaxed);
        let done = self
            .endpoints
            .call(Call::Write, |member| {
                let mut kv = member.kv;
                async move { kv.compact(revision.0 as i64, None).await }
            })
            .await;
        match done {
            Ok(_) => Ok(()),
            // Further already, by somebody who does not use the key.
            Err(failure) if failure.said() == Said::Compacted => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// What `compact_rev_key` says.
struct Compaction {
    at: Revision,
    version: i64,
    now: Revision,
}

fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.revision() as u64)
}

/// The end of the range of all keys that start with `prefix`.
fn after_all(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // Text has no byte 255.
        *last += 1;
    }
    end
}

fn just_after(key: &str) -> Vec<u8> {
    [key.as_bytes(), b"\0"].concat()
}

impl Store for Etcd {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, Error>> {
        let key = key.to_owned();
        async move { self.0.get(&key).await }.boxed()
    }

    fn list(&self, prefix: &str, page: Page) -> BoxFuture<'_, Result<Listing, Error>> {
        let prefix = prefix.to_owned();
        async move { self.0.list(&prefix, page).await }.boxed()
    }

    fn put(&self, key: &Key, value: Bytes, expect: Expect, options: Options) -> BoxFuture<'_, Result<Revision, Error>> {
        let key = key.clone();
        async move { self.0.put(&key, value, expect, options).await }.boxed()
    }

    fn delete(&self, key: &Key, at: Revision) -> BoxFuture<'_, Result<Revision, Error>> {
        let key = key.clone();
        async move { self.0.delete(&key, at).await }.boxed()
    }

    fn watch(&self, prefix: &str, after: Revision) -> BoxStream<'static, Result<Batch, Error>> {
        watch::follow(self.0.clone(), prefix, after)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        self.0.current().boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>> {
        self.0.compact(revision).boxed()
    }
}

//! The store for tests: the embedded one's state without its log.
//! Comes in and goes out: [`Store`]'s. Nothing outlives the process. Expiry runs on tokio's clock, which tests may pause.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::BoxStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::shared::Shared;
use super::state::{Limits, Plan, State};
use super::{Batch, Entry, Error, Expect, Key, Listing, Options, Page, Revision, Store};

/// Entries that one expiry deletes under one lock.
const EXPIRE_AT_ONCE: usize = 256;

#[derive(Debug)]
pub struct Memory {
    inner: Arc<Inner>,
    /// The expiry timer; started by the first put that expires.
    timer: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// Held from plan to publication: writes come one after the other.
    writing: Mutex<()>,
    started: Instant,
    /// Told when an entry with a time to live was put.
    expiring: tokio::sync::Notify,
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new(Limits::default())
    }
}

impl Memory {
    pub fn new(limits: Limits) -> Self {
        Memory {
            inner: Arc::new(Inner {
                shared: Shared::new(State::new(limits)),
                writing: Mutex::new(()),
                started: Instant::now(),
                expiring: tokio::sync::Notify::new(),
            }),
            timer: Mutex::new(JoinSet::new()),
        }
    }

    fn expire_later(&self) {
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        if timer.is_empty() {
            timer.spawn(Inner::expire(Arc::downgrade(&self.inner)));
        }
        self.inner.expiring.notify_one();
    }
}

impl Inner {
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn write<T>(&self, plan_it: impl FnOnce(&State, &mut Plan) -> Result<T, Error>) -> Result<T, Error> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (result, effects) = {
            let state = self.shared.read();
            let mut plan = Plan::new(&state);
            (plan_it(&state, &mut plan)?, plan.effects)
        };
        self.shared.apply(effects);
        Ok(result)
    }

    /// Deletes what is due, then sleeps until the next is, for as long as the store lives.
    async fn expire(store: Weak<Inner>) {
        loop {
            let Some(inner) = store.upgrade() else { return };
            let next = inner.shared.read().next_expiry();
            let now = inner.now();
            match next {
                Some(at) if at <= now => {
                    let expired = inner.write(|state, plan| {
                        plan.expire(state, now, EXPIRE_AT_ONCE);
                        Ok(())
                    });
                    expired.expect("an expiry expects nothing that could conflict");
                }
                Some(at) => {
                    let due = inner.started + Duration::from_millis(at);
                    tokio::select! {
                        () = tokio::time::sleep_until(due) => {}
                        () = inner.expiring.notified() => {}
                    }
                }
                None => inner.expiring.notified().await,
            }
        }
    }
}

impl Store for Memory {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, Error>> {
        let entry = self.inner.shared.read().get(key);
        std::future::ready(Ok(entry)).boxed()
    }

    fn list(&self, prefix: &str, page: Page) -> BoxFuture<'_, Result<Listing, Error>> {
        let listing = self.inner.shared.list(prefix, &page);
        std::future::ready(listing).boxed()
    }

    fn put(&self, key: &Key, value: Bytes, expect: Expect, options: Options) -> BoxFuture<'_, Result<Revision, Error>> {
        let key = key.clone();
        async move {
            let expires = match options.time_to_live {
                Some(time) => self.inner.now() + (time.as_millis() as u64).max(1),
                None => 0,
            };
            let revision = self
                .inner
                .write(|state, plan| plan.put(state, &key, &value, expect, expires))?;
            if options.time_to_live.is_some() {
                self.expire_later();
            }
            Ok(revision)
        }
        .boxed()
    }

    fn delete(&self, key: &Key, at: Revision) -> BoxFuture<'_, Result<Revision, Error>> {
        let key = key.clone();
        async move { self.inner.write(|state, plan| plan.delete(state, &key, at)) }.boxed()
    }

    fn watch(&self, prefix: &str, after: Revision) -> BoxStream<'static, Result<Batch, Error>> {
        self.inner.shared.watch(prefix, after)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        let revision = self.inner.shared.read().revision();
        std::future::ready(Ok(revision)).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>> {
        let result = self.inner.shared.change(|state| state.compact(revision));
        std::future::ready(result).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::{Bench, conformance};

    struct InMemory(Arc<Memory>);

    impl Bench for InMemory {
        fn store(&self) -> Arc<dyn Store> {
            self.0.clone()
        }
        fn reopen(&mut self) -> Option<Arc<dyn Store>> {
            None
        }
    }

    conformance!(memory, InMemory(Arc::default()));

    #[tokio::test(start_paused = true)]
    async fn history_is_bounded_also_when_nobody_compacts() {
        let store = Memory::new(Limits {
            changes: 10,
            bytes: 1000,
        });
        let put = async |name: &str, expect, size: usize| {
            let value = Bytes::from(vec![0; size]);
            store.put(&name.into(), value, expect, Options::DURABLE).await.unwrap()
        };
        let mut at = put("a", Expect::Absent, 1).await;
        for _ in 0..20 {
            at = put("a", Expect::At(at), 1).await;
        }
        assert!(
            store
                .inner
                .shared
                .read()
                .changes("", Revision(at.0 - 10), 100)
                .unwrap()
                .unwrap()
                .changes
                .len()
                == 10
        );
        assert!(matches!(
            store.inner.shared.read().changes("", Revision(at.0 - 11), 100),
            Err(Error::Compacted(_))
        ));
        at = put("a", Expect::At(at), 900).await;
        at = put("a", Expect::At(at), 1).await;
        at = put("a", Expect::At(at), 900).await;
        at = put("a", Expect::At(at), 1).await;
        let held = store.inner.shared.read().changes("", Revision(at.0 - 3), 100);
        assert!(
            matches!(held, Err(Error::Compacted(_))),
            "two large values are more than is held"
        );
    }
}

//! From the callers to the writer thread.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::compaction::Progress;
use crate::store::{Error, Expect, Key, Options, Revision};

/// Requests that wait, at most; a caller waits for room before that.
const BOUND: usize = 4096;

#[derive(Debug)]
pub(super) enum Write {
    Put {
        value: Bytes,
        expect: Expect,
        options: Options,
    },
    Delete {
        at: Revision,
    },
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: Key,
    pub(super) write: Write,
    pub(super) reply: oneshot::Sender<Result<Revision, Error>>,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Inner {
    requests: Vec<Request>,
    compaction: Option<Progress>,
    life: Life,
    /// How many requests the writer waits for; it sleeps where this is not 0.
    wanted: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Life {
    #[default]
    Open,
    /// What is queued is still done.
    Closing,
    /// Nothing is taken any more.
    Closed,
}

/// What the writer wakes up to.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) requests: Vec<Request>,
    pub(super) compaction: Option<Progress>,
    pub(super) closing: bool,
}

impl Queue {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Queue {
            inner: Mutex::default(),
            filled: Condvar::new(),
            room: Arc::new(Semaphore::new(BOUND)),
        })
    }

    /// Queues a write and waits for what becomes of it. Once queued it is done, also when the caller is gone.
    pub(super) async fn write(&self, key: Key, write: Write) -> Result<Revision, Error> {
        let room = self.room.clone().acquire_owned().await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        {
            let mut inner = self.lock();
            if inner.life != Life::Open {
                return Err(closed());
            }
            inner.requests.push(Request {
                key,
                write,
                reply,
                _room: room,
            });
            self.wake(&inner);
        }
        // The writer drops a request unanswered only when the disk failed.
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    pub(super) fn compaction(&self, progress: Progress) {
        let mut inner = self.lock();
        inner.compaction = Some(progress);
        drop(inner);
        self.filled.notify_one();
    }

    /// No more requests after those that are queued.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        if inner.life == Life::Open {
            inner.life = Life::Closing;
        }
        drop(inner);
        self.filled.notify_one();
    }

    /// Drops what is queued and refuses the rest.
    pub(super) fn fail(&self) {
        let requests = {
            let mut inner = self.lock();
            inner.life = Life::Closed;
            std::mem::take(&mut inner.requests)
        };
        self.room.close();
        drop(requests);
    }

    /// Sleeps until there is work or the deadline is over. After that, where others were heard from lately, waits up to
    /// `gather` until `expected` requests are there: they join one sync.
    pub(super) fn take(&self, deadline: Option<Instant>, expected: usize, gather: Duration) -> Work {
        let mut inner = self.lock();
        while inner.idle() {
            let wait = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if wait.is_some_and(|wait| wait.is_zero()) {
                break;
            }
            inner = self.sleep(inner, 1, wait);
        }
        let end = Instant::now() + gather;
        while !inner.requests.is_empty() && inner.requests.len() < expected && inner.life == Life::Open {
            let wait = end.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            inner = self.sleep(inner, expected, Some(wait));
        }
        Work {
            requests: std::mem::take(&mut inner.requests),
            compaction: inner.compaction.take(),
            closing: inner.life != Life::Open,
        }
    }

    fn sleep<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        wanted: usize,
        wait: Option<Duration>,
    ) -> MutexGuard<'a, Inner> {
        inner.wanted = wanted;
        let mut inner = match wait {
            Some(wait) => {
                let woken = self.filled.wait_timeout(inner, wait);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner),
        };
        inner.wanted = 0;
        inner
    }

    fn wake(&self, inner: &Inner) {
        if inner.wanted != 0 && inner.requests.len() >= inner.wanted {
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn idle(&self) -> bool {
        self.requests.is_empty() && self.compaction.is_none() && self.life == Life::Open
    }
}

fn closed() -> Error {
    Error::Unavailable("the store is closed".into())
}

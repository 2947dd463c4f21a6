//! A work queue of keys: de-duplicating, delaying, and never handing out an item that is being worked on.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::BoxError;
use crate::backoff::double;

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A queue of items that somebody has to look at. Its size is bounded by the number of distinct items: adding one that
/// already waits changes nothing, and one that is added while it is being worked on is handed out once more afterwards.
pub struct Queue<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    /// In the order in which they are handed out.
    ready: VecDeque<T>,
    /// Everything in `ready`.
    waiting: HashSet<T>,
    /// Handed out and not yet `done`.
    active: HashSet<T>,
    /// Added while active.
    again: HashSet<T>,
    /// By time; the number keeps equal times apart. `due` is the authority on when an item comes.
    later: BTreeMap<(Instant, u64), T>,
    due: HashMap<T, (Instant, u64)>,
    serial: u64,
    failures: HashMap<T, u32>,
}

/// What to do with an item that was worked on without failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Done,
    /// Look at it again after this time, unless something else makes it come sooner.
    After(Duration),
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue {
            inner: self.inner.clone(),
        }
    }
}

impl<T: Debug> Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.inner.state.lock().expect("no holder of this lock panics");
        f.debug_struct("Queue")
            .field("ready", &state.ready)
            .field("active", &state.active)
            .finish_non_exhaustive()
    }
}

impl<T: Clone + Eq + Hash> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Eq + Hash> Queue<T> {
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            active: HashSet::new(),
            again: HashSet::new(),
            later: BTreeMap::new(),
            due: HashMap::new(),
            serial: 0,
            failures: HashMap::new(),
        };
        Queue {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                changed: Notify::new(),
            }),
        }
    }

    /// Adds an item now.
    pub fn add(&self, item: T) {
        if self.state().add(item) {
            self.inner.changed.notify_one();
        }
    }

    /// Adds an item after `delay`. Of several delays of one item the earliest counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let mut state = self.state();
        let at = Instant::now() + delay;
        if let Some(&(planned, serial)) = state.due.get(&item) {
            if planned <= at {
                return;
            }
            state.later.remove(&(planned, serial));
        }
        state.serial += 1;
        let key = (at, state.serial);
        state.due.insert(item.clone(), key);
        state.later.insert(key, item);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// Adds an item after a pause that doubles with each call until [`Queue::forget`].
    pub fn retry(&self, item: T) {
        let times = {
            let mut state = self.state();
            let failures = state.failures.entry(item.clone()).or_insert(0);
            *failures += 1;
            *failures - 1
        };
        self.add_after(item, double(FIRST_RETRY, times, LAST_RETRY));
    }

    /// Ends the history of failures of an item.
    pub fn forget(&self, item: &T) {
        self.state().failures.remove(item);
    }

    /// How often the item was retried since it was last forgotten.
    pub fn retries(&self, item: &T) -> u32 {
        self.state().failures.get(item).copied().unwrap_or(0)
    }

    /// Items that wait to be handed out; delayed ones are not counted.
    pub fn len(&self) -> usize {
        self.state().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing waits, nothing is worked on and nothing is planned.
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.ready.is_empty() && state.active.is_empty() && state.later.is_empty()
    }

    /// Takes the next item; it is not handed out again before [`Queue::done`]. Safe to drop half-way.
    pub async fn next(&self) -> T {
        loop {
            let due = {
                let mut state = self.state();
                state.ripen(Instant::now());
                if let Some(item) = state.ready.pop_front() {
                    state.waiting.remove(&item);
                    state.active.insert(item.clone());
                    if !state.ready.is_empty() {
                        // One notification wakes one taker; there may be more work than that.
                        self.inner.changed.notify_one();
                    }
                    return item;
                }
                state.later.keys().next().map(|(at, _)| *at)
            };
            let changed = self.inner.changed.notified();
            match due {
                None => changed.await,
                Some(at) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }

    /// The work on an item has ended.
    pub fn done(&self, item: &T) {
        let mut state = self.state();
        state.active.remove(item);
        if state.again.remove(item) && state.add(item.clone()) {
            drop(state);
            self.inner.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.inner.state.lock().expect("no holder of this lock panics")
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// Whether there is more to hand out than before.
    fn add(&mut self, item: T) -> bool {
        if self.active.contains(&item) {
            self.again.insert(item);
            return false;
        }
        let new = self.waiting.insert(item.clone());
        if new {
            self.ready.push_back(item);
        }
        new
    }

    fn ripen(&mut self, now: Instant) {
        while let Some(first) = self.later.first_entry() {
            if first.key().0 > now {
                return;
            }
            let item = first.remove();
            self.due.remove(&item);
            self.add(item);
        }
    }
}

/// Hands items to `f`, at most `workers` at a time, until `stop`; then waits for those that run. An error or a panic
/// is logged and the item retried with growing pauses.
pub async fn work<T, F, Fut, E>(
    queue: Queue<T>,
    workers: usize,
    stop: CancellationToken,
    f: F,
) -> Result<(), std::convert::Infallible>
where
    T: Clone + Eq + Hash + Debug + Send + Sync + 'static,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<Next, E>> + Send + 'static,
    E: Into<BoxError>,
{
    let mut running: JoinSet<Result<Next, BoxError>> = JoinSet::new();
    let mut items: HashMap<tokio::task::Id, T> = HashMap::new();
    let finish = |items: &mut HashMap<_, T>, end: Result<(tokio::task::Id, Result<Next, BoxError>), _>| {
        let (id, outcome) = match end {
            Ok((id, outcome)) => (id, outcome),
            Err(panic) => {
                let panic: tokio::task::JoinError = panic;
                (panic.id(), Err(panic.into()))
            }
        };
        let item = items.remove(&id).expect("each task was entered with its item");
        match outcome {
            Ok(next) => {
                queue.forget(&item);
                if let Next::After(delay) = next {
                    queue.add_after(item.clone(), delay);
                }
            }
            Err(error) => {
                let retries = queue.retries(&item);
                let error = crate::chain(error.as_ref());
                // The first failures are mostly conflicts, which the retry settles.
                if retries < 3 {
                    debug!(?item, %error, retries, "work failed");
                } else {
                    warn!(?item, %error, retries, "work failed");
                }
                queue.retry(item.clone());
            }
        }
        queue.done(&item);
    };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(end) = running.join_next_with_id(), if !running.is_empty() => finish(&mut items, end),
            item = queue.next(), if running.len() < workers => {
                let future = f(item.clone());
                let task = running.spawn(async move { future.await.map_err(Into::into) });
                items.insert(task.id(), item);
            }
        }
    }
    while let Some(end) = running.join_next_with_id().await {
        finish(&mut items, end);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_item_waits_once_and_comes_again_when_added_while_active() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.len(), 1);
        let item = queue.next().await;
        queue.add("a");
        assert_eq!(queue.len(), 0, "it is being worked on");
        queue.done(&item);
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_counts() {
        let queue = Queue::new();
        let began = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(2));
        queue.add_after("a", Duration::from_secs(5));
        assert_eq!(queue.next().await, "a");
        assert_eq!(began.elapsed().as_secs(), 2);
        queue.done(&"a");
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn retries_double_until_forgotten() {
        let queue = Queue::new();
        for want in [5, 10, 20] {
            let began = Instant::now();
            queue.retry("a");
            let item = queue.next().await;
            assert_eq!(began.elapsed().as_millis(), want);
            queue.done(&item);
        }
        queue.forget(&"a");
        assert_eq!(queue.retries(&"a"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_and_panics_are_retried_and_others_go_on() {
        let queue = Queue::new();
        let stop = CancellationToken::new();
        let tries = Arc::new(AtomicU32::new(0));
        queue.add("bad");
        queue.add("good");
        let (counted, ends) = (tries.clone(), stop.clone());
        work(queue.clone(), 2, stop, move |item| {
            let (tries, stop) = (counted.clone(), ends.clone());
            async move {
                if item == "good" {
                    return Ok(Next::Done);
                }
                match tries.fetch_add(1, Ordering::SeqCst) {
                    0 => Err("conflict"),
                    1 => panic!("boom"),
                    _ => {
                        stop.cancel();
                        Ok(Next::Done)
                    }
                }
            }
        })
        .await
        .unwrap();
        assert_eq!(tries.load(Ordering::SeqCst), 3);
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_workers_run_at_once() {
        let queue = Queue::new();
        let stop = CancellationToken::new();
        (0..10).for_each(|n| queue.add(n));
        let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (r, m, s) = (running.clone(), most.clone(), stop.clone());
        work(queue, 3, stop, move |item| {
            let (running, most, stop) = (r.clone(), m.clone(), s.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                if item == 9 {
                    stop.cancel();
                }
                Ok::<_, Infallible>(Next::Done)
            }
        })
        .await
        .unwrap();
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    use std::convert::Infallible;
}

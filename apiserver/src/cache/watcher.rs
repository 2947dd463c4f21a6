//! A watch: a cursor into the window and a filter. There is no queue for each watcher; one that is too slow falls out of
//! the window and is told so.
//! Holds at all times: a watcher that sleeps has seen every record of its filter, except those marked in its slot.
//! Locks are taken in the order state, waiters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::select::Matcher;
use super::window::{Record, Window};
use super::{Cache, Error, Event};
use crate::store::Revision;

/// Events that one call returns, at most.
const BATCH: usize = 256;
/// Records that one call looks at, at most: bounds how long the lock is held for a filter that selects little.
const SCAN: usize = 4096;

/// A place in the recent history of a resource, and a filter.
#[derive(Debug)]
pub struct Watcher {
    cache: Arc<Cache>,
    matcher: Matcher,
    /// Changes up to here were not asked for.
    after: Revision,
    /// The next record to look at, unless the slot sleeps.
    cursor: u64,
    /// Everything up to here has been looked at, unless the slot sleeps.
    seen: Revision,
    slot: usize,
}

/// Those who sleep until something happens.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// Slots that any change wakes.
    by_any: Vec<usize>,
    /// Slots that sleep through what is not theirs: a kubelet hears of its own pods alone.
    by_trigger: HashMap<Trigger, Vec<usize>>,
    /// How many triggers there are of each kind, so that kinds without any cost nothing.
    names: usize,
    namespaces: usize,
    fields: Vec<usize>,
}

#[derive(Debug, Default)]
struct Slot {
    trigger: Option<Trigger>,
    /// Somebody who sleeps.
    waker: Option<Waker>,
    /// Whether everything before `marked` has been seen.
    asleep: bool,
    /// The first record since it fell asleep that may matter.
    marked: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Trigger {
    Namespace(Arc<str>),
    Name(Arc<str>),
    Field(usize, Arc<str>),
}

impl Watcher {
    /// `cursor` and `seen` belong together: everything before the one is at most the other.
    pub(super) fn new(cache: Arc<Cache>, matcher: Matcher, after: Revision, cursor: u64, seen: Revision) -> Self {
        let slot = lock(&cache.waiters).add(Trigger::of(&matcher));
        Watcher {
            cache,
            matcher,
            after,
            cursor,
            seen,
            slot,
        }
    }

    /// The next events, one or more, in order. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<Event>, Error>> {
        let state = self.cache.read();
        if state.closed {
            return Poll::Ready(Err(Error::Closed));
        }
        {
            let mut waiters = lock(&self.cache.waiters);
            let slot = waiters.slot(self.slot);
            if slot.asleep {
                match slot.marked.take() {
                    Some(marked) => {
                        self.cursor = self.cursor.max(marked);
                        slot.asleep = false;
                        slot.waker = None;
                    }
                    None => {
                        slot.sleep(context);
                        return Poll::Pending;
                    }
                }
            }
        }
        let window = &state.window;
        if self.cursor < window.start() {
            return Poll::Ready(Err(Error::Expired {
                asked: self.seen,
                oldest: window.floor(),
            }));
        }
        let mut events = Vec::new();
        for record in window.from(self.cursor).take(SCAN) {
            self.cursor += 1;
            self.seen = record.revision;
            if record.revision > self.after
                && let Some(event) = event(record, &self.matcher)
            {
                events.push(event);
                if events.len() == BATCH {
                    break;
                }
            }
        }
        if !events.is_empty() {
            return Poll::Ready(Ok(events));
        }
        if self.cursor < window.end() {
            // Much was looked at and nothing found: let others run, then go on.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut waiters = lock(&self.cache.waiters);
        waiters.slot(self.slot).sleep(context);
        Poll::Pending
    }

    /// For a bookmark: every event up to here has been returned by `next`.
    pub fn progress(&self) -> Revision {
        let state = self.cache.read();
        let current = self.cache.revision_of(&state);
        let mut waiters = lock(&self.cache.waiters);
        let slot = waiters.slot(self.slot);
        let up_to_date = match slot.asleep {
            true => slot.marked.is_none(),
            false => self.cursor == state.window.end(),
        };
        let seen = if up_to_date { current } else { self.seen };
        seen.max(self.after)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Its waker goes after the lock: a waker may be the last of a task that holds another watcher.
        let slot = lock(&self.cache.waiters).remove(self.slot);
        drop(slot);
    }
}

fn event(record: &Record, matcher: &Matcher) -> Option<Event> {
    let old = record.old.as_ref().filter(|item| matcher.matches(item));
    let new = record.new.as_ref().filter(|item| matcher.matches(item));
    match (old, new) {
        (None, None) => None,
        (None, Some(new)) => Some(Event::Added(new.clone())),
        (Some(_), Some(new)) => Some(Event::Modified(new.clone())),
        (Some(old), None) => Some(Event::Deleted {
            item: old.clone(),
            at: record.revision,
        }),
    }
}

impl Trigger {
    /// The most telling thing that everything the watcher wants has in common.
    fn of(matcher: &Matcher) -> Option<Self> {
        if let Some(name) = &matcher.name {
            return Some(Trigger::Name(name.clone()));
        }
        let field = matcher.field_equalities().find(|(_, value)| !value.is_empty());
        if let Some((at, value)) = field {
            return Some(Trigger::Field(at, value.into()));
        }
        matcher.namespace.clone().map(Trigger::Namespace)
    }
}

impl Slot {
    fn sleep(&mut self, context: &Context<'_>) {
        self.asleep = true;
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => self.waker = Some(context.waker().clone()),
        }
    }

    fn mark(&mut self, record: u64, wake: &mut Vec<Waker>) {
        if self.asleep && self.marked.is_none() {
            self.marked = Some(record);
            wake.extend(self.waker.take());
        }
    }
}

impl Waiters {
    fn slot(&mut self, at: usize) -> &mut Slot {
        self.slots[at]
            .as_mut()
            .expect("a watcher holds its slot until it is dropped")
    }

    fn add(&mut self, trigger: Option<Trigger>) -> usize {
        let slot = Slot {
            trigger: trigger.clone(),
            ..Slot::default()
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at] = Some(slot);
                at
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        };
        match trigger {
            None => self.by_any.push(at),
            Some(trigger) => {
                *self.kind(&trigger) += 1;
                self.by_trigger.entry(trigger).or_default().push(at);
            }
        }
        at
    }

    fn remove(&mut self, at: usize) -> Option<Slot> {
        let slot = self.slots[at].take()?;
        self.free.push(at);
        match &slot.trigger {
            None => forget(&mut self.by_any, at),
            Some(trigger) => {
                *self.kind(trigger) -= 1;
                if let Some(slots) = self.by_trigger.get_mut(trigger) {
                    forget(slots, at);
                    if slots.is_empty() {
                        self.by_trigger.remove(trigger);
                    }
                }
            }
        }
        if self.free.len() == self.slots.len() {
            *self = Waiters::default();
        }
        Some(slot)
    }

    fn kind(&mut self, trigger: &Trigger) -> &mut usize {
        match trigger {
            Trigger::Namespace(_) => &mut self.namespaces,
            Trigger::Name(_) => &mut self.names,
            Trigger::Field(at, _) => {
                if self.fields.len() <= *at {
                    self.fields.resize(at + 1, 0);
                }
                &mut self.fields[*at]
            }
        }
    }

    /// Marks, in those who sleep, what was pushed to the window from `cursor` on; returns whom to wake. Called under the
    /// state's write lock, so that nobody looks at the window between the push and the mark.
    pub(super) fn mark(&mut self, window: &Window, cursor: u64) -> Vec<Waker> {
        let mut wake = Vec::new();
        if self.slots.is_empty() || cursor == window.end() {
            return wake;
        }
        // A burst may have pushed more than the window holds: whoever slept through it has fallen out.
        let first = cursor.max(window.start());
        let lost = cursor < window.start();
        for at in &self.by_any {
            if let Some(slot) = &mut self.slots[*at] {
                slot.mark(cursor, &mut wake);
            }
        }
        if self.by_trigger.is_empty() {
            return wake;
        }
        if lost {
            self.mark_all(cursor, &mut wake);
            return wake;
        }
        for (number, record) in (first..).zip(window.from(first)) {
            for item in [&record.old, &record.new].into_iter().flatten() {
                let facts = &item.facts;
                let name = (self.names > 0).then(|| Trigger::Name(facts.name.clone()));
                let namespace = (self.namespaces > 0).then(|| Trigger::Namespace(facts.namespace.clone()));
                let fields = (self.fields.iter().enumerate())
                    .filter(|(_, waiting)| **waiting > 0)
                    .map(|(at, _)| Trigger::Field(at, facts.fields[at].clone()));
                for trigger in name.into_iter().chain(namespace).chain(fields) {
                    for at in self.by_trigger.get(&trigger).into_iter().flatten() {
                        if let Some(slot) = &mut self.slots[*at] {
                            slot.mark(number, &mut wake);
                        }
                    }
                }
            }
        }
        wake
    }

    /// Wakes everybody: their place in the window is gone, or the cache is.
    pub(super) fn mark_all(&mut self, record: u64, wake: &mut Vec<Waker>) {
        for slot in self.slots.iter_mut().flatten() {
            slot.mark(record, wake);
        }
    }
}

fn forget(slots: &mut Vec<usize>, at: usize) {
    if let Some(place) = slots.iter().position(|slot| *slot == at) {
        slots.swap_remove(place);
    }
}

pub(super) fn lock(waiters: &Mutex<Waiters>) -> std::sync::MutexGuard<'_, Waiters> {
    waiters.lock().unwrap_or_else(PoisonError::into_inner)
}

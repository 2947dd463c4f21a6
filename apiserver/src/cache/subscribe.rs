//! Following a resource from inside this server.

use std::sync::Arc;

use super::{Cache, Error, Event, Filter, Item, Watcher};

/// What a subscriber is told.
#[derive(Debug, Clone)]
pub enum Delta {
    /// Forget what you know: this is everything. Always the first.
    Reset(Vec<Arc<Item>>),
    Changes(Vec<Event>),
}

/// All of a resource, then every change to it.
#[derive(Debug)]
pub struct Subscription {
    cache: Arc<Cache>,
    state: State,
}

#[derive(Debug)]
enum State {
    Behind,
    Following(Box<Watcher>),
    Closed,
}

impl Subscription {
    pub(super) fn new(cache: Arc<Cache>) -> Self {
        Subscription {
            cache,
            state: State::Behind,
        }
    }

    /// Waits for the initial list at first, then for changes. Never ends: after the resource was taken away it says so
    /// with an empty `Reset` and then waits for ever. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Delta {
        loop {
            match &mut self.state {
                State::Behind => {
                    self.cache.progress.loaded().await;
                    let (items, _, watcher) = self.cache.list_and_watch(Filter::default());
                    self.state = State::Following(Box::new(watcher));
                    return Delta::Reset(items);
                }
                State::Following(watcher) => match watcher.next().await {
                    Ok(events) => return Delta::Changes(events),
                    Err(Error::Closed) => {
                        self.state = State::Closed;
                        return Delta::Reset(Vec::new());
                    }
                    Err(_) => self.state = State::Behind,
                },
                State::Closed => std::future::pending().await,
            }
        }
    }
}

//! Back-off per key, as the node agent has it everywhere: the first failure is free, then a delay that doubles, forgotten after quiet.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

#[derive(Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    entries: HashMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    updated: Instant,
}

impl Backoff {
    pub fn new(initial: Duration, max: Duration) -> Self {
        Backoff {
            initial,
            max,
            entries: HashMap::new(),
        }
    }

    /// Until when the key waits after a failure at `failed`, and the delay in force. None: it may go at once.
    pub fn until(&self, key: &str, failed: Instant) -> Option<(Instant, Duration)> {
        let entry = self.entries.get(key).filter(|e| !self.expired(e, failed))?;
        Some((failed + entry.delay, entry.delay))
    }

    /// Counts a new try after a failure at `failed`: the next failure waits longer.
    pub fn next(&mut self, key: &str, failed: Instant, now: Instant) {
        let delay = match self.entries.get(key) {
            Some(entry) if !self.expired(entry, failed) => (entry.delay * 2).min(self.max),
            _ => self.initial,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }

    // Upstream forgets after twice the maximum without a failure.
    fn expired(&self, entry: &Entry, failed: Instant) -> bool {
        failed.saturating_duration_since(entry.updated) > self.max * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_first_restart_is_free_and_the_delay_doubles_to_its_maximum() {
        let mut backoff = Backoff::new(10 * S, 300 * S);
        let mut now = Instant::now();
        assert_eq!(backoff.until("a", now), None);
        for want in [10, 20, 40, 80, 160, 300, 300] {
            backoff.next("a", now, now);
            now += S;
            let (until, delay) = backoff.until("a", now).unwrap();
            assert_eq!(delay, want * S);
            assert_eq!(until, now + delay);
            now = until;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ten_quiet_minutes_reset_it() {
        let mut backoff = Backoff::new(10 * S, 300 * S);
        let start = Instant::now();
        backoff.next("a", start, start);
        backoff.next("a", start, start);
        let later = start + 601 * S;
        assert_eq!(backoff.until("a", later), None);
        backoff.next("a", later, later);
        assert_eq!(backoff.until("a", later + S).unwrap().1, 10 * S);
    }
}

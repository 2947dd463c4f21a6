//! What the node, its pods and their containers use: cgroups, the runtime and file systems are read, upstream's documents go out.
//! Nothing here knows who asks or acts on a number; a reading is made when somebody asks and carries its own time.
//! Invariant: a rate is made of two readings that lie at least a second apart, and nothing is read while nobody asks.

pub mod disk;
pub mod sample;
pub mod summary;
pub mod text;

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

pub use sample::Sample;

use crate::{pods::shared::Shared, runtime};

/// Readings nearer than this make a rate of noise, and are the same for whoever asks.
const LEAST: Duration = Duration::from_secs(1);
/// A reading that is older than this is no ground for what is called a current rate.
const MOST: Duration = Duration::from_secs(60);
/// The older of the two readings is given up for a newer one once that is so old.
const STEP: Duration = Duration::from_secs(10);

/// The last two readings, kept for the next who asks.
#[derive(Debug, Default)]
pub struct Meter {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    older: Option<(Instant, Arc<Sample>)>,
    newer: Option<(Instant, Arc<Sample>)>,
}

/// Two readings; what lies between them is what is used now.
#[derive(Debug, Clone)]
pub struct Pair {
    pub before: Arc<Sample>,
    pub now: Arc<Sample>,
}

impl Meter {
    /// The state of this moment, to be told with sums only.
    pub async fn once(&self, shared: &Shared) -> Result<Arc<Sample>, runtime::Error> {
        Ok(Arc::new(sample::take(shared).await?))
    }

    /// The state of this moment and an earlier one. Who asks first waits for a second.
    pub async fn pair(&self, shared: &Shared) -> Result<Pair, runtime::Error> {
        self.pair_with(|| sample::take(shared)).await
    }

    async fn pair_with<F>(&self, take: impl Fn() -> F) -> Result<Pair, runtime::Error>
    where
        F: Future<Output = Result<Sample, runtime::Error>>,
    {
        // Whoever comes meanwhile waits here and finds what the first has read.
        let mut kept = self.kept.lock().await;
        if let (Some((_, before)), Some((at, now))) = (&kept.older, &kept.newer)
            && at.elapsed() < LEAST
        {
            return Ok(Pair {
                before: before.clone(),
                now: now.clone(),
            });
        }
        let usable = |entry: &(Instant, Arc<Sample>)| (LEAST..=MOST).contains(&entry.0.elapsed());
        let young = kept.newer.clone().filter(|n| usable(n) && n.0.elapsed() >= STEP);
        let any = || {
            let kept = [kept.older.clone(), kept.newer.clone()];
            kept.into_iter().flatten().find(usable)
        };
        let older = match young.or_else(any) {
            Some(older) => older,
            None => {
                let first = (Instant::now(), Arc::new(take().await?));
                tokio::time::sleep(LEAST).await;
                first
            }
        };
        let newer = (Instant::now(), Arc::new(take().await?));
        let pair = Pair {
            before: older.1.clone(),
            now: newer.1.clone(),
        };
        *kept = Kept {
            older: Some(older),
            newer: Some(newer),
        };
        Ok(pair)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Source(AtomicU64);

    impl Source {
        async fn take(&self) -> Result<Sample, runtime::Error> {
            let count = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            let mut sample = Sample::default();
            sample.node.cpu = Some(count);
            Ok(sample)
        }
    }

    async fn numbers(meter: &Meter, source: &Source) -> (u64, u64) {
        let pair = meter.pair_with(|| source.take()).await.unwrap();
        (pair.before.node.cpu.unwrap(), pair.now.node.cpu.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_who_asks_waits_and_the_next_does_not() {
        let (meter, source) = (Meter::default(), Source(AtomicU64::new(0)));
        let start = Instant::now();
        assert_eq!(numbers(&meter, &source).await, (1, 2));
        assert_eq!(start.elapsed(), LEAST);
        // At once: the same answer without a reading.
        assert_eq!(numbers(&meter, &source).await, (1, 2));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(numbers(&meter, &source).await, (1, 3));
        assert_eq!(start.elapsed(), Duration::from_secs(4));
        // The newer of the two has become old enough to stand in for the older.
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(numbers(&meter, &source).await, (3, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn readings_of_an_hour_ago_are_no_ground_for_a_rate() {
        let (meter, source) = (Meter::default(), Source(AtomicU64::new(0)));
        assert_eq!(numbers(&meter, &source).await, (1, 2));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(numbers(&meter, &source).await, (3, 4));
    }
}

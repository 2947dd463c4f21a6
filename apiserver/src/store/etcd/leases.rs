//! Times to live are etcd's leases. One lease serves many entries, because each costs etcd a record and a timer: entries
//! that come soon after each other share one that lives a little longer, as upstream does.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::endpoints::{Call, Endpoints};
use super::failure::Failure;

/// A lease is handed out for so long, at most.
const SHARED_FOR: Duration = Duration::from_secs(60);
/// Entries of one lease, at most: they are deleted at once.
const ENTRIES: u32 = 1000;

#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<Option<Lease>>);

#[derive(Debug)]
struct Lease {
    id: i64,
    time: Duration,
    until: Instant,
    entries: u32,
}

impl Leases {
    /// A lease that ends when `time` is over, or a little later.
    pub(super) async fn find(&self, endpoints: &Endpoints, time: Duration) -> Result<i64, Failure> {
        let mut current = self.0.lock().await;
        if let Some(lease) = &mut *current
            && lease.time == time
            && lease.entries < ENTRIES
            && Instant::now() < lease.until
        {
            lease.entries += 1;
            return Ok(lease.id);
        }
        let shared = (time / 20).min(SHARED_FOR);
        // etcd counts seconds.
        let seconds = (time + shared).as_millis().div_ceil(1000).max(1) as i64;
        let granted = endpoints
            .call(Call::Write, |member| {
                let mut lease = member.lease;
                async move { lease.grant(seconds, None).await }
            })
            .await?;
        *current = Some(Lease {
            id: granted.id(),
            time,
            until: Instant::now() + shared,
            entries: 1,
        });
        Ok(granted.id())
    }

    /// It is not there any more.
    pub(super) async fn forget(&self, id: i64) {
        self.0.lock().await.take_if(|lease| lease.id == id);
    }
}

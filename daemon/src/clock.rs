//! The time of day, in step with the timers.

use jiff::Timestamp;
use tokio::time::Instant;

/// The time of day. Where a test has paused tokio's clock and moved it on, the time of day has moved as far: who waits
/// ten seconds and then looks at a stamp finds ten seconds gone.
#[expect(
    clippy::disallowed_types,
    reason = "the distance between the two clocks is what is asked for"
)]
pub fn now() -> Timestamp {
    let (tokio, real) = (Instant::now().into_std(), std::time::Instant::now());
    let now = Timestamp::now();
    if tokio >= real {
        now + (tokio - real)
    } else {
        now - (real - tokio)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_of_day_moves_with_a_paused_clock() {
        let before = now();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let passed = now().duration_since(before);
        // The two clocks are read one after the other, so they differ by what lies between, of either sign.
        assert!((passed.as_millis() - 3_600_000).abs() < 1_000, "{passed}");
    }
}

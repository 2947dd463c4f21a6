//! Growing pauses between attempts.

use std::time::Duration;

/// Doubles from `first` to `most`; each pause is spread by up to a fifth so that many clients do not march in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff {
            first,
            most,
            failures: 0,
        }
    }

    /// The pause before the next attempt.
    pub fn pause(&mut self) -> Duration {
        let pause = double(self.first, self.failures, self.most);
        self.failures = self.failures.saturating_add(1);
        pause.mul_f64(1.0 + rand::random::<f64>() / 5.0)
    }

    /// After a success the next pause is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `first` doubled `times` times, at most `most`.
pub(crate) fn double(first: Duration, times: u32, most: Duration) -> Duration {
    first
        .saturating_mul(1u32.checked_shl(times).unwrap_or(u32::MAX))
        .min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let ms = Duration::from_millis;
        for (times, want) in [(0, 5), (1, 10), (4, 80), (5, 100), (40, 100)] {
            assert_eq!(double(ms(5), times, ms(100)), ms(want), "{times}");
        }
        let mut backoff = Backoff::new(ms(100), ms(1000));
        assert!(backoff.pause() < ms(121));
        assert!(backoff.pause() >= ms(200));
        backoff.reset();
        assert!(backoff.pause() < ms(121));
    }
}

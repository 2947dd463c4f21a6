//! Delays that grow: smallest, largest, factor → the next delay. Randomness comes in from outside.

use std::time::Duration;

/// How delays grow. All values are checked when it is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    factor: f64,
    jitter: f64,
}

/// A back-off that would not grow, or not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a back-off needs 0 < min <= max, a factor of at least 1 and a jitter of at least 0")]
pub struct Invalid;

impl Backoff {
    /// Delays from `min`, each `factor` times the last, up to `max`; up to `jitter` times the delay may be added.
    pub fn new(min: Duration, max: Duration, factor: f64, jitter: f64) -> Result<Self, Invalid> {
        let good =
            !min.is_zero() && min <= max && factor >= 1.0 && jitter >= 0.0 && factor.is_finite() && jitter.is_finite();
        if good {
            Ok(Self {
                min,
                max,
                factor,
                jitter,
            })
        } else {
            Err(Invalid)
        }
    }

    /// Doubling delays without jitter.
    ///
    /// # Panics
    /// Where `min` is zero or above `max`: both are constants of the program.
    pub fn doubling(min: Duration, max: Duration) -> Self {
        Self::new(min, max, 2.0, 0.0).expect("constants: 0 < min <= max")
    }

    /// The delay before the attempt that follows `failures` failures (the first retry has 0); `random` in 0..1 spreads it.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failures).unwrap_or(i32::MAX);
        let plain = self.min.as_secs_f64() * self.factor.powi(exponent);
        let capped = plain.min(self.max.as_secs_f64());
        Duration::from_secs_f64(capped * (1.0 + self.jitter * random.clamp(0.0, 1.0)))
    }

    /// The longest delay before jitter.
    pub fn max(&self) -> Duration {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_the_largest() {
        let backoff = Backoff::doubling(Duration::from_millis(10), Duration::from_millis(100));
        let delays: Vec<_> = (0..6).map(|n| backoff.delay(n, 0.7).as_millis()).collect();
        assert_eq!(delays, [10, 20, 40, 80, 100, 100]);
        assert_eq!(backoff.delay(u32::MAX, 0.0), backoff.max());
        let spread = Backoff::new(Duration::from_secs(1), Duration::from_secs(1), 1.0, 0.5).unwrap();
        assert_eq!(spread.delay(9, 1.0), Duration::from_millis(1500));
        assert_eq!(spread.delay(9, 0.0), Duration::from_secs(1));
    }

    #[test]
    fn senseless_backoffs_are_refused() {
        let second = Duration::from_secs(1);
        for (min, max, factor, jitter) in [
            (Duration::ZERO, second, 2.0, 0.0),
            (second * 2, second, 2.0, 0.0),
            (second, second, 0.5, 0.0),
            (second, second, 2.0, -1.0),
            (second, second, f64::NAN, 0.0),
        ] {
            assert_eq!(Backoff::new(min, max, factor, jitter), Err(Invalid));
        }
    }
}

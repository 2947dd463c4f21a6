//! The time of day, in step with the timers, and word of its jumps.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use jiff::Timestamp;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
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

/// Tells when the time of day was set, or went on while the machine slept. Timers know nothing of either: who waits for
/// a time of day has to look at it again.
#[derive(Debug)]
pub struct Jumps(AsyncFd<Timer>);

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Jumps {
    /// Begins to listen. Needs a runtime.
    pub fn new() -> io::Result<Self> {
        let timer = TimerFd::new(
            ClockId::CLOCK_REALTIME,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        arm(&timer)?;
        // SAFETY: the timer owns its descriptor, so it is open, and the same one, until it is taken out.
        #[allow(unsafe_code, reason = "registering asks for the promise above")]
        let timer = unsafe { AsyncFd::register(Timer(timer)) }?;
        Ok(Jumps(timer))
    }

    /// Waits for the next jump.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            let answer = ready.get_inner().0.wait();
            ready.clear_ready();
            match answer {
                // Read of a timer that was cancelled because the clock was set.
                Err(nix::errno::Errno::ECANCELED) => {}
                Err(nix::errno::Errno::EAGAIN) => continue,
                Err(error) => return Err(error.into()),
                Ok(()) => {}
            }
            arm(&ready.get_inner().0)?;
            return Ok(());
        }
    }
}

/// Sets a timer that never ends but by a jump of the clock.
fn arm(timer: &TimerFd) -> io::Result<()> {
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    Ok(timer.set(Expiration::OneShot(TimeSpec::seconds(i64::from(u32::MAX) * 2)), flags)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn nothing_is_told_while_the_clock_goes_on() {
        let mut jumps = Jumps::new().unwrap();
        let told = tokio::time::timeout(Duration::from_millis(20), jumps.next()).await;
        assert!(told.is_err(), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_day_moves_with_a_paused_clock() {
        let before = now();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let passed = now().duration_since(before);
        // The two clocks are read one after the other, so they differ by what lies between, of either sign.
        assert!((passed.as_millis() - 3_600_000).abs() < 1_000, "{passed}");
    }
}

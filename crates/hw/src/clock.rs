//! Time for deadlines.
//!
//! Devices are waited for with a limit only: `wait` polls until a condition holds or the limit is over.

use core::time::Duration;

/// A monotonic clock.
pub trait Clock: Send + Sync {
    /// The time since some fixed moment; it never goes back.
    fn now(&self) -> Duration;
}

/// What was waited for did not happen within the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

impl dyn Clock + '_ {
    /// Polls `condition` until it holds, for at most `limit`. For short waits at start and reset only: it keeps the core.
    pub fn wait(&self, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<(), TimedOut> {
        let start = self.now();
        loop {
            if condition() {
                return Ok(());
            }
            if self.now().saturating_sub(start) >= limit {
                return Err(TimedOut);
            }
            core::hint::spin_loop();
        }
    }

    /// Lets `time` pass, where a data sheet asks for a pause.
    pub fn delay(&self, time: Duration) {
        let _ = self.wait(time, || false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeClock;

    #[test]
    fn a_wait_ends_as_soon_as_the_condition_holds() {
        let clock: &dyn Clock = &FakeClock::default();
        let mut polls = 0;
        let result = clock.wait(Duration::from_secs(1), || {
            polls += 1;
            polls == 3
        });
        assert_eq!((result, polls), (Ok(()), 3));
    }

    #[test]
    fn a_wait_ends_at_its_limit() {
        let clock: &dyn Clock = &FakeClock::default();
        assert_eq!(clock.wait(Duration::from_millis(5), || false), Err(TimedOut));
        assert!(clock.now() >= Duration::from_millis(5));
    }

    #[test]
    fn the_condition_is_looked_at_even_with_no_time_left() {
        let clock: &dyn Clock = &FakeClock::default();
        assert_eq!(clock.wait(Duration::ZERO, || true), Ok(()));
    }
}

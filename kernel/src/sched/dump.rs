//! Queues and timers in the dump (see [`crate::dump`]).

use core::fmt::{self, Write};

use super::{executor, timer};
use crate::arch::CoreId;

/// Writes what the first `cores` cores have to do at the time `now`.
pub fn dump(cores: usize, now: u64, out: &mut dyn Write) -> fmt::Result {
    (0..cores as u16).map(CoreId).try_for_each(|core| {
        let ((urgent, normal), (first, armed)) = (executor::ready(core), timer::state(core));
        writeln!(
            out,
            "core {}: {urgent} urgent tasks ready and {normal} others; first deadline {}, timer set for {}",
            core.0,
            Deadline { at: first, now },
            Deadline { at: armed, now }
        )
    })
}

/// A time in nanoseconds, in seconds.
pub struct Seconds(pub u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

/// A deadline as seen from `now`: how long until it comes, or since it came.
pub struct Deadline {
    /// When it is, in nanoseconds.
    pub at: u64,
    /// The time.
    pub now: u64,
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.at, self.at.checked_sub(self.now)) {
            (timer::NEVER, _) => f.write_str("never"),
            (_, Some(left)) => write!(f, "in {} s", Seconds(left)),
            (at, None) => write!(f, "{} s ago", Seconds(self.now - at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn deadlines_are_told_from_the_present() {
        let at = |at| format!("{}", Deadline { at, now: 5_000_000_000 });
        assert_eq!(at(u64::MAX), "never");
        assert_eq!(at(5_250_000_000), "in 0.250000 s");
        assert_eq!(at(3_999_999_000), "1.000001 s ago");
    }
}

//! Times as programs pass them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::errno::Errno;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;
const MICROSECONDS_PER_SECOND: i64 = 1_000_000;

/// `struct timespec`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: i64,
}

/// `struct timeval`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timeval {
    /// Seconds.
    pub seconds: i64,
    /// Microseconds, below 1,000,000.
    pub microseconds: i64,
}

impl Timespec {
    /// As nanoseconds; what does not fit is for ever.
    ///
    /// # Errors
    /// `EINVAL` for negative times and parts of a second that are more than one.
    pub fn nanoseconds(self) -> Result<u64, Errno> {
        let seconds = u64::try_from(self.seconds).map_err(|_| Errno::EINVAL)?;
        let rest = u64::try_from(self.nanoseconds).map_err(|_| Errno::EINVAL)?;
        if rest >= NANOSECONDS_PER_SECOND {
            return Err(Errno::EINVAL);
        }
        Ok(seconds.saturating_mul(NANOSECONDS_PER_SECOND).saturating_add(rest))
    }

    /// From nanoseconds.
    pub fn from_nanoseconds(nanoseconds: u64) -> Self {
        let (seconds, rest) = (nanoseconds / NANOSECONDS_PER_SECOND, nanoseconds % NANOSECONDS_PER_SECOND);
        Self { seconds: seconds as i64, nanoseconds: rest as i64 }
    }
}

impl Timeval {
    /// As nanoseconds; what does not fit is for ever.
    ///
    /// # Errors
    /// As [`Timespec::nanoseconds`].
    pub fn nanoseconds(self) -> Result<u64, Errno> {
        let nanoseconds = self.microseconds.checked_mul(1000).ok_or(Errno::EINVAL)?;
        Timespec { seconds: self.seconds, nanoseconds }.nanoseconds()
    }

    /// With whole seconds among the microseconds counted as seconds: select(2) takes more than a second of them.
    ///
    /// # Errors
    /// `EINVAL` when the seconds overflow.
    pub fn carried(self) -> Result<Self, Errno> {
        let seconds =
            self.seconds.checked_add(self.microseconds / MICROSECONDS_PER_SECOND).ok_or(Errno::EINVAL)?;
        Ok(Self { seconds, microseconds: self.microseconds % MICROSECONDS_PER_SECOND })
    }

    /// From nanoseconds, cut to microseconds.
    pub fn from_nanoseconds(nanoseconds: u64) -> Self {
        let Timespec { seconds, nanoseconds } = Timespec::from_nanoseconds(nanoseconds);
        Self { seconds, microseconds: nanoseconds / 1000 }
    }
}

/// `struct itimerspec`
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ItimerSpec {
    interval: Timespec,
    value: Timespec,
}

impl ItimerSpec {
    /// The interval and the value, as nanoseconds.
    ///
    /// # Errors
    /// As [`Timespec::nanoseconds`].
    pub fn nanoseconds(self) -> Result<(u64, u64), Errno> {
        Ok((self.interval.nanoseconds()?, self.value.nanoseconds()?))
    }

    /// From nanoseconds.
    pub fn from_nanoseconds(interval: u64, value: u64) -> Self {
        let [interval, value] = [interval, value].map(Timespec::from_nanoseconds);
        Self { interval, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_both_ways() {
        let time = Timespec { seconds: 3, nanoseconds: 999_999_999 };
        assert_eq!(time.nanoseconds(), Ok(3_999_999_999));
        assert_eq!(Timespec::from_nanoseconds(3_999_999_999), time);
        let time = Timeval { seconds: 3, microseconds: 999_999 };
        assert_eq!(time.nanoseconds(), Ok(3_999_999_000));
        assert_eq!(Timeval::from_nanoseconds(3_999_999_999), time);
    }

    #[test]
    fn parts_of_a_second_are_less_than_one_and_nothing_is_negative() {
        for (seconds, nanoseconds) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MIN, i64::MIN)] {
            assert_eq!(Timespec { seconds, nanoseconds }.nanoseconds(), Err(Errno::EINVAL));
        }
        for microseconds in [-1, 1_000_000, i64::MAX, i64::MIN] {
            assert_eq!(Timeval { seconds: 0, microseconds }.nanoseconds(), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn microseconds_may_be_carried_to_the_seconds() {
        let carried = |seconds, microseconds| {
            Timeval { seconds, microseconds }.carried().and_then(Timeval::nanoseconds)
        };
        assert_eq!(carried(1, 2_500_000), Ok(3_500_000_000));
        assert_eq!(carried(1, -1_000_000), Ok(0));
        assert_eq!(carried(0, -1), Err(Errno::EINVAL));
        assert_eq!(carried(i64::MAX, 1_000_000), Err(Errno::EINVAL));
    }

    #[test]
    fn what_does_not_fit_is_for_ever() {
        assert_eq!(Timespec { seconds: i64::MAX, nanoseconds: 0 }.nanoseconds(), Ok(u64::MAX));
    }
}

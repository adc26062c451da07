//! Interval timers: alarm(2), getitimer(2), setitimer(2). The timers themselves are in `process/interval_timer.rs`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use super::clock::Timeval;
use crate::errno::{Errno, SysResult};
use crate::process::interval_timer::{Clock, Setting};
use crate::uaccess::UserPtr;

const SECOND: u64 = 1_000_000_000;
const MICROSECOND: u64 = 1000;

/// `struct itimerval`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Itimerval {
    interval: Timeval,
    value: Timeval,
}

impl Itimerval {
    fn setting(self) -> Result<Setting, Errno> {
        Ok(Setting { value: self.value.nanoseconds()?, interval: self.interval.nanoseconds()? })
    }
}

impl From<Setting> for Itimerval {
    /// Rounded up: a timer that runs must not look as if it did not.
    fn from(setting: Setting) -> Self {
        let [interval, value] = [setting.interval, setting.value]
            .map(|time| Timeval::from_nanoseconds(time.saturating_add(MICROSECOND - 1)));
        Self { interval, value }
    }
}

fn clock(which: u32) -> Result<Clock, Errno> {
    Ok(match which {
        0 => Clock::Real,
        1 => Clock::Virtual,
        2 => Clock::Profiling,
        _ => return Err(Errno::EINVAL),
    })
}

/// alarm(2)
pub fn alarm(c: &mut Caller<'_>, seconds: u32) -> SysResult {
    let once = Setting { value: u64::from(seconds) * SECOND, interval: 0 };
    let old = c.thread.process().set_interval_timer(Clock::Real, once);
    Ok(whole_seconds(old.value))
}

/// What alarm(2) says is left: rounded, but not to 0, which would say that none was set.
fn whole_seconds(left: u64) -> usize {
    let rounded = left.saturating_add(SECOND / 2) / SECOND;
    if left > 0 { rounded.max(1) as usize } else { 0 }
}

/// getitimer(2)
pub fn getitimer(c: &mut Caller<'_>, which: u32, to: UserPtr<Itimerval>) -> SysResult {
    let setting = c.thread.process().interval_timer(clock(which)?);
    to.write(&c.space, &setting.into())?;
    Ok(0)
}

/// setitimer(2). Without a new value the timer is stopped, as Linux does.
pub fn setitimer(
    c: &mut Caller<'_>,
    which: u32,
    new: UserPtr<Itimerval>,
    old: UserPtr<Itimerval>,
) -> SysResult {
    let new = new.non_null().map_or(Ok(Itimerval::default()), |new| new.read(&c.space))?.setting()?;
    let former = c.thread.process().set_interval_timer(clock(which)?, new);
    if let Some(old) = old.non_null() {
        old.write(&c.space, &former.into())?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_an_alarm_is_rounded_but_not_to_none() {
        let seconds = [0, 1, SECOND / 2, SECOND, 14 * SECOND / 10, 15 * SECOND / 10].map(whole_seconds);
        assert_eq!(seconds, [0, 1, 1, 1, 1, 2]);
    }

    #[test]
    fn settings_go_both_ways_and_never_shrink_to_nothing() {
        let setting = Setting { value: 1_500_000_000, interval: 2_000 };
        let told = Itimerval::from(setting);
        assert_eq!(told.value, Timeval { seconds: 1, microseconds: 500_000 });
        assert_eq!(told.setting(), Ok(setting));
        assert_eq!(Itimerval::from(Setting { value: 1, interval: 0 }).value.microseconds, 1);
        let wrong = Itimerval { value: Timeval { seconds: 0, microseconds: 1_000_000 }, ..told };
        assert_eq!(wrong.setting(), Err(Errno::EINVAL));
    }

    #[test]
    fn there_are_three_timers() {
        assert_eq!(clock(2), Ok(Clock::Profiling));
        assert_eq!(clock(3), Err(Errno::EINVAL));
    }
}

//! Clocks and sleeping: clock_gettime(2), clock_nanosleep(2), gettimeofday(2), adjtimex(2) and their families.
//!
//! Programs read clocks through the vDSO; these calls serve what it does not know. The date comes from the real-time clock at boot
//! and is not set afterwards: attempts are refused as they are for those who may not.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use super::clock::{Timespec, Timeval};
use super::clock_id::ClockId;
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::fs;
use crate::process::Thread;
use crate::process::block::sleep;
use crate::uaccess::UserPtr;

/// clock_gettime(2)
pub fn clock_gettime(c: &mut Caller<'_>, clock: i32, to: UserPtr<Timespec>) -> SysResult {
    let now = ClockId::new(clock)?.now(c.thread)?;
    to.write(&c.space, &Timespec::from_nanoseconds(now))?;
    Ok(0)
}

/// clock_getres(2): every clock counts nanoseconds.
pub fn clock_getres(c: &mut Caller<'_>, clock: i32, to: UserPtr<Timespec>) -> SysResult {
    // One that cannot be read has no resolution either.
    ClockId::new(clock)?.now(c.thread)?;
    if let Some(to) = to.non_null() {
        to.write(&c.space, &Timespec::from_nanoseconds(1))?;
    }
    Ok(0)
}

/// clock_settime(2)
pub fn clock_settime(c: &mut Caller<'_>, clock: i32, time: UserPtr<Timespec>) -> SysResult {
    match ClockId::new(clock)? {
        ClockId::Wall { is_real: true } => {
            time.read(&c.space)?.nanoseconds()?;
            Err(Errno::EPERM)
        }
        ClockId::Process(clock) | ClockId::Thread(clock) if clock.id != 0 => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// `TIMER_ABSTIME`; other flags have no effect, as on Linux.
const ABSOLUTE: u32 = 1;

/// clock_nanosleep(2). Sleeping by a processor-time clock is not there.
pub async fn clock_nanosleep(
    c: &mut Caller<'_>,
    clock: i32,
    flags: u32,
    time: UserPtr<Timespec>,
    left: UserPtr<Timespec>,
) -> SysResult {
    let clock = ClockId::new(clock)?;
    // Before the time is looked at, as Linux does.
    clock.deadline(0)?;
    let time = time.read(&c.space)?.nanoseconds()?;
    if flags & ABSOLUTE != 0 {
        return sleep_until(c.thread, clock.deadline(time)?).await;
    }
    sleep_for(c, time, left).await
}

/// nanosleep(2)
pub async fn nanosleep(c: &mut Caller<'_>, time: UserPtr<Timespec>, left: UserPtr<Timespec>) -> SysResult {
    let time = time.read(&c.space)?.nanoseconds()?;
    sleep_for(c, time, left).await
}

/// Sleeps for `time` nanoseconds, or what is left of it when the call goes on after an interruption.
async fn sleep_for(c: &mut Caller<'_>, time: u64, left: UserPtr<Timespec>) -> SysResult {
    let begin = || Some(arch::now().saturating_add(time));
    let deadline = c.thread.restart_deadline_or(begin).unwrap_or(u64::MAX);
    let result = sleep_until(c.thread, deadline).await;
    if result.is_err() {
        if let Some(left) = left.non_null() {
            let rest = deadline.saturating_sub(arch::now());
            left.write(&c.space, &Timespec::from_nanoseconds(rest))?;
        }
        c.thread.set_restart_deadline(Some(deadline));
    }
    result
}

/// Sleeps until `deadline`, in nanoseconds of [`arch::now`].
///
/// # Errors
/// `ERESTARTNOHAND` when interrupted.
async fn sleep_until(thread: &Thread, deadline: u64) -> SysResult {
    match sleep(thread, Some(deadline)).await {
        Errno::EAGAIN => Ok(0),
        _ => Err(Errno::ERESTARTNOHAND),
    }
}

/// `struct timezone`, long without a meaning.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timezone {
    minutes_west: i32,
    dst_time: i32,
}

/// gettimeofday(2)
pub fn gettimeofday(c: &mut Caller<'_>, time: UserPtr<Timeval>, zone: UserPtr<Timezone>) -> SysResult {
    if let Some(time) = time.non_null() {
        time.write(&c.space, &Timeval::from_nanoseconds(fs::now()))?;
    }
    if let Some(zone) = zone.non_null() {
        zone.write(&c.space, &Timezone::default())?;
    }
    Ok(0)
}

/// settimeofday(2)
pub fn settimeofday(c: &mut Caller<'_>, time: UserPtr<Timeval>, zone: UserPtr<Timezone>) -> SysResult {
    if let Some(time) = time.non_null() {
        time.read(&c.space)?.nanoseconds()?;
    }
    if let Some(zone) = zone.non_null() {
        zone.read(&c.space)?;
    }
    Err(Errno::EPERM)
}

/// time(2)
pub fn time(c: &mut Caller<'_>, to: UserPtr<i64>) -> SysResult {
    let seconds = Timespec::from_nanoseconds(fs::now()).seconds;
    if let Some(to) = to.non_null() {
        to.write(&c.space, &seconds)?;
    }
    Ok(seconds as usize)
}

/// `struct timex`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timex {
    modes: u32,
    padding: u32,
    offset: i64,
    frequency: i64,
    max_error: i64,
    estimated_error: i64,
    status: i32,
    padding2: u32,
    constant: i64,
    precision: i64,
    tolerance: i64,
    time: Timeval,
    tick: i64,
    /// Of the pulse-per-second source, which is not there.
    pulse: [i64; 8],
    tai: i32,
    reserved: [i32; 11],
}

const _: () = assert!(size_of::<Timex>() == 208, "struct timex of x86-64");

/// What adjtimex(2) returns while nobody keeps the clock in step: `TIME_ERROR`.
const UNSYNCHRONISED: usize = 5;

impl Timex {
    /// A clock that shows `now` and that nobody adjusts; the numbers are those that Linux boots with.
    fn at(now: u64) -> Self {
        /// `STA_UNSYNC`
        const UNSYNCHRONISED: i32 = 0x40;
        const MAX_ERROR: i64 = 16_000_000;
        Self {
            max_error: MAX_ERROR,
            estimated_error: MAX_ERROR,
            status: UNSYNCHRONISED,
            constant: 2,
            precision: 1,
            tolerance: 32_768_000,
            time: Timeval::from_nanoseconds(now),
            tick: 10_000,
            ..Self::default()
        }
    }

    /// What a request with these modes gets.
    fn answer(self, now: u64) -> Result<Self, Errno> {
        /// `ADJ_OFFSET_SS_READ`: only asks, too.
        const OFFSET_READ: u32 = 0xa001;
        match self.modes {
            0 | OFFSET_READ => Ok(Self { modes: self.modes, ..Self::at(now) }),
            _ => Err(Errno::EPERM),
        }
    }
}

/// adjtimex(2): tells, and adjusts nothing.
pub fn adjtimex(c: &mut Caller<'_>, timex: UserPtr<Timex>) -> SysResult {
    let answer = timex.read(&c.space)?.answer(fs::now())?;
    timex.write(&c.space, &answer)?;
    Ok(UNSYNCHRONISED)
}

/// clock_adjtime(2)
pub fn clock_adjtime(c: &mut Caller<'_>, clock: i32, timex: UserPtr<Timex>) -> SysResult {
    match ClockId::new(clock)? {
        ClockId::Wall { is_real: true } => adjtimex(c, timex),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::tests::{process, run_as_thread};
    use crate::process::{Signal, SignalInfo};

    #[test]
    fn a_sleep_ends_at_its_deadline_or_with_a_signal() {
        let process = process();
        let thread = process.leader().unwrap();
        let deadline = arch::now() + 2_000_000;
        let this = thread.clone();
        let short = run_as_thread(thread.clone(), async move { sleep_until(&this, deadline).await });
        assert_eq!(short.result_after(deadline), Ok(0));
        let this = thread.clone();
        let long = run_as_thread(thread, async move { sleep_until(&this, u64::MAX).await });
        assert_eq!(long.result(), None);
        process.send_signal(SignalInfo::kernel(Signal::TERM)).unwrap();
        assert_eq!(long.result(), Some(Err(Errno::ERESTARTNOHAND)));
    }

    #[test]
    fn adjtimex_tells_the_time_and_adjusts_nothing() {
        let told = Timex::default().answer(5_000_001_000).unwrap();
        assert_eq!(told.time, Timeval { seconds: 5, microseconds: 1 });
        assert_eq!(told.tick, 10_000);
        let adjust = Timex { modes: 1, ..Timex::default() };
        assert_eq!(adjust.answer(0).map(|_| ()), Err(Errno::EPERM));
    }
}

//! POSIX timers: timer_create(2) and its kin. The timers themselves are in `process/posix_timer.rs`.

use alloc::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use super::clock::ItimerSpec;
use super::clock_id::ClockId;
use crate::errno::{Errno, SysResult};
use crate::process::interval_timer::Setting;
use crate::process::posix_timer::{NewTimer, Target};
use crate::process::{Signal, Thread, find_thread};
use crate::uaccess::UserPtr;

/// `struct sigevent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigEvent {
    value: u64,
    signal: i32,
    notify: i32,
    thread: i32,
    padding: [u32; 11],
}

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
/// To the kernel the same as `SIGEV_SIGNAL`: the thread is the C library's.
const SIGEV_THREAD: i32 = 2;
const SIGEV_THREAD_ID: i32 = 4;

impl SigEvent {
    /// Who is told, and by which signal.
    ///
    /// # Errors
    /// `EINVAL` for an unknown way, a signal that there is not, or a thread of another process.
    fn decode(&self, caller: &Thread) -> Result<(Target, Signal), Errno> {
        let target = match self.notify {
            // No signal is sent, so that none is looked at.
            SIGEV_NONE => return Ok((Target::Nobody, Signal::ALRM)),
            SIGEV_SIGNAL | SIGEV_THREAD => Target::Process,
            SIGEV_THREAD_ID => {
                let thread = u32::try_from(self.thread).ok().and_then(find_thread).ok_or(Errno::EINVAL)?;
                if !Arc::ptr_eq(thread.process(), caller.process()) {
                    return Err(Errno::EINVAL);
                }
                Target::Thread(Arc::downgrade(&thread))
            }
            _ => return Err(Errno::EINVAL),
        };
        Ok((target, Signal::new(self.signal)?))
    }
}

/// Whether absolute times are of the wall clock.
///
/// # Errors
/// `EINVAL` for no clock; `EOPNOTSUPP` for those that cannot send signals: mere readings, those that would wake the machine,
/// and those that count processor time.
fn is_wall(clock: i32) -> Result<bool, Errno> {
    match ClockId::new(clock)? {
        ClockId::Wall { .. } => Ok(true),
        ClockId::Monotonic => Ok(false),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// timer_create(2)
pub fn timer_create(
    c: &mut Caller<'_>,
    clock: i32,
    event: UserPtr<SigEvent>,
    created: UserPtr<i32>,
) -> SysResult {
    let event = event.non_null().map(|event| event.read(&c.space)).transpose()?;
    let wall = is_wall(clock)?;
    let (target, signal) =
        event.map_or(Ok((Target::Process, Signal::ALRM)), |event| event.decode(c.thread))?;
    let value = event.map(|event| event.value);
    let process = c.thread.process();
    let timer = process.create_timer(NewTimer { wall, target, signal, value })?;
    created.write(&c.space, &timer.id()).inspect_err(|_| {
        // Another thread may have deleted it meanwhile, which is as good.
        let _ = process.delete_timer(timer.id());
    })?;
    Ok(0)
}

/// timer_settime(2). Flags other than `TIMER_ABSTIME` have no effect, as on Linux.
pub fn timer_settime(
    c: &mut Caller<'_>,
    id: i32,
    flags: u32,
    new: UserPtr<ItimerSpec>,
    old: UserPtr<ItimerSpec>,
) -> SysResult {
    const ABSOLUTE: u32 = 1;
    let (interval, value) = new.non_null().ok_or(Errno::EINVAL)?.read(&c.space)?.nanoseconds()?;
    let timer = c.thread.process().timer(id)?;
    let former = timer.set(Setting { value, interval }, flags & ABSOLUTE != 0);
    if let Some(old) = old.non_null() {
        old.write(&c.space, &ItimerSpec::from_nanoseconds(former.interval, former.value))?;
    }
    Ok(0)
}

/// timer_gettime(2)
pub fn timer_gettime(c: &mut Caller<'_>, id: i32, current: UserPtr<ItimerSpec>) -> SysResult {
    let setting = c.thread.process().timer(id)?.get();
    current.write(&c.space, &ItimerSpec::from_nanoseconds(setting.interval, setting.value))?;
    Ok(0)
}

/// timer_getoverrun(2)
pub fn timer_getoverrun(c: &mut Caller<'_>, id: i32) -> SysResult {
    Ok(c.thread.process().timer(id)?.overrun() as usize)
}

/// timer_delete(2)
pub fn timer_delete(c: &mut Caller<'_>, id: i32) -> SysResult {
    c.thread.process().delete_timer(id)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::tests::{process, second_thread};

    fn event(notify: i32, signal: i32, thread: u32) -> SigEvent {
        SigEvent { value: 0, signal, notify, thread: thread as i32, padding: [0; 11] }
    }

    #[test]
    fn the_layout_is_that_of_struct_sigevent() {
        assert_eq!(size_of::<SigEvent>(), 64);
        assert_eq!(core::mem::offset_of!(SigEvent, thread), 16);
    }

    #[test]
    fn who_is_told_is_checked() {
        let (ours, other) = (process(), process());
        let caller = ours.leader().unwrap();
        let (second, strange) = (second_thread(&ours).tid(), other.pid());
        let decode =
            |notify, signal, thread| event(notify, signal, thread).decode(&caller).map(|told| told.1);
        assert_eq!(decode(SIGEV_SIGNAL, 10, 0), Ok(Signal::USR1));
        assert_eq!(decode(SIGEV_THREAD, 10, 0), Ok(Signal::USR1));
        assert_eq!(decode(SIGEV_THREAD_ID, 10, second), Ok(Signal::USR1));
        assert_eq!(decode(SIGEV_THREAD_ID, 10, strange), Err(Errno::EINVAL));
        assert_eq!(decode(SIGEV_THREAD_ID, 10, 0), Err(Errno::EINVAL));
        assert_eq!(decode(SIGEV_NONE, 99, 0), Ok(Signal::ALRM));
        assert_eq!(
            (decode(SIGEV_SIGNAL, 0, 0), decode(SIGEV_SIGNAL, 65, 0)),
            (Err(Errno::EINVAL), Err(Errno::EINVAL))
        );
        assert_eq!(decode(3, 10, 0), Err(Errno::EINVAL));
    }

    #[test]
    fn clocks_that_cannot_signal_are_told_from_those_that_are_not_there() {
        assert_eq!(
            (is_wall(0), is_wall(1), is_wall(7), is_wall(11)),
            (Ok(true), Ok(false), Ok(false), Ok(true))
        );
        for clock in [4, 5, 6, 8, 9] {
            assert_eq!(is_wall(clock), Err(Errno::EOPNOTSUPP));
        }
        assert_eq!((is_wall(10), is_wall(99)), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
    }
}

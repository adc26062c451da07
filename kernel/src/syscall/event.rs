//! Pipes, event counters, timers and signals behind descriptors: pipe(2), eventfd(2), timerfd_create(2), signalfd(2).

use alloc::sync::Arc;
use core::any::Any;

use super::Caller;
use super::clock::ItimerSpec;
use crate::errno::{Errno, SysResult};
use crate::fs::eventfd::EventFd;
use crate::fs::signalfd::SignalFd;
use crate::fs::timerfd::{Setting, TimerFd};
use crate::fs::{File, OpenFile, OpenFlags, pipe as pipes};
use crate::process::signal::SignalSet;
use crate::uaccess::UserPtr;

/// pipe(2).
pub fn pipe(c: &mut Caller<'_>, fds: UserPtr<[i32; 2]>) -> SysResult {
    pipe2(c, fds, 0)
}

/// pipe2(2). With `O_DIRECT`, which only the writing end shows, what is written are packets.
pub fn pipe2(c: &mut Caller<'_>, fds: UserPtr<[i32; 2]>, flags: u32) -> SysResult {
    let flags = known(flags, OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT)?;
    let [reader, writer] = pipes::create();
    writer.set_direct(flags.contains(OpenFlags::DIRECT))?;
    let status = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    let ends = [
        OpenFile::new(reader, status - OpenFlags::DIRECT),
        OpenFile::new(writer, status | OpenFlags::WRONLY),
    ];
    let files = c.thread.files();
    let numbers = files.insert_pair(ends, flags.contains(OpenFlags::CLOEXEC))?;
    fds.write(&c.space, &numbers).inspect_err(|_| {
        // Another thread may have closed them meanwhile, which is as good.
        for fd in numbers {
            let _ = files.close(fd);
        }
    })?;
    Ok(0)
}

fn known(flags: u32, allowed: OpenFlags) -> Result<OpenFlags, Errno> {
    let flags = OpenFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    if allowed.contains(flags) { Ok(flags) } else { Err(Errno::EINVAL) }
}

fn insert(c: &Caller<'_>, file: Arc<dyn File>, flags: OpenFlags) -> SysResult {
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    let file = OpenFile::new(file, flags & OpenFlags::NONBLOCK | OpenFlags::RDWR);
    c.thread.files().insert(file, cloexec).map(|fd| fd as usize)
}

/// eventfd(2) without flags.
pub fn eventfd(c: &mut Caller<'_>, initial: u32) -> SysResult {
    eventfd2(c, initial, 0)
}

const EFD_SEMAPHORE: u32 = 1;

/// eventfd(2).
pub fn eventfd2(c: &mut Caller<'_>, initial: u32, flags: u32) -> SysResult {
    let status = known(flags & !EFD_SEMAPHORE, OpenFlags::CLOEXEC | OpenFlags::NONBLOCK)?;
    insert(c, Arc::new(EventFd::new(initial, flags & EFD_SEMAPHORE != 0)), status)
}

const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const CLOCK_BOOTTIME: i32 = 7;

/// timerfd_create(2). The alarm clocks, which wake a suspended machine, are not there.
pub fn timerfd_create(c: &mut Caller<'_>, clock: i32, flags: u32) -> SysResult {
    let flags = known(flags, OpenFlags::CLOEXEC | OpenFlags::NONBLOCK)?;
    let realtime = match clock {
        CLOCK_REALTIME => true,
        CLOCK_MONOTONIC | CLOCK_BOOTTIME => false,
        _ => return Err(Errno::EINVAL),
    };
    insert(c, Arc::new(TimerFd::new(realtime)), flags)
}

const TFD_TIMER_ABSTIME: u32 = 1;
/// The wall clock of nrk is not set after boot, so there is nothing to be cancelled on.
const TFD_TIMER_CANCEL_ON_SET: u32 = 2;

fn as_timer(file: &OpenFile) -> Result<&TimerFd, Errno> {
    (&*file.file as &dyn Any).downcast_ref().ok_or(Errno::EINVAL)
}

/// timerfd_settime(2).
pub fn timerfd_settime(
    c: &mut Caller<'_>,
    fd: i32,
    flags: u32,
    new: UserPtr<ItimerSpec>,
    old: UserPtr<ItimerSpec>,
) -> SysResult {
    if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let (interval, value) = new.read(&c.space)?.nanoseconds()?;
    let setting = Setting { interval, value };
    let file = c.thread.files().get(fd)?;
    let before = as_timer(&file)?.set(setting, flags & TFD_TIMER_ABSTIME != 0);
    if let Some(old) = old.non_null() {
        old.write(&c.space, &ItimerSpec::from_nanoseconds(before.interval, before.value))?;
    }
    Ok(0)
}

/// timerfd_gettime(2).
pub fn timerfd_gettime(c: &mut Caller<'_>, fd: i32, current: UserPtr<ItimerSpec>) -> SysResult {
    let file = c.thread.files().get(fd)?;
    let now = as_timer(&file)?.get();
    current.write(&c.space, &ItimerSpec::from_nanoseconds(now.interval, now.value))?;
    Ok(0)
}

/// signalfd(2) without flags.
pub fn signalfd(c: &mut Caller<'_>, fd: i32, mask: UserPtr<u64>, size: usize) -> SysResult {
    signalfd4(c, fd, mask, size, 0)
}

/// signalfd(2). A descriptor that is there gets the new set, and keeps its flags.
pub fn signalfd4(c: &mut Caller<'_>, fd: i32, mask: UserPtr<u64>, size: usize, flags: u32) -> SysResult {
    if size != size_of::<u64>() {
        return Err(Errno::EINVAL);
    }
    let set = SignalSet::from_bits(mask.read(&c.space)?).minus(SignalSet::UNBLOCKABLE);
    let flags = known(flags, OpenFlags::CLOEXEC | OpenFlags::NONBLOCK)?;
    if fd == -1 {
        return insert(c, Arc::new(SignalFd::new(set)), flags);
    }
    let file = c.thread.files().get(fd)?;
    let signals: &SignalFd = (&*file.file as &dyn Any).downcast_ref().ok_or(Errno::EINVAL)?;
    signals.set_signals(set);
    Ok(fd as usize)
}

//! Waiting for several descriptors: poll(2), select(2), epoll(7).

use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::any::Any;
use core::future::poll_fn;
use core::mem::size_of;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Poll, Waker};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use super::clock::{Timespec, Timeval};
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::fs::epoll::{Epoll, Event};
use crate::fs::{FdTable, File, OpenFile, OpenFlags};
use crate::process::block::{Limit, block_on};
use crate::process::pace::Pace;
use crate::process::signal::SignalSet;
use crate::process::{Resource, Thread};
use crate::sched::{Events, Registration, WaitQueue};
use crate::uaccess::UserPtr;

/// `struct pollfd`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PollFd {
    fd: i32,
    events: u16,
    revents: u16,
}

/// `struct epoll_event`, which is packed on x86-64.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct EpollEvent {
    events: u32,
    data: u64,
}

/// Errors and hang-ups are reported whether or not asked for.
const ALWAYS: Events = Events::ERR.union(Events::HUP);

/// An open file and what is asked of it; `place` says where the answer goes.
struct Watch {
    file: Arc<OpenFile>,
    wanted: Events,
    place: usize,
}

impl Watch {
    fn ready(&self) -> Events {
        self.file.file.poll() & (self.wanted | ALWAYS)
    }
}

/// An open file as the owner of its wait queue.
struct Queue(Arc<OpenFile>);

impl AsRef<WaitQueue> for Queue {
    fn as_ref(&self) -> &WaitQueue {
        /// For files that are always ready.
        static NOBODY: WaitQueue = WaitQueue::new();
        self.0.file.wait_queue().unwrap_or(&NOBODY)
    }
}

/// Wakes a task, and remembers it: the task pauses while it looks at many files, and what happens to one at which it has looked
/// must not be lost.
struct Alarm {
    rang: AtomicBool,
    task: Waker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// Looks at each of the watched; `note` takes its place and what it is ready for, and returns how many answers that makes.
async fn look(
    pace: &mut Pace<'_>,
    watches: &[Watch],
    note: &mut impl FnMut(usize, Events) -> usize,
) -> SysResult {
    let mut count = 0;
    for watch in watches {
        count += note(watch.place, watch.ready());
        pace.charge(3).await?;
    }
    Ok(count)
}

/// Waits until there are answers, as [`look`] counts them. 0 after the deadline; `ERESTARTNOHAND` when interrupted.
async fn wait_for_any(
    thread: &Thread,
    pace: &mut Pace<'_>,
    watches: &[Watch],
    deadline: Option<u64>,
    note: &mut impl FnMut(usize, Events) -> usize,
) -> SysResult {
    let count = look(pace, watches, note).await?;
    if count > 0 || deadline == Some(0) {
        return Ok(count);
    }
    let mut registrations: Vec<Registration<Queue>> = Vec::new();
    registrations.try_reserve_exact(watches.len()).map_err(|_| Errno::ENOMEM)?;
    let task = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
    let alarm = Arc::new(Alarm { rang: AtomicBool::new(false), task });
    let result = wait_for_alarm(thread, pace, watches, deadline, note, &alarm, &mut registrations).await;
    pace.release(registrations).await;
    result
}

/// Joins the queues of all that are watched, and waits.
async fn wait_for_alarm(
    thread: &Thread,
    pace: &mut Pace<'_>,
    watches: &[Watch],
    deadline: Option<u64>,
    note: &mut impl FnMut(usize, Events) -> usize,
    alarm: &Arc<Alarm>,
    registrations: &mut Vec<Registration<Queue>>,
) -> SysResult {
    let waker = Waker::from(alarm.clone());
    for watch in watches {
        let queue = Queue(watch.file.clone());
        registrations.push(WaitQueue::register_owned(queue, watch.wanted | ALWAYS, false, &waker));
        pace.charge(3).await?;
    }
    let mut limit = Limit::new(thread, deadline);
    loop {
        alarm.rang.store(false, Ordering::Relaxed);
        match look(pace, watches, note).await? {
            0 => {}
            count => return Ok(count),
        }
        let end = poll_fn(|context| match alarm.rang.load(Ordering::Acquire) {
            true => Poll::Ready(None),
            false => limit.poll(context).map(Some),
        });
        match end.await {
            None => {}
            Some(Errno::EAGAIN) => return Ok(0),
            Some(_) => return Err(Errno::ERESTARTNOHAND),
        }
    }
}

/// A point in time from a timeout: `None` for ever, `Some(0)` not at all.
fn deadline_after(timeout: Option<u64>) -> Option<u64> {
    match timeout {
        Some(0) => Some(0),
        other => other.map(|nanoseconds| arch::now().saturating_add(nanoseconds)),
    }
}

fn milliseconds(timeout: i32) -> Option<u64> {
    u64::try_from(timeout).ok().map(|ms| ms * 1_000_000)
}

/// poll(2).
pub async fn poll(c: &mut Caller<'_>, fds: UserPtr<PollFd>, count: u32, timeout: i32) -> SysResult {
    let deadline = c.thread.restart_deadline_or(|| deadline_after(milliseconds(timeout)));
    let result = poll_until(c, fds, count, deadline).await;
    if result == Err(Errno::ERESTARTNOHAND) {
        // Goes on with the time that is left, unless a handler runs.
        c.thread.set_restart_deadline(deadline);
    }
    result
}

/// ppoll(2).
pub async fn ppoll(
    c: &mut Caller<'_>,
    fds: UserPtr<PollFd>,
    count: u32,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<u64>,
    mask_size: usize,
) -> SysResult {
    let limit = read_timeout(c, timeout)?;
    let masked = begin_mask(c, mask, mask_size)?;
    let deadline = deadline_after(limit);
    let result = poll_until(c, fds, count, deadline).await;
    let result = end_mask(c, masked, result);
    tell_time_left(deadline, result, |left| timeout.write(&c.space, &Timespec::from_nanoseconds(left)))
}

/// Has `store` put the time that is left in place of the timeout, as Linux does, unless there was none. A call whose timeout
/// cannot be changed is not made again: it would wait too long.
fn tell_time_left(
    deadline: Option<u64>,
    result: SysResult,
    store: impl FnOnce(u64) -> Result<(), Errno>,
) -> SysResult {
    let Some(deadline @ 1..) = deadline else { return result };
    let stored = store(deadline.saturating_sub(arch::now()));
    match result {
        Err(Errno::ERESTARTNOHAND) if stored.is_err() => Err(Errno::EINTR),
        result => result,
    }
}

async fn poll_until(
    c: &mut Caller<'_>,
    fds: UserPtr<PollFd>,
    count: u32,
    deadline: Option<u64>,
) -> SysResult {
    let limit = c.thread.process().rlimit(Resource::Files).soft;
    if u64::from(count) > limit {
        return Err(Errno::EINVAL);
    }
    let mut entries = fds.read_vec(&c.space, count as usize, limit as usize)?;
    let mut pace = Pace::new(c.thread);
    let (mut watches, mut invalid) = (Vec::new(), 0);
    watches.try_reserve_exact(entries.len()).map_err(|_| Errno::ENOMEM)?;
    let found = find_polled(&mut pace, &c.thread.files(), &mut entries, &mut watches, &mut invalid).await;
    let deadline = if invalid > 0 { Some(0) } else { deadline };
    let mut note = |place: usize, ready: Events| {
        entries[place].revents = ready.bits() as u16;
        usize::from(!ready.is_empty())
    };
    let result = match found {
        Ok(()) => wait_for_any(c.thread, &mut pace, &watches, deadline, &mut note).await,
        Err(error) => Err(error),
    };
    pace.release(watches).await;
    let ready = result?;
    for (index, entry) in entries.iter().enumerate() {
        fds.index(index).write(&c.space, entry)?;
        pace.charge(2).await?;
    }
    Ok(invalid + ready)
}

/// Finds the files of `entries`. Negative descriptors are skipped, unknown ones are reported at once, and counted.
async fn find_polled(
    pace: &mut Pace<'_>,
    files: &FdTable,
    entries: &mut [PollFd],
    watches: &mut Vec<Watch>,
    invalid: &mut usize,
) -> Result<(), Errno> {
    for (place, entry) in entries.iter_mut().enumerate() {
        entry.revents = 0;
        match files.get(entry.fd) {
            Ok(file) => {
                let wanted = Events::from_bits_truncate(u32::from(entry.events));
                watches.push(Watch { file, wanted, place });
            }
            Err(_) if entry.fd < 0 => {}
            Err(_) => {
                entry.revents = Events::NVAL.bits() as u16;
                *invalid += 1;
            }
        }
        pace.charge(2).await?;
    }
    Ok(())
}

/// The three sets of select(2), and what each means in terms of poll(2).
const SELECT_SETS: [Events; 3] = [
    Events::IN.union(Events::RDNORM).union(Events::HUP).union(Events::ERR),
    Events::OUT.union(Events::WRNORM).union(Events::ERR),
    Events::PRI,
];
/// Most descriptors of select(2) that nrk looks at: as many as there can be.
const SELECT_MAX: usize = 1 << 20;

/// select(2).
pub async fn select(
    c: &mut Caller<'_>,
    count: i32,
    read: UserPtr<u64>,
    write: UserPtr<u64>,
    except: UserPtr<u64>,
    timeout: UserPtr<Timeval>,
) -> SysResult {
    let limit = timeout.non_null().map(|timeout| timeout.read(&c.space)?.carried()?.nanoseconds());
    let deadline = deadline_after(limit.transpose()?);
    let result = select_until(c, count, [read, write, except], deadline).await;
    tell_time_left(deadline, result, |left| timeout.write(&c.space, &Timeval::from_nanoseconds(left)))
}

/// The last argument of pselect6(2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SelectMask {
    address: u64,
    size: u64,
}

/// pselect6(2).
pub async fn pselect6(
    c: &mut Caller<'_>,
    count: i32,
    read: UserPtr<u64>,
    write: UserPtr<u64>,
    except: UserPtr<u64>,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<SelectMask>,
) -> SysResult {
    let limit = read_timeout(c, timeout)?;
    let mask = mask.non_null().map(|mask| mask.read(&c.space)).transpose()?;
    let mask = mask.unwrap_or(SelectMask { address: 0, size: 8 });
    let pointer = UserPtr::new(crate::memory::VirtAddr::new(mask.address));
    let masked = begin_mask(c, pointer, mask.size as usize)?;
    let deadline = deadline_after(limit);
    let result = select_until(c, count, [read, write, except], deadline).await;
    let result = end_mask(c, masked, result);
    tell_time_left(deadline, result, |left| timeout.write(&c.space, &Timespec::from_nanoseconds(left)))
}

async fn select_until(
    c: &mut Caller<'_>,
    count: i32,
    pointers: [UserPtr<u64>; 3],
    deadline: Option<u64>,
) -> SysResult {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?.min(SELECT_MAX);
    let words = count.div_ceil(64);
    let mut asked: [Vec<u64>; 3] = Default::default();
    for (set, pointer) in asked.iter_mut().zip(pointers) {
        if let Some(pointer) = pointer.non_null() {
            *set = pointer.read_vec(&c.space, words, words)?;
            // What is beyond the count is neither looked at nor found.
            if let (Some(last), rest @ 1..) = (set.last_mut(), count % 64) {
                *last &= (1 << rest) - 1;
            }
        }
    }
    let (mut pace, mut watches) = (Pace::new(c.thread), Vec::new());
    let mut found = asked.clone();
    let mut note = |fd: usize, ready: Events| mark_selected(&mut found, &asked, fd, ready);
    let result = match find_selected(&mut pace, &c.thread.files(), &asked, count, &mut watches).await {
        Ok(()) => wait_for_any(c.thread, &mut pace, &watches, deadline, &mut note).await,
        Err(error) => Err(error),
    };
    pace.release(watches).await;
    let ready = result?;
    for (set, pointer) in found.iter().zip(pointers) {
        for (index, word) in set.iter().enumerate() {
            pointer.index(index).write(&c.space, word)?;
            pace.charge(2).await?;
        }
    }
    Ok(ready)
}

fn is_in(set: &[u64], fd: usize) -> bool {
    set.get(fd / 64).is_some_and(|word| word >> (fd % 64) & 1 != 0)
}

/// Finds what the sets ask for. `EBADF` for a descriptor that is not open.
async fn find_selected(
    pace: &mut Pace<'_>,
    files: &FdTable,
    asked: &[Vec<u64>; 3],
    count: usize,
    watches: &mut Vec<Watch>,
) -> Result<(), Errno> {
    for fd in 0..count {
        let mut wanted = Events::empty();
        for (set, events) in asked.iter().zip(SELECT_SETS) {
            wanted |= if is_in(set, fd) { events } else { Events::empty() };
        }
        if !wanted.is_empty() {
            watches.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            watches.push(Watch { file: files.get(fd as i32)?, wanted, place: fd });
        }
        pace.charge(2).await?;
    }
    Ok(())
}

/// Notes in the sets for what of the asked a descriptor is ready. Returns how many those are.
fn mark_selected(found: &mut [Vec<u64>; 3], asked: &[Vec<u64>; 3], fd: usize, ready: Events) -> usize {
    let mut count = 0;
    for ((found, asked), events) in found.iter_mut().zip(asked).zip(SELECT_SETS) {
        let (word, bit) = (fd / 64, 1 << (fd % 64));
        let is_ready = is_in(asked, fd) && ready.intersects(events);
        if let Some(found) = found.get_mut(word) {
            *found = *found & !bit | if is_ready { bit } else { 0 };
        }
        count += usize::from(is_ready);
    }
    count
}

fn read_timeout(c: &Caller<'_>, timeout: UserPtr<Timespec>) -> Result<Option<u64>, Errno> {
    timeout.non_null().map(|timeout| timeout.read(&c.space)?.nanoseconds()).transpose()
}

/// Puts the caller's temporary signal mask in place, if there is one. Returns whether there is.
fn begin_mask(c: &Caller<'_>, mask: UserPtr<u64>, size: usize) -> Result<bool, Errno> {
    let Some(mask) = mask.non_null() else { return Ok(false) };
    if size != size_of::<u64>() {
        return Err(Errno::EINVAL);
    }
    let mask = SignalSet::from_bits(mask.read(&c.space)?);
    c.thread.begin_temporary_mask(mask);
    Ok(true)
}

/// Ends what [`begin_mask`] began: after an interruption the mask stays until the handler has been chosen.
fn end_mask(c: &Caller<'_>, masked: bool, result: SysResult) -> SysResult {
    if masked {
        // The calls on epoll instances are never made again, so an interruption is already `EINTR`.
        let interrupted = |error: Errno| error.is_restart() || error == Errno::EINTR;
        c.thread.end_temporary_mask(result.is_err_and(interrupted));
    }
    result
}

/// epoll_create(2).
pub fn epoll_create(c: &mut Caller<'_>, size: i32) -> SysResult {
    if size <= 0 { Err(Errno::EINVAL) } else { epoll_create1(c, 0) }
}

/// epoll_create1(2).
pub fn epoll_create1(c: &mut Caller<'_>, flags: u32) -> SysResult {
    if flags & !OpenFlags::CLOEXEC.bits() != 0 {
        return Err(Errno::EINVAL);
    }
    let file = OpenFile::new(Arc::new(Epoll::new()), OpenFlags::RDWR);
    c.thread.files().insert(file, flags != 0).map(|fd| fd as usize)
}

const EPOLL_CTL_ADD: i32 = 1;
const EPOLL_CTL_DEL: i32 = 2;
const EPOLL_CTL_MOD: i32 = 3;

/// epoll_ctl(2).
pub fn epoll_ctl(
    c: &mut Caller<'_>,
    epoll: i32,
    operation: i32,
    fd: i32,
    event: UserPtr<EpollEvent>,
) -> SysResult {
    let read = || event.read(&c.space).map(|event| Event { events: event.events, data: event.data });
    let event = if operation == EPOLL_CTL_DEL { None } else { Some(read()?) };
    let files = c.thread.files();
    let owner = files.get(epoll)?;
    let file = files.get(fd)?;
    Epoll::check_target(&file)?;
    let epoll = as_epoll(&owner)?;
    if Arc::ptr_eq(&owner, &file) {
        return Err(Errno::EINVAL);
    }
    match (operation, event) {
        (EPOLL_CTL_ADD, Some(event)) => epoll.add(fd, &file, event)?,
        (EPOLL_CTL_MOD, Some(event)) => epoll.modify(fd, &file, event)?,
        (EPOLL_CTL_DEL, None) => epoll.remove(fd, &file)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn as_epoll(file: &OpenFile) -> Result<&Epoll, Errno> {
    (&*file.file as &dyn Any).downcast_ref().ok_or(Errno::EINVAL)
}

/// epoll_wait(2).
pub async fn epoll_wait(
    c: &mut Caller<'_>,
    epoll: i32,
    events: UserPtr<EpollEvent>,
    max: i32,
    timeout: i32,
) -> SysResult {
    epoll_wait_until(c, epoll, events, max, milliseconds(timeout)).await
}

/// epoll_pwait(2).
pub async fn epoll_pwait(
    c: &mut Caller<'_>,
    epoll: i32,
    events: UserPtr<EpollEvent>,
    max: i32,
    timeout: i32,
    mask: UserPtr<u64>,
    mask_size: usize,
) -> SysResult {
    let masked = begin_mask(c, mask, mask_size)?;
    let result = epoll_wait_until(c, epoll, events, max, milliseconds(timeout)).await;
    end_mask(c, masked, result)
}

/// epoll_pwait2(2).
pub async fn epoll_pwait2(
    c: &mut Caller<'_>,
    epoll: i32,
    events: UserPtr<EpollEvent>,
    max: i32,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<u64>,
    mask_size: usize,
) -> SysResult {
    let timeout = read_timeout(c, timeout)?;
    let masked = begin_mask(c, mask, mask_size)?;
    let result = epoll_wait_until(c, epoll, events, max, timeout).await;
    end_mask(c, masked, result)
}

async fn epoll_wait_until(
    c: &mut Caller<'_>,
    epoll: i32,
    events: UserPtr<EpollEvent>,
    max: i32,
    timeout: Option<u64>,
) -> SysResult {
    let file = c.thread.files().get(epoll)?;
    let epoll = as_epoll(&file)?;
    let max = usize::try_from(max)
        .ok()
        .filter(|&max| max > 0 && max <= i32::MAX as usize / size_of::<EpollEvent>());
    let max = max.ok_or(Errno::EINVAL)?;
    let space = &c.space;
    let collect = || {
        epoll.collect(max, |index, event| {
            let event = EpollEvent { events: event.events, data: event.data };
            events.index(index).write(space, &event)
        })
    };
    let ready = collect()?;
    if ready > 0 || timeout == Some(0) {
        return Ok(ready);
    }
    let Some(queue) = epoll.wait_queue() else { return Err(Errno::EINVAL) };
    let deadline = deadline_after(timeout);
    let attempt = || match collect() {
        Ok(0) => Err(Errno::EAGAIN),
        other => other,
    };
    match block_on(c.thread, queue, Events::IN, deadline, attempt).await {
        Err(Errno::EAGAIN) => Ok(0),
        Err(Errno::ERESTARTSYS) => Err(Errno::EINTR),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_told_unless_there_was_none_to_lose() {
        let told = |deadline, result| {
            let mut left = None;
            let result = tell_time_left(deadline, result, |time| {
                left = Some(time);
                Ok(())
            });
            (result, left)
        };
        assert_eq!(told(Some(1), Ok(3)), (Ok(3), Some(0)));
        let (result, left) = told(Some(arch::now() + 60_000_000_000), Err(Errno::ERESTARTNOHAND));
        assert_eq!(
            (result, left.map(|left| left > 50_000_000_000)),
            (Err(Errno::ERESTARTNOHAND), Some(true))
        );
        assert_eq!((told(None, Ok(1)), told(Some(0), Ok(0))), ((Ok(1), None), (Ok(0), None)));
    }

    #[test]
    fn a_call_that_cannot_tell_the_time_left_is_not_made_again() {
        let refused = |result| tell_time_left(Some(1), result, |_| Err(Errno::EFAULT));
        assert_eq!(refused(Err(Errno::ERESTARTNOHAND)), Err(Errno::EINTR));
        assert_eq!(refused(Ok(2)), Ok(2));
    }
}

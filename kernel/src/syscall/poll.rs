//! Waiting for several descriptors: poll(2), select(2), epoll(7).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::future::poll_fn;
use core::mem::size_of;
use core::task::Poll;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use super::clock::{Timespec, Timeval};
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::fs::epoll::{Epoll, Event};
use crate::fs::{FdTable, File, OpenFile, OpenFlags};
use crate::process::block::{Limit, block_on};
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

/// An open file and what is asked of it.
struct Watch {
    file: Arc<OpenFile>,
    wanted: Events,
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

/// Waits until `look` says how many of the watched are ready, more than none. 0 after the deadline; `ERESTARTNOHAND` when interrupted.
async fn wait_for_any(
    thread: &Thread,
    watches: &[Watch],
    deadline: Option<u64>,
    mut look: impl FnMut() -> usize,
) -> SysResult {
    let count = look();
    if count > 0 || deadline == Some(0) {
        return Ok(count);
    }
    let mut registrations: Vec<Registration<Queue>> = Vec::new();
    registrations.try_reserve_exact(watches.len()).map_err(|_| Errno::ENOMEM)?;
    let mut limit = Limit::new(thread, deadline);
    poll_fn(|context| {
        if registrations.is_empty() {
            let join = |watch: &Watch| {
                let queue = Queue(watch.file.clone());
                WaitQueue::register_owned(queue, watch.wanted | ALWAYS, false, context.waker())
            };
            registrations.extend(watches.iter().map(join));
        }
        match look() {
            0 => limit.poll(context).map(|error| match error {
                Errno::EAGAIN => Ok(0),
                _ => Err(Errno::ERESTARTNOHAND),
            }),
            count => Poll::Ready(Ok(count)),
        }
    })
    .await
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
    let files = c.thread.files();
    let mut watches = Vec::new();
    watches.try_reserve_exact(entries.len()).map_err(|_| Errno::ENOMEM)?;
    // Negative descriptors are skipped, unknown ones are reported at once.
    let mut invalid = 0;
    for entry in &mut entries {
        entry.revents = 0;
        match files.get(entry.fd) {
            Ok(file) => {
                watches.push(Watch { file, wanted: Events::from_bits_truncate(u32::from(entry.events)) })
            }
            Err(_) if entry.fd < 0 => {}
            Err(_) => {
                entry.revents = Events::NVAL.bits() as u16;
                invalid += 1;
            }
        }
    }
    let deadline = if invalid > 0 { Some(0) } else { deadline };
    let look = || invalid + mark_ready(&mut entries, &watches);
    let ready = wait_for_any(c.thread, &watches, deadline, look).await?;
    for (index, entry) in entries.iter().enumerate() {
        fds.index(index).write(&c.space, entry)?;
    }
    Ok(ready)
}

/// Stores what is ready in the entries that have a watch, which come in the same order. Returns the number of those.
fn mark_ready(entries: &mut [PollFd], watches: &[Watch]) -> usize {
    let named = entries.iter_mut().filter(|e| e.fd >= 0 && e.revents & Events::NVAL.bits() as u16 == 0);
    let mut count = 0;
    for (entry, watch) in named.zip(watches) {
        entry.revents = watch.ready().bits() as u16;
        count += usize::from(entry.revents != 0);
    }
    count
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
        }
    }
    let watches = select_watches(&c.thread.files(), &asked, count)?;
    let mut found = asked.clone();
    let look = || {
        found.iter_mut().for_each(|set| set.fill(0));
        watches.iter().map(|(fd, watch)| mark_selected(&mut found, &asked, *fd, watch)).sum()
    };
    let only: Vec<Watch> =
        watches.iter().map(|(_, watch)| Watch { file: watch.file.clone(), wanted: watch.wanted }).collect();
    let ready = wait_for_any(c.thread, &only, deadline, look).await?;
    for (set, pointer) in found.iter().zip(pointers) {
        for (index, word) in set.iter().enumerate() {
            pointer.index(index).write(&c.space, word)?;
        }
    }
    Ok(ready)
}

fn is_in(set: &[u64], fd: usize) -> bool {
    set.get(fd / 64).is_some_and(|word| word >> (fd % 64) & 1 != 0)
}

/// What the sets ask for. `EBADF` for a descriptor that is not open.
fn select_watches(
    files: &FdTable,
    asked: &[Vec<u64>; 3],
    count: usize,
) -> Result<Vec<(usize, Watch)>, Errno> {
    let mut watches = Vec::new();
    for fd in 0..count {
        let mut wanted = Events::empty();
        for (set, events) in asked.iter().zip(SELECT_SETS) {
            wanted |= if is_in(set, fd) { events } else { Events::empty() };
        }
        if !wanted.is_empty() {
            watches.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            watches.push((fd, Watch { file: files.get(fd as i32)?, wanted }));
        }
    }
    Ok(watches)
}

/// Enters a descriptor into the sets that it is ready for. Returns how many.
fn mark_selected(found: &mut [Vec<u64>; 3], asked: &[Vec<u64>; 3], fd: usize, watch: &Watch) -> usize {
    let ready = watch.ready();
    let mut count = 0;
    for ((found, asked), events) in found.iter_mut().zip(asked).zip(SELECT_SETS) {
        if is_in(asked, fd) && ready.intersects(events) {
            found[fd / 64] |= 1 << (fd % 64);
            count += 1;
        }
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

//! System calls on descriptors: close, dup, fcntl, locks.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use crate::errno::{Errno, SysResult};
use crate::fs::lock::{FileLocks, LockKind, Record};
use crate::fs::memfs::{SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SEAL, SEAL_SHRINK, SEAL_WRITE};
use crate::fs::{OpenFile, OpenFlags};
use crate::memory::VirtAddr;
use crate::process::Thread;
use crate::process::block::block_on;
use crate::process::pace::Pace;
use crate::sched::Events;
use crate::uaccess::UserPtr;

/// close(2)
pub fn close(c: &mut Caller<'_>, fd: i32) -> SysResult {
    c.thread.files().close(fd)?;
    Ok(0)
}

/// close_range(2). `CLOSE_RANGE_UNSHARE` gives the process a table of its own first.
pub async fn close_range(c: &mut Caller<'_>, first: u32, last: u32, flags: u32) -> SysResult {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    if flags & UNSHARE != 0 {
        c.thread.unshare_files().await?;
    }
    let mut pace = Pace::new(c.thread);
    c.thread.files().close_range(&mut pace, first, last, flags & CLOEXEC != 0).await?;
    Ok(0)
}

/// dup(2)
pub fn dup(c: &mut Caller<'_>, fd: i32) -> SysResult {
    let files = c.thread.files();
    Ok(files.insert(files.get_any(fd)?, false)? as usize)
}

/// dup2(2): a descriptor onto itself stays.
pub fn dup2(c: &mut Caller<'_>, old: i32, new: i32) -> SysResult {
    let files = c.thread.files();
    let file = files.get_any(old)?;
    if old != new {
        files.insert_at(new, file, false)?;
    }
    Ok(new as usize)
}

/// dup3(2)
pub fn dup3(c: &mut Caller<'_>, old: i32, new: i32, flags: u32) -> SysResult {
    let known = OpenFlags::CLOEXEC.bits();
    if flags & !known != 0 || old == new {
        return Err(Errno::EINVAL);
    }
    let files = c.thread.files();
    files.insert_at(new, files.get_any(old)?, flags != 0)?;
    Ok(new as usize)
}

const F_DUPFD: u32 = 0;
const F_GETFD: u32 = 1;
const F_SETFD: u32 = 2;
const F_GETFL: u32 = 3;
const F_SETFL: u32 = 4;
const F_GETLK: u32 = 5;
const F_SETLK: u32 = 6;
const F_SETLKW: u32 = 7;
const F_SETOWN: u32 = 8;
const F_GETOWN: u32 = 9;
const F_OFD_GETLK: u32 = 36;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;
const F_DUPFD_CLOEXEC: u32 = 1030;
const F_SETPIPE_SZ: u32 = 1031;
const F_GETPIPE_SZ: u32 = 1032;
const F_ADD_SEALS: u32 = 1033;
const F_GET_SEALS: u32 = 1034;

/// fcntl(2)
pub async fn fcntl(c: &mut Caller<'_>, fd: i32, command: u32, argument: u64) -> SysResult {
    let files = c.thread.files();
    let file = files.get_any(fd)?;
    match command {
        F_DUPFD => return Ok(files.insert_from(argument as u32, file, false)? as usize),
        F_DUPFD_CLOEXEC => return Ok(files.insert_from(argument as u32, file, true)? as usize),
        F_GETFD => return Ok(files.cloexec(fd)?.into()),
        F_SETFD => return files.set_cloexec(fd, argument & 1 != 0).map(|()| 0),
        F_GETFL => return Ok(file.flags().bits() as usize),
        _ if file.flags().contains(OpenFlags::PATH) => return Err(Errno::EBADF),
        _ => {}
    }
    match command {
        F_SETFL => set_flags(&file, OpenFlags::from_bits_retain(argument as u32)),
        F_GETLK | F_SETLK | F_SETLKW | F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => {
            record_lock(c, &file, command, UserPtr::new(VirtAddr::new(argument))).await
        }
        F_SETOWN => set_owner(&file, argument as i32),
        // A group is a negative number, which must not look like an error.
        F_GETOWN => Ok(file.signal_owner() as isize as usize),
        F_GETPIPE_SZ => file.file.pipe_size().ok_or(Errno::EBADF),
        F_SETPIPE_SZ => file.file.set_pipe_size(usize::try_from(argument as i32).map_err(|_| Errno::EINVAL)?),
        F_GET_SEALS => file.file.seals().map(|seals| seals as usize).ok_or(Errno::EINVAL),
        F_ADD_SEALS => add_seals(&file, argument as u32),
        _ => Err(Errno::EINVAL),
    }
}

fn set_flags(file: &OpenFile, flags: OpenFlags) -> SysResult {
    file.file.set_direct(flags.contains(OpenFlags::DIRECT))?;
    file.set_flags(flags);
    Ok(0)
}

fn set_owner(file: &OpenFile, owner: i32) -> SysResult {
    if owner == i32::MIN {
        return Err(Errno::EINVAL);
    }
    file.set_signal_owner(owner);
    Ok(0)
}

fn add_seals(file: &OpenFile, seals: u32) -> SysResult {
    if !file.flags().writable() {
        return Err(Errno::EPERM);
    }
    if seals & !(SEAL_SEAL | SEAL_SHRINK | SEAL_GROW | SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 {
        return Err(Errno::EINVAL);
    }
    file.file.add_seals(seals)?;
    Ok(0)
}

/// `struct flock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UserLock {
    kind: i16,
    whence: i16,
    padding: u32,
    start: i64,
    len: i64,
    pid: i32,
    padding_2: u32,
}

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

/// First and last byte of the range that `lock` means; `position` and `size` are for `whence`.
fn range(lock: &UserLock, position: u64, size: u64) -> Result<(u64, u64), Errno> {
    let base = match lock.whence {
        0 => 0,
        1 => position as i64,
        2 => size as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(lock.start).ok_or(Errno::EOVERFLOW)?;
    let (start, last) = match lock.len {
        0 => (start, None),
        1.. => (start, Some(start.checked_add(lock.len - 1).ok_or(Errno::EOVERFLOW)?)),
        _ => (start.checked_add(lock.len).ok_or(Errno::EINVAL)?, Some(start - 1)),
    };
    let start = u64::try_from(start).map_err(|_| Errno::EINVAL)?;
    Ok((start, last.map_or(u64::MAX, |last| last as u64)))
}

/// The record commands of fcntl: of the process (`F_SETLK`) or of the open file (`F_OFD_SETLK`).
async fn record_lock(c: &Caller<'_>, file: &OpenFile, command: u32, pointer: UserPtr<UserLock>) -> SysResult {
    let lock = pointer.read(&c.thread.space())?;
    let of_file = matches!(command, F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW);
    if of_file && lock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let (start, last) = range(&lock, file.with_position(|position| *position), file.stat().size)?;
    let (owner, pid) = match of_file {
        true => (file.lock_owner(), -1),
        false => (c.thread.files().lock_owner(), c.thread.process().pid() as i32),
    };
    let kind = match lock.kind {
        F_RDLCK => Some(LockKind::Shared),
        F_WRLCK => Some(LockKind::Exclusive),
        F_UNLCK => None,
        _ => return Err(Errno::EINVAL),
    };
    let locks = file.location().and_then(|location| location.node.locks()).ok_or(Errno::EINVAL)?;
    let record = kind.map(|kind| Record { owner, pid, start, last, kind });
    match (command, record) {
        (F_GETLK | F_OFD_GETLK, Some(record)) => {
            let answer = describe(lock, locks.conflict(&record));
            pointer.write(&c.thread.space(), &answer)?;
            Ok(0)
        }
        (F_GETLK | F_OFD_GETLK, None) => Err(Errno::EINVAL),
        (_, None) => locks.unlock(owner, start, last).map(|()| 0),
        (_, Some(record)) => {
            let flags = file.flags();
            match record.kind {
                LockKind::Shared if !flags.readable() => return Err(Errno::EBADF),
                LockKind::Exclusive if !flags.writable() => return Err(Errno::EBADF),
                _ => {}
            }
            let wait = matches!(command, F_SETLKW | F_OFD_SETLKW);
            acquire(c.thread, locks, wait, || locks.set(record)).await
        }
    }
}

/// The answer of `F_GETLK`: the lock in the way, or that there is none.
fn describe(asked: UserLock, conflict: Option<Record>) -> UserLock {
    let Some(record) = conflict else { return UserLock { kind: F_UNLCK, ..asked } };
    UserLock {
        kind: if record.kind == LockKind::Shared { F_RDLCK } else { F_WRLCK },
        whence: 0,
        start: record.start as i64,
        len: if record.last == u64::MAX { 0 } else { (record.last - record.start + 1) as i64 },
        pid: record.pid,
        ..asked
    }
}

async fn acquire(
    thread: &Thread,
    locks: &FileLocks,
    wait: bool,
    mut set: impl FnMut() -> Result<(), Errno>,
) -> SysResult {
    match set() {
        Err(Errno::EAGAIN) if wait => block_on(thread, locks.queue(), Events::all(), None, set).await?,
        result => result?,
    }
    Ok(0)
}

/// flock(2)
pub async fn flock(c: &mut Caller<'_>, fd: i32, operation: u32) -> SysResult {
    const LOCK_SH: u32 = 1;
    const LOCK_EX: u32 = 2;
    const LOCK_NB: u32 = 4;
    const LOCK_UN: u32 = 8;
    let file = c.thread.files().get(fd)?;
    let kind = match operation & !LOCK_NB {
        LOCK_SH => Some(LockKind::Shared),
        LOCK_EX => Some(LockKind::Exclusive),
        LOCK_UN => None,
        _ => return Err(Errno::EINVAL),
    };
    let locks = file.location().and_then(|location| location.node.locks()).ok_or(Errno::EINVAL)?;
    let wait = operation & LOCK_NB == 0;
    acquire(c.thread, locks, wait, || locks.lock_whole(file.lock_owner(), kind)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(whence: i16, start: i64, len: i64) -> UserLock {
        UserLock { kind: F_RDLCK, whence, padding: 0, start, len, pid: 0, padding_2: 0 }
    }

    #[test]
    fn ranges_are_relative_and_may_point_backwards() {
        assert_eq!(range(&lock(0, 10, 5), 0, 0), Ok((10, 14)));
        assert_eq!(range(&lock(1, 10, 0), 100, 0), Ok((110, u64::MAX)));
        assert_eq!(range(&lock(2, 0, -10), 0, 50), Ok((40, 49)));
        assert_eq!(range(&lock(0, 5, -10), 0, 0), Err(Errno::EINVAL));
        assert_eq!(range(&lock(0, -1, 1), 0, 0), Err(Errno::EINVAL));
        assert_eq!(range(&lock(0, i64::MAX, 2), 0, 0), Err(Errno::EOVERFLOW));
        assert_eq!(range(&lock(3, 0, 1), 0, 0), Err(Errno::EINVAL));
    }

    #[test]
    fn the_layout_is_that_of_struct_flock() {
        assert_eq!(size_of::<UserLock>(), 32);
        assert_eq!(core::mem::offset_of!(UserLock, start), 8);
        assert_eq!(core::mem::offset_of!(UserLock, pid), 24);
    }
}

//! Descriptors for processes: pidfd_open(2) and what is done through them.

use alloc::sync::Arc;

use super::Caller;
use super::signal::{from_caller, read_info, signal_or_probe};
use crate::errno::{Errno, SysResult};
use crate::fs::OpenFlags;
use crate::process::pidfd::PidFd;
use crate::process::signal::{SI_USER, SignalInfo, send_checked};
use crate::process::{self, INIT, Process};
use crate::uaccess::UserPtr;

/// pidfd_open(2).
pub fn pidfd_open(c: &mut Caller<'_>, pid: i32, flags: u32) -> SysResult {
    if flags & !OpenFlags::NONBLOCK.bits() != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let process = process_called(pid as u32)?;
    let file = PidFd::open(process, OpenFlags::from_bits_truncate(flags));
    Ok(c.thread.files().insert(file, true)? as usize)
}

/// The process whose id is `pid`: that of a thread which is not the first names none (`EINVAL`).
fn process_called(pid: u32) -> Result<Arc<Process>, Errno> {
    let process = process::find_task(pid).ok_or(Errno::ESRCH)?.into_process();
    if process.pid() == pid { Ok(process) } else { Err(Errno::EINVAL) }
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(
    c: &mut Caller<'_>,
    fd: i32,
    number: i32,
    info: UserPtr<SignalInfo>,
    flags: u32,
) -> SysResult {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let process = PidFd::process_of(&*c.thread.files().get(fd)?)?;
    let signal = signal_or_probe(number)?;
    let is_own = process.pid() == c.thread.process().pid();
    let info = info.non_null().map(|info| read_info(c, info, is_own)).transpose()?;
    if info.is_some_and(|info| Ok(info.signal()) != signal.ok_or(Errno::EINVAL)) {
        return Err(Errno::EINVAL);
    }
    // Once it was waited for, there is nobody to signal; its id may be another's by now.
    if process.is_gone() {
        return Err(Errno::ESRCH);
    }
    send_checked(c.thread, &process, signal, |signal| match info {
        Some(info) => info.with_signal(signal),
        None => from_caller(c, signal, SI_USER),
    })?;
    Ok(0)
}

/// pidfd_getfd(2).
pub fn pidfd_getfd(c: &mut Caller<'_>, fd: i32, target: i32, flags: u32) -> SysResult {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let process = PidFd::process_of(&*c.thread.files().get(fd)?)?;
    let other = process.leader().ok_or(Errno::ESRCH)?;
    // As for attaching to it with ptrace(2): the same user, or root; nobody looks into the first process but root.
    let (own, theirs) = (c.thread.credentials(), other.credentials());
    let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|&id| id == own.uid);
    if !own.is_privileged() && (!same || process.pid() == INIT) {
        return Err(Errno::EPERM);
    }
    let file = other.files().get_any(target)?;
    Ok(c.thread.files().insert(file, true)? as usize)
}

//! Descriptors for processes: pidfd_open(2) and what is done through them.

use alloc::sync::Arc;

use super::Caller;
use super::signal::{from_caller, read_info, signal_or_probe};
use crate::errno::{Errno, SysResult};
use crate::fs::OpenFlags;
use crate::process::pidfd::PidFd;
use crate::process::signal::{SI_USER, SignalInfo, send_checked};
use crate::process::{self, ActingAs, Process};
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
    if !process::may_inspect(c.thread, ActingAs::RealUser, &other) {
        return Err(Errno::EPERM);
    }
    let file = other.files().get_any(target)?;
    Ok(c.thread.files().insert(file, true)? as usize)
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::*;
    use crate::fs::OpenFile;
    use crate::fs::eventfd::EventFd;
    use crate::process::Credentials;
    use crate::process::tests::{process, second_thread};
    use crate::syscall::with_caller;

    #[test]
    fn the_id_of_a_process_names_it_and_that_of_another_thread_does_not() {
        let process = process();
        let second = second_thread(&process);
        assert!(Arc::ptr_eq(&process_called(process.pid()).unwrap(), &process));
        assert_eq!(process_called(second.tid()).err(), Some(Errno::EINVAL));
        assert_eq!(process_called(4_000_000).err(), Some(Errno::ESRCH));
    }

    #[test]
    fn descriptors_are_taken_from_those_one_may_look_into() {
        let (own, other) = (process().leader().unwrap(), process().leader().unwrap());
        let event = OpenFile::new(Arc::new(EventFd::new(0, false)), OpenFlags::RDWR);
        let target = other.files().insert(event, true).unwrap();
        let pidfd = with_caller(&own, |c| pidfd_open(c, other.process().pid() as i32, 0)).unwrap() as i32;
        let take = || with_caller(&own, |c| pidfd_getfd(c, pidfd, target, 0)).map(drop);
        assert_eq!(take(), Ok(()));
        let user = Credentials::root().set_group_ids(5, 5, 5).unwrap().set_uid(5).unwrap();
        own.set_credentials(user.clone());
        assert_eq!(take(), Err(Errno::EPERM));
        other.set_credentials(Credentials { sgid: 6, ..user.clone() });
        assert_eq!(take(), Err(Errno::EPERM));
        other.set_credentials(user);
        assert_eq!(take(), Ok(()));
        // It was root's, and may still hold what root opened.
        other.process().dumpable.store(0, Ordering::Relaxed);
        assert_eq!(take(), Err(Errno::EPERM));
    }
}

//! Signals: kill, sigaction, sigprocmask and the rest.

use alloc::sync::Arc;

use super::Caller;
use super::clock::Timespec;
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::process::block::sleep;
use crate::process::signal::{
    Action, AlternateStack, MaskChange, SI_TKILL, SI_USER, Signal, SignalInfo, SignalSet, may_signal,
    send_checked,
};
use crate::process::{self, INIT, Process, Thread, deliver};
use crate::uaccess::UserPtr;

/// Bytes of the kernel's `sigset_t`.
const SET_SIZE: usize = size_of::<u64>();

fn check_set_size(size: usize) -> Result<(), Errno> {
    if size == SET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

/// rt_sigaction(2).
pub fn rt_sigaction(
    c: &mut Caller<'_>,
    number: i32,
    new: UserPtr<Action>,
    old: UserPtr<Action>,
    size: usize,
) -> SysResult {
    check_set_size(size)?;
    let signal = Signal::new(number)?;
    let new = new.non_null().map(|new| new.read(&c.space)).transpose()?;
    if new.is_some() && SignalSet::UNBLOCKABLE.contains(signal) {
        return Err(Errno::EINVAL);
    }
    let former = match new {
        Some(action) => c.thread.process().set_action(signal, action),
        None => c.thread.process().actions().get(signal),
    };
    if let Some(old) = old.non_null() {
        old.write(&c.space, &former)?;
    }
    Ok(0)
}

/// rt_sigprocmask(2).
pub fn rt_sigprocmask(
    c: &mut Caller<'_>,
    how: i32,
    set: UserPtr<u64>,
    old: UserPtr<u64>,
    size: usize,
) -> SysResult {
    check_set_size(size)?;
    let former = match set.non_null() {
        Some(set) => {
            let set = SignalSet::from_bits(set.read(&c.space)?);
            c.thread.change_mask(MaskChange::new(how)?, set)
        }
        None => c.thread.blocked(),
    };
    if let Some(old) = old.non_null() {
        old.write(&c.space, &former.bits())?;
    }
    Ok(0)
}

/// rt_sigreturn(2).
pub fn rt_sigreturn(c: &mut Caller<'_>) -> SysResult {
    Ok(deliver::from_handler(c))
}

/// rt_sigpending(2).
pub fn rt_sigpending(c: &mut Caller<'_>, set: UserPtr<u64>, size: usize) -> SysResult {
    if size > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let pending = c.thread.pending().intersection(c.thread.blocked()).bits();
    crate::uaccess::write_bytes(&c.space, set.address(), &pending.to_le_bytes()[..size])?;
    Ok(0)
}

/// rt_sigsuspend(2).
pub async fn rt_sigsuspend(c: &mut Caller<'_>, mask: UserPtr<u64>, size: usize) -> SysResult {
    check_set_size(size)?;
    let mask = SignalSet::from_bits(mask.read(&c.space)?);
    c.thread.begin_temporary_mask(mask);
    sleep(c.thread, None).await;
    c.thread.end_temporary_mask(true);
    Err(Errno::ERESTARTNOHAND)
}

/// pause(2).
pub async fn pause(c: &mut Caller<'_>) -> SysResult {
    sleep(c.thread, None).await;
    Err(Errno::ERESTARTNOHAND)
}

/// rt_sigtimedwait(2).
pub async fn rt_sigtimedwait(
    c: &mut Caller<'_>,
    set: UserPtr<u64>,
    info: UserPtr<[u8; 128]>,
    timeout: UserPtr<Timespec>,
    size: usize,
) -> SysResult {
    check_set_size(size)?;
    let wanted = SignalSet::from_bits(set.read(&c.space)?);
    let timeout = timeout.non_null().map(|t| t.read(&c.space)?.nanoseconds()).transpose()?;
    let deadline = timeout.map(|timeout| arch::now().saturating_add(timeout));
    let taken = wait_for_signal(c.thread, wanted, deadline).await?;
    if let Some(info) = info.non_null() {
        info.write(&c.space, &taken.to_user())?;
    }
    Ok(taken.signal().number() as usize)
}

/// Waits for one of `wanted`, which the thread usually blocks: for the time of the wait it does not, so that a sender wakes it.
///
/// # Errors
/// `EAGAIN` after the deadline, `EINTR` for another signal.
async fn wait_for_signal(
    thread: &Thread,
    wanted: SignalSet,
    deadline: Option<u64>,
) -> Result<SignalInfo, Errno> {
    if let Some(info) = thread.take_signal_of(wanted) {
        return Ok(info);
    }
    thread.begin_wait(wanted);
    let end = sleep(thread, deadline).await;
    let taken = thread.take_signal_of(wanted);
    thread.end_wait();
    taken.ok_or(if end == Errno::EAGAIN { Errno::EAGAIN } else { Errno::EINTR })
}

/// sigaltstack(2).
pub fn sigaltstack(
    c: &mut Caller<'_>,
    new: UserPtr<AlternateStack>,
    old: UserPtr<AlternateStack>,
) -> SysResult {
    let (current, at) = (c.thread.alternate_stack(), c.context.registers.rsp);
    if let Some(new) = new.non_null() {
        let new = new.read(&c.space)?;
        c.thread.set_alternate_stack(current.replaced_by(new, at)?);
    }
    if let Some(old) = old.non_null() {
        old.write(&c.space, &current.report(at))?;
    }
    Ok(0)
}

/// 0 probes whether a signal could be sent.
pub(super) fn signal_or_probe(number: i32) -> Result<Option<Signal>, Errno> {
    if number == 0 { Ok(None) } else { Signal::new(number).map(Some) }
}

pub(super) fn from_caller(c: &Caller<'_>, signal: Signal, code: i32) -> SignalInfo {
    SignalInfo::user(signal, code, c.thread.process().pid(), c.thread.credentials().uid)
}

/// kill(2).
pub fn kill(c: &mut Caller<'_>, pid: i32, number: i32) -> SysResult {
    let signal = signal_or_probe(number)?;
    let own = c.thread.process();
    match pid {
        // Linux: what cannot be negated is no group.
        i32::MIN => Err(Errno::ESRCH),
        0 => kill_all(c, process::group_members(own.pgid()), signal),
        -1 => {
            let others = |p: &Arc<Process>| p.pid() != INIT && !Arc::ptr_eq(p, own);
            kill_all(c, process::list().into_iter().filter(others), signal)
        }
        pid if pid < 0 => kill_all(c, process::group_members(pid.unsigned_abs()), signal),
        pid => {
            let target = process_of(pid as u32)?;
            send_checked(c.thread, &target, signal, |signal| from_caller(c, signal, SI_USER))?;
            Ok(0)
        }
    }
}

/// kill(2) takes the id of any thread for its process.
fn process_of(id: u32) -> Result<Arc<Process>, Errno> {
    Ok(process::find_task(id).ok_or(Errno::ESRCH)?.into_process())
}

/// Sends to each that may be sent to. Success when one was; else the last error, `ESRCH` when there was nobody.
fn kill_all(
    c: &Caller<'_>,
    targets: impl IntoIterator<Item = Arc<Process>>,
    signal: Option<Signal>,
) -> SysResult {
    let mut result = Err(Errno::ESRCH);
    for target in targets {
        let sent = send_checked(c.thread, &target, signal, |signal| from_caller(c, signal, SI_USER));
        if result.is_err() {
            result = sent.map(|()| 0);
        }
    }
    result
}

/// The thread `tid`; with `pid`, only if it belongs to that process.
fn find_thread(tid: i32, pid: Option<i32>) -> Result<Arc<Thread>, Errno> {
    let positive = |id: i32| u32::try_from(id).ok().filter(|&id| id > 0).ok_or(Errno::EINVAL);
    let (tid, pid) = (positive(tid)?, pid.map(positive).transpose()?);
    let thread = process::find_thread(tid).ok_or(Errno::ESRCH)?;
    let belongs = pid.is_none_or(|pid| pid == thread.process().pid());
    if belongs { Ok(thread) } else { Err(Errno::ESRCH) }
}

fn send_to_thread(
    c: &Caller<'_>,
    thread: &Thread,
    signal: Option<Signal>,
    info: impl FnOnce(Signal) -> SignalInfo,
) -> SysResult {
    if !may_signal(c.thread, thread.process(), signal) {
        return Err(Errno::EPERM);
    }
    if let Some(signal) = signal {
        thread.send_signal(info(signal))?;
    }
    Ok(0)
}

/// tkill(2).
pub fn tkill(c: &mut Caller<'_>, tid: i32, number: i32) -> SysResult {
    let thread = find_thread(tid, None)?;
    send_to_thread(c, &thread, signal_or_probe(number)?, |signal| from_caller(c, signal, SI_TKILL))
}

/// tgkill(2).
pub fn tgkill(c: &mut Caller<'_>, pid: i32, tid: i32, number: i32) -> SysResult {
    let thread = find_thread(tid, Some(pid))?;
    send_to_thread(c, &thread, signal_or_probe(number)?, |signal| from_caller(c, signal, SI_TKILL))
}

/// What a program says of a signal it queues. It cannot pretend that the kernel or kill(2) sent it, except to itself.
pub(super) fn read_info(
    c: &Caller<'_>,
    info: UserPtr<SignalInfo>,
    to_itself: bool,
) -> Result<SignalInfo, Errno> {
    let info = info.read(&c.space)?;
    let pretends = info.code() >= 0 || info.code() == SI_TKILL;
    if pretends && !to_itself { Err(Errno::EPERM) } else { Ok(info) }
}

/// rt_sigqueueinfo(2).
pub fn rt_sigqueueinfo(c: &mut Caller<'_>, pid: i32, number: i32, info: UserPtr<SignalInfo>) -> SysResult {
    let own = c.thread.process().pid();
    let info = read_info(c, info, u32::try_from(pid) == Ok(own))?;
    let signal = signal_or_probe(number)?;
    let id = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let target = process_of(id)?;
    send_checked(c.thread, &target, signal, |signal| info.with_signal(signal))?;
    Ok(0)
}

/// rt_tgsigqueueinfo(2).
pub fn rt_tgsigqueueinfo(
    c: &mut Caller<'_>,
    pid: i32,
    tid: i32,
    number: i32,
    info: UserPtr<SignalInfo>,
) -> SysResult {
    let own = c.thread.process().pid();
    let info = read_info(c, info, u32::try_from(pid) == Ok(own))?;
    let thread = find_thread(tid, Some(pid))?;
    send_to_thread(c, &thread, signal_or_probe(number)?, |signal| info.with_signal(signal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::tests::{child_of, process, run_as_thread, second_thread};
    use crate::syscall::with_caller;

    #[test]
    fn a_signal_that_is_ignored_by_default_ends_the_wait_for_it() {
        for (blocked, taken) in [(true, Some(Ok(Signal::CHLD))), (false, None)] {
            let process = process();
            let thread = process.leader().unwrap();
            let wanted = SignalSet::of(&[Signal::CHLD]);
            if blocked {
                thread.change_mask(MaskChange::Block, wanted);
            }
            let waiting = thread.clone();
            let running = run_as_thread(thread.clone(), async move {
                wait_for_signal(&waiting, wanted, None).await.map(|info| info.signal())
            });
            assert_eq!(running.result(), None);
            process.send_signal(SignalInfo::kernel(Signal::CHLD)).unwrap();
            assert_eq!(running.result(), taken);
            assert!(thread.pending().is_empty());
            if blocked {
                assert_eq!(thread.blocked(), wanted);
            }
        }
    }

    #[test]
    fn kill_reaches_one_a_group_or_nobody() {
        let parent = process();
        let (a, b) = (child_of(&parent), child_of(&parent));
        let leader = parent.leader().unwrap();
        let send = |pid: i32, number| with_caller(&leader, |c| kill(c, pid, number));
        let pending = |p: &Arc<Process>| p.leader().unwrap().pending().bits();
        assert_eq!(send(a.pid() as i32, 0), Ok(0));
        assert_eq!(pending(&a), 0);
        assert_eq!(send(a.pid() as i32, 10), Ok(0));
        assert_eq!((pending(&a), pending(&b)), (1 << 9, 0));
        a.set_group(a.pid(), a.pid()).unwrap();
        assert_eq!(send(-(parent.pgid() as i32), 12), Ok(0));
        assert_eq!((pending(&a), pending(&b), pending(&parent)), (1 << 9, 1 << 11, 1 << 11));
        assert_eq!(send(0, 65), Err(Errno::EINVAL));
        assert_eq!(send(i32::MIN, 0), Err(Errno::ESRCH));
        assert_eq!(send(32767, 0), Err(Errno::ESRCH));
        assert_eq!(send(-32767, 0), Err(Errno::ESRCH));
    }

    #[test]
    fn a_user_signals_its_own_processes_only() {
        let parent = process();
        let (a, b) = (child_of(&parent).leader().unwrap(), child_of(&parent).leader().unwrap());
        a.set_credentials(a.credentials().set_uid(1000).unwrap());
        let to = |target: &Arc<Thread>, number| with_caller(&a, |c| kill(c, target.tid() as i32, number));
        assert_eq!(to(&b, 15), Err(Errno::EPERM));
        // SIGCONT passes within a session.
        assert_eq!(to(&b, 18), Ok(0));
        b.set_credentials(b.credentials().set_uid(1000).unwrap());
        assert_eq!(to(&b, 15), Ok(0));
    }

    #[test]
    fn tgkill_checks_that_the_thread_belongs_to_the_process() {
        let (one, other) = (process(), process());
        let (leader, second) = (one.leader().unwrap(), second_thread(&one));
        let send = |pid: u32, tid: u32| with_caller(&leader, |c| tgkill(c, pid as i32, tid as i32, 10));
        assert_eq!(send(other.pid(), second.tid()), Err(Errno::ESRCH));
        assert_eq!(send(one.pid(), 0), Err(Errno::EINVAL));
        assert_eq!(send(one.pid(), second.tid()), Ok(0));
        assert!(second.pending().contains(Signal::USR1));
        assert!(!leader.pending().contains(Signal::USR1));
    }

    #[test]
    fn sigtimedwait_takes_a_blocked_signal_and_leaves_the_mask() {
        let process = process();
        let thread = process.leader().unwrap();
        let usr1 = SignalSet::of(&[Signal::USR1]);
        thread.change_mask(MaskChange::Block, usr1);
        let (this, wanted) = (thread.clone(), usr1);
        let running =
            run_as_thread(thread.clone(), async move { wait_for_signal(&this, wanted, None).await });
        assert_eq!(running.result(), None);
        process.send_signal(SignalInfo::kernel(Signal::USR1)).unwrap();
        assert_eq!(running.result(), Some(Ok(SignalInfo::kernel(Signal::USR1))));
        assert_eq!((thread.blocked(), thread.interrupted()), (usr1, false));

        let (this, deadline) = (thread.clone(), arch::now() + 1_000_000);
        let running =
            run_as_thread(thread.clone(), async move { wait_for_signal(&this, usr1, Some(deadline)).await });
        assert_eq!(running.result_after(deadline), Err(Errno::EAGAIN));
        assert_eq!(thread.blocked(), usr1);
    }
}

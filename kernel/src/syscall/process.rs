//! Processes and threads: fork, execve, exit, wait, and who belongs where.

use core::sync::atomic::Ordering;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use super::path::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, check_flags};
use super::sched::target;
use crate::errno::{Errno, SysResult};
use crate::fs::path::View;
use crate::fs::{FileType, Identity};
use crate::memory::VirtAddr;
use crate::process::clone::{CloneFlags, CloneRequest, clone as make_task};
use crate::process::exec::arguments::Arguments;
use crate::process::exec::{self, Request};
use crate::process::pace::Pace;
use crate::process::pidfd::PidFd;
use crate::process::robust::HEAD_SIZE;
use crate::process::signal::{Signal, SignalInfo};
use crate::process::usage::Totals;
use crate::process::wait::{WaitOptions, Waited, Which, wait};
use crate::process::{self, ActingAs, Resource};
use crate::uaccess::{self, UserPtr};

/// Low bits of clone(2)'s flags: the signal at the child's end.
const EXIT_SIGNAL: u64 = 0xff;

/// getpid(2).
pub fn getpid(c: &mut Caller<'_>) -> SysResult {
    Ok(c.thread.process().pid() as usize)
}

/// gettid(2).
pub fn gettid(c: &mut Caller<'_>) -> SysResult {
    Ok(c.thread.tid() as usize)
}

/// getppid(2).
pub fn getppid(c: &mut Caller<'_>) -> SysResult {
    Ok(c.thread.process().ppid() as usize)
}

/// clone(2).
pub async fn clone(
    c: &mut Caller<'_>,
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
) -> SysResult {
    // What clone3 adds lies above 32 bits, and means nothing here.
    let known = CloneFlags::from_bits_truncate(flags & u64::from(u32::MAX) & !EXIT_SIGNAL);
    let exit_signal = exit_signal(flags & EXIT_SIGNAL)?;
    // The descriptor's place is that of the id for the parent.
    if known.contains(CloneFlags::PIDFD) && known.intersects(CloneFlags::PARENT_SETTID | CloneFlags::DETACHED)
    {
        return Err(Errno::EINVAL);
    }
    let pidfd = parent_tid;
    let request = CloneRequest { flags: known, exit_signal, stack, parent_tid, child_tid, tls, pidfd };
    Ok(make_task(c, request).await? as usize)
}

fn exit_signal(number: u64) -> Result<Option<Signal>, Errno> {
    match number {
        0 => Ok(None),
        number => i32::try_from(number).map_err(|_| Errno::EINVAL).and_then(Signal::new).map(Some),
    }
}

/// `struct clone_args`, in its first version.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    /// Second version: ids to take.
    set_tid: u64,
    set_tid_size: u64,
    /// Third version.
    cgroup: u64,
}

/// Bytes of the first version.
const CLONE_ARGS_MIN: usize = 64;

/// clone3(2).
pub async fn clone3(c: &mut Caller<'_>, arguments: VirtAddr, size: usize) -> SysResult {
    let arguments = read_clone_args(c, arguments, size)?;
    Ok(make_task(c, clone3_request(&arguments)?).await? as usize)
}

/// A structure that may be longer or shorter than the one known here: what is unknown has to be zero.
fn read_clone_args(c: &Caller<'_>, at: VirtAddr, size: usize) -> Result<CloneArgs, Errno> {
    const LARGEST: usize = 4096;
    if size > LARGEST {
        return Err(Errno::E2BIG);
    }
    if size < CLONE_ARGS_MIN {
        return Err(Errno::EINVAL);
    }
    let mut arguments = CloneArgs::new_zeroed();
    let known = size.min(size_of::<CloneArgs>());
    uaccess::read_bytes(&c.space, at, &mut arguments.as_mut_bytes()[..known])?;
    for offset in known..size {
        if UserPtr::<u8>::new(at + offset).read(&c.space)? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    Ok(arguments)
}

fn clone3_request(arguments: &CloneArgs) -> Result<CloneRequest, Errno> {
    let flags = CloneFlags::from_bits(arguments.flags).ok_or(Errno::EINVAL)?;
    let own_signal = !flags.intersects(CloneFlags::THREAD | CloneFlags::PARENT);
    let wrong = flags.contains(CloneFlags::DETACHED)
        || arguments.flags & EXIT_SIGNAL != 0
        || (!own_signal && arguments.exit_signal != 0)
        || arguments.set_tid_size != 0
        || (arguments.stack == 0) != (arguments.stack_size == 0);
    let stack = arguments.stack.checked_add(arguments.stack_size).ok_or(Errno::EINVAL)?;
    if wrong || !process::clone::is_user(stack) {
        return Err(Errno::EINVAL);
    }
    Ok(CloneRequest {
        flags,
        exit_signal: exit_signal(arguments.exit_signal)?,
        stack,
        parent_tid: arguments.parent_tid,
        child_tid: arguments.child_tid,
        tls: arguments.tls,
        pidfd: arguments.pidfd,
    })
}

fn fork_request(flags: CloneFlags) -> CloneRequest {
    CloneRequest {
        flags,
        exit_signal: Some(Signal::CHLD),
        stack: 0,
        parent_tid: 0,
        child_tid: 0,
        tls: 0,
        pidfd: 0,
    }
}

/// fork(2).
pub async fn fork(c: &mut Caller<'_>) -> SysResult {
    Ok(make_task(c, fork_request(CloneFlags::empty())).await? as usize)
}

/// vfork(2).
pub async fn vfork(c: &mut Caller<'_>) -> SysResult {
    Ok(make_task(c, fork_request(CloneFlags::VFORK | CloneFlags::VM)).await? as usize)
}

/// execve(2).
pub async fn execve(
    c: &mut Caller<'_>,
    path: UserPtr<u8>,
    argv: UserPtr<u64>,
    envp: UserPtr<u64>,
) -> SysResult {
    execute(c, AT_FDCWD, path, argv, envp, 0).await
}

/// execveat(2).
pub async fn execveat(
    c: &mut Caller<'_>,
    directory: i32,
    path: UserPtr<u8>,
    argv: UserPtr<u64>,
    envp: UserPtr<u64>,
    flags: u32,
) -> SysResult {
    execute(c, directory, path, argv, envp, flags).await
}

async fn execute(
    c: &mut Caller<'_>,
    directory: i32,
    path: UserPtr<u8>,
    argv: UserPtr<u64>,
    envp: UserPtr<u64>,
    flags: u32,
) -> SysResult {
    let prepared = prepare(c, directory, path, argv, envp, flags).await?;
    exec::replace(c, prepared).await?;
    Ok(0)
}

async fn prepare(
    c: &Caller<'_>,
    directory: i32,
    path: UserPtr<u8>,
    argv: UserPtr<u64>,
    envp: UserPtr<u64>,
    flags: u32,
) -> Result<exec::Prepared, Errno> {
    let path = c.path(path)?;
    if path.bytes().is_empty() && flags & AT_EMPTY_PATH == 0 {
        return Err(Errno::ENOENT);
    }
    check_flags(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)?;
    let follow = flags & AT_SYMLINK_NOFOLLOW == 0;
    let location = c.locate(directory, path.bytes(), flags, follow)?;
    if location.node.file_type() == FileType::Symlink {
        return Err(Errno::ELOOP);
    }
    let process = c.thread.process();
    let stack_limit = process.rlimit(Resource::Stack).soft;
    let mut pace = Pace::new(c.thread);
    let arguments = Arguments::copy(&mut pace, &c.space, argv, envp, stack_limit).await?;
    let (credentials, fs) = (c.thread.credentials(), c.thread.fs());
    let (root, cwd) = (fs.root(), fs.cwd());
    let by_descriptor = match path.bytes() {
        [] => Some(alloc::format!("/dev/fd/{directory}").into_bytes()),
        [b'/', ..] => None,
        _ if directory == AT_FDCWD => None,
        name => Some([alloc::format!("/dev/fd/{directory}/").as_bytes(), name].concat()),
    };
    let request = Request {
        location,
        path: by_descriptor.as_deref().unwrap_or(path.bytes()),
        arguments,
        view: View { who: Identity::of(&credentials), root: &root },
        cwd: &cwd,
        credentials: &credentials,
        no_new_privileges: c.thread.has_no_new_privileges(),
        shares_fs: c.thread.shares_fs_with_others(),
        process,
    };
    exec::prepare(&mut pace, request).await
}

/// exit(2): ends the thread.
pub fn exit(c: &mut Caller<'_>, code: i32) -> SysResult {
    c.thread.exit(code as u8);
    Ok(0)
}

/// exit_group(2): ends the process.
pub fn exit_group(c: &mut Caller<'_>, code: i32) -> SysResult {
    c.thread.process().exit(code as u8);
    Ok(0)
}

/// `struct rusage`; getrusage(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rusage {
    user: super::clock::Timeval,
    system: super::clock::Timeval,
    max_resident: i64,
    shared_text: i64,
    unshared_data: i64,
    unshared_stack: i64,
    minor_faults: i64,
    major_faults: i64,
    swaps: i64,
    blocks_in: i64,
    blocks_out: i64,
    messages_sent: i64,
    messages_received: i64,
    signals: i64,
    voluntary_switches: i64,
    involuntary_switches: i64,
}

impl From<&Totals> for Rusage {
    fn from(totals: &Totals) -> Self {
        use super::clock::Timeval;
        Self {
            user: Timeval::from_nanoseconds(totals.user),
            system: Timeval::from_nanoseconds(totals.system),
            max_resident: totals.max_resident as i64,
            minor_faults: totals.faults as i64,
            voluntary_switches: totals.voluntary_switches as i64,
            involuntary_switches: totals.involuntary_switches as i64,
            ..Self::default()
        }
    }
}

/// wait4(2).
pub async fn wait4(
    c: &mut Caller<'_>,
    pid: i32,
    status: UserPtr<i32>,
    options: u32,
    usage: UserPtr<Rusage>,
) -> SysResult {
    const KNOWN: WaitOptions = WaitOptions::NO_HANG
        .union(WaitOptions::STOPPED)
        .union(WaitOptions::CONTINUED)
        .union(WaitOptions::NO_THREAD)
        .union(WaitOptions::ALL)
        .union(WaitOptions::CLONE);
    let options = WaitOptions::from_bits(options).filter(|o| KNOWN.contains(*o)).ok_or(Errno::EINVAL)?;
    let which = match pid {
        -1 => Which::Any,
        0 => Which::Group(c.thread.process().pgid()),
        i32::MIN => return Err(Errno::ESRCH),
        pid if pid < 0 => Which::Group(pid.unsigned_abs()),
        pid => Which::Process(pid as u32),
    };
    let Some(waited) = wait(c.thread, which, options | WaitOptions::EXITED).await? else { return Ok(0) };
    if let Some(status) = status.non_null() {
        status.write(&c.space, &waited.change.wait_status())?;
    }
    if let Some(usage) = usage.non_null() {
        usage.write(&c.space, &Rusage::from(&waited.usage))?;
    }
    Ok(waited.pid as usize)
}

const P_ALL: u32 = 0;
const P_PID: u32 = 1;
const P_PGID: u32 = 2;
const P_PIDFD: u32 = 3;

/// waitid(2).
pub async fn waitid(
    c: &mut Caller<'_>,
    kind: u32,
    id: i32,
    info: UserPtr<[u8; 128]>,
    options: u32,
    usage: UserPtr<Rusage>,
) -> SysResult {
    let options = WaitOptions::from_bits(options).ok_or(Errno::EINVAL)?;
    if !options.intersects(WaitOptions::EXITED | WaitOptions::STOPPED | WaitOptions::CONTINUED) {
        return Err(Errno::EINVAL);
    }
    let which = match (kind, u32::try_from(id)) {
        (P_ALL, _) => Which::Any,
        (P_PID, Ok(pid)) if pid > 0 => Which::Process(pid),
        (P_PGID, Ok(0)) => Which::Group(c.thread.process().pgid()),
        (P_PGID, Ok(group)) => Which::Group(group),
        (P_PIDFD, Ok(_)) => Which::Process(PidFd::process_of(&*c.thread.files().get(id)?)?.pid()),
        _ => return Err(Errno::EINVAL),
    };
    let waited = wait(c.thread, which, options).await?;
    if let Some(info) = info.non_null() {
        info.write(&c.space, &wait_info(waited.as_ref()))?;
    }
    if let (Some(usage), Some(waited)) = (usage.non_null(), &waited) {
        usage.write(&c.space, &Rusage::from(&waited.usage))?;
    }
    Ok(0)
}

/// The `siginfo_t` of waitid: all zero when no child had anything to tell.
fn wait_info(waited: Option<&Waited>) -> [u8; 128] {
    let Some(waited) = waited else { return [0; 128] };
    let (code, status) = waited.change.code_and_status();
    SignalInfo::child(Signal::CHLD, code, waited.pid, waited.uid, status, 0, 0).to_user()
}

/// set_tid_address(2).
pub fn set_tid_address(c: &mut Caller<'_>, address: u64) -> SysResult {
    c.thread.clear_tid.store(address, Ordering::Relaxed);
    gettid(c)
}

/// set_robust_list(2).
pub fn set_robust_list(c: &mut Caller<'_>, head: u64, size: usize) -> SysResult {
    if size != HEAD_SIZE {
        return Err(Errno::EINVAL);
    }
    c.thread.robust_list.store(head, Ordering::Relaxed);
    Ok(0)
}

/// get_robust_list(2).
pub fn get_robust_list(c: &mut Caller<'_>, tid: i32, head: UserPtr<u64>, size: UserPtr<usize>) -> SysResult {
    let thread = target(c.thread, tid).map_err(|_| Errno::ESRCH)?;
    if !process::may_inspect(c.thread, ActingAs::RealUser, &thread) {
        return Err(Errno::EPERM);
    }
    size.write(&c.space, &HEAD_SIZE)?;
    head.write(&c.space, &thread.robust_list.load(Ordering::Relaxed))?;
    Ok(0)
}

/// setpgid(2).
pub fn setpgid(c: &mut Caller<'_>, pid: i32, group: i32) -> SysResult {
    let own = c.thread.process();
    let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
    let pid = match u32::try_from(pid).map_err(|_| Errno::ESRCH)? {
        0 => own.pid(),
        pid => pid,
    };
    own.set_group(pid, if group == 0 { pid } else { group })?;
    Ok(0)
}

fn process_or_own(c: &Caller<'_>, pid: i32) -> Result<alloc::sync::Arc<process::Process>, Errno> {
    match pid {
        0 => Ok(c.thread.process().clone()),
        pid => u32::try_from(pid).ok().and_then(process::find).ok_or(Errno::ESRCH),
    }
}

/// getpgid(2).
pub fn getpgid(c: &mut Caller<'_>, pid: i32) -> SysResult {
    Ok(process_or_own(c, pid)?.pgid() as usize)
}

/// getpgrp(2).
pub fn getpgrp(c: &mut Caller<'_>) -> SysResult {
    Ok(c.thread.process().pgid() as usize)
}

/// setsid(2).
pub fn setsid(c: &mut Caller<'_>) -> SysResult {
    Ok(c.thread.process().new_session()? as usize)
}

/// getsid(2).
pub fn getsid(c: &mut Caller<'_>, pid: i32) -> SysResult {
    Ok(process_or_own(c, pid)?.sid() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> CloneArgs {
        CloneArgs { exit_signal: 17, ..CloneArgs::new_zeroed() }
    }

    #[test]
    fn clone3_checks_its_arguments() {
        assert_eq!(clone3_request(&arguments()).unwrap().exit_signal, Some(Signal::CHLD));
        let refused = |a: CloneArgs| assert_eq!(clone3_request(&a).err(), Some(Errno::EINVAL), "{a:?}");
        refused(CloneArgs { flags: 1 << 40, ..arguments() });
        refused(CloneArgs { flags: 17, ..arguments() });
        refused(CloneArgs { exit_signal: 65, ..arguments() });
        refused(CloneArgs { flags: CloneFlags::THREAD.bits(), ..arguments() });
        refused(CloneArgs { stack: 0x1000, ..arguments() });
        refused(CloneArgs { stack_size: 0x1000, ..arguments() });
        refused(CloneArgs { stack: u64::MAX, stack_size: 2, ..arguments() });
        refused(CloneArgs { stack: 1 << 47, stack_size: 4096, ..arguments() });
        refused(CloneArgs { set_tid_size: 1, ..arguments() });
        let stack = CloneArgs { stack: 0x1000, stack_size: 0x2000, ..arguments() };
        assert_eq!(clone3_request(&stack).unwrap().stack, 0x3000);
    }

    #[test]
    fn structures_have_the_sizes_of_the_abi() {
        assert_eq!(size_of::<CloneArgs>(), 88);
        assert_eq!(size_of::<Rusage>(), 144);
    }

    #[test]
    fn exit_signals_are_signals_or_none() {
        assert_eq!(exit_signal(0), Ok(None));
        assert_eq!(exit_signal(17), Ok(Some(Signal::CHLD)));
        assert_eq!(exit_signal(65), Err(Errno::EINVAL));
        assert_eq!(exit_signal(u64::MAX), Err(Errno::EINVAL));
    }
}

//! Making threads and processes: clone(2), fork(2), vfork(2).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::block::block_unless_dying;
use super::group::{NewProcess, Process};
use super::limits::{Resource, UNLIMITED};
use super::memory::{space_limits, turn};
use super::pace::Pace;
use super::pidfd::PidFd;
use super::registry::{self, with_table};
use super::run;
use super::signal::{AlternateStack, Signal};
use super::thread::{NewThread, Resources, SharedFs, SharedSpace, Thread, attention};
use super::vfork::Completion;
use crate::arch;
use crate::errno::Errno;
use crate::fs::OpenFlags;
use crate::memory::{AddressSpace, Purpose, VirtAddr, admit};
use crate::sched::{NoRoom, Place};
use crate::syscall::Caller;
use crate::uaccess::UserPtr;

bitflags::bitflags! {
    /// `CLONE_*`
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CloneFlags: u64 {
        /// Same memory.
        const VM = 0x100;
        /// Same directories and umask.
        const FS = 0x200;
        /// Same descriptors.
        const FILES = 0x400;
        /// Same signal actions.
        const SIGHAND = 0x800;
        /// A descriptor for the child.
        const PIDFD = 0x1000;
        /// Traced as the caller is. Nobody is.
        const PTRACE = 0x2000;
        /// The caller waits until the child has a program of its own or is gone.
        const VFORK = 0x4000;
        /// A sibling of the caller.
        const PARENT = 0x8000;
        /// A thread of the caller's process.
        const THREAD = 0x1_0000;
        /// A mount namespace; there is one.
        const NEWNS = 0x2_0000;
        /// Same System V semaphore adjustments; there are none.
        const SYSVSEM = 0x4_0000;
        /// Sets thread-local storage.
        const SETTLS = 0x8_0000;
        /// Stores the id for the parent.
        const PARENT_SETTID = 0x10_0000;
        /// Clears the id at the end.
        const CHILD_CLEARTID = 0x20_0000;
        /// No meaning since long.
        const DETACHED = 0x40_0000;
        /// Cannot be traced. Nobody is.
        const UNTRACED = 0x80_0000;
        /// Stores the id for the child.
        const CHILD_SETTID = 0x100_0000;
        /// A control group namespace; there is none.
        const NEWCGROUP = 0x200_0000;
        /// A namespace of host names; there is one.
        const NEWUTS = 0x400_0000;
        /// A namespace of System V objects.
        const NEWIPC = 0x800_0000;
        /// A namespace of users.
        const NEWUSER = 0x1000_0000;
        /// A namespace of ids.
        const NEWPID = 0x2000_0000;
        /// A namespace of networks.
        const NEWNET = 0x4000_0000;
        /// Same context of block I/O; there is none.
        const IO = 0x8000_0000;
        /// Handlers back to the default (clone3 only).
        const CLEAR_SIGHAND = 0x1_0000_0000;
        /// Into a control group (clone3 only).
        const INTO_CGROUP = 0x2_0000_0000;
    }
}

impl CloneFlags {
    /// Those that ask for a namespace of one's own.
    const NAMESPACES: Self = Self::NEWNS
        .union(Self::NEWCGROUP)
        .union(Self::NEWUTS)
        .union(Self::NEWIPC)
        .union(Self::NEWUSER)
        .union(Self::NEWPID)
        .union(Self::NEWNET);
    /// Those that do something this kernel does not do.
    const UNSUPPORTED: Self = Self::NAMESPACES.union(Self::INTO_CGROUP);
}

/// What clone(2) and clone3(2) are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloneRequest {
    /// What is shared, and what else is done.
    pub flags: CloneFlags,
    /// What the parent is sent at the child's end.
    pub exit_signal: Option<Signal>,
    /// The child's stack pointer; 0 for the caller's.
    pub stack: u64,
    /// Where to store the id for the parent.
    pub parent_tid: u64,
    /// Where to store it for the child, and to clear it at the end.
    pub child_tid: u64,
    /// The base of the FS segment.
    pub tls: u64,
    /// Where to store the child's descriptor.
    pub pidfd: u64,
}

impl CloneRequest {
    /// Checks that the flags go together.
    ///
    /// # Errors
    /// `EINVAL` as clone(2) lists it, and for what is not there.
    pub fn check(&self) -> Result<(), Errno> {
        let flags = self.flags;
        let has = |flag| flags.contains(flag);
        let wrong = has(CloneFlags::SIGHAND) && !has(CloneFlags::VM)
            || has(CloneFlags::THREAD) && !has(CloneFlags::SIGHAND)
            || has(CloneFlags::SIGHAND | CloneFlags::CLEAR_SIGHAND)
            || has(CloneFlags::FS | CloneFlags::NEWNS)
            || has(CloneFlags::PIDFD | CloneFlags::THREAD)
            || flags.intersects(CloneFlags::UNSUPPORTED)
            || has(CloneFlags::SETTLS) && !is_user(self.tls);
        if wrong { Err(Errno::EINVAL) } else { Ok(()) }
    }
}

/// Whether `address` can be a segment base.
pub fn is_user(address: u64) -> bool {
    crate::uaccess::is_user_range(VirtAddr::new(address), 0)
}

/// Makes a thread or process as `request` says; it starts where the caller is, with 0 as the result. Returns its id.
///
/// # Errors
/// `EINVAL` as [`CloneRequest::check`]; `EAGAIN` when there are too many, `ENOMEM`.
pub async fn clone(caller: &mut Caller<'_>, request: CloneRequest) -> Result<u32, Errno> {
    request.check()?;
    admit(Purpose::User)?;
    check_limit(caller.thread)?;
    let place = Place::on(arch::core_id()).map_err(|NoRoom| Errno::EAGAIN)?;
    let tid = with_table(|table| table.reserve())?;
    let made = make(caller, &request, tid).await.inspect_err(|_| with_table(|table| table.release(tid)));
    let (child, completion) = made?;
    if request.flags.contains(CloneFlags::PIDFD) {
        let given = give_descriptor(caller, &child, request.pidfd);
        given.inspect_err(|_| with_table(|table| table.release(tid)))?;
    }
    start(caller, child, &request, place);
    if let Some(completion) = completion {
        // Only the caller's own end cuts this short.
        let _ = block_unless_dying(caller.thread, completion.waiters(), || completion.is_complete()).await;
    }
    Ok(tid)
}

/// `RLIMIT_NPROC`, which root is not held to.
fn check_limit(thread: &Thread) -> Result<(), Errno> {
    let limit = thread.process().rlimit(Resource::Processes).soft;
    let credentials = thread.credentials();
    if credentials.is_privileged() || limit == UNLIMITED {
        return Ok(());
    }
    let same_user = |other: &&Arc<Thread>| other.credentials().uid == credentials.uid;
    let count = with_table(|table| table.threads().filter(same_user).count());
    if (count as u64) < limit { Ok(()) } else { Err(Errno::EAGAIN) }
}

async fn make(
    caller: &Caller<'_>,
    request: &CloneRequest,
    tid: u32,
) -> Result<(Arc<Thread>, Option<Arc<Completion>>), Errno> {
    let (parent, flags) = (caller.thread, request.flags);
    let process = if flags.contains(CloneFlags::THREAD) {
        parent.process().clone()
    } else {
        Arc::new(new_process(parent.process(), request, tid))
    };
    let resources = share(parent, flags).await?;
    let thread = Thread::new(NewThread {
        tid,
        process,
        resources,
        credentials: parent.credentials(),
        name: parent.name(),
        blocked: parent.blocked(),
    });
    inherit(&thread, parent, request);
    let completion = flags.contains(CloneFlags::VFORK).then(Arc::<Completion>::default);
    *thread.vfork.lock() = completion.clone();
    Ok((Arc::new(thread), completion))
}

fn new_process(parent: &Process, request: &CloneRequest, pid: u32) -> Process {
    let flags = request.flags;
    let actions = parent.actions();
    let actions = if flags.contains(CloneFlags::SIGHAND) {
        actions
    } else if flags.contains(CloneFlags::CLEAR_SIGHAND) {
        Arc::new(actions.after_exec())
    } else {
        Arc::new(actions.fork())
    };
    let exit_signal = if flags.contains(CloneFlags::PARENT) {
        // A sibling: its parent gets what it gets from the caller, not a signal of the caller's choice.
        Signal::new(parent.exit_signal.load(Ordering::Relaxed)).ok()
    } else {
        request.exit_signal
    };
    let process = Process::new(NewProcess {
        pid,
        session: parent.session(),
        actions,
        limits: parent.limits().fork(),
        image: parent.image(),
        exit_signal,
        personality: parent.personality.load(Ordering::Relaxed),
    });
    process.dumpable.store(parent.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
    process.watch_cpu_limit();
    process
}

/// What the child works with: the caller's, or copies.
async fn share(parent: &Thread, flags: CloneFlags) -> Result<Resources, Errno> {
    let Resources { space, files, fs } = parent.resources();
    let space = if flags.contains(CloneFlags::VM) {
        space
    } else {
        let copy = copy_space(parent, space.space()).await?;
        copy.set_limits(space_limits(parent.process(), parent.credentials().is_privileged()));
        SharedSpace::new(copy)
    };
    Ok(Resources {
        space,
        files: if flags.contains(CloneFlags::FILES) {
            files
        } else {
            files.fork(&mut Pace::new(parent)).await?
        },
        fs: if flags.contains(CloneFlags::FS) { fs } else { SharedFs::new(fs.context().fork()) },
    })
}

/// A copy of the caller's memory; `EINTR` when the caller is about to end.
async fn copy_space(parent: &Thread, space: &AddressSpace) -> Result<Arc<AddressSpace>, Errno> {
    let _turn = turn(parent, space).await?;
    let (mut fork, mut pace) = (space.begin_fork()?, Pace::new(parent));
    while fork.step()? {
        pace.pause().await?;
    }
    Ok(fork.finish())
}

fn inherit(thread: &Thread, parent: &Thread, request: &CloneRequest) {
    let flags = request.flags;
    *thread.scheduling.lock() = parent.scheduling.lock().inherited();
    thread.no_new_privileges.store(parent.no_new_privileges.load(Ordering::Relaxed), Ordering::Relaxed);
    thread.timer_slack.store(parent.timer_slack.load(Ordering::Relaxed), Ordering::Relaxed);
    if flags.contains(CloneFlags::CHILD_CLEARTID) {
        thread.clear_tid.store(request.child_tid, Ordering::Relaxed);
    }
    // Two threads on one alternate stack would not do.
    let shares_stack = flags.contains(CloneFlags::VM) && !flags.contains(CloneFlags::VFORK);
    let stack = if shares_stack { AlternateStack::default() } else { parent.alternate_stack() };
    thread.set_alternate_stack(stack);
}

/// A descriptor for the child in the caller's table, its number at `at`.
fn give_descriptor(caller: &Caller<'_>, child: &Thread, at: u64) -> Result<(), Errno> {
    let files = caller.thread.files();
    let fd = files.insert(PidFd::open(child.process().clone(), OpenFlags::empty()), true)?;
    let stored = UserPtr::<i32>::new(VirtAddr::new(at)).write(&caller.space, &fd);
    stored.inspect_err(|_| {
        // Another thread may have closed it meanwhile, which is as good.
        let _ = files.close(fd);
    })
}

/// Enters the child among processes and threads, and sets it going.
fn start(caller: &Caller<'_>, child: Arc<Thread>, request: &CloneRequest, place: Place) {
    let flags = request.flags;
    store_ids(caller, &child, request);
    let mut context = caller.context.clone();
    context.registers.rax = 0;
    if request.stack != 0 {
        context.registers.rsp = request.stack;
    }
    if flags.contains(CloneFlags::SETTLS) {
        context.set_fs_base(request.tls);
    }
    enter(caller.thread, &child, flags);
    run::spawn(child, context, place);
}

fn enter(parent: &Thread, child: &Arc<Thread>, flags: CloneFlags) {
    let process = child.process();
    if !flags.contains(CloneFlags::THREAD) {
        let sibling = flags.contains(CloneFlags::PARENT);
        let parent_id = if sibling { parent.process().ppid() } else { parent.process().pid() };
        process.group().threads.push(child.clone());
        registry::enter_process(process, child, Some(parent_id));
        return;
    }
    with_table(|table| table.add_thread(child.tid(), child.clone()));
    let mut group = process.group();
    group.threads.push(child.clone());
    // What has been asked of all threads meanwhile is asked of this one, too.
    if group.must_end(child) {
        child.notify(attention::EXIT);
    } else if group.stop.is_some() {
        child.notify(attention::STOP);
    }
}

/// Ids where the two want them. A wrong address is ignored, as Linux does for the child; the parent's is checked by nobody either.
fn store_ids(caller: &Caller<'_>, child: &Thread, request: &CloneRequest) {
    let tid = child.tid();
    if request.flags.contains(CloneFlags::PARENT_SETTID) {
        let _ = UserPtr::<u32>::new(VirtAddr::new(request.parent_tid)).write(&caller.space, &tid);
    }
    if request.flags.contains(CloneFlags::CHILD_SETTID) {
        let at = VirtAddr::new(request.child_tid);
        // The child's memory need not be the one that is active.
        let _ = child.space().write_initial(at, &tid.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::process;
    use super::*;
    use crate::arch::UserContext;

    fn request(flags: CloneFlags) -> CloneRequest {
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

    const PTHREAD: CloneFlags = CloneFlags::VM
        .union(CloneFlags::FS)
        .union(CloneFlags::FILES)
        .union(CloneFlags::SIGHAND)
        .union(CloneFlags::THREAD)
        .union(CloneFlags::SYSVSEM);

    fn made(parent: &Arc<Thread>, flags: CloneFlags) -> Arc<Thread> {
        let mut context = UserContext::new(0x40_0000, 0x1000);
        let caller = Caller { thread: parent, context: &mut context, space: parent.space() };
        let tid = with_table(|table| table.reserve()).unwrap();
        let request = request(flags);
        let mut making = core::pin::pin!(make(&caller, &request, tid));
        // So small a space is copied without a pause.
        let context = &mut core::task::Context::from_waker(core::task::Waker::noop());
        let core::task::Poll::Ready(made) = making.as_mut().poll(context) else { panic!("it pauses") };
        let (child, _) = made.unwrap();
        enter(parent, &child, flags);
        child
    }

    #[test]
    fn flags_that_do_not_go_together_are_refused() {
        let refused = |flags| assert_eq!(request(flags).check(), Err(Errno::EINVAL));
        refused(CloneFlags::SIGHAND);
        refused(CloneFlags::THREAD | CloneFlags::VM);
        refused(PTHREAD | CloneFlags::CLEAR_SIGHAND);
        refused(CloneFlags::NEWPID);
        refused(CloneFlags::FS | CloneFlags::NEWNS);
        assert_eq!(
            CloneRequest { tls: 1 << 63, ..request(PTHREAD | CloneFlags::SETTLS) }.check(),
            Err(Errno::EINVAL)
        );
        assert_eq!(request(PTHREAD | CloneFlags::SETTLS).check(), Ok(()));
        assert_eq!(request(CloneFlags::empty()).check(), Ok(()));
    }

    #[test]
    fn a_thread_shares_what_a_process_copies() {
        let parent = process().leader().unwrap();
        let thread = made(&parent, PTHREAD);
        assert!(Arc::ptr_eq(thread.process(), parent.process()));
        assert!(Arc::ptr_eq(&thread.space(), &parent.space()));
        assert!(Arc::ptr_eq(&thread.files(), &parent.files()));
        let child = made(&parent, CloneFlags::empty());
        assert_eq!(child.process().ppid(), parent.process().pid());
        assert!(!Arc::ptr_eq(&child.space(), &parent.space()));
        assert!(!Arc::ptr_eq(&child.files(), &parent.files()));
        assert!(!Arc::ptr_eq(&child.process().actions(), &parent.process().actions()));
        assert_eq!(child.process().session().id(), parent.process().session().id());
    }

    #[test]
    fn a_sibling_ends_with_the_signal_of_its_caller() {
        let caller = super::super::tests::child_of(&process()).leader().unwrap();
        let exit_signal = |flags| {
            let request = CloneRequest { exit_signal: Some(Signal::INT), ..request(flags) };
            new_process(caller.process(), &request, 0).exit_signal.load(Ordering::Relaxed)
        };
        assert_eq!(exit_signal(CloneFlags::empty()), Signal::INT.number());
        assert_eq!(exit_signal(CloneFlags::PARENT), Signal::CHLD.number());
    }

    #[test]
    fn a_thread_that_comes_while_its_process_ends_ends_with_it() {
        let parent = process().leader().unwrap();
        parent.process().exit(0);
        assert!(made(&parent, PTHREAD).is_dying());
    }

    #[test]
    fn a_thread_that_comes_while_its_process_stops_looks_at_that() {
        let parent = process().leader().unwrap();
        assert!(!made(&parent, PTHREAD).interrupted());
        parent.process().group().stop = Some(Signal::STOP);
        assert!(made(&parent, PTHREAD).interrupted());
    }

    #[test]
    fn directories_are_shared_with_others_until_one_side_gives_them_up() {
        let parent = process().leader().unwrap();
        let thread = made(&parent, PTHREAD);
        assert!(!parent.shares_fs_with_others() && !thread.shares_fs_with_others());
        let child = made(&parent, CloneFlags::FS);
        assert!(parent.shares_fs_with_others() && child.shares_fs_with_others());
        // Who looks at them has no share.
        let looks = child.fs();
        child.release_resources();
        assert!(!thread.shares_fs_with_others());
        drop(looks);
        let other = made(&parent, CloneFlags::FS);
        other.unshare_fs();
        assert!(!parent.shares_fs_with_others() && !Arc::ptr_eq(&parent.fs(), &other.fs()));
    }

    #[test]
    fn a_user_is_held_to_its_limit_of_processes() {
        use super::super::limits::Limit;
        let process = process();
        let thread = process.leader().unwrap();
        thread.set_credentials(thread.credentials().set_uid(4711).unwrap());
        process.limits().set(Resource::Processes, Limit { soft: 2, hard: 2 }, true).unwrap();
        assert_eq!(check_limit(&thread), Ok(()));
        made(&thread, PTHREAD);
        assert_eq!(check_limit(&thread), Err(Errno::EAGAIN));
    }
}

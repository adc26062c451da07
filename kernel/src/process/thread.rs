//! A thread: what its process does not share with the others.
//!
//! The thread's registers live in the future that runs it (`run.rs`). Here is what others look at: identity, resources,
//! signal state, accounting. Fields are grouped under the lock that guards them; none of the locks is held across an `.await`.
//!
//! [`Thread::attention`](Thread) is the one word that the way back to user mode looks at: whoever wants the thread to do something
//! before it goes on (take a signal, stop, exit) sets a bit there and wakes its task.
//!
//! Lock order: process table, thread group, thread's signals, then any other of these alone.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::futex::Waiter;
use super::group::Process;
use super::pace::Pace;
use super::signal::{SignalSet, ThreadSignals};
use super::usage::Usage;
use super::vfork::Completion;
use super::{Credentials, scheduling};
use crate::errno::Errno;
use crate::fs::{FdTable, FsContext};
use crate::memory::AddressSpace;
use crate::sched::TaskHandle;
use crate::sync::SpinLock;

/// Bits of the word that the way back to user mode looks at.
pub(super) mod attention {
    /// A signal that is not blocked may be pending.
    pub const SIGNAL: u32 = 1;
    /// The process stops.
    pub const STOP: u32 = 2;
    /// The thread ends: its process does, or another of its threads executes a new program.
    pub const EXIT: u32 = 4;
    /// The signal mask is a temporary one.
    pub const RESTORE_MASK: u32 = 8;
    /// What its call left behind is to be taken apart: see [`leftovers`](crate::sched::leftovers).
    pub const LEFTOVERS: u32 = 16;

    /// What interrupts a call that blocks.
    pub const INTERRUPTS: u32 = SIGNAL | STOP | EXIT;
}

/// How late timers may be unless a thread says otherwise, in nanoseconds.
pub const DEFAULT_TIMER_SLACK: u64 = 50_000;

/// No system call.
const NO_CALL: u32 = u32::MAX;

/// What a thread is doing, as /proc/PID/stat says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RunState {
    /// Runs, or would like to.
    Running = b'R',
    /// Waits for something.
    Sleeping = b'S',
    /// Stopped by a signal.
    Stopped = b'T',
}

/// What a thread works with and may share with other threads and processes.
#[derive(Clone)]
pub struct Resources {
    /// Its memory.
    pub space: SharedSpace,
    /// Its descriptors.
    pub files: Arc<FdTable>,
    /// Its root and working directories and umask.
    pub fs: SharedFs,
}

/// Directories and a umask, and a share in their use. Who only looks at them has no share.
#[derive(Clone)]
pub struct SharedFs {
    context: Arc<FsContext>,
    share: Option<Arc<()>>,
}

impl SharedFs {
    /// The first share in a context.
    pub fn new(context: Arc<FsContext>) -> Self {
        Self { context, share: Some(Arc::new(())) }
    }

    /// The context.
    pub fn context(&self) -> &Arc<FsContext> {
        &self.context
    }

    fn sharers(&self) -> usize {
        self.share.as_ref().map_or(0, Arc::strong_count)
    }

    fn is_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.context, &other.context) && self.share.is_some()
    }
}

/// An address space and a share in its use. When the last thread gives its share up, the memory goes, though others (/proc) may
/// still be looking at the space.
#[derive(Clone)]
pub struct SharedSpace {
    space: Arc<AddressSpace>,
    share: Option<Arc<()>>,
}

impl SharedSpace {
    /// The first share in a space.
    pub fn new(space: Arc<AddressSpace>) -> Self {
        Self { space, share: Some(Arc::new(())) }
    }

    /// The space.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// Whether other threads use the space, too.
    pub fn is_shared(&self) -> bool {
        self.share.as_ref().is_some_and(|share| Arc::strong_count(share) > 1)
    }

    /// Gives the share up.
    fn leave(&mut self) {
        if self.share.take().and_then(Arc::into_inner).is_some() {
            // Little, if anything, is left: see `exit.rs`.
            while self.space.clear_some() {}
        }
    }
}

impl Drop for SharedSpace {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A thread; see the module.
pub struct Thread {
    tid: AtomicU32,
    process: Arc<Process>,
    pub(super) attention: AtomicU32,
    task: SpinLock<Option<TaskHandle>>,
    pub(super) resources: SpinLock<Resources>,
    credentials: SpinLock<Arc<Credentials>>,
    pub(super) signals: SpinLock<ThreadSignals>,
    name: SpinLock<Name>,
    state: AtomicU8,
    /// Where to store 0 and wake a futex when the thread ends; 0 for nowhere (set_tid_address(2)).
    pub(crate) clear_tid: AtomicU64,
    /// Head of the list of robust futexes (set_robust_list(2)).
    pub(crate) robust_list: AtomicU64,
    /// Signal to get when the parent ends, 0 for none (`PR_SET_PDEATHSIG`).
    pub(crate) parent_death_signal: AtomicI32,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub(crate) no_new_privileges: AtomicBool,
    /// How late its timers may be, in nanoseconds (`PR_SET_TIMERSLACK`). They never use it.
    pub(crate) timer_slack: AtomicU64,
    /// The deadline of a call that a signal interrupted and that goes on unless a handler ran; 0 for none.
    restart_deadline: AtomicU64,
    pub(super) usage: Usage,
    /// The system call that it makes, or [`NO_CALL`].
    call: AtomicU32,
    /// It gives way though it could go on.
    pub(super) yielding: AtomicBool,
    pub(super) futex: Arc<Waiter>,
    /// Told when this thread, a child of vfork(2), has a program of its own or is gone.
    pub(super) vfork: SpinLock<Option<Arc<Completion>>>,
    pub(crate) scheduling: SpinLock<scheduling::Parameters>,
}

/// A thread's name: up to 15 bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; 16],
}

impl Name {
    /// The first 15 bytes of `name`, up to a NUL.
    pub fn new(name: &[u8]) -> Self {
        let mut bytes = [0; 16];
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len()).min(15);
        bytes[..end].copy_from_slice(&name[..end]);
        Self { bytes }
    }

    /// Without the padding.
    pub fn as_bytes(&self) -> &[u8] {
        let end = self.bytes.iter().position(|&byte| byte == 0).unwrap_or(15);
        &self.bytes[..end]
    }

    /// Padded with NUL to 16 bytes, as `PR_GET_NAME` stores it.
    pub fn padded(&self) -> &[u8; 16] {
        &self.bytes
    }
}

/// What [`Thread::new`] needs.
pub struct NewThread {
    /// Its id.
    pub tid: u32,
    /// Its process.
    pub process: Arc<Process>,
    /// What it works with.
    pub resources: Resources,
    /// For whom it acts.
    pub credentials: Arc<Credentials>,
    /// Its name.
    pub name: Name,
    /// Its signal mask.
    pub blocked: SignalSet,
}

impl Thread {
    /// A thread that does not run yet: see `run::spawn`.
    pub fn new(new: NewThread) -> Self {
        let NewThread { tid, process, resources, credentials, name, blocked } = new;
        Self {
            tid: AtomicU32::new(tid),
            process,
            attention: AtomicU32::new(0),
            task: SpinLock::new(None),
            resources: SpinLock::new(resources),
            credentials: SpinLock::new(credentials),
            signals: SpinLock::new(ThreadSignals::new(blocked)),
            name: SpinLock::new(name),
            state: AtomicU8::new(RunState::Running as u8),
            clear_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            parent_death_signal: AtomicI32::new(0),
            no_new_privileges: AtomicBool::new(false),
            timer_slack: AtomicU64::new(DEFAULT_TIMER_SLACK),
            restart_deadline: AtomicU64::new(0),
            usage: Usage::default(),
            call: AtomicU32::new(NO_CALL),
            yielding: AtomicBool::new(false),
            futex: Arc::new(Waiter::default()),
            vfork: SpinLock::new(None),
            scheduling: SpinLock::new(scheduling::Parameters::default()),
        }
    }

    /// Its id. That of the process for the first thread, and for one that has executed a new program.
    pub fn tid(&self) -> u32 {
        self.tid.load(Ordering::Relaxed)
    }

    pub(super) fn set_tid(&self, tid: u32) {
        self.tid.store(tid, Ordering::Relaxed);
    }

    /// Its process.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Its address space; nothing is mapped there once it has ended.
    pub fn space(&self) -> Arc<AddressSpace> {
        self.resources.lock().space.space.clone()
    }

    /// Makes its address space the core's.
    pub(super) fn activate_space(&self) {
        self.resources.lock().space.space.activate();
    }

    /// Its descriptors; none once it has ended.
    pub fn files(&self) -> Arc<FdTable> {
        self.resources.lock().files.clone()
    }

    /// Its root and working directories and umask.
    pub fn fs(&self) -> Arc<FsContext> {
        self.resources.lock().fs.context.clone()
    }

    /// For whom it acts.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.lock().clone()
    }

    /// From now on it acts for `new`.
    pub fn set_credentials(&self, new: Credentials) {
        let new = Arc::new(new);
        let old = core::mem::replace(&mut *self.credentials.lock(), new);
        drop(old);
    }

    /// Its name.
    pub fn name(&self) -> Name {
        *self.name.lock()
    }

    /// Renames it.
    pub fn set_name(&self, name: Name) {
        *self.name.lock() = name;
    }

    /// What it is doing.
    pub fn state(&self) -> RunState {
        match self.state.load(Ordering::Relaxed) {
            b'S' => RunState::Sleeping,
            b'T' => RunState::Stopped,
            _ => RunState::Running,
        }
    }

    /// The number of the system call that it makes, if it does.
    pub fn call(&self) -> Option<u32> {
        Some(self.call.load(Ordering::Relaxed)).filter(|&number| number != NO_CALL)
    }

    pub(super) fn begin_call(&self, number: u32) {
        self.call.store(number, Ordering::Relaxed);
    }

    pub(super) fn end_call(&self) {
        self.call.store(NO_CALL, Ordering::Relaxed);
    }

    /// Its name, unless somebody is at it: for who may not wait.
    pub(super) fn try_name(&self) -> Option<Name> {
        self.name.try_lock().map(|name| *name)
    }

    pub(super) fn set_state(&self, state: RunState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// What it asks of the scheduler.
    pub fn scheduling(&self) -> scheduling::Parameters {
        *self.scheduling.lock()
    }

    /// Gives it the share of its core that its parameters say.
    pub(crate) fn apply_scheduling(&self) {
        // Lock order: task, scheduling. Who comes last applies what was set last.
        if let Some(task) = &*self.task.lock() {
            task.set_share(self.scheduling().share());
        }
    }

    /// Whether set-id bits have no effect when it executes a program (`PR_SET_NO_NEW_PRIVS`).
    pub fn has_no_new_privileges(&self) -> bool {
        self.no_new_privileges.load(Ordering::Relaxed)
    }

    /// Time on the processor and other accounts.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Whether a call that blocks must give up: a signal is to be taken, or the thread has to stop or end. Every future in which a
    /// thread waits asks this when polled, and then ends with one of the `ERESTART` errors.
    pub fn interrupted(&self) -> bool {
        self.attention.load(Ordering::Relaxed) & attention::INTERRUPTS != 0
    }

    /// Whether the thread is about to end, so that not even calls that no signal interrupts may wait on.
    pub fn is_dying(&self) -> bool {
        self.attention.load(Ordering::Relaxed) & attention::EXIT != 0
    }

    /// Has the thread look at its signals and the state of its process.
    pub(super) fn notify(&self, bits: u32) {
        self.attention.fetch_or(bits, Ordering::Release);
        self.wake();
    }

    /// Has the thread's task polled.
    pub fn wake(&self) {
        if let Some(task) = &*self.task.lock() {
            task.wake();
        }
    }

    /// Names the task that runs this thread. What was to be noticed meanwhile is noticed.
    pub(super) fn set_task(&self, task: TaskHandle) {
        let mut slot = self.task.lock();
        let task = slot.insert(task);
        // It may have been given other parameters meanwhile.
        task.set_share(self.scheduling().share());
        if self.attention.load(Ordering::Acquire) != 0 {
            task.wake();
        }
    }

    /// The deadline of a call with a relative timeout: the one it had when it was interrupted, or `new`, if it begins now.
    pub fn restart_deadline_or(&self, new: impl FnOnce() -> Option<u64>) -> Option<u64> {
        match self.restart_deadline.swap(0, Ordering::Relaxed) {
            0 => new(),
            deadline => Some(deadline),
        }
    }

    /// Keeps the deadline of a call with a relative timeout that is interrupted and may go on (`ERESTARTNOHAND`). When a handler
    /// runs first, the call does not go on, and the deadline is forgotten.
    pub fn set_restart_deadline(&self, deadline: Option<u64>) {
        self.restart_deadline.store(deadline.unwrap_or(0), Ordering::Relaxed);
    }

    /// What it works with, for another that shares it.
    pub(super) fn resources(&self) -> Resources {
        self.resources.lock().clone()
    }

    /// Works with another address space from now on; gives up its share in the former.
    pub(super) fn replace_space(&self, space: Arc<AddressSpace>) {
        let new = SharedSpace::new(space);
        let old = core::mem::replace(&mut self.resources.lock().space, new);
        drop(old);
    }

    /// Works with other descriptors from now on.
    pub(super) fn replace_files(&self, files: Arc<FdTable>) {
        let old = core::mem::replace(&mut self.resources.lock().files, files);
        drop(old);
    }

    /// Has descriptors of its own from now on: `CLONE_FILES` of unshare(2), close_range(2).
    ///
    /// # Errors
    /// `ENOMEM`; `EINTR` when the thread is about to end.
    pub async fn unshare_files(&self) -> Result<(), Errno> {
        let files = self.files();
        // One count is the thread's, one is ours.
        if Arc::strong_count(&files) > 2 {
            self.replace_files(files.fork(&mut Pace::new(self)).await?);
        }
        Ok(())
    }

    /// Has directories and a umask of its own from now on: `CLONE_FS` of unshare(2).
    pub fn unshare_fs(&self) {
        let fs = self.resources().fs;
        // One share is the thread's, one is ours.
        if fs.sharers() > 2 {
            self.replace_fs(fs.context.fork());
        }
    }

    /// Whether threads of other processes use its directories and umask, too: a clone with `CLONE_FS`.
    pub fn shares_fs_with_others(&self) -> bool {
        let fs = self.resources().fs;
        let group = self.process.group();
        let own = group.threads.iter().filter(|thread| thread.resources.lock().fs.is_with(&fs)).count();
        // One share is ours.
        fs.sharers() > own + 1
    }

    /// Works with other directories from now on.
    pub(super) fn replace_fs(&self, fs: Arc<FsContext>) {
        let old = core::mem::replace(&mut self.resources.lock().fs, SharedFs::new(fs));
        drop(old);
    }

    /// Gives up what it shares with others, so that the last one's going frees it.
    pub(super) fn release_resources(&self) {
        self.replace_files(FdTable::new());
        let mut share = {
            let mut resources = self.resources.lock();
            resources.fs.share = None;
            let space = resources.space.space.clone();
            let without = SharedSpace { space, share: None };
            core::mem::replace(&mut resources.space, without)
        };
        share.leave();
        let task = self.task.lock().take();
        drop(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_15_bytes_and_at_nul() {
        assert_eq!(Name::new(b"a-name-that-is-too-long").as_bytes(), b"a-name-that-is-");
        assert_eq!(Name::new(b"short\0rest").as_bytes(), b"short");
        assert_eq!(Name::new(b"").padded(), &[0; 16]);
        assert_eq!(Name::new(b"0123456789abcdef").padded()[15], 0);
    }

    #[test]
    fn an_interrupted_calls_deadline_is_used_once() {
        let process = super::super::tests::process();
        let thread = process.threads().remove(0);
        thread.set_restart_deadline(Some(7));
        assert_eq!(thread.restart_deadline_or(|| None), Some(7));
        assert_eq!(thread.restart_deadline_or(|| Some(9)), Some(9));
    }
}

//! A process: a group of threads with one id, one set of signal actions, one exit status.
//!
//! [`Process`] holds what all its threads share; where it stands among the others (parent, children, group, session) is the process
//! table's matter, of which it keeps copies that are cheap to read. Its life ends in two steps: when the last thread has gone it is
//! a zombie, which holds nothing but a status; when that has been waited for, it is gone.
//!
//! Lock order: process table, thread group, thread's signals, then any other of these alone.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use super::cpu_limit::CpuLimit;
use super::exec::Image;
use super::interval_timer::IntervalTimers;
use super::limits::{Limit, Limits, Resource};
use super::posix_timer::PosixTimers;
use super::session::{ControllingTerminal, Session};
use super::signal::{Listeners, Pending, Signal, SignalActions};
use super::status::ExitStatus;
use super::thread::{Thread, attention};
use super::usage::Totals;
use crate::arch;
use crate::sched::WaitQueue;
use crate::sync::{SpinLock, SpinLockGuard};

/// The id of the first process, which adopts orphans.
pub const INIT: u32 = 1;

/// A process; see the module.
pub struct Process {
    pid: u32,
    /// Copies of what the process table says; written under its lock.
    parent: AtomicU32,
    group_id: AtomicU32,
    session: SpinLock<Arc<Session>>,
    pub(super) group: SpinLock<ThreadGroup>,
    actions: SpinLock<Arc<SignalActions>>,
    limits: Limits,
    /// Told when a child ends, stops or goes on.
    pub(super) children_changed: WaitQueue,
    /// Told when a thread ends; the process's end included.
    pub(super) threads_changed: WaitQueue,
    pub(super) image: SpinLock<Arc<Image>>,
    accounts: SpinLock<Accounts>,
    pub(super) timers: IntervalTimers,
    pub(super) cpu_limit: CpuLimit,
    pub(super) posix_timers: PosixTimers,
    /// Told of each signal.
    pub(super) listeners: Listeners,
    /// What the parent is sent when this ends, 0 for nothing.
    pub(super) exit_signal: AtomicI32,
    /// `PR_SET_CHILD_SUBREAPER`
    pub(crate) is_subreaper: AtomicBool,
    /// `PR_SET_DUMPABLE`
    pub(crate) dumpable: AtomicI32,
    /// Whether it has called execve since it was forked: its parent then cannot change its group any more.
    pub(super) has_execed: AtomicBool,
    /// personality(2); inherited.
    pub(crate) personality: AtomicU32,
    /// The real user id, as of the end of the last thread that ended.
    last_uid: AtomicU32,
    started: u64,
}

/// The threads of a process, and what concerns them as one.
#[derive(Default)]
pub(super) struct ThreadGroup {
    /// Those that have not ended; in the order in which they began.
    pub threads: Vec<Arc<Thread>>,
    /// Signals for the process, which any thread may take.
    pub shared: Pending,
    /// Set once the process is ending: what its status will be.
    pub exit: Option<ExitStatus>,
    /// What the first thread said when it ended by itself: the status if all threads end that way.
    pub leader_status: ExitStatus,
    /// While set, every thread but this one (by id) ends, to make room for a new program.
    pub survivor: Option<u32>,
    /// The signal that has stopped the process, while it is stopped or about to be.
    pub stop: Option<Signal>,
    /// A stop signal was taken, and has not taken effect yet.
    pub stop_taken: bool,
    /// Threads that have stopped.
    pub stopped_threads: usize,
    /// A stop that no parent has waited for.
    pub stop_report: Option<Signal>,
    /// A continuation that no parent has waited for.
    pub continue_report: bool,
    /// The last thread has gone; the status is for the parent.
    pub is_zombie: bool,
}

/// Usage beyond that of the live threads.
#[derive(Default)]
struct Accounts {
    /// Threads that have ended.
    ended: Totals,
    /// Children that have been waited for, and theirs.
    children: Totals,
}

impl ThreadGroup {
    /// Has every thread look at its state.
    pub fn notify_all(&self, bits: u32) {
        for thread in &self.threads {
            thread.notify(bits);
        }
    }

    /// The process ends with `status`, unless it is already ending.
    pub fn begin_exit(&mut self, status: ExitStatus) {
        if self.exit.is_none() {
            self.exit = Some(status);
            self.notify_all(attention::EXIT);
        }
    }

    /// Whether `thread` has to end.
    pub fn must_end(&self, thread: &Thread) -> bool {
        self.exit.is_some() || self.survivor.is_some_and(|tid| tid != thread.tid())
    }
}

/// What [`Process::new`] needs.
pub struct NewProcess {
    /// Its id.
    pub pid: u32,
    /// Its session.
    pub session: Arc<Session>,
    /// Its signal actions.
    pub actions: Arc<SignalActions>,
    /// Its limits.
    pub limits: Limits,
    /// The program it runs.
    pub image: Arc<Image>,
    /// What the parent is sent at its end.
    pub exit_signal: Option<Signal>,
    /// personality(2)
    pub personality: u32,
}

impl Process {
    /// A process without threads.
    pub fn new(new: NewProcess) -> Self {
        let NewProcess { pid, session, actions, limits, image, exit_signal, personality } = new;
        Self {
            pid,
            parent: AtomicU32::new(0),
            group_id: AtomicU32::new(pid),
            session: SpinLock::new(session),
            group: SpinLock::new(ThreadGroup::default()),
            actions: SpinLock::new(actions),
            limits,
            children_changed: WaitQueue::new(),
            threads_changed: WaitQueue::new(),
            image: SpinLock::new(image),
            accounts: SpinLock::new(Accounts::default()),
            timers: IntervalTimers::default(),
            cpu_limit: CpuLimit::default(),
            posix_timers: PosixTimers::default(),
            listeners: Listeners::default(),
            exit_signal: AtomicI32::new(exit_signal.map_or(0, Signal::number)),
            is_subreaper: AtomicBool::new(false),
            dumpable: AtomicI32::new(1),
            has_execed: AtomicBool::new(false),
            personality: AtomicU32::new(personality),
            last_uid: AtomicU32::new(0),
            started: arch::now(),
        }
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it is the first process: no signal without a handler does anything to it.
    pub fn is_init(&self) -> bool {
        self.pid == INIT
    }

    /// Its parent's id, 0 for none.
    pub fn ppid(&self) -> u32 {
        self.parent.load(Ordering::Relaxed)
    }

    /// Its process group.
    pub fn pgid(&self) -> u32 {
        self.group_id.load(Ordering::Relaxed)
    }

    /// Its session's id.
    pub fn sid(&self) -> u32 {
        self.session.lock().id()
    }

    /// Has its parent be told of its end by `signal` from now on.
    pub(super) fn tell_end_by(&self, signal: Signal) {
        self.exit_signal.store(signal.number(), Ordering::Relaxed);
    }

    pub(super) fn note_parent(&self, parent: u32) {
        self.parent.store(parent, Ordering::Relaxed);
    }

    pub(super) fn note_group(&self, group: u32) {
        self.group_id.store(group, Ordering::Relaxed);
    }

    pub(super) fn note_session(&self, session: Arc<Session>) {
        let old = core::mem::replace(&mut *self.session.lock(), session);
        drop(old);
    }

    /// Its session.
    pub fn session(&self) -> Arc<Session> {
        self.session.lock().clone()
    }

    /// Its controlling terminal.
    pub fn terminal(&self) -> Option<Arc<dyn ControllingTerminal>> {
        self.session().terminal()
    }

    /// The thread group's state. Takes a lock: see the lock order.
    pub(super) fn group(&self) -> SpinLockGuard<'_, ThreadGroup> {
        self.group.lock()
    }

    /// Its live threads, oldest first; none when it is a zombie.
    pub fn threads(&self) -> Vec<Arc<Thread>> {
        self.group.lock().threads.clone()
    }

    /// Its oldest live thread.
    pub fn leader(&self) -> Option<Arc<Thread>> {
        self.group.lock().threads.first().cloned()
    }

    /// Live threads.
    pub fn thread_count(&self) -> usize {
        self.group.lock().threads.len()
    }

    /// Whether it has ended and waits to be waited for.
    pub fn is_zombie(&self) -> bool {
        self.group.lock().is_zombie
    }

    /// Whether it has been waited for, or ended unnoticed: nothing is left of it.
    pub fn is_gone(&self) -> bool {
        self.is_zombie() && super::find(self.pid).is_none_or(|found| !core::ptr::eq(&*found, self))
    }

    /// Whether it is stopped.
    pub fn is_stopped(&self) -> bool {
        let group = self.group.lock();
        group.stop.is_some() && group.stopped_threads == group.threads.len()
    }

    /// Its status, once it is ending.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.group.lock().exit
    }

    /// What it wants done about signals.
    pub fn actions(&self) -> Arc<SignalActions> {
        self.actions.lock().clone()
    }

    pub(super) fn set_actions(&self, actions: Arc<SignalActions>) {
        let old = core::mem::replace(&mut *self.actions.lock(), actions);
        drop(old);
    }

    /// The real user id of its oldest thread; of the last one, once all have ended.
    pub fn uid(&self) -> u32 {
        let leader = self.leader();
        leader.map_or_else(|| self.last_uid.load(Ordering::Relaxed), |leader| leader.credentials().uid)
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The limit on `resource`.
    pub fn rlimit(&self, resource: Resource) -> Limit {
        self.limits.get(resource)
    }

    /// The program it runs.
    pub fn image(&self) -> Arc<Image> {
        self.image.lock().clone()
    }

    pub(super) fn set_image(&self, image: Arc<Image>) {
        let old = core::mem::replace(&mut *self.image.lock(), image);
        drop(old);
    }

    /// When it was started, in nanoseconds since boot.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// What its threads, live and ended, have used.
    pub fn usage(&self) -> Totals {
        let now = arch::now();
        let (mut sum, resident) = {
            let group = self.group.lock();
            let mut sum = Totals::default();
            group.threads.iter().for_each(|thread| sum.add(&thread.usage().totals(now)));
            (sum, group.threads.first().map(|thread| thread.space()))
        };
        sum.max_resident = resident.map_or(0, |space| super::memory::peak_resident_kib(&space));
        sum.add(&self.accounts.lock().ended);
        sum
    }

    /// What the children it has waited for have used.
    pub fn children_usage(&self) -> Totals {
        self.accounts.lock().children
    }

    /// A thread is about to leave: keeps what it was accounted for.
    pub(super) fn account_ended_thread(&self, thread: &Thread) {
        self.last_uid.store(thread.credentials().uid, Ordering::Relaxed);
        let mut totals = thread.usage().totals(arch::now());
        totals.max_resident = super::memory::peak_resident_kib(&thread.space());
        self.accounts.lock().ended.add(&totals);
    }

    /// A child has been waited for, with these totals.
    pub(super) fn account_child(&self, totals: &Totals) {
        self.accounts.lock().children.add(totals);
    }

    /// What a zombie is accounted for: itself and its children.
    pub(super) fn final_usage(&self) -> Totals {
        let accounts = self.accounts.lock();
        let mut sum = accounts.ended;
        sum.add(&accounts.children);
        sum
    }
}

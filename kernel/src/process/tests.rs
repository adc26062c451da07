//! What the tests of this module share: processes without a program, whose threads are tasks of the test's own core.

use alloc::sync::Arc;
use core::future::Future;
use core::pin::pin;
use std::sync::Mutex;

use super::exec::Image;
use super::group::{NewProcess, Process};
use super::limits::Limits;
use super::registry::{enter_process, with_table};
use super::run::poll_on_core;
use super::session::Session;
use super::signal::{Signal, SignalActions, SignalSet};
use super::thread::{Name, NewThread, Resources, SharedFs, SharedSpace, Thread};
use super::{Credentials, INIT};
use crate::fs::mount::{Location, Mount};
use crate::fs::{FdTable, FsContext};
use crate::memory::AddressSpace;
use crate::sched::{self, Priority};

/// A process with one thread, in a session of its own, that nobody is the parent of.
pub fn process() -> Arc<Process> {
    make(None)
}

/// A child of `parent`, which stands where it does.
pub fn child_of(parent: &Arc<Process>) -> Arc<Process> {
    make(Some(parent))
}

/// A process whose group is orphaned.
pub fn orphan() -> Arc<Process> {
    process()
}

fn make(parent: Option<&Arc<Process>>) -> Arc<Process> {
    // Memory first: its size decides how many there may be.
    let space = AddressSpace::new().unwrap();
    let mut pid = with_table(|table| table.reserve()).unwrap();
    if pid == INIT {
        // Tests are about ordinary processes; the first one stays reserved for good.
        pid = with_table(|table| table.reserve()).unwrap();
    }
    let process = Arc::new(Process::new(NewProcess {
        pid,
        session: Arc::new(Session::new(pid)),
        actions: Arc::new(SignalActions::new()),
        limits: Limits::initial(1000),
        image: Arc::new(Image::default()),
        exit_signal: Some(Signal::CHLD),
        personality: 0,
    }));
    let fs = SharedFs::new(FsContext::new(root()));
    let resources = Resources { space: SharedSpace::new(space), files: FdTable::new(), fs };
    let thread = thread(&process, pid, resources);
    process.group().threads.push(thread.clone());
    enter_process(&process, &thread, parent.map(|parent| parent.pid()));
    process
}

fn root() -> Location {
    let fs = crate::fs::memfs::MemFs::new(crate::fs::memfs::Budget::new(16, 16), 0o755).unwrap();
    Location::root_of(Mount::detached(Arc::new(fs)))
}

fn thread(process: &Arc<Process>, tid: u32, resources: Resources) -> Arc<Thread> {
    Arc::new(Thread::new(NewThread {
        tid,
        process: process.clone(),
        resources,
        credentials: Arc::new(Credentials::root()),
        name: Name::new(b"test"),
        blocked: SignalSet::EMPTY,
    }))
}

/// One more thread of `process`.
pub fn second_thread(process: &Arc<Process>) -> Arc<Thread> {
    let tid = with_table(|table| table.reserve()).unwrap();
    let thread = thread(process, tid, process.leader().unwrap().resources());
    with_table(|table| table.add_thread(tid, thread.clone()));
    process.group().threads.push(thread.clone());
    thread
}

/// The thread ends, as at the end of its task.
pub fn end(thread: &Arc<Thread>) {
    super::exit::end_thread(thread);
}

/// A future that runs as a thread's task.
pub struct Running<T>(Arc<Mutex<Option<T>>>);

impl<T: Clone> Running<T> {
    /// Its result, if it is done when nothing on this core can go on.
    pub fn result(&self) -> Option<T> {
        sched::run_until_idle();
        self.0.lock().unwrap().clone()
    }

    /// Its result, which does not come before `deadline`.
    pub fn result_after(&self, deadline: u64) -> T {
        loop {
            if let Some(result) = self.result() {
                assert!(crate::arch::now() >= deadline);
                return result;
            }
        }
    }
}

/// Runs `future` as the task of `thread` on this core.
pub fn run_as_thread<T: Send + 'static>(
    thread: Arc<Thread>,
    future: impl Future<Output = T> + Send + 'static,
) -> Running<T> {
    let result = Arc::new(Mutex::new(None));
    let (slot, running) = (result.clone(), thread.clone());
    let task = sched::spawn(crate::arch::core_id(), Priority::Normal, async move {
        let mut future = pin!(future);
        let value = core::future::poll_fn(|cx| poll_on_core(&running, future.as_mut(), cx)).await;
        *slot.lock().unwrap() = Some(value);
    });
    thread.set_task(task);
    Running(result)
}

//! The kernel's process table: `replicated::process_table` with the processes and threads themselves, behind its lock.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::group::Process;
use super::session::Session;
use super::signal::{Signal, SignalInfo};
use super::thread::{RunState, Thread};
use crate::errno::Errno;
use crate::replicated::process_table::{ProcessTable, Relations, TableError};
use crate::sync::SpinLock;

/// The table of live processes, threads and zombies.
pub(super) type Table = ProcessTable<Arc<Process>, Arc<Thread>>;

static TABLE: SpinLock<Option<Table>> = SpinLock::new(None);

impl From<TableError> for Errno {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Full => Self::EAGAIN,
            TableError::NoProcess | TableError::NotRelated => Self::ESRCH,
            TableError::NotPermitted => Self::EPERM,
        }
    }
}

/// Linux's rule for the number of threads: one for every 128 KiB of memory.
const MEMORY_PER_TASK: u64 = 128 << 10;

/// The most threads and zombies that there may be.
pub fn max_tasks() -> usize {
    let tasks = crate::memory::total_bytes() / MEMORY_PER_TASK;
    (tasks as usize).clamp(64, crate::replicated::process_table::MAX_ID as usize - 1)
}

/// Runs `operation` on the table. Takes its lock: see the lock order in `group.rs`.
pub(super) fn with_table<R>(operation: impl FnOnce(&mut Table) -> R) -> R {
    let mut table = TABLE.lock();
    operation(table.get_or_insert_with(|| Table::new(max_tasks())))
}

/// The process `pid`, zombies included.
pub fn find(pid: u32) -> Option<Arc<Process>> {
    with_table(|table| table.process(pid).cloned())
}

/// The live thread `tid`.
pub fn find_thread(tid: u32) -> Option<Arc<Thread>> {
    with_table(|table| table.thread(tid).cloned())
}

/// What an id names.
#[derive(Clone)]
pub enum Task {
    /// A thread that has not ended.
    Thread(Arc<Thread>),
    /// The process whose first thread, of the same id, has ended: a zombie, unless other threads go on.
    Ended(Arc<Process>),
}

impl Task {
    /// The process that it is, or is of.
    pub fn into_process(self) -> Arc<Process> {
        match self {
            Self::Thread(thread) => thread.process().clone(),
            Self::Ended(process) => process,
        }
    }

    /// The thread.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn into_thread(self) -> Result<Arc<Thread>, Errno> {
        match self {
            Self::Thread(thread) => Ok(thread),
            Self::Ended(_) => Err(Errno::ESRCH),
        }
    }
}

/// The thread or zombie `id`.
pub fn find_task(id: u32) -> Option<Task> {
    with_table(|table| match table.thread(id) {
        Some(thread) => Some(Task::Thread(thread.clone())),
        None => table.process(id).cloned().map(Task::Ended),
    })
}

/// All processes, zombies included, in the order of their ids.
pub fn list() -> Vec<Arc<Process>> {
    let mut all: Vec<_> = with_table(|table| table.processes().cloned().collect());
    all.sort_unstable_by_key(|process: &Arc<Process>| process.pid());
    all
}

/// The members of a process group.
pub fn group_members(group: u32) -> Vec<Arc<Process>> {
    with_table(|table| table.group(group).cloned().collect())
}

/// Threads and zombies, and the id given out last, for /proc/loadavg and sysinfo(2).
pub fn counts() -> (usize, u32) {
    with_table(|table| (table.len(), table.last_id()))
}

/// Threads that run or would like to.
pub fn running() -> usize {
    let threads = list().into_iter().flat_map(|process| process.threads());
    threads.filter(|thread| thread.state() == RunState::Running).count()
}

/// Sends `signal`, from the kernel, to every member of a process group (a terminal's `SIGINT`). Whether there was one.
pub fn signal_group(group: u32, signal: Signal) -> bool {
    let members = group_members(group);
    for process in &members {
        // A signal of the kernel is never refused.
        let _ = process.send_signal(SignalInfo::kernel(signal));
    }
    !members.is_empty()
}

/// Whether `group` exists and belongs to `session`: what a terminal may have in the foreground.
pub fn is_group_of_session(group: u32, session: u32) -> bool {
    with_table(|table| table.is_group_of_session(group, session))
}

/// Whether no process outside `group` is left in its session that could let its stopped members go on.
pub fn is_orphaned_group(group: u32) -> bool {
    with_table(|table| table.is_orphaned(group, None))
}

impl Process {
    /// setpgid(2) by this process: puts `pid` into `group`.
    ///
    /// # Errors
    /// As listed there.
    pub fn set_group(&self, pid: u32, group: u32) -> Result<(), Errno> {
        with_table(|table| {
            let target = table.process(pid).ok_or(Errno::ESRCH)?.clone();
            let is_child = pid != self.pid() && target.ppid() == self.pid();
            if is_child && target.has_execed.load(Ordering::Relaxed) {
                return Err(Errno::EACCES);
            }
            table.set_group(self.pid(), pid, group)?;
            target.note_group(group);
            Ok(())
        })
    }

    /// setsid(2): returns the new session's id.
    ///
    /// # Errors
    /// `EPERM` when the process leads a process group.
    pub fn new_session(&self) -> Result<u32, Errno> {
        let pid = self.pid();
        with_table(|table| {
            table.new_session(pid)?;
            self.note_group(pid);
            self.note_session(Arc::new(Session::new(pid)));
            Ok(pid)
        })
    }
}

/// Enters a process with its first thread; it stands where its parent does.
pub(super) fn enter_process(process: &Arc<Process>, leader: &Arc<Thread>, parent: Option<u32>) {
    let Relations { parent, group, .. } = with_table(|table| {
        let relations = table.add_process(process.pid(), process.clone(), leader.clone(), parent);
        process.note_parent(relations.parent);
        process.note_group(relations.group);
        if let Some(session) = table.process(relations.parent).map(|parent| parent.session()) {
            process.note_session(session);
        }
        relations
    });
    log::debug!("process {} begins: parent {parent}, group {group}", process.pid());
}

#[cfg(test)]
mod tests {
    use super::super::tests::{child_of, end, process, second_thread};
    use super::*;

    #[test]
    fn an_id_names_a_thread_or_what_is_left_of_a_process() {
        let child = child_of(&process());
        let (first, second) = (child.leader().unwrap(), second_thread(&child));
        let thread = |id| find_task(id).unwrap().into_thread();
        assert!(Arc::ptr_eq(&thread(child.pid()).unwrap(), &first));
        assert!(Arc::ptr_eq(&thread(second.tid()).unwrap(), &second));
        for id in [child.pid(), second.tid()] {
            assert!(Arc::ptr_eq(&find_task(id).unwrap().into_process(), &child));
        }
        end(&first);
        assert_eq!(thread(child.pid()).err(), Some(Errno::ESRCH));
        assert!(!child.is_zombie() && Arc::ptr_eq(&find_task(child.pid()).unwrap().into_process(), &child));
        end(&second);
        assert!(find_task(second.tid()).is_none());
        assert!(child.is_zombie() && Arc::ptr_eq(&find_task(child.pid()).unwrap().into_process(), &child));
    }
}

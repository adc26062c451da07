//! How threads and processes end.
//!
//! A thread ends in its own task, with its address space active: it marks the robust futexes it holds, tells who waits for its
//! id, gives up its resources, and leaves its group. The last one makes the process a zombie: its children get a new parent, its own
//! parent is told, and what it leaves is a status, until the parent takes it or does not care.
//!
//! Nothing here fails or waits.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::group::{INIT, Process};
use super::pace::Pace;
use super::registry::{self, with_table};
use super::signal::{ActionFlags, IGNORE, Signal, SignalInfo};
use super::status::ExitStatus;
use super::thread::{Thread, attention};
use super::{hooks, robust};
use crate::memory::AddressSpace;
use crate::sched::Events;

impl Thread {
    /// exit(2): this thread alone ends, on its way back to user mode.
    pub fn exit(&self, code: u8) {
        let mut group = self.process().group();
        if self.tid() == self.process().pid() {
            group.leader_status = ExitStatus::Exited(code);
        }
        drop(group);
        self.notify(attention::EXIT);
    }
}

impl Process {
    /// exit_group(2): all its threads end.
    pub fn exit(&self, code: u8) {
        self.group().begin_exit(ExitStatus::Exited(code));
    }
}

/// The last thing that a thread's task does; its address space is active.
pub(super) fn end_thread(thread: &Arc<Thread>) {
    let process = thread.process();
    release_memory(thread, &thread.space());
    AddressSpace::deactivate();
    process.account_ended_thread(thread);
    thread.release_resources();
    let left = with_table(|table| table.remove_thread(thread.tid()));
    drop(left);

    let mut group = process.group();
    let position = group.threads.iter().position(|other| Arc::ptr_eq(other, thread));
    let left = position.map(|at| group.threads.remove(at));
    let is_last = group.threads.is_empty();
    let stopped = group.note_if_stopped();
    drop(group);
    drop(left);
    if let Some(signal) = stopped {
        process.report_stopped(signal);
    }
    if is_last {
        end_process(process, thread);
    }
    process.threads_changed.wake(Events::IN);
}

/// What a thread leaves in memory when it ends, or when execve(2) takes the memory away.
pub(super) fn release_memory(thread: &Thread, space: &Arc<AddressSpace>) {
    robust::release(thread, space);
    let clear = thread.clear_tid.swap(0, Ordering::Relaxed);
    // Nobody is left who could look at the id of a thread that has the memory to itself.
    let shared = thread.resources.lock().space.is_shared();
    if clear != 0 && shared {
        robust::clear_and_wake(space, clear);
    }
    let vfork = thread.vfork.lock().take();
    if let Some(completion) = vfork {
        completion.complete();
    }
}

/// Gives the memory back that `thread` alone still uses, in pieces: before the thread ends, or has another space.
pub(super) async fn clear_memory(thread: &Thread, space: &Arc<AddressSpace>) {
    release_memory(thread, space);
    if thread.resources.lock().space.is_shared() {
        return;
    }
    let mut pace = Pace::new(thread);
    while space.clear_some() {
        // That the thread is to end is no reason to stop.
        let _ = pace.pause().await;
    }
}

/// Closes the descriptors that `thread` alone still has, one by one: before the thread ends.
pub(super) async fn close_files(thread: &Thread) {
    let files = thread.files();
    // One count is the thread's, one is ours.
    if Arc::strong_count(&files) <= 2 {
        files.close_all(&mut Pace::new(thread)).await;
    }
}

fn end_process(process: &Arc<Process>, last: &Thread) {
    process.stop_timers();
    process.delete_timers();
    if process.sid() == process.pid() {
        disassociate_terminal(process);
    }
    let orphaned = adopt_children(process);
    hang_up_orphaned_groups(process, &orphaned);
    let status = become_zombie(process);
    log::debug!("process {} ({}) ends: {status:?}", process.pid(), Lossy(last.name().as_bytes()));
    if process.is_init() {
        hooks::init_exited(status);
    }
    tell_parent(process, status);
}

/// A name as text, whatever its bytes.
struct Lossy<'a>(&'a [u8]);

impl core::fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

fn disassociate_terminal(process: &Process) {
    let session = process.session();
    if let Some(terminal) = session.set_terminal(None) {
        terminal.leader_exited(session.id());
    }
}

/// Gives the children to the nearest ancestor that adopts, or to the first process. Returns them.
fn adopt_children(process: &Arc<Process>) -> Vec<Arc<Process>> {
    let (adopter, children) = with_table(|table| {
        let mut adopter = process.ppid();
        while let Some(ancestor) = table.process(adopter) {
            if adopter == INIT || (ancestor.is_subreaper.load(Ordering::Relaxed) && !is_ending(ancestor)) {
                break;
            }
            adopter = ancestor.ppid();
        }
        let adopter = if adopter == 0 { INIT } else { adopter };
        let children = table.reparent_children(process.pid(), adopter);
        for child in &children {
            child.note_parent(adopter);
            // Whatever the child was to send, it was agreed with its old parent.
            child.tell_end_by(Signal::CHLD);
        }
        (table.process(adopter).cloned(), children)
    });
    for child in &children {
        for thread in child.threads() {
            if let Ok(signal) = Signal::new(thread.parent_death_signal.load(Ordering::Relaxed)) {
                let info = SignalInfo::user(signal, super::signal::SI_USER, process.pid(), 0);
                // A standard signal is never refused, and a real-time one that is has nobody to tell.
                let _ = child.send_signal(info);
            }
        }
        if let (Some(adopter), true) = (&adopter, child.is_zombie()) {
            notify(adopter, child);
        }
    }
    children
}

fn is_ending(process: &Process) -> bool {
    process.exit_status().is_some()
}

/// POSIX: a process group that this end orphans, and that has a stopped member, gets `SIGHUP` and `SIGCONT`.
fn hang_up_orphaned_groups(process: &Process, children: &[Arc<Process>]) {
    let mut groups: Vec<u32> = children.iter().map(|child| child.pgid()).collect();
    groups.push(process.pgid());
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        let orphaned = with_table(|table| table.is_orphaned(group, Some(process.pid())));
        let has_stopped = || registry::group_members(group).iter().any(|member| member.is_stopped());
        if orphaned && has_stopped() {
            registry::signal_group(group, Signal::HUP);
            registry::signal_group(group, Signal::CONT);
        }
    }
}

fn become_zombie(process: &Process) -> ExitStatus {
    let mut group = process.group();
    let status = group.exit.unwrap_or(group.leader_status);
    group.exit = Some(status);
    group.is_zombie = true;
    status
}

/// Tells the parent, and leaves no zombie if it does not want one.
fn tell_parent(process: &Arc<Process>, status: ExitStatus) {
    let parent = with_table(|table| table.process(process.ppid()).cloned());
    let Some(parent) = parent else {
        forget(process);
        return;
    };
    let signal = Signal::new(process.exit_signal.load(Ordering::Relaxed)).ok();
    let action = parent.actions().get(Signal::CHLD);
    let unwanted = signal == Some(Signal::CHLD)
        && (action.handler == IGNORE || action.flags().contains(ActionFlags::NO_CHILD_WAIT));
    if let Some(signal) = signal {
        let (code, status) = status.code_and_status();
        // Signals of the kernel are never refused.
        let _ = parent.send_signal(process.child_info(signal, code, status));
    }
    if unwanted {
        forget(process);
    }
    parent.children_changed.wake(Events::IN);
}

/// A zombie has got a new parent.
fn notify(parent: &Process, zombie: &Arc<Process>) {
    let action = parent.actions().get(Signal::CHLD);
    if action.handler == IGNORE || action.flags().contains(ActionFlags::NO_CHILD_WAIT) {
        forget(zombie);
    } else if let Some(status) = zombie.exit_status() {
        let (code, status) = status.code_and_status();
        // A standard signal is never refused.
        let _ = parent.send_signal(zombie.child_info(Signal::CHLD, code, status));
    }
    parent.children_changed.wake(Events::IN);
}

fn forget(process: &Process) {
    let gone = with_table(|table| table.remove_process(process.pid()));
    drop(gone);
}

#[cfg(test)]
mod tests {
    use super::super::signal::{Action, SignalSet};
    use super::super::tests::{child_of, end, process, second_thread};
    use super::*;
    use crate::sched::fixture::Waiter;

    #[test]
    fn the_last_threads_end_makes_a_zombie_and_tells_the_parent() {
        let parent = process();
        let child = child_of(&parent);
        let second = second_thread(&child);
        parent.actions().replace(Signal::CHLD, Action { handler: 0x1000, ..Action::default() });
        child.exit(7);
        assert!(second.is_dying());
        end(&second);
        assert!(!child.is_zombie());
        end(&child.leader().unwrap());
        assert!(child.is_zombie());
        assert_eq!(child.exit_status(), Some(ExitStatus::Exited(7)));
        let info = parent.leader().unwrap().take_signal_of(SignalSet::of(&[Signal::CHLD])).unwrap();
        assert_eq!((info.pid(), info.code(), info.status()), (child.pid(), 1, 7));
        assert!(registry::find(child.pid()).is_some());
    }

    #[test]
    fn a_parent_that_ignores_its_children_gets_no_zombies() {
        let parent = process();
        let child = child_of(&parent);
        parent.actions().replace(Signal::CHLD, Action { handler: IGNORE, ..Action::default() });
        end(&child.leader().unwrap());
        assert!(registry::find(child.pid()).is_none());
    }

    #[test]
    fn orphans_go_to_the_nearest_subreaper() {
        let top = process();
        top.is_subreaper.store(true, Ordering::Relaxed);
        let middle = child_of(&top);
        let bottom = child_of(&middle);
        bottom.leader().unwrap().parent_death_signal.store(Signal::USR1.number(), Ordering::Relaxed);
        bottom.tell_end_by(Signal::INT);
        end(&middle.leader().unwrap());
        assert_eq!(bottom.ppid(), top.pid());
        assert_eq!(bottom.exit_signal.load(Ordering::Relaxed), Signal::CHLD.number());
        assert!(bottom.leader().unwrap().pending().contains(Signal::USR1));
    }

    #[test]
    fn the_first_threads_code_counts_when_each_exits_by_itself() {
        let parent = process();
        let child = child_of(&parent);
        let (first, second) = (child.leader().unwrap(), second_thread(&child));
        first.exit(3);
        end(&first);
        second.exit(4);
        end(&second);
        assert_eq!(child.exit_status(), Some(ExitStatus::Exited(3)));
    }

    #[test]
    fn stopped_jobs_are_let_go_when_their_shell_ends() {
        let top = process();
        top.is_subreaper.store(true, Ordering::Relaxed);
        let shell = child_of(&top);
        shell.new_session().unwrap();
        let job = child_of(&shell);
        shell.set_group(job.pid(), job.pid()).unwrap();
        job.send_signal(SignalInfo::kernel(Signal::STOP)).unwrap();
        assert!(job.leader().unwrap().take_signal().is_none());
        let leader = job.leader().unwrap();
        let running = super::super::tests::run_as_thread(leader.clone(), async move {
            leader.stay_stopped().await;
        });
        assert_eq!(running.result(), None);
        assert!(job.is_stopped());
        end(&shell.leader().unwrap());
        assert!(!job.is_stopped());
        assert!(job.leader().unwrap().pending().contains(Signal::HUP));
    }

    #[test]
    fn who_gets_a_zombie_as_a_child_is_told_of_its_end() {
        let top = process();
        top.is_subreaper.store(true, Ordering::Relaxed);
        let middle = child_of(&child_of(&top));
        let bottom = child_of(&middle);
        end(&bottom.leader().unwrap());
        let waiter = Waiter::new(&top.children_changed, Events::IN);
        end(&middle.leader().unwrap());
        assert_eq!(bottom.ppid(), top.pid());
        assert!(waiter.was_woken());
    }

    #[test]
    fn a_thread_that_exits_alone_is_dying() {
        let process = process();
        let (leader, second) = (process.leader().unwrap(), second_thread(&process));
        second.exit(3);
        assert!(second.interrupted() && !leader.interrupted());
        assert_eq!(process.exit_status(), None);
    }
}

//! Waiting for children: wait4(2), waitid(2).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::block::block_on;
use super::group::{Process, ThreadGroup};
use super::registry::with_table;
use super::signal::Signal;
use super::signal::info::{CLD_CONTINUED, CLD_STOPPED};
use super::status::{CONTINUED_STATUS, ExitStatus, stopped_status};
use super::thread::Thread;
use super::usage::Totals;
use crate::errno::Errno;
use crate::sched::Events;

bitflags::bitflags! {
    /// What to wait for, and how; the numbers of wait4(2) and waitid(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct WaitOptions: u32 {
        /// `WNOHANG`: do not block.
        const NO_HANG = 1;
        /// `WUNTRACED`, `WSTOPPED`: children that have stopped.
        const STOPPED = 2;
        /// `WEXITED`: children that have ended; implied by wait4.
        const EXITED = 4;
        /// `WCONTINUED`: children that go on.
        const CONTINUED = 8;
        /// `WNOWAIT`: leave the child as it is.
        const NO_WAIT = 0x0100_0000;
        /// `__WNOTHREAD`: this thread's children only. Children belong to the process here; accepted as the hint that it is.
        const NO_THREAD = 0x2000_0000;
        /// `__WALL`: whatever their exit signal.
        const ALL = 0x4000_0000;
        /// `__WCLONE`: only those whose exit signal is not `SIGCHLD`.
        const CLONE = 0x8000_0000;
    }
}

/// Which children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Any.
    Any,
    /// That process.
    Process(u32),
    /// Those of that process group.
    Group(u32),
}

/// What became of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It ended.
    Ended(ExitStatus),
    /// A signal stopped it.
    Stopped(Signal),
    /// It goes on.
    Continued,
}

/// A child that was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// Its id.
    pub pid: u32,
    /// Its real user id.
    pub uid: u32,
    /// What became of it.
    pub change: Change,
    /// What it has used.
    pub usage: Totals,
}

impl Change {
    /// The status word of wait4(2).
    pub fn wait_status(self) -> i32 {
        match self {
            Self::Ended(status) => status.wait_status(),
            Self::Stopped(signal) => stopped_status(signal),
            Self::Continued => CONTINUED_STATUS,
        }
    }

    /// `si_code` and `si_status` of waitid(2).
    pub fn code_and_status(self) -> (i32, i32) {
        match self {
            Self::Ended(status) => status.code_and_status(),
            Self::Stopped(signal) => (CLD_STOPPED, signal.number()),
            Self::Continued => (CLD_CONTINUED, Signal::CONT.number()),
        }
    }
}

/// Waits for a child of the thread's process. `None` with `NO_HANG` when there is nothing to tell.
///
/// # Errors
/// `ECHILD` when there is no such child; `ERESTARTSYS` when interrupted.
pub async fn wait(thread: &Thread, which: Which, options: WaitOptions) -> Result<Option<Waited>, Errno> {
    let process = thread.process();
    let attempt = || match poll_children(process, which, options) {
        Err(Errno::EAGAIN) if options.contains(WaitOptions::NO_HANG) => Ok(None),
        result => result.map(Some),
    };
    block_on(thread, &process.children_changed, Events::IN, None, attempt).await
}

/// # Errors
/// `EAGAIN` when no such child has anything to tell yet; `ECHILD`.
fn poll_children(parent: &Process, which: Which, options: WaitOptions) -> Result<Waited, Errno> {
    let (waited, reaped) = with_table(|table| {
        let mut found = None;
        let mut any = false;
        for child in table.children(parent.pid()).filter(|child| is_meant(child, which, options)) {
            any = true;
            if let Some(change) = take_change(child, options) {
                found = Some((child.clone(), change));
                break;
            }
        }
        let Some((child, change)) = found else {
            return Err(if any { Errno::EAGAIN } else { Errno::ECHILD });
        };
        let ends = matches!(change, Change::Ended(_)) && !options.contains(WaitOptions::NO_WAIT);
        let reaped = ends.then(|| table.remove_process(child.pid())).flatten();
        Ok(((child, change), reaped))
    })?;
    let (child, change) = waited;
    let usage = if matches!(change, Change::Ended(_)) { child.final_usage() } else { child.usage() };
    if reaped.is_some() {
        parent.account_child(&usage);
    }
    Ok(Waited { pid: child.pid(), uid: child.uid(), change, usage })
}

fn is_meant(child: &Arc<Process>, which: Which, options: WaitOptions) -> bool {
    let named = match which {
        Which::Any => true,
        Which::Process(pid) => child.pid() == pid,
        Which::Group(group) => child.pgid() == group,
    };
    let is_clone = child.exit_signal.load(Ordering::Relaxed) != Signal::CHLD.number();
    named && (options.contains(WaitOptions::ALL) || is_clone == options.contains(WaitOptions::CLONE))
}

/// What the child has to tell, which it then has told, unless `options` say to leave it.
fn take_change(child: &Process, options: WaitOptions) -> Option<Change> {
    let mut group = child.group();
    let group: &mut ThreadGroup = &mut group;
    let leave = options.contains(WaitOptions::NO_WAIT);
    if group.is_zombie {
        let status = group.exit.filter(|_| options.contains(WaitOptions::EXITED))?;
        return Some(Change::Ended(status));
    }
    if let (true, Some(signal)) = (options.contains(WaitOptions::STOPPED), group.stop_report) {
        if !leave {
            group.stop_report = None;
        }
        return Some(Change::Stopped(signal));
    }
    if options.contains(WaitOptions::CONTINUED) && group.continue_report {
        group.continue_report = leave;
        return Some(Change::Continued);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::registry;
    use super::super::signal::SignalInfo;
    use super::super::tests::{Running, child_of, end, process, run_as_thread};
    use super::*;

    const EXITED: WaitOptions = WaitOptions::EXITED;

    fn start(
        process: &Arc<Process>,
        which: Which,
        options: WaitOptions,
    ) -> Running<Result<Option<Waited>, Errno>> {
        let thread = process.leader().unwrap();
        run_as_thread(thread.clone(), async move { wait(&thread, which, options).await })
    }

    fn now(process: &Arc<Process>, which: Which, options: WaitOptions) -> Result<Option<u32>, Errno> {
        let result = start(process, which, options).result().expect("does not block");
        result.map(|waited| waited.map(|w| w.pid))
    }

    #[test]
    fn a_wait_ends_with_the_child_and_reaps_it_once() {
        let parent = process();
        let child = child_of(&parent);
        let running = start(&parent, Which::Any, EXITED);
        assert_eq!(running.result(), None);
        child.exit(5);
        end(&child.leader().unwrap());
        let waited = running.result().unwrap().unwrap().unwrap();
        assert_eq!((waited.pid, waited.change.wait_status()), (child.pid(), 5 << 8));
        assert!(registry::find(child.pid()).is_none());
        assert_eq!(now(&parent, Which::Any, EXITED), Err(Errno::ECHILD));
    }

    #[test]
    fn only_those_asked_for_are_waited_for() {
        let parent = process();
        let (a, b) = (child_of(&parent), child_of(&parent));
        parent.set_group(b.pid(), b.pid()).unwrap();
        end(&a.leader().unwrap());
        let quick = EXITED | WaitOptions::NO_HANG;
        assert_eq!(now(&parent, Which::Process(b.pid()), quick), Ok(None));
        assert_eq!(now(&parent, Which::Group(b.pid()), quick), Ok(None));
        assert_eq!(now(&parent, Which::Process(parent.pid()), quick), Err(Errno::ECHILD));
        assert_eq!(now(&parent, Which::Any, quick | WaitOptions::CLONE), Err(Errno::ECHILD));
        assert_eq!(now(&parent, Which::Group(parent.pgid()), quick | WaitOptions::ALL), Ok(Some(a.pid())));
    }

    #[test]
    fn waitid_can_look_without_taking() {
        let parent = process();
        let child = child_of(&parent);
        end(&child.leader().unwrap());
        for _ in 0..2 {
            assert_eq!(now(&parent, Which::Any, EXITED | WaitOptions::NO_WAIT), Ok(Some(child.pid())));
        }
        assert_eq!(now(&parent, Which::Any, EXITED), Ok(Some(child.pid())));
    }

    #[test]
    fn stops_and_continuations_are_told_once_and_only_when_asked_for() {
        let parent = process();
        let child = child_of(&parent);
        let leader = child.leader().unwrap();
        child.send_signal(SignalInfo::kernel(Signal::STOP)).unwrap();
        assert!(leader.take_signal().is_none());
        let stopped = run_as_thread(leader.clone(), async move { leader.stay_stopped().await });
        assert_eq!(stopped.result(), None);
        let quick = EXITED | WaitOptions::NO_HANG;
        assert_eq!(now(&parent, Which::Any, quick), Ok(None));
        assert_eq!(now(&parent, Which::Any, quick | WaitOptions::STOPPED), Ok(Some(child.pid())));
        assert_eq!(now(&parent, Which::Any, quick | WaitOptions::STOPPED), Ok(None));
        child.send_signal(SignalInfo::kernel(Signal::CONT)).unwrap();
        assert_eq!(now(&parent, Which::Any, quick | WaitOptions::CONTINUED), Ok(Some(child.pid())));
        assert_eq!(now(&parent, Which::Any, quick | WaitOptions::CONTINUED), Ok(None));
    }

    #[test]
    fn usage_of_children_adds_up() {
        let parent = process();
        let child = child_of(&parent);
        let leader = child.leader().unwrap();
        leader.usage().start(1);
        leader.usage().stop(1001, true);
        end(&leader);
        assert_eq!(now(&parent, Which::Any, EXITED), Ok(Some(child.pid())));
        assert_eq!(parent.children_usage().user, 1000);
    }
}

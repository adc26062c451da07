//! Stopping and going on, as job control has it, and telling the parent.

use core::future::poll_fn;
use core::sync::atomic::Ordering;
use core::task::Poll;

use super::group::{Process, ThreadGroup};
use super::registry;
use super::signal::info::{CLD_CONTINUED, CLD_STOPPED};
use super::signal::{ActionFlags, IGNORE, Signal, SignalInfo};
use super::thread::{RunState, Thread, attention};
use super::usage::TICK;
use crate::sched::Events;

impl ThreadGroup {
    /// If the process is to stop and all its threads have: the signal of which the parent is to be told.
    pub fn note_if_stopped(&mut self) -> Option<Signal> {
        let all = !self.threads.is_empty() && self.stopped_threads == self.threads.len();
        let signal = self.stop.filter(|_| all)?;
        self.stop_report = Some(signal);
        Some(signal)
    }
}

impl Thread {
    /// Waits while the process is stopped.
    pub(super) async fn stay_stopped(&self) {
        let process = self.process();
        let reported = {
            let mut group = process.group();
            if group.stop.is_none() {
                self.attention.fetch_and(!attention::STOP, Ordering::Relaxed);
                return;
            }
            group.stopped_threads += 1;
            group.note_if_stopped()
        };
        if let Some(signal) = reported {
            process.report_stopped(signal);
        }
        poll_fn(|_| {
            let mut group = process.group();
            if group.stop.is_some() && !group.must_end(self) {
                self.set_state(RunState::Stopped);
                return Poll::Pending;
            }
            group.stopped_threads -= 1;
            self.attention.fetch_and(!attention::STOP, Ordering::Relaxed);
            Poll::Ready(())
        })
        .await;
    }
}

impl Process {
    pub(super) fn report_stopped(&self, signal: Signal) {
        self.report_change(CLD_STOPPED, signal.number());
    }

    pub(super) fn report_continued(&self) {
        self.report_change(CLD_CONTINUED, Signal::CONT.number());
    }

    fn report_change(&self, code: i32, status: i32) {
        let Some(parent) = registry::find(self.ppid()) else { return };
        let action = parent.actions().get(Signal::CHLD);
        if action.handler != IGNORE && !action.flags().contains(ActionFlags::NO_CHILD_STOP) {
            // A standard signal is never refused.
            let _ = parent.send_signal(self.child_info(Signal::CHLD, code, status));
        }
        parent.children_changed.wake(Events::IN);
    }

    /// What `SIGCHLD` says of this process.
    pub(super) fn child_info(&self, signal: Signal, code: i32, status: i32) -> SignalInfo {
        let usage = self.usage();
        let (user, system) = (usage.user / TICK, usage.system / TICK);
        SignalInfo::child(signal, code, self.pid(), self.uid(), status, user, system)
    }
}

#[cfg(test)]
mod tests {
    use super::super::signal::Signal;
    use super::super::tests::{child_of, process, run_as_thread, second_thread};
    use super::*;
    use crate::sched::fixture::Waiter;

    #[test]
    fn the_parent_hears_of_a_stop_when_all_threads_have_stopped() {
        let parent = process();
        let child = child_of(&parent);
        let threads = [child.leader().unwrap(), second_thread(&child)];
        let waiter = Waiter::new(&parent.children_changed, Events::IN);
        child.send_signal(SignalInfo::kernel(Signal::STOP)).unwrap();
        assert!(threads[0].take_signal().is_none());
        // A thread that waits or runs has to look at it.
        assert!(threads[1].interrupted());

        let stops = threads
            .clone()
            .map(|thread| run_as_thread(thread.clone(), async move { thread.stay_stopped().await }));
        assert_eq!(stops[0].result(), None);
        assert_eq!(stops[1].result(), None);
        assert!(waiter.was_woken());
        assert_eq!(child.group().stop_report, Some(Signal::STOP));
        assert!(child.is_stopped());
        assert_eq!(threads[0].state(), RunState::Stopped);

        child.send_signal(SignalInfo::kernel(Signal::CONT)).unwrap();
        assert_eq!(stops[0].result(), Some(()));
        assert_eq!(stops[1].result(), Some(()));
        assert!(!child.is_stopped() && waiter.was_woken());
        assert_eq!(child.group().stopped_threads, 0);
    }

    #[test]
    fn kill_ends_a_stop() {
        let process = process();
        let thread = process.leader().unwrap();
        process.send_signal(SignalInfo::kernel(Signal::STOP)).unwrap();
        assert!(thread.take_signal().is_none());
        let stopped = run_as_thread(thread.clone(), async move { thread.stay_stopped().await });
        assert_eq!(stopped.result(), None);
        process.send_signal(SignalInfo::kernel(Signal::KILL)).unwrap();
        assert_eq!(stopped.result(), Some(()));
    }
}

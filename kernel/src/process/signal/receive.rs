//! Taking signals, and their default actions.

use super::super::group::ThreadGroup;
use super::super::registry;
use super::super::thread::{Thread, attention};
use super::send::fatal_status;
use super::{Action, ActionFlags, DEFAULT, DefaultAction, IGNORE, MaskChange, Signal, SignalInfo, SignalSet};

/// A signal whose handler is to run.
pub struct Received {
    /// The signal.
    pub info: SignalInfo,
    /// Its action.
    pub action: Action,
    /// The mask to go back to after the handler.
    pub mask: SignalSet,
}

/// What follows a default action.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Stop,
}

impl Thread {
    /// Takes the next signal that has a handler; carries out the default actions of those before it. `None` when there is none, or
    /// the thread has to stop or end first.
    pub fn take_signal(&self) -> Option<Received> {
        let process = self.process();
        let actions = process.actions();
        loop {
            let mut group = process.group();
            if group.must_end(self) || group.stop.is_some() {
                return None;
            }
            let mut own = self.signals.lock();
            let blocked = own.blocked;
            let info = own.pending.take(blocked).or_else(|| group.shared.take(blocked));
            self.update_attention(&group, &own);
            let info = info?;
            let signal = info.signal();
            self.note_taken(signal);
            let action = actions.consume(signal);
            match action.handler {
                IGNORE => {}
                DEFAULT => {
                    drop(own);
                    if self.default_action(&mut group, signal) == Next::Stop {
                        drop(group);
                        self.stop_unless_orphaned(signal);
                    }
                }
                _ => {
                    let mask = own.saved.take().unwrap_or(own.blocked);
                    return Some(Received { info, action, mask });
                }
            }
        }
    }

    fn default_action(&self, group: &mut ThreadGroup, signal: Signal) -> Next {
        match signal.default_action() {
            DefaultAction::Ignore | DefaultAction::Continue => {}
            _ if self.process().is_init() => {}
            DefaultAction::Stop => {
                group.stop_taken = true;
                return Next::Stop;
            }
            DefaultAction::Terminate | DefaultAction::Core => group.begin_exit(fatal_status(signal)),
        }
        Next::GoOn
    }

    /// Stops the process. But the terminal's stop signals do nothing in an orphaned process group, where nobody
    /// would let it go on; the process table knows, and its lock comes before the group's. A `SIGCONT` that comes meanwhile
    /// takes the stop back.
    fn stop_unless_orphaned(&self, signal: Signal) {
        let process = self.process();
        if signal != Signal::STOP && registry::is_orphaned_group(process.pgid()) {
            return;
        }
        let mut group = process.group();
        if core::mem::take(&mut group.stop_taken) && group.stop.is_none() {
            group.stop = Some(signal);
            group.notify_all(attention::STOP);
        }
    }

    /// Before a handler runs: blocks what its action says.
    pub fn enter_handler(&self, received: &Received) {
        let mut set = SignalSet::from_bits(received.action.mask);
        if !received.action.flags().contains(ActionFlags::NO_DEFER) {
            set.insert(received.info.signal());
        }
        self.change_mask(MaskChange::Block, set);
    }

    /// Whether `signal`, sent now, would not interrupt this thread: a terminal then does not send it, but refuses the access.
    pub fn is_blocked_or_ignored(&self, signal: Signal) -> bool {
        self.blocked().contains(signal) || self.process().actions().get(signal).handler == IGNORE
    }

    /// Takes one signal of `wanted`, blocked or not: rt_sigtimedwait(2).
    pub fn take_signal_of(&self, wanted: SignalSet) -> Option<SignalInfo> {
        let mut taken = None;
        self.offer_signal(wanted, |info| {
            taken = Some(*info);
            true
        });
        taken
    }

    /// Shows one signal of `wanted`, blocked or not, to `accept`, which says whether it is taken or stays pending: signalfd(2).
    /// Returns what that said, `None` when there is no such signal. `accept` runs under locks.
    pub fn offer_signal(&self, wanted: SignalSet, accept: impl FnOnce(&SignalInfo) -> bool) -> Option<bool> {
        let mut group = self.process().group();
        let mut own = self.signals.lock();
        let others = SignalSet::from_bits(!wanted.bits()).union(SignalSet::UNBLOCKABLE);
        let from = if own.pending.next(others).is_some() { &mut own.pending } else { &mut group.shared };
        let accepted = accept(&from.next(others)?);
        if accepted {
            let taken = from.take(others);
            self.update_attention(&group, &own);
            if let Some(info) = taken {
                self.note_taken(info.signal());
            }
        }
        Some(accepted)
    }

    /// A pending instance of `signal` has been taken. (One of a POSIX timer has told that itself.)
    fn note_taken(&self, signal: Signal) {
        if signal == Signal::ALRM {
            self.process().alarm_goes_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::status::ExitStatus;
    use super::super::super::tests::{orphan, process, second_thread};
    use super::*;
    use crate::errno::Errno;

    const HANDLER: Action = Action { handler: 0x40_0000, flags: 0, restorer: 0, mask: 0 };

    fn send(process: &crate::process::Process, signal: Signal) {
        process.send_signal(SignalInfo::kernel(signal)).unwrap();
    }

    #[test]
    fn a_handler_blocks_its_signal_and_its_mask() {
        let process = process();
        let thread = process.leader().unwrap();
        let action = Action { mask: SignalSet::of(&[Signal::HUP]).bits(), ..HANDLER };
        process.actions().replace(Signal::USR1, action);
        send(&process, Signal::USR1);
        let received = thread.take_signal().unwrap();
        assert_eq!((received.info.signal(), received.mask), (Signal::USR1, SignalSet::EMPTY));
        thread.enter_handler(&received);
        assert_eq!(thread.blocked(), SignalSet::of(&[Signal::USR1, Signal::HUP]));
        assert!(!thread.interrupted());
    }

    #[test]
    fn a_fatal_signal_ends_all_threads() {
        let process = process();
        let second = second_thread(&process);
        send(&process, Signal::QUIT);
        assert!(process.leader().unwrap().take_signal().is_none());
        assert_eq!(process.exit_status(), Some(ExitStatus::Dumped(Signal::QUIT)));
        assert!(second.is_dying());
    }

    #[test]
    fn kill_needs_no_receiver() {
        let process = process();
        send(&process, Signal::KILL);
        send(&process, Signal::TERM);
        assert_eq!(process.exit_status(), Some(ExitStatus::Killed(Signal::KILL)));
        assert!(process.leader().unwrap().is_dying());
    }

    #[test]
    fn what_is_ignored_never_becomes_pending_unless_it_is_blocked() {
        let process = process();
        let thread = process.leader().unwrap();
        send(&process, Signal::CHLD);
        assert!(thread.pending().is_empty());
        thread.change_mask(MaskChange::Block, SignalSet::of(&[Signal::CHLD]));
        send(&process, Signal::CHLD);
        assert_eq!(thread.pending(), SignalSet::of(&[Signal::CHLD]));
    }

    #[test]
    fn a_stop_lasts_until_continued_and_each_takes_the_other_back() {
        let process = process();
        let thread = process.leader().unwrap();
        send(&process, Signal::STOP);
        assert!(thread.take_signal().is_none());
        assert_eq!(process.group().stop, Some(Signal::STOP));
        send(&process, Signal::CONT);
        assert_eq!(process.group().stop, None);
        assert!(process.group().continue_report);

        send(&process, Signal::STOP);
        send(&process, Signal::CONT);
        assert_eq!(thread.pending().intersection(SignalSet::STOPS), SignalSet::EMPTY);
    }

    #[test]
    fn a_terminal_cannot_stop_an_orphaned_group() {
        let process = orphan();
        send(&process, Signal::TSTP);
        assert!(process.leader().unwrap().take_signal().is_none());
        assert_eq!(process.group().stop, None);
        send(&process, Signal::STOP);
        assert!(process.leader().unwrap().take_signal().is_none());
        assert_eq!(process.group().stop, Some(Signal::STOP));
    }

    #[test]
    fn a_fault_with_its_signal_blocked_is_fatal() {
        let process = process();
        let thread = process.leader().unwrap();
        process.actions().replace(Signal::SEGV, HANDLER);
        thread.force_signal(SignalInfo::fault(Signal::SEGV, 1, 0));
        assert_eq!(thread.take_signal().unwrap().info.signal(), Signal::SEGV);
        thread.change_mask(MaskChange::Block, SignalSet::of(&[Signal::SEGV]));
        thread.force_signal(SignalInfo::fault(Signal::SEGV, 1, 0));
        assert_eq!(process.exit_status(), Some(ExitStatus::Dumped(Signal::SEGV)));
    }

    #[test]
    fn one_may_wait_for_a_blocked_signal() {
        let process = process();
        let thread = process.leader().unwrap();
        let usr1 = SignalSet::of(&[Signal::USR1]);
        thread.change_mask(MaskChange::Block, usr1);
        assert!(thread.take_signal_of(usr1).is_none());
        send(&process, Signal::USR1);
        assert_eq!(thread.take_signal_of(usr1).unwrap().signal(), Signal::USR1);
        assert!(thread.pending().is_empty());
    }

    #[test]
    fn a_signal_that_is_not_accepted_stays() {
        let process = process();
        let thread = process.leader().unwrap();
        let usr1 = SignalSet::of(&[Signal::USR1]);
        thread.change_mask(MaskChange::Block, usr1);
        assert_eq!(thread.offer_signal(usr1, |_| true), None);
        send(&process, Signal::USR1);
        assert_eq!(thread.offer_signal(usr1, |_| false), Some(false));
        assert_eq!(thread.pending(), usr1);
        assert_eq!(thread.offer_signal(usr1, |info| info.signal() == Signal::USR1), Some(true));
        assert!(thread.pending().is_empty());
    }

    #[test]
    fn queued_signals_are_bounded() {
        use super::super::super::limits::{Limit, Resource};
        let process = process();
        process.limits().set(Resource::PendingSignals, Limit { soft: 1, hard: 1 }, true).unwrap();
        let queued = SignalInfo::user(Signal::new(40).unwrap(), -1, 1, 0);
        assert_eq!(process.send_signal(queued), Ok(()));
        assert_eq!(process.send_signal(queued), Err(Errno::EAGAIN));
    }
}

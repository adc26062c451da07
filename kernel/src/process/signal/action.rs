//! What a process wants done about each signal: sigaction(2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{DefaultAction, Signal, SignalSet};
use crate::sync::SpinLock;

bitflags::bitflags! {
    /// The flags of a signal action.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ActionFlags: u64 {
        /// `SA_NOCLDSTOP`: no `SIGCHLD` when a child stops or goes on.
        const NO_CHILD_STOP = 0x1;
        /// `SA_NOCLDWAIT`: children leave no zombies.
        const NO_CHILD_WAIT = 0x2;
        /// `SA_SIGINFO`: the handler takes three arguments. The kernel passes them to every handler.
        const SIGINFO = 0x4;
        /// `SA_UNSUPPORTED`: a probe for support of flags; never set in what is read back.
        const UNSUPPORTED = 0x400;
        /// `SA_RESTORER`: `restorer` is valid.
        const RESTORER = 0x0400_0000;
        /// `SA_ONSTACK`: on the alternate stack.
        const ON_STACK = 0x0800_0000;
        /// `SA_RESTART`: interrupted calls go on.
        const RESTART = 0x1000_0000;
        /// `SA_NODEFER`: not blocked in its own handler.
        const NO_DEFER = 0x4000_0000;
        /// `SA_RESETHAND`: one shot.
        const RESET_HANDLER = 0x8000_0000;
    }
}

/// `struct sigaction` as the kernel's ABI has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Action {
    /// The handler's address, or [`DEFAULT`] or [`IGNORE`].
    pub handler: u64,
    /// [`ActionFlags`].
    pub flags: u64,
    /// Where the handler returns to: code that calls rt_sigreturn.
    pub restorer: u64,
    /// Signals blocked while the handler runs.
    pub mask: u64,
}

/// `SIG_DFL`.
pub const DEFAULT: u64 = 0;
/// `SIG_IGN`.
pub const IGNORE: u64 = 1;

impl Action {
    /// The flags that mean something here.
    pub fn flags(&self) -> ActionFlags {
        ActionFlags::from_bits_truncate(self.flags)
    }

    /// Whether this is a function of the program.
    pub fn is_handler(&self) -> bool {
        self.handler != DEFAULT && self.handler != IGNORE
    }

    /// Whether `signal` comes to nothing under this action.
    pub fn ignores(&self, signal: Signal) -> bool {
        self.handler == IGNORE || self.handler == DEFAULT && signal.default_action() == DefaultAction::Ignore
    }
}

/// The actions of a process, which a clone with `CLONE_SIGHAND` shares.
pub struct SignalActions(SpinLock<[Action; 64]>);

impl SignalActions {
    /// Every action the default.
    pub fn new() -> Self {
        Self(SpinLock::new([Action::default(); 64]))
    }

    /// The same actions, on their own from now on.
    pub fn fork(&self) -> Self {
        Self(SpinLock::new(*self.0.lock()))
    }

    /// The actions of a new program image (and of a clone with `CLONE_CLEAR_SIGHAND`): handlers are gone, what was
    /// ignored stays so.
    pub fn after_exec(&self) -> Self {
        let mut actions = *self.0.lock();
        for action in &mut actions {
            let handler = if action.handler == IGNORE { IGNORE } else { DEFAULT };
            *action = Action { handler, ..Action::default() };
        }
        Self(SpinLock::new(actions))
    }

    /// The action for `signal`.
    pub fn get(&self, signal: Signal) -> Action {
        self.0.lock()[signal.index()]
    }

    /// Sets the action for `signal`; returns the former.
    pub fn replace(&self, signal: Signal, mut action: Action) -> Action {
        action.mask = SignalSet::from_bits(action.mask).minus(SignalSet::UNBLOCKABLE).bits();
        action.flags &= ActionFlags::all().difference(ActionFlags::UNSUPPORTED).bits();
        core::mem::replace(&mut self.0.lock()[signal.index()], action)
    }

    /// The action for `signal`, about to be carried out: a one-shot handler is reset.
    pub fn consume(&self, signal: Signal) -> Action {
        let slot = &mut self.0.lock()[signal.index()];
        let action = *slot;
        if action.is_handler() && action.flags().contains(ActionFlags::RESET_HANDLER) {
            slot.handler = DEFAULT;
        }
        action
    }

    /// The signals ignored and those caught, as /proc/PID/status shows them.
    pub fn summary(&self) -> (SignalSet, SignalSet) {
        let (mut ignored, mut caught) = (SignalSet::EMPTY, SignalSet::EMPTY);
        for (action, number) in self.0.lock().iter().zip(1..) {
            let Ok(signal) = Signal::new(number) else { continue };
            match action.handler {
                DEFAULT => {}
                IGNORE => ignored.insert(signal),
                _ => caught.insert(signal),
            }
        }
        (ignored, caught)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(flags: ActionFlags) -> Action {
        Action { handler: 0x40_0000, flags: flags.bits(), restorer: 0x40_1000, mask: u64::MAX }
    }

    #[test]
    fn kill_and_stop_never_get_into_a_mask_nor_unknown_flags_into_an_action() {
        let actions = SignalActions::new();
        let mut action = handler(ActionFlags::RESTART);
        action.flags |= 0x800 | ActionFlags::UNSUPPORTED.bits();
        actions.replace(Signal::USR1, action);
        let stored = actions.get(Signal::USR1);
        assert_eq!(stored.mask, !SignalSet::UNBLOCKABLE.bits());
        assert_eq!(stored.flags, ActionFlags::RESTART.bits());
    }

    #[test]
    fn a_one_shot_handler_is_used_once() {
        let actions = SignalActions::new();
        actions.replace(Signal::USR1, handler(ActionFlags::RESET_HANDLER));
        assert!(actions.consume(Signal::USR1).is_handler());
        assert!(!actions.consume(Signal::USR1).is_handler());
    }

    #[test]
    fn exec_keeps_only_what_was_ignored() {
        let actions = SignalActions::new();
        actions.replace(Signal::USR1, handler(ActionFlags::empty()));
        actions.replace(Signal::HUP, Action { handler: IGNORE, ..Action::default() });
        let after = actions.after_exec();
        assert_eq!(after.summary(), (SignalSet::of(&[Signal::HUP]), SignalSet::EMPTY));
        assert_eq!(actions.summary().1, SignalSet::of(&[Signal::USR1]));
    }

    #[test]
    fn what_is_ignored_by_default_is_ignored_until_it_has_a_handler() {
        assert!(Action::default().ignores(Signal::CHLD));
        assert!(!Action::default().ignores(Signal::CONT));
        assert!(!handler(ActionFlags::empty()).ignores(Signal::CHLD));
        assert!(Action { handler: IGNORE, ..Action::default() }.ignores(Signal::TERM));
    }
}

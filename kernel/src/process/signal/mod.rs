//! Signals: signal(7).
//!
//! Sending ([`send`]) puts a [`SignalInfo`] into the pending set of a thread or of its process and has a thread that does not block it
//! look; the receiving thread takes it ([`receive`]) on its way back to user mode, where `run.rs` has the platform build a frame for the
//! handler, or the default action is carried out.
//!
//! All of a process's signal state changes under the lock of its thread group; a thread's own part (pending, mask) lies under a lock
//! of the thread, taken inside it. The bit [`attention::SIGNAL`] of a thread is set whenever a signal that it does not block
//! is pending for it, so that looking costs one load.

mod action;
pub mod info;
mod listen;
pub mod mask;
mod pending;
mod receive;
mod send;
mod set;

pub use action::{Action, ActionFlags, DEFAULT, IGNORE, SignalActions};
pub use info::{SI_KERNEL, SI_TKILL, SI_USER, SIGNALFD_INFO_SIZE, SignalInfo};
pub use listen::Listeners;
pub use mask::{AlternateStack, MaskChange};
pub use pending::{Pending, QueueFull};
pub use receive::Received;
pub use send::{may_signal, send_checked};
pub use set::{DefaultAction, Signal, SignalSet};

use super::group::ThreadGroup;
use super::thread::{Thread, attention};
use core::sync::atomic::Ordering;

/// A thread's own signal state.
pub struct ThreadSignals {
    /// Sent to this thread and not taken yet.
    pub(super) pending: Pending,
    /// Not to be taken now.
    pub(super) blocked: SignalSet,
    /// The mask to go back to, while `blocked` is a temporary one (rt_sigsuspend, ppoll, ...).
    pub(super) saved: Option<SignalSet>,
    /// What was blocked before a wait for signals (rt_sigtimedwait) unblocked some, so that they wake it.
    pub(super) blocked_before_wait: SignalSet,
    /// The stack for handlers that ask for it.
    pub(super) alternate: AlternateStack,
}

impl ThreadSignals {
    /// Nothing pending, `blocked` as mask.
    pub fn new(blocked: SignalSet) -> Self {
        Self {
            pending: Pending::new(),
            blocked,
            saved: None,
            blocked_before_wait: SignalSet::default(),
            alternate: AlternateStack::default(),
        }
    }

    /// Whether `signal` stays pending although it would come to nothing if it were taken now: its action may change before it
    /// is, or somebody waits for it.
    pub(super) fn keeps(&self, signal: Signal) -> bool {
        self.blocked.union(self.blocked_before_wait).contains(signal)
    }
}

impl Thread {
    /// Sets or clears the thread's signal bit by what is pending. Under the group's lock.
    fn update_attention(&self, group: &ThreadGroup, own: &ThreadSignals) {
        let pending = own.pending.set().union(group.shared.set());
        if pending.minus(own.blocked).is_empty() {
            self.attention.fetch_and(!attention::SIGNAL, Ordering::AcqRel);
        } else {
            self.attention.fetch_or(attention::SIGNAL, Ordering::AcqRel);
        }
    }
}

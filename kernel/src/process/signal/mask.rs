//! A thread's signal mask and alternate stack: sigprocmask(2), sigsuspend(2), sigaltstack(2).

use core::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::super::group::ThreadGroup;
use super::super::thread::{Thread, attention};
use super::SignalSet;
use crate::errno::Errno;

/// How sigprocmask(2) changes a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskChange {
    /// `SIG_BLOCK`: adds.
    Block,
    /// `SIG_UNBLOCK`: takes away.
    Unblock,
    /// `SIG_SETMASK`: replaces.
    Set,
}

impl MaskChange {
    /// The change of that number.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(how: i32) -> Result<Self, Errno> {
        match how {
            0 => Ok(Self::Block),
            1 => Ok(Self::Unblock),
            2 => Ok(Self::Set),
            _ => Err(Errno::EINVAL),
        }
    }

    /// `mask`, changed by `set`.
    pub fn apply(self, mask: SignalSet, set: SignalSet) -> SignalSet {
        match self {
            Self::Block => mask.union(set.minus(SignalSet::UNBLOCKABLE)),
            Self::Unblock => mask.minus(set),
            Self::Set => set.minus(SignalSet::UNBLOCKABLE),
        }
    }
}

/// `stack_t`: where handlers with `SA_ONSTACK` run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AlternateStack {
    /// Lowest address.
    pub base: u64,
    /// `SS_*`
    pub flags: u32,
    /// Keeps `size` aligned, as the C structure is.
    pub padding: u32,
    /// Bytes.
    pub size: u64,
}

/// `SS_ONSTACK`: the thread runs on it now.
pub const ON_STACK: u32 = 1;
/// `SS_DISABLE`: there is none.
pub const DISABLE: u32 = 2;
/// `SS_AUTODISARM`: not used again until the handler returns.
pub const AUTO_DISARM: u32 = 1 << 31;
/// `MINSIGSTKSZ`: the least size that sigaltstack(2) takes.
pub const MINIMUM: u64 = 2048;

impl Default for AlternateStack {
    fn default() -> Self {
        Self { base: 0, flags: DISABLE, padding: 0, size: 0 }
    }
}

impl AlternateStack {
    /// Whether `stack_pointer` lies in it.
    pub fn contains(&self, stack_pointer: u64) -> bool {
        stack_pointer > self.base && stack_pointer - self.base <= self.size
    }

    /// Whether the thread runs on it: never so with `SS_AUTODISARM`, which takes it away while it is in use.
    pub fn is_in_use(&self, stack_pointer: u64) -> bool {
        self.flags & AUTO_DISARM == 0 && self.contains(stack_pointer)
    }

    /// As sigaltstack(2) reports it.
    pub fn report(&self, stack_pointer: u64) -> Self {
        let state = match self.size {
            0 => DISABLE,
            _ if self.is_in_use(stack_pointer) => ON_STACK,
            _ => 0,
        };
        Self { flags: self.flags & AUTO_DISARM | state, ..*self }
    }

    /// What sigaltstack(2) makes of `new`.
    ///
    /// # Errors
    /// `EPERM` while the thread runs on the present one; `EINVAL` for unknown flags, `ENOMEM` when too small.
    pub fn replaced_by(&self, new: Self, stack_pointer: u64) -> Result<Self, Errno> {
        if self.is_in_use(stack_pointer) {
            return Err(Errno::EPERM);
        }
        match new.flags & !AUTO_DISARM {
            DISABLE => Ok(Self { base: 0, flags: new.flags, padding: 0, size: 0 }),
            // SS_ONSTACK means nothing here, but programs pass it.
            0 | ON_STACK if new.size < MINIMUM => Err(Errno::ENOMEM),
            0 | ON_STACK => Ok(Self { flags: new.flags & AUTO_DISARM, padding: 0, ..new }),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl Thread {
    /// The signals it blocks.
    pub fn blocked(&self) -> SignalSet {
        self.signals.lock().blocked
    }

    /// The signals that are pending for it or its process, blocked or not.
    pub fn pending(&self) -> SignalSet {
        let group = self.process().group();
        self.signals.lock().pending.set().union(group.shared.set())
    }

    /// What is pending for this thread and for its process, as /proc/PID/status shows it.
    pub fn pending_apart(&self) -> (SignalSet, SignalSet) {
        let group = self.process().group();
        let own = self.signals.lock().pending.set();
        (own, group.shared.set())
    }

    /// Changes its mask; returns the former.
    pub fn change_mask(&self, change: MaskChange, set: SignalSet) -> SignalSet {
        let group = self.process().group();
        let mut own = self.signals.lock();
        let old = own.blocked;
        let new = change.apply(old, set);
        own.blocked = new;
        self.update_attention(&group, &own);
        drop(own);
        self.hand_over(&group, new.minus(old));
        old
    }

    /// Unblocks `wanted` for a wait, so that who sends one of them wakes this thread. Ends with [`end_wait`](Self::end_wait).
    pub fn begin_wait(&self, wanted: SignalSet) {
        let mut own = self.signals.lock();
        own.blocked_before_wait = own.blocked;
        drop(own);
        self.change_mask(MaskChange::Unblock, wanted);
    }

    /// Goes back to the mask from before the wait.
    pub fn end_wait(&self) {
        let mask = core::mem::take(&mut self.signals.lock().blocked_before_wait);
        self.change_mask(MaskChange::Set, mask);
    }

    /// Has another thread look at signals of the process that this one has just blocked.
    pub(super) fn hand_over(&self, group: &ThreadGroup, blocked: SignalSet) {
        let mut orphaned = group.shared.set().intersection(blocked);
        while let Some(signal) = orphaned.first() {
            orphaned.remove(signal);
            let taker = group
                .threads
                .iter()
                .find(|thread| !core::ptr::eq(&***thread, self) && !thread.blocked().contains(signal));
            if let Some(thread) = taker {
                thread.notify(attention::SIGNAL);
            }
        }
    }

    /// Sets a mask for the length of one call (rt_sigsuspend, ppoll, pselect6, epoll_pwait). Ends with [`end_temporary_mask`](
    /// Self::end_temporary_mask).
    pub fn begin_temporary_mask(&self, mask: SignalSet) {
        let old = self.change_mask(MaskChange::Set, mask);
        self.signals.lock().saved = Some(old);
    }

    /// The call is over. If it was `interrupted`, the mask stays until the signal has been taken, whose handler then returns to
    /// the former mask; else that is set at once.
    pub fn end_temporary_mask(&self, interrupted: bool) {
        if interrupted {
            self.attention.fetch_or(attention::RESTORE_MASK, Ordering::Relaxed);
        } else {
            self.restore_mask();
        }
    }

    /// Goes back from a temporary mask.
    pub(in super::super) fn restore_mask(&self) {
        self.attention.fetch_and(!attention::RESTORE_MASK, Ordering::Relaxed);
        let saved = self.signals.lock().saved.take();
        if let Some(mask) = saved {
            self.change_mask(MaskChange::Set, mask);
        }
    }

    /// The stack for handlers that ask for it.
    pub fn alternate_stack(&self) -> AlternateStack {
        self.signals.lock().alternate
    }

    /// Sets it.
    pub fn set_alternate_stack(&self, stack: AlternateStack) {
        self.signals.lock().alternate = stack;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{process, second_thread};
    use super::super::{Signal, SignalInfo};
    use super::*;

    #[test]
    fn masks_never_hold_kill_or_stop() {
        let all = SignalSet::from_bits(u64::MAX);
        let none = SignalSet::EMPTY;
        assert_eq!(MaskChange::Block.apply(none, all), all.minus(SignalSet::UNBLOCKABLE));
        assert_eq!(MaskChange::Set.apply(none, all), all.minus(SignalSet::UNBLOCKABLE));
        assert_eq!(MaskChange::Unblock.apply(all, all), none);
        assert_eq!(MaskChange::new(3), Err(Errno::EINVAL));
    }

    #[test]
    fn a_pending_signal_interrupts_as_soon_as_it_is_unblocked() {
        let process = process();
        let thread = process.leader().unwrap();
        let usr1 = SignalSet::of(&[Signal::USR1]);
        thread.change_mask(MaskChange::Block, usr1);
        process.send_signal(SignalInfo::kernel(Signal::USR1)).unwrap();
        assert!(!thread.interrupted());
        assert_eq!(thread.pending(), usr1);
        assert_eq!(thread.change_mask(MaskChange::Unblock, usr1), usr1);
        assert!(thread.interrupted());
    }

    #[test]
    fn a_thread_that_blocks_a_signal_hands_it_to_one_that_does_not() {
        let process = process();
        let first = process.leader().unwrap();
        let second = second_thread(&process);
        process.send_signal(SignalInfo::kernel(Signal::USR1)).unwrap();
        assert!(first.interrupted() && !second.interrupted());
        first.change_mask(MaskChange::Block, SignalSet::of(&[Signal::USR1]));
        assert!(!first.interrupted() && second.interrupted());
    }

    #[test]
    fn a_temporary_mask_outlives_an_interrupted_call_only() {
        let process = process();
        let thread = process.leader().unwrap();
        let (outer, inner) = (SignalSet::of(&[Signal::USR1]), SignalSet::of(&[Signal::USR2]));
        thread.change_mask(MaskChange::Set, outer);
        thread.begin_temporary_mask(inner);
        assert_eq!(thread.blocked(), inner);
        thread.end_temporary_mask(false);
        assert_eq!(thread.blocked(), outer);
        thread.begin_temporary_mask(inner);
        thread.end_temporary_mask(true);
        assert_eq!(thread.blocked(), inner);
        thread.restore_mask();
        assert_eq!(thread.blocked(), outer);
    }

    #[test]
    fn alternate_stacks_are_checked_as_sigaltstack_says() {
        let none = AlternateStack::default();
        let stack = AlternateStack { base: 0x1000, flags: 0, padding: 0, size: 0x2000 };
        let set = none.replaced_by(stack, 0).unwrap();
        assert_eq!(none.report(0).flags, DISABLE);
        assert_eq!(set.report(0x2000).flags, ON_STACK);
        assert_eq!(set.replaced_by(none, 0x2000), Err(Errno::EPERM));
        assert_eq!(set.replaced_by(none, 0x1000), Ok(none));
        assert_eq!(none.replaced_by(AlternateStack { size: 2047, ..stack }, 0), Err(Errno::ENOMEM));
        assert_eq!(none.replaced_by(AlternateStack { flags: 4, ..stack }, 0), Err(Errno::EINVAL));
    }
}

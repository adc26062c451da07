//! Something that happens once and that one thread waits for: the end of vfork(2)'s sharing.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::sched::{Events, WaitQueue};

/// Happens once.
#[derive(Default)]
pub struct Completion {
    done: AtomicBool,
    waiters: WaitQueue,
}

impl Completion {
    /// It has happened.
    pub fn complete(&self) {
        self.done.store(true, Ordering::Release);
        self.waiters.wake(Events::IN);
    }

    /// Whether it has.
    pub fn is_complete(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Who is told.
    pub fn waiters(&self) -> &WaitQueue {
        &self.waiters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::fixture::Waiter;

    #[test]
    fn who_waits_is_told() {
        let completion = Completion::default();
        let waiter = Waiter::new(completion.waiters(), Events::IN);
        assert!(!completion.is_complete());
        completion.complete();
        assert!(completion.is_complete() && waiter.was_woken());
    }
}

//! A small spin lock, for what happens rarely: replicas that come and go, operations that go to all logs.

use crate::hooks::Hooks;
use crate::sync::{AtomicBool, Ordering, UnsafeCell};

pub(crate) struct Mutex<T> {
    locked: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `locked` makes the access to `value` exclusive.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { locked: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock.
    pub(crate) fn lock(&self, hooks: &impl Hooks) -> MutexGuard<'_, T> {
        let mut round = 0;
        while self.locked.swap(true, Ordering::Acquire) {
            hooks.relax(round);
            round = round.saturating_add(1);
        }
        MutexGuard { mutex: self }
    }
}

/// Unlocks when dropped.
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
}

impl<T> MutexGuard<'_, T> {
    /// Lends the value.
    pub(crate) fn with<R>(&mut self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: the lock is held, and `&mut self` keeps the closures from nesting.
        self.mutex.value.with_mut(|value| f(unsafe { &mut *value }))
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.mutex.locked.store(false, Ordering::Release);
    }
}

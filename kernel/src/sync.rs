//! Locks of the kernel: spinning, never held across an `.await`.
//!
//! Kernel code runs with interrupts off and on one stack per core, so a holder is never preempted and a spinning
//! core waits for a short critical section of another core only. The guards are not `Send`: a future that keeps
//! one across an `.await` does not compile as a task, since tasks must be `Send`.
//!
//! Interrupt handlers take no lock (see `ARCHITECTURE.md`), so none of these is interrupt-safe.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use lock_api::{GuardNoSend, RawMutex, RawRwLock};

/// A mutual-exclusion lock: test and test-and-set.
pub struct RawSpinLock(AtomicBool);

// SAFETY: `try_lock` hands the lock to at most one caller until `unlock`, by the atomic exchange below.
unsafe impl RawMutex for RawSpinLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "lock_api asks for a constant initial value")]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        while !self.try_lock() {
            while self.0.load(Ordering::Relaxed) {
                crate::arch::relax();
            }
        }
    }

    fn try_lock(&self) -> bool {
        self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A readers-writer lock: readers count up, the writer takes the top bit.
pub struct RawRwSpinLock(AtomicU32);

const WRITER: u32 = 1 << 31;

// SAFETY: a writer is admitted only when the count is zero and readers only while the writer bit is clear.
unsafe impl RawRwLock for RawRwSpinLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "lock_api asks for a constant initial value")]
    const INIT: Self = Self(AtomicU32::new(0));
    type GuardMarker = GuardNoSend;

    fn lock_shared(&self) {
        while !self.try_lock_shared() {
            crate::arch::relax();
        }
    }

    fn try_lock_shared(&self) -> bool {
        let count = self.0.load(Ordering::Relaxed);
        count & WRITER == 0
            && self.0.compare_exchange_weak(count, count + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock_shared(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }

    fn lock_exclusive(&self) {
        while !self.try_lock_exclusive() {
            crate::arch::relax();
        }
    }

    fn try_lock_exclusive(&self) -> bool {
        self.0.compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock_exclusive(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// A value behind a spinning mutual-exclusion lock.
pub type SpinLock<T> = lock_api::Mutex<RawSpinLock, T>;
/// The guard of a [`SpinLock`]; not `Send`.
pub type SpinLockGuard<'a, T> = lock_api::MutexGuard<'a, RawSpinLock, T>;
/// A value behind a spinning readers-writer lock.
pub type RwSpinLock<T> = lock_api::RwLock<RawRwSpinLock, T>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn spin_lock_excludes() {
        let counter = Arc::new(SpinLock::new(0u64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let counter = counter.clone();
                std::thread::spawn(move || (0..10_000).for_each(|_| *counter.lock() += 1))
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*counter.lock(), 40_000);
    }

    #[test]
    fn writer_waits_for_readers() {
        let lock = RwSpinLock::new(1);
        let reader = lock.read();
        assert!(lock.try_write().is_none());
        assert!(lock.try_read().is_some());
        drop(reader);
        assert!(lock.try_write().is_some());
    }
}

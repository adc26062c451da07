//! Timers: wake a waker at a point in time.
//!
//! Each core has its own ordered set of deadlines, in nanoseconds of [`arch::now`]; its executor takes out those that have
//! passed before each poll, some at a time, and programs the core's interval timer for the first when the core sleeps or
//! a user thread runs.

use alloc::collections::BTreeMap;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Poll;
use core::task::Waker;

use super::latency;
use crate::arch::{self, CoreId};
use crate::percore::PerCore;
use crate::sync::SpinLock;

/// How many timers expire before a task has its turn: some ten microseconds' work.
const BATCH: usize = 32;

/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;

struct Timers {
    /// The first deadline, readable without the lock.
    first: AtomicU64,
    /// For when the interval timer is programmed; `NEVER` when it is not.
    armed: AtomicU64,
    /// While the timer is watched: when it was due, or programmed if that was later.
    due: AtomicU64,
    /// Ordered by deadline, then by the order in which they were set.
    pending: SpinLock<BTreeMap<(u64, u64), Waker>>,
}

static TIMERS: PerCore<Timers> = crate::per_core!(Timers {
    first: AtomicU64::new(NEVER),
    armed: AtomicU64::new(NEVER),
    due: AtomicU64::new(NEVER),
    pending: SpinLock::new(BTreeMap::new()),
});

/// A waker that will be woken at a deadline, unless this is dropped first.
pub struct Timer {
    core: CoreId,
    key: (u64, u64),
}

impl Timer {
    /// Has `waker` woken at `deadline`, in nanoseconds of [`arch::now`].
    pub fn at(deadline: u64, waker: &Waker) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let core = arch::core_id();
        let key = (deadline, NEXT.fetch_add(1, Ordering::Relaxed));
        let timers = TIMERS.of(core);
        let mut pending = timers.pending.lock();
        pending.insert(key, waker.clone());
        timers.note_first(&pending);
        drop(pending);
        // A user thread may run on without the executor looking at the timers before.
        arm_before(deadline);
        Self { core, key }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let timers = TIMERS.of(self.core);
        let mut pending = timers.pending.lock();
        if pending.remove(&self.key).is_some() {
            timers.note_first(&pending);
        }
    }
}

impl Timers {
    /// Programs the interval timer.
    #[inline(never)]
    fn set(&self, deadline: u64) {
        let before = self.armed.swap(deadline, Ordering::Relaxed);
        if latency::is_watched() {
            let now = arch::now();
            // If it was due already, its interrupt still waits.
            if before > now {
                self.due.store(deadline.max(now), Ordering::Relaxed);
            }
        }
        arch::set_timer(deadline);
    }

    fn note_first(&self, pending: &BTreeMap<(u64, u64), Waker>) {
        self.first.store(pending.first_key_value().map_or(NEVER, |(key, _)| key.0), Ordering::Relaxed);
    }
}

/// Wakes the wakers of this core whose deadline is at or before `now`, the earliest first; when many have come at once not all of
/// them. Whether none is left.
pub fn expire(now: u64) -> bool {
    let timers = TIMERS.here();
    for _ in 0..BATCH {
        if timers.first.load(Ordering::Relaxed) > now {
            return true;
        }
        let mut pending = timers.pending.lock();
        let Some(entry) = pending.first_entry() else { return true };
        let waker = entry.remove();
        timers.note_first(&pending);
        drop(pending);
        waker.wake();
    }
    timers.first.load(Ordering::Relaxed) > now
}

/// Programs this core's interval timer for its first deadline.
pub fn arm() {
    arm_before(NEVER);
}

/// Programs this core's interval timer for its first deadline or `limit` (the end of a time slice), whichever is first.
/// A timer that is already set to fire at or before then is left alone: an early interrupt does no harm, and
/// programming costs more.
#[inline]
pub fn arm_before(limit: u64) {
    let timers = TIMERS.here();
    let first = timers.first.load(Ordering::Relaxed).min(limit);
    if first < timers.armed.load(Ordering::Relaxed) {
        timers.set(first);
    }
}

/// The first deadline of `core`, and for when its interval timer is programmed.
pub(super) fn state(core: CoreId) -> (u64, u64) {
    let timers = TIMERS.of(core);
    (timers.first.load(Ordering::Relaxed), timers.armed.load(Ordering::Relaxed))
}

/// Called by the interval timer's interrupt: it fired, so it is no longer set.
pub fn fired() {
    let timers = TIMERS.here();
    timers.armed.store(NEVER, Ordering::Relaxed);
    if latency::is_watched() {
        let now = arch::now();
        latency::note(now.saturating_sub(timers.due.load(Ordering::Relaxed)));
        timers.set(now + latency::TICK);
    }
}

/// Completes at `deadline`, in nanoseconds of [`arch::now`].
pub fn sleep_until(deadline: u64) -> impl Future<Output = ()> {
    let mut timer = None;
    core::future::poll_fn(move |context| {
        if arch::now() >= deadline {
            return Poll::Ready(());
        }
        timer.get_or_insert_with(|| Timer::at(deadline, context.waker()));
        Poll::Pending
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::{Priority, run_until_idle, spawn};
    use alloc::sync::Arc;
    use alloc::vec::Vec;
    use std::sync::Mutex;

    #[test]
    fn sleepers_wake_in_the_order_of_their_deadlines() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let start = arch::now();
        for milliseconds in [6u64, 2, 4] {
            let log = log.clone();
            spawn(arch::core_id(), Priority::Normal, async move {
                let deadline = start + milliseconds * 1_000_000;
                sleep_until(deadline).await;
                assert!(arch::now() >= deadline);
                log.lock().unwrap().push(milliseconds);
            });
        }
        while log.lock().unwrap().len() < 3 {
            run_until_idle();
        }
        assert_eq!(*log.lock().unwrap(), [2, 4, 6]);
    }

    #[test]
    fn a_dropped_timer_is_forgotten() {
        let far = arch::now() + 1_000_000_000_000;
        let timer = Timer::at(far, Waker::noop());
        assert!(TIMERS.here().pending.lock().keys().any(|key| key.0 == far));
        drop(timer);
        assert!(!TIMERS.here().pending.lock().keys().any(|key| key.0 == far));
    }
}

//! Deadlines of sockets: retransmissions, delayed acknowledgments, keep-alive, time-outs.
//!
//! A deadline that moves away (as that of a retransmission does with every acknowledgment) is not taken out: the socket is told
//! too early, looks, and sets the next. So setting one costs nothing most of the time. What is outdated, or of a socket that
//! is gone, goes when a heap has doubled since the last time: those of keep-alive may be hours away, and each holds
//! the memory of its socket. The heaps are several, chosen by core, so that cores do not meet at one lock.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use core::task::Waker;

use crate::arch;
use crate::percore::CacheLine;
use crate::sched::timer::NEVER;
use crate::sync::SpinLock;

const HEAPS: usize = 16;
/// Entries below which a heap is not searched for outdated ones.
const FEW: usize = 256;

/// What has a deadline.
pub trait Expires: Send + Sync {
    /// A deadline may have passed; looks which, acts, and sets the next.
    fn expired(self: Arc<Self>, now: u64);

    /// Whether it still wants to be told at `deadline`, which was set for it once. Takes no lock.
    fn awaits(&self, deadline: u64) -> bool;

    /// There was no memory for its deadline: it has to set one again when it runs next. The caller may hold the lock of any socket.
    fn forgotten(&self);
}

struct Entry {
    deadline: u64,
    target: Weak<dyn Expires>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.deadline == other.deadline
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.deadline.cmp(&other.deadline)
    }
}

struct Heap {
    first: AtomicU64,
    entries: SpinLock<Entries>,
}

struct Entries {
    heap: BinaryHeap<Reverse<Entry>>,
    /// The length at which outdated entries are looked for.
    limit: usize,
}

impl Default for Entries {
    fn default() -> Self {
        Self { heap: BinaryHeap::with_capacity(FEW), limit: FEW }
    }
}

impl Entries {
    fn first(&self) -> u64 {
        self.heap.peek().map_or(NEVER, |entry| entry.0.deadline)
    }

    /// Takes out the entry that is due last.
    fn take_last(&mut self) -> Option<Entry> {
        let mut entries = core::mem::take(&mut self.heap).into_vec();
        let last =
            entries.iter().enumerate().max_by_key(|(_, entry)| entry.0.deadline).map(|(index, _)| index);
        let last = last.map(|index| entries.swap_remove(index).0);
        self.heap = entries.into();
        last
    }

    /// Takes out what is outdated, if there may be much of it. Returns targets that were looked at, to be dropped when the heap
    /// is not locked any more.
    fn tidy(&mut self) -> Vec<Arc<dyn Expires>> {
        let mut seen = Vec::new();
        if self.heap.len() < self.limit || seen.try_reserve(self.heap.len()).is_err() {
            return seen;
        }
        self.heap.retain(|Reverse(entry)| {
            let Some(target) = entry.target.upgrade() else { return false };
            let stays = target.awaits(entry.deadline);
            seen.push(target);
            stays
        });
        self.limit = (2 * self.heap.len()).max(FEW);
        seen
    }
}

/// The deadlines of a stack.
pub struct Timers {
    heaps: Box<[CacheLine<Heap>]>,
    /// A deadline of the stack itself.
    own: AtomicU64,
    /// Until when the task that watches the deadlines sleeps.
    sleeping_until: AtomicU64,
    task: SpinLock<Option<Waker>>,
}

impl Default for Timers {
    fn default() -> Self {
        let heap = || Heap { first: AtomicU64::new(NEVER), entries: SpinLock::default() };
        Self {
            heaps: (0..HEAPS).map(|_| CacheLine(heap())).collect(),
            own: AtomicU64::new(NEVER),
            sleeping_until: AtomicU64::new(0),
            task: SpinLock::new(None),
        }
    }
}

impl Timers {
    /// Has `target` told at `deadline`. When memory has run out, whoever was to be told last is [forgotten](Expires::forgotten).
    pub fn add(&self, deadline: u64, target: Weak<dyn Expires>) {
        let heap = &self.heaps[usize::from(arch::core_id().0) % HEAPS].0;
        let mut entries = heap.entries.lock();
        let seen = entries.tidy();
        let displaced = if entries.heap.try_reserve(1).is_err() { entries.take_last() } else { None };
        entries.heap.push(Reverse(Entry { deadline, target }));
        heap.first.store(entries.first(), Ordering::Relaxed);
        drop(entries);
        drop(seen);
        self.wake_before(deadline);
        if let Some(target) = displaced.and_then(|entry| entry.target.upgrade()) {
            target.forgotten();
        }
    }

    /// Has the stack looked at by `deadline`, for no socket in particular.
    pub fn note(&self, deadline: u64) {
        self.own.fetch_min(deadline, Ordering::Relaxed);
        self.wake_before(deadline);
    }

    /// The first deadline.
    pub fn deadline(&self) -> u64 {
        let first = self.heaps.iter().map(|heap| heap.0.first.load(Ordering::Relaxed)).min();
        first.unwrap_or(NEVER).min(self.own.load(Ordering::Relaxed))
    }

    /// Until when the task that watches the deadlines sleeps.
    pub fn sleeping_until(&self) -> u64 {
        self.sleeping_until.load(Ordering::Relaxed)
    }

    /// Takes out one whose deadline is at or before `now`, if there is one.
    pub fn take_due(&self, now: u64) -> Option<Arc<dyn Expires>> {
        if self.own.load(Ordering::Relaxed) <= now {
            self.own.store(NEVER, Ordering::Relaxed);
        }
        for heap in self.heaps.iter().map(|line| &line.0) {
            while heap.first.load(Ordering::Relaxed) <= now {
                let mut entries = heap.entries.lock();
                let due = if entries.first() <= now { entries.heap.pop() } else { None };
                heap.first.store(entries.first(), Ordering::Relaxed);
                drop(entries);
                if let Some(target) = due.and_then(|Reverse(entry)| entry.target.upgrade()) {
                    return Some(target);
                }
            }
        }
        None
    }

    /// Has `waker` woken when a deadline before `until` is set.
    pub fn sleep_until(&self, until: u64, waker: &Waker) {
        let mut task = self.task.lock();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
        drop(task);
        self.sleeping_until.store(until, Ordering::Relaxed);
        // Pairs with the fence in `wake_before`: either that sees how long we sleep, or we see the deadline it set.
        fence(Ordering::SeqCst);
    }

    fn wake_before(&self, deadline: u64) {
        fence(Ordering::SeqCst);
        if deadline < self.sleeping_until.load(Ordering::Relaxed) {
            self.sleeping_until.store(deadline, Ordering::Relaxed);
            if let Some(task) = &*self.task.lock() {
                task.wake_by_ref();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Told(AtomicU64);
    impl Expires for Told {
        fn expired(self: Arc<Self>, now: u64) {
            self.0.store(now, Ordering::Relaxed);
        }

        /// Odd deadlines are outdated.
        fn awaits(&self, deadline: u64) -> bool {
            deadline.is_multiple_of(2)
        }

        fn forgotten(&self) {}
    }

    fn take_all(timers: &Timers, now: u64) -> Vec<Arc<dyn Expires>> {
        core::iter::from_fn(|| timers.take_due(now)).collect()
    }

    fn entries(timers: &Timers) -> usize {
        timers.heaps.iter().map(|heap| heap.0.entries.lock().heap.len()).sum()
    }

    fn weak(told: &Arc<Told>) -> Weak<dyn Expires> {
        let weak: Weak<Told> = Arc::downgrade(told);
        weak
    }

    #[test]
    fn those_due_come_out_and_the_rest_stays() {
        let timers = Timers::default();
        let (early, late, gone) =
            (Arc::new(Told::default()), Arc::new(Told::default()), Arc::new(Told::default()));
        timers.add(30, weak(&late));
        timers.add(10, weak(&early));
        timers.add(5, weak(&gone));
        drop(gone);
        assert_eq!(timers.deadline(), 5);
        take_all(&timers, 20).into_iter().for_each(|target| target.expired(20));
        assert_eq!((early.0.load(Ordering::Relaxed), late.0.load(Ordering::Relaxed)), (20, 0));
        assert_eq!(timers.deadline(), 30);
    }

    #[test]
    fn neither_the_gone_nor_the_outdated_pile_up_and_the_others_stay() {
        let (timers, told) = (Timers::default(), Arc::new(Told::default()));
        let gone: Vec<_> = (0..10_000).map(|_| Arc::new(Told::default())).collect();
        gone.into_iter().for_each(|gone| timers.add(1 << 60, weak(&gone)));
        assert!(entries(&timers) <= FEW);
        (0..10_000).for_each(|n| timers.add(1_000_001 + 2 * n, weak(&told)));
        assert!(entries(&timers) <= FEW);
        (0..10_000).for_each(|n| timers.add(2 * n, weak(&told)));
        assert_eq!(take_all(&timers, 20_000).len(), 10_000);
    }

    #[test]
    fn the_entry_that_is_due_last_makes_room() {
        let (timers, told) = (Timers::default(), Arc::new(Told::default()));
        [20, 40, 10, 30].into_iter().for_each(|deadline| timers.add(deadline, weak(&told)));
        let mut entries = timers.heaps[usize::from(arch::core_id().0) % HEAPS].0.entries.lock();
        assert_eq!(entries.take_last().map(|entry| entry.deadline), Some(40));
        assert_eq!(entries.take_last().map(|entry| entry.deadline), Some(30));
        assert_eq!((entries.first(), entries.heap.len()), (10, 2));
    }

    #[test]
    fn an_earlier_deadline_wakes_the_task() {
        struct Count(AtomicU64);
        impl alloc::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (timers, count) = (Timers::default(), Arc::new(Count(AtomicU64::new(0))));
        timers.sleep_until(100, &Waker::from(count.clone()));
        timers.note(200);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        timers.note(50);
        timers.note(60);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(timers.deadline(), 50);
        take_all(&timers, 50);
        assert_eq!(timers.deadline(), NEVER);
    }
}

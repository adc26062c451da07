//! Futexes: futex(2), and the list of robust ones that a thread leaves behind (get_robust_list(2)).
//!
//! Waiters queue in buckets, chosen by a hash of what the futex is: an address in an address space, or, for memory that processes
//! share, a place in the object that is mapped. The check of the futex word and the joining of the queue happen under the bucket's
//! lock, and so does a wake: a wake that follows a change of the word finds whoever saw the old value. The word may be in a page that is
//! not there; since a fault cannot be served under a lock, the lock is let go, the page brought in, and the check made again.
//!
//! A thread waits for one futex at a time, with the [`Waiter`] that it has from birth, so a wait allocates nothing but the growth
//! of a bucket. `FUTEX_REQUEUE` moves a waiter to another bucket; the waiter's `bucket` field says under which lock its entry lies.
//!
//! Lock order: two buckets in the order of their indices.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Poll, Waker};

use super::block::Limit;
use super::thread::Thread;
use crate::errno::Errno;
use crate::percore::CacheLine;
use crate::sync::{SpinLock, SpinLockGuard};

/// Wakes everybody.
pub const MATCH_ANY: u32 = u32::MAX;

/// What a futex is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Memory of one address space.
    Private {
        /// Identifies the address space while it lives.
        space: usize,
        /// The word's address.
        address: u64,
    },
    /// Memory that may be mapped by several.
    Shared {
        /// Identifies the mapped object while it is mapped.
        object: usize,
        /// The word's offset in it.
        offset: u64,
    },
}

const BUCKETS: usize = 256;
/// "In no bucket": not waiting, or woken.
const NOWHERE: usize = usize::MAX;

static TABLE: [CacheLine<Bucket>; BUCKETS] =
    [const { CacheLine(Bucket { entries: SpinLock::new(Vec::new()) }) }; BUCKETS];

struct Bucket {
    /// In the order of arrival.
    entries: SpinLock<Vec<Entry>>,
}

type Entries<'a> = SpinLockGuard<'a, Vec<Entry>>;

struct Entry {
    key: Key,
    bitset: u32,
    waiter: Arc<Waiter>,
}

/// A thread's place in the queues.
pub struct Waiter {
    /// The bucket in which this waits, or [`NOWHERE`]. Changes under the bucket's lock.
    bucket: AtomicUsize,
    waker: SpinLock<Option<Waker>>,
}

impl Default for Waiter {
    fn default() -> Self {
        Self { bucket: AtomicUsize::new(NOWHERE), waker: SpinLock::new(None) }
    }
}

impl Waiter {
    fn wake(&self) {
        self.bucket.store(NOWHERE, Ordering::Release);
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }

    /// Takes the entry out of its queue. Whether it was still there.
    fn leave(self: &Arc<Self>) -> bool {
        loop {
            let bucket = self.bucket.load(Ordering::Acquire);
            if bucket == NOWHERE {
                return false;
            }
            let mut entries = TABLE[bucket].0.entries.lock();
            // It may have been requeued or woken before the lock was taken.
            if self.bucket.load(Ordering::Acquire) == bucket {
                entries.retain(|entry| !Arc::ptr_eq(&entry.waiter, self));
                self.bucket.store(NOWHERE, Ordering::Release);
                return true;
            }
        }
    }
}

impl Key {
    fn bucket(&self) -> usize {
        // Fibonacci hashing: the top bits of the product depend on all bits below.
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let (first, second) = match *self {
            Self::Private { space, address } => (space as u64, address),
            Self::Shared { object, offset } => (object as u64, offset),
        };
        let mixed = (first.rotate_left(32) ^ second >> 2).wrapping_mul(GOLDEN);
        (mixed >> 56) as usize
    }

    fn lock(&self) -> Entries<'static> {
        TABLE[self.bucket()].0.entries.lock()
    }
}

/// A futex word in user memory, which may be away: only [`bring_in`](Self::bring_in) serves the fault, and is called without a lock.
pub trait Word: Sync {
    /// Its value; `None` while its page is away.
    fn peek(&self) -> Option<u32>;

    /// Makes it `new` if it is `old`. Returns the value found; `None` while its page is away or cannot be written.
    fn exchange(&self, old: u32, new: u32) -> Option<u32>;

    /// Makes its page accessible, for writing if asked, or says why that cannot be.
    fn bring_in(&self, write: bool) -> Result<(), Errno>;
}

/// `FUTEX_WAIT_BITSET`: waits for a wake with a common bit, if the word is `expected`.
///
/// # Errors
/// `EAGAIN` when it is not; `ETIMEDOUT`; `ERESTARTSYS` when interrupted; what `word` says.
pub async fn wait(
    thread: &Thread,
    key: Key,
    bitset: u32,
    word: &dyn Word,
    expected: u32,
    deadline: Option<u64>,
) -> Result<(), Errno> {
    let waiter = &thread.futex;
    let mut queued: Option<Queued<'_>> = None;
    let mut limit = Limit::new(thread, deadline);
    poll_fn(|context| {
        if queued.is_none() {
            enqueue(waiter, key, bitset, word, expected, context.waker())?;
            queued = Some(Queued(waiter));
        } else if waiter.bucket.load(Ordering::Acquire) == NOWHERE {
            return Poll::Ready(Ok(()));
        }
        let Poll::Ready(error) = limit.poll(context) else { return Poll::Pending };
        if !waiter.leave() {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(if error == Errno::EAGAIN { Errno::ETIMEDOUT } else { error }))
    })
    .await
}

/// Sees to it that the entry goes when the wait does.
struct Queued<'a>(&'a Arc<Waiter>);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

fn enqueue(
    waiter: &Arc<Waiter>,
    key: Key,
    bitset: u32,
    word: &dyn Word,
    expected: u32,
    waker: &Waker,
) -> Result<(), Errno> {
    *waiter.waker.lock() = Some(waker.clone());
    loop {
        let mut entries = key.lock();
        match word.peek() {
            Some(value) if value != expected => return Err(Errno::EAGAIN),
            Some(_) => {
                entries.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                entries.push(Entry { key, bitset, waiter: waiter.clone() });
                waiter.bucket.store(key.bucket(), Ordering::Release);
                return Ok(());
            }
            None => {}
        }
        drop(entries);
        word.bring_in(false)?;
    }
}

/// `FUTEX_WAKE_BITSET`: wakes up to `count` waiters that share a bit, those first that came first. Returns their number.
pub fn wake(key: Key, count: usize, bitset: u32) -> usize {
    wake_entries(&mut key.lock(), key, count, bitset)
}

fn wake_entries(entries: &mut Vec<Entry>, key: Key, count: usize, bitset: u32) -> usize {
    let mut woken = 0;
    entries.retain(|entry| {
        let wakes = woken < count && entry.key == key && entry.bitset & bitset != 0;
        if wakes {
            entry.waiter.wake();
            woken += 1;
        }
        !wakes
    });
    woken
}

/// The two buckets of two keys, which may be one.
struct Pair {
    first: Entries<'static>,
    second: Option<Entries<'static>>,
    swapped: bool,
}

impl Pair {
    fn lock(a: Key, b: Key) -> Self {
        let (a, b) = (a.bucket(), b.bucket());
        let first = TABLE[a.min(b)].0.entries.lock();
        let second = (a != b).then(|| TABLE[a.max(b)].0.entries.lock());
        Self { first, second, swapped: a > b }
    }

    /// The bucket of the first key.
    fn a(&mut self) -> &mut Vec<Entry> {
        match &mut self.second {
            Some(second) if self.swapped => second,
            _ => &mut self.first,
        }
    }

    /// The bucket of the second key.
    fn b(&mut self) -> &mut Vec<Entry> {
        match &mut self.second {
            Some(second) if !self.swapped => second,
            _ => &mut self.first,
        }
    }
}

/// `FUTEX_CMP_REQUEUE`: wakes up to `wake` waiters of `from` and has up to `requeue` others wait for `to` instead; with `compare`, only if
/// the word of `from` has that value. Returns how many were woken or moved.
///
/// # Errors
/// `EAGAIN` when the word has another value; what the word says.
pub fn requeue(
    from: Key,
    to: Key,
    wake: usize,
    requeue: usize,
    compare: Option<(&dyn Word, u32)>,
) -> Result<(usize, usize), Errno> {
    let mut pair = loop {
        let pair = Pair::lock(from, to);
        let Some((word, expected)) = compare else { break pair };
        match word.peek() {
            Some(value) if value == expected => break pair,
            Some(_) => return Err(Errno::EAGAIN),
            None => {
                drop(pair);
                word.bring_in(false)?;
            }
        }
    };
    let woken = wake_entries(pair.a(), from, wake, MATCH_ANY);
    if from == to {
        return Ok((woken, 0));
    }
    let mut moved = 0;
    while moved < requeue {
        let Some(at) = pair.a().iter().position(|entry| entry.key == from) else { break };
        pair.b().try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let entry = pair.a().remove(at);
        entry.waiter.bucket.store(to.bucket(), Ordering::Release);
        pair.b().push(Entry { key: to, ..entry });
        moved += 1;
    }
    Ok((woken, moved))
}

/// The operation of `FUTEX_WAKE_OP`, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeOperation {
    change: Change,
    argument: u32,
    comparison: Comparison,
    against: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Set,
    Add,
    Or,
    AndNot,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl WakeOperation {
    /// Decodes futex(2)'s `val3`.
    ///
    /// # Errors
    /// `ENOSYS` for an operation or comparison that there is not.
    pub fn decode(encoded: u32) -> Result<Self, Errno> {
        const ARGUMENT_IS_SHIFT: u32 = 1 << 31;
        // Twelve bits each, with their sign.
        let argument = (encoded << 8) as i32 >> 20;
        let argument = match encoded & ARGUMENT_IS_SHIFT {
            0 => argument as u32,
            _ => 1 << (argument & 31),
        };
        let change = match encoded >> 28 & 7 {
            0 => Change::Set,
            1 => Change::Add,
            2 => Change::Or,
            3 => Change::AndNot,
            4 => Change::Xor,
            _ => return Err(Errno::ENOSYS),
        };
        let comparison = match encoded >> 24 & 15 {
            0 => Comparison::Equal,
            1 => Comparison::NotEqual,
            2 => Comparison::Less,
            3 => Comparison::LessOrEqual,
            4 => Comparison::Greater,
            5 => Comparison::GreaterOrEqual,
            _ => return Err(Errno::ENOSYS),
        };
        Ok(Self { change, argument, comparison, against: (encoded << 20) as i32 >> 20 })
    }

    /// The word's new value.
    pub fn apply(&self, old: u32) -> u32 {
        match self.change {
            Change::Set => self.argument,
            Change::Add => old.wrapping_add(self.argument),
            Change::Or => old | self.argument,
            Change::AndNot => old & !self.argument,
            Change::Xor => old ^ self.argument,
        }
    }

    /// Whether the old value has the waiters of the second futex woken.
    pub fn holds(&self, old: u32) -> bool {
        let old = old as i32;
        match self.comparison {
            Comparison::Equal => old == self.against,
            Comparison::NotEqual => old != self.against,
            Comparison::Less => old < self.against,
            Comparison::LessOrEqual => old <= self.against,
            Comparison::Greater => old > self.against,
            Comparison::GreaterOrEqual => old >= self.against,
        }
    }
}

/// `FUTEX_WAKE_OP`: changes the word of `second`, wakes waiters of `first`, and those of `second` if the old value says so.
///
/// # Errors
/// What `word` says.
pub fn wake_op(
    (first, first_count): (Key, usize),
    (second, second_count): (Key, usize),
    operation: WakeOperation,
    word: &dyn Word,
) -> Result<usize, Errno> {
    let (mut pair, old) = loop {
        let pair = Pair::lock(first, second);
        let changed = word.peek().and_then(|old| Some((old, word.exchange(old, operation.apply(old))?)));
        match changed {
            Some((old, found)) if old == found => break (pair, old),
            Some(_) => {}
            None => {
                drop(pair);
                word.bring_in(true)?;
            }
        }
    };
    let mut woken = wake_entries(pair.a(), first, first_count, MATCH_ANY);
    if operation.holds(old) {
        woken += wake_entries(pair.b(), second, second_count, MATCH_ANY);
    }
    Ok(woken)
}

#[cfg(test)]
mod tests {
    use super::super::signal::{Signal, SignalInfo};
    use super::super::tests::{Running, process, run_as_thread};
    use super::*;
    use core::sync::atomic::AtomicU32;
    use proptest::prelude::*;

    fn key(address: u64) -> Key {
        // Tests run side by side: the test's own thread id keeps their futexes apart.
        Key::Private { space: crate::arch::core_id().0 as usize + 1, address }
    }

    /// A word that is always there.
    struct Present(Arc<AtomicU32>);

    impl Present {
        fn new(value: u32) -> Self {
            Self(Arc::new(AtomicU32::new(value)))
        }
    }

    impl Word for Present {
        fn peek(&self) -> Option<u32> {
            Some(self.0.load(Ordering::Relaxed))
        }

        fn exchange(&self, old: u32, new: u32) -> Option<u32> {
            let result = self.0.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
            Some(result.unwrap_or_else(|found| found))
        }

        fn bring_in(&self, _write: bool) -> Result<(), Errno> {
            unreachable!("it is there")
        }
    }

    /// A thread that waits while `word` is 0.
    fn waiter(
        key: Key,
        bitset: u32,
        word: &Arc<AtomicU32>,
        deadline: Option<u64>,
    ) -> (Arc<Thread>, Running<Result<(), Errno>>) {
        let thread = process().leader().unwrap();
        let (this, word) = (thread.clone(), Present(word.clone()));
        let running =
            run_as_thread(thread.clone(), async move { wait(&this, key, bitset, &word, 0, deadline).await });
        (thread, running)
    }

    #[test]
    fn a_word_that_has_changed_is_not_waited_for() {
        let word = Arc::new(AtomicU32::new(1));
        assert_eq!(waiter(key(0x10), MATCH_ANY, &word, None).1.result(), Some(Err(Errno::EAGAIN)));
    }

    #[test]
    fn wakes_go_to_those_that_came_first() {
        let word = Arc::new(AtomicU32::new(0));
        let waiters: Vec<_> = (0..3).map(|_| waiter(key(0x20), MATCH_ANY, &word, None).1).collect();
        waiters.iter().for_each(|w| assert_eq!(w.result(), None));
        assert_eq!(wake(key(0x20), 2, MATCH_ANY), 2);
        let results: Vec<_> = waiters.iter().map(Running::result).collect();
        assert_eq!(results, [Some(Ok(())), Some(Ok(())), None]);
        assert_eq!(wake(key(0x24), 9, MATCH_ANY), 0);
        assert_eq!(wake(key(0x20), 9, MATCH_ANY), 1);
    }

    #[test]
    fn a_wake_needs_a_common_bit() {
        let word = Arc::new(AtomicU32::new(0));
        let (_, running) = waiter(key(0x30), 0b10, &word, None);
        assert_eq!(running.result(), None);
        assert_eq!(wake(key(0x30), 1, 0b01), 0);
        assert_eq!(wake(key(0x30), 1, 0b11), 1);
        assert_eq!(running.result(), Some(Ok(())));
    }

    #[test]
    fn timeouts_and_signals_end_a_wait_and_leave_no_entry() {
        let word = Arc::new(AtomicU32::new(0));
        let deadline = crate::arch::now() + 1_000_000;
        let (_, running) = waiter(key(0x40), MATCH_ANY, &word, Some(deadline));
        assert_eq!(running.result_after(deadline), Err(Errno::ETIMEDOUT));
        let (thread, running) = waiter(key(0x40), MATCH_ANY, &word, None);
        assert_eq!(running.result(), None);
        thread.send_signal(SignalInfo::kernel(Signal::TERM)).unwrap();
        assert_eq!(running.result(), Some(Err(Errno::ERESTARTSYS)));
        assert_eq!(wake(key(0x40), 9, MATCH_ANY), 0);
    }

    #[test]
    fn requeued_waiters_wait_for_the_other_futex() {
        let word = Arc::new(AtomicU32::new(0));
        let waiters: Vec<_> = (0..4).map(|_| waiter(key(0x50), MATCH_ANY, &word, None).1).collect();
        waiters.iter().for_each(|w| assert_eq!(w.result(), None));
        let word = Present(word);
        assert_eq!(requeue(key(0x50), key(0x54), 1, 2, Some((&word, 7))), Err(Errno::EAGAIN));
        assert_eq!(requeue(key(0x50), key(0x54), 1, 2, Some((&word, 0))), Ok((1, 2)));
        assert_eq!(wake(key(0x50), 9, MATCH_ANY), 1);
        assert_eq!(wake(key(0x54), 1, MATCH_ANY), 1);
        let done = waiters.iter().filter(|w| w.result() == Some(Ok(()))).count();
        assert_eq!(done, 3);
        assert_eq!(wake(key(0x54), 9, MATCH_ANY), 1);
    }

    #[test]
    fn a_requeued_waiter_still_times_out() {
        let word = Arc::new(AtomicU32::new(0));
        let deadline = crate::arch::now() + 5_000_000;
        let (_, running) = waiter(key(0x60), MATCH_ANY, &word, Some(deadline));
        assert_eq!(running.result(), None);
        assert_eq!(requeue(key(0x60), key(0x164), 0, 9, None), Ok((0, 1)));
        assert_eq!(running.result_after(deadline), Err(Errno::ETIMEDOUT));
        assert_eq!(wake(key(0x164), 9, MATCH_ANY), 0);
    }

    #[test]
    fn wake_op_changes_one_word_and_wakes_on_two() {
        let word = Arc::new(AtomicU32::new(0));
        let (_, first) = waiter(key(0x70), MATCH_ANY, &word, None);
        let (_, second) = waiter(key(0x74), MATCH_ANY, &word, None);
        assert_eq!((first.result(), second.result()), (None, None));
        let target = Present::new(5);
        // FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_GT, 4)
        let operation = WakeOperation::decode(1 << 28 | 4 << 24 | 3 << 12 | 4).unwrap();
        assert_eq!(wake_op((key(0x70), 1), (key(0x74), 1), operation, &target), Ok(2));
        assert_eq!(target.peek(), Some(8));
        assert_eq!((first.result(), second.result()), (Some(Ok(())), Some(Ok(()))));
    }

    #[test]
    fn wake_operations_are_decoded_with_their_signs() {
        let negative = WakeOperation::decode(1 << 28 | 2 << 24 | 0xfff << 12 | 0xfff).unwrap();
        assert_eq!(negative.apply(5), 4);
        assert!(negative.holds(-2i32 as u32) && !negative.holds(0));
        let shift = WakeOperation::decode(1 << 31 | 2 << 28 | 5 << 12).unwrap();
        assert_eq!(shift.apply(1), 33);
        assert_eq!(WakeOperation::decode(5 << 28), Err(Errno::ENOSYS));
        assert_eq!(WakeOperation::decode(6 << 24), Err(Errno::ENOSYS));
    }

    /// A word whose page is away, at first also for writing.
    struct Away(SpinLock<(bool, bool, u32)>);

    impl Word for Away {
        fn peek(&self) -> Option<u32> {
            let (readable, _, value) = *self.0.lock();
            readable.then_some(value)
        }

        fn exchange(&self, old: u32, new: u32) -> Option<u32> {
            let (_, writable, value) = &mut *self.0.lock();
            let found = writable.then_some(*value)?;
            if found == old {
                *value = new;
            }
            Some(found)
        }

        fn bring_in(&self, write: bool) -> Result<(), Errno> {
            assert!(TABLE[key(0x80).bucket()].0.entries.try_lock().is_some());
            let (readable, writable, _) = &mut *self.0.lock();
            *readable = true;
            *writable |= write;
            Ok(())
        }
    }

    #[test]
    fn a_page_that_is_away_is_fetched_without_the_lock() {
        let (waiter, word) = (Arc::new(Waiter::default()), Away(SpinLock::new((false, false, 1))));
        assert_eq!(enqueue(&waiter, key(0x80), 1, &word, 0, Waker::noop()), Err(Errno::EAGAIN));
        let add_two = WakeOperation::decode(1 << 28 | 2 << 12).unwrap();
        assert_eq!(wake_op((key(0x80), 1), (key(0x80), 1), add_two, &word), Ok(0));
        assert_eq!(word.peek(), Some(3));
    }

    #[test]
    fn no_wake_is_lost_between_cores() {
        let (word, key) = (Arc::new(AtomicU32::new(0)), key(0x90));
        let changer = word.clone();
        let other = std::thread::spawn(move || {
            for _ in 0..500 {
                while changer.load(Ordering::SeqCst) != 0 {
                    std::thread::yield_now();
                }
                changer.store(1, Ordering::SeqCst);
                wake(key, 1, MATCH_ANY);
            }
        });
        for _ in 0..500 {
            let (_, running) = waiter(key, MATCH_ANY, &word, None);
            while running.result().is_none() {
                std::thread::yield_now();
            }
            while word.swap(0, Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
        }
        other.join().unwrap();
    }

    proptest! {
        /// Against a list of (futex, bits) in the order of arrival.
        #[test]
        fn queues_behave_like_a_list(operations in prop::collection::vec((0u8..4, 0u64..3, 0u64..3, 1u32..4, 0usize..3), 1..40)) {
            let at = |n: u64| key(0x1000 + n * 4);
            let mut model: Vec<(u64, u32)> = Vec::new();
            let mut waiters: Vec<Arc<Waiter>> = Vec::new();
            let word = Present::new(0);
            for (operation, a, b, bits, count) in operations {
                match operation {
                    0 | 1 => {
                        let waiter = Arc::new(Waiter::default());
                        enqueue(&waiter, at(a), bits, &word, 0, Waker::noop()).unwrap();
                        waiters.push(waiter);
                        model.push((a, bits));
                    }
                    2 => {
                        let mut left = count;
                        let before = model.len();
                        let keep: Vec<bool> = model.iter().map(|&(f, m)| {
                            let hit = f == a && m & bits != 0 && left > 0;
                            left -= usize::from(hit);
                            !hit
                        }).collect();
                        let mut flags = keep.iter();
                        model.retain(|_| *flags.next().unwrap());
                        let mut flags = keep.iter();
                        prop_assert_eq!(wake(at(a), count, bits), before - model.len());
                        for (waiter, kept) in waiters.iter().zip(&keep) {
                            prop_assert_eq!(waiter.bucket.load(Ordering::Relaxed) != NOWHERE, *kept);
                        }
                        waiters.retain(|_| *flags.next().unwrap());
                    }
                    _ if a != b => {
                        let moved = model.iter().filter(|&&(f, _)| f == a).count().min(count);
                        prop_assert_eq!(requeue(at(a), at(b), 0, count, None), Ok((0, moved)));
                        for _ in 0..moved {
                            let from = model.iter().position(|&(f, _)| f == a).unwrap();
                            let (_, bits) = model.remove(from);
                            model.push((b, bits));
                            let waiter = waiters.remove(from);
                            waiters.push(waiter);
                        }
                    }
                    _ => {}
                }
            }
            for waiter in &waiters {
                prop_assert!(waiter.leave());
            }
        }
    }
}

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
mod tests;

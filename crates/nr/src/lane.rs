//! A lane: the readers-writer lock of one replica on one log, which is also the combiner's.
//!
//! ```text
//!     word:  version | ABSENT | POISONED | LOGGED | LOCKED         slot 0   slot 1   slot 2   ...
//!                                                     ^               |        |
//!   a writer sets LOCKED, then waits for the slots ---'---------------+--------'
//!   that read; a reader says READING in its own slot, then looks at LOCKED, and retreats if it is set
//! ```
//!
//! The lock is *distributed*: readers write only to their own slot, so that reads by several cores share no line that is
//! written. It *prefers writers*: once LOCKED is set no new reader gets in. And since a thread that finds it taken leaves
//! its write in its slot for the holder to run, taking the lock is becoming the combiner. A reader that loses again and
//! again asks for the lock itself (WANTED) and is handed it, so it does not starve.
//!
//! Both sides first say what they are about to do and then look at the other; a sequentially consistent fence
//! between the two makes sure that at least one of them sees the other.
//!
//! Neighbours: [`crate::slot`] is the other half; [`crate::combine`] is what the holder does.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::ManuallyDrop;

use crate::backoff::Backoff;
use crate::command::Structure;
use crate::counters::LaneCounters;
use crate::hooks::Hooks;
use crate::pad::Padded;
use crate::slot::{self, Slot};
use crate::sync::{AtomicU32, AtomicUsize, Ordering, UnsafeCell, fence};

const LOCKED: u32 = 1;
/// Writes go through the log: there is another replica, or a recorder.
const LOGGED: u32 = 2;
/// A dispatch panicked here.
const POISONED: u32 = 4;
/// There is no replica here (yet, or any more).
const ABSENT: u32 = 8;
/// The lowest bit of the version, which counts the times that the lock was held for writing.
const VERSION: u32 = 16;

/// Why a lane cannot be locked at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Absent,
    Poisoned,
}

/// Why a lane was not locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Busy,
    Gone(Gone),
}

/// The writes that a combiner took along and has not answered yet, in the order of the log.
pub(crate) struct Batch {
    /// The slots they came from.
    pub(crate) members: Vec<usize>,
    /// How many of them were answered.
    pub(crate) answered: usize,
    /// The slot whose write is being run, and is lost should it panic.
    pub(crate) running: Option<usize>,
    /// The position of the first in the log.
    pub(crate) start: u64,
    /// The position of an operation on all logs.
    pub(crate) place: u64,
    /// That position was reserved, and is not filled yet.
    pub(crate) reserved: bool,
}

impl Batch {
    /// Notes the place of an operation on all logs.
    pub(crate) fn reserve(&mut self, place: u64) {
        self.place = place;
        self.reserved = true;
    }

    /// The place that was reserved, if it is not filled.
    pub(crate) fn take_reserved(&mut self) -> Option<u64> {
        core::mem::take(&mut self.reserved).then_some(self.place)
    }

    /// Where the writes that are not answered yet end in the log, if there are any.
    pub(crate) fn end(&self) -> Option<u64> {
        (self.answered < self.members.len()).then(|| self.start + self.members.len() as u64)
    }

    pub(crate) fn clear(&mut self) {
        self.members.clear();
        self.answered = 0;
    }

    /// The slot whose write is at `position` of the log, if it is one of the batch.
    pub(crate) fn member_at(&self, position: u64) -> Option<usize> {
        let next = *self.members.get(self.answered)?;
        (position == self.start + self.answered as u64).then_some(next)
    }
}

/// The lock word, the slots, and what belongs to the holder of the lock.
#[repr(C, align(128))]
pub(crate) struct Lane<S: Structure> {
    word: AtomicU32,
    /// All slots that are in use lie below. Changed under the lock.
    span: AtomicUsize,
    slots: Box<[Slot<S>]>,
    /// The holder's.
    batch: Padded<UnsafeCell<Batch>>,
    pub(crate) counters: Padded<LaneCounters>,
}

// SAFETY: `batch` belongs to the holder of the lock; the slots are `Sync`.
unsafe impl<S: Structure> Sync for Lane<S> {}
// SAFETY: a lane holds nothing that is bound to a thread.
unsafe impl<S: Structure> Send for Lane<S> {}

impl<S: Structure> Lane<S> {
    /// A lane with room for `slots` threads, of a replica that is not there yet.
    pub(crate) fn new(slots: usize) -> Self {
        let batch = Batch {
            members: Vec::with_capacity(slots),
            answered: 0,
            running: None,
            start: 0,
            place: 0,
            reserved: false,
        };
        Self {
            word: AtomicU32::new(ABSENT),
            span: AtomicUsize::new(0),
            slots: (0..slots).map(|_| Slot::new()).collect(),
            batch: Padded(UnsafeCell::new(batch)),
            counters: Padded::default(),
        }
    }

    #[inline(always)]
    pub(crate) fn slot(&self, seat: usize) -> &Slot<S> {
        &self.slots[seat]
    }

    pub(crate) fn slots(&self) -> &[Slot<S>] {
        &self.slots
    }

    /// Whether the replica is there and whole, as of now.
    pub(crate) fn gone(&self) -> Option<Gone> {
        gone(self.word.load(Ordering::Acquire))
    }

    // ---- readers

    /// Whether a writer is there, as of now.
    #[inline]
    pub(crate) fn locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) & LOCKED != 0
    }

    /// Says that `seat` reads, unless a writer is there or the replica is gone.
    #[inline(always)]
    pub(crate) fn try_read<'a>(&self, slot: &'a Slot<S>) -> Option<Reading<'a, S>> {
        slot.state.store(slot::READING, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let word = self.word.load(Ordering::Acquire);
        let reading = Reading { slot, word };
        (word & (LOCKED | POISONED | ABSENT) == 0).then_some(reading)
    }

    // ---- writers

    /// Takes the lock if it is free and writes do not go through the log: the short way for a lone replica.
    #[inline(always)]
    pub(crate) fn try_lock_unlogged(&self) -> Option<Locked<'_, S>> {
        let word = self.word.load(Ordering::Relaxed);
        if word & (LOCKED | LOGGED | POISONED | ABSENT) != 0 {
            return None;
        }
        self.acquire(word)
    }

    /// Takes the lock if it is free.
    #[inline]
    pub(crate) fn try_lock(&self) -> Result<Locked<'_, S>, Refused> {
        let word = self.word.load(Ordering::Acquire);
        if let Some(gone) = gone(word) {
            return Err(Refused::Gone(gone));
        }
        if word & LOCKED != 0 {
            return Err(Refused::Busy);
        }
        self.acquire(word).ok_or(Refused::Busy)
    }

    #[inline(always)]
    fn acquire(&self, word: u32) -> Option<Locked<'_, S>> {
        let taken = self.word.compare_exchange(word, word | LOCKED, Ordering::Acquire, Ordering::Relaxed);
        taken.ok().map(|_| Locked { lane: self })
    }

    /// Waits for the lock, of a poisoned lane too.
    pub(crate) fn lock_even_poisoned(&self, hooks: &impl Hooks) -> Locked<'_, S> {
        let mut round = 0;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & LOCKED == 0
                && let Some(locked) = self.acquire(word)
            {
                return locked;
            }
            hooks.relax(round);
            round = round.saturating_add(1);
        }
    }

    /// Waits for the lock.
    pub(crate) fn lock(&self, hooks: &impl Hooks) -> Result<Locked<'_, S>, Gone> {
        let mut wait = Backoff::new();
        loop {
            if wait.due() {
                match self.try_lock() {
                    Ok(locked) => return Ok(locked),
                    Err(Refused::Gone(gone)) => return Err(gone),
                    Err(Refused::Busy) => wait.looked(),
                }
            }
            wait.relax(hooks);
        }
    }

    /// Asks for the lock from `seat` until it is free or handed over.
    pub(crate) fn lock_fairly(&self, seat: usize, hooks: &impl Hooks) -> Result<Locked<'_, S>, Gone> {
        let slot = self.slot(seat);
        slot.state.store(slot::WANTED, Ordering::Release);
        let wish = Wish { lane: self, slot };
        let mut wait = Backoff::new();
        loop {
            if slot.state.load(Ordering::Acquire) == slot::GRANTED {
                return Ok(wish.granted());
            }
            if wait.due() {
                match self.try_lock() {
                    // Nobody else grants while we hold the lock.
                    Ok(locked) => return Ok(wish.withdrawn(locked)),
                    Err(Refused::Gone(gone)) => return Err(gone),
                    Err(Refused::Busy) => wait.looked(),
                }
            }
            wait.relax(hooks);
        }
    }

    /// Locks a lane whose replica is absent, to bring one in. The caller sees to it that nobody else does.
    pub(crate) fn lock_absent(&self) -> Locked<'_, S> {
        self.word.fetch_or(LOCKED, Ordering::Acquire);
        Locked { lane: self }
    }

    /// A second handle to a lock that the caller holds.
    ///
    /// # Safety
    /// The caller holds the lock, and drops no handle but one.
    pub(crate) unsafe fn held(&self) -> ManuallyDrop<Locked<'_, S>> {
        ManuallyDrop::new(Locked { lane: self })
    }
}

fn gone(word: u32) -> Option<Gone> {
    match word {
        word if word & POISONED != 0 => Some(Gone::Poisoned),
        word if word & ABSENT != 0 => Some(Gone::Absent),
        _ => None,
    }
}

/// A read in progress (or retreating: dropping it is both).
pub(crate) struct Reading<'a, S: Structure> {
    slot: &'a Slot<S>,
    word: u32,
}

impl<S: Structure> Reading<'_, S> {
    /// Whether writes go through the log.
    #[inline(always)]
    pub(crate) fn logged(&self) -> bool {
        self.word & LOGGED != 0
    }
}

impl<S: Structure> Drop for Reading<'_, S> {
    #[inline(always)]
    fn drop(&mut self) {
        self.slot.state.store(slot::IDLE, Ordering::Release);
    }
}

/// A thread's wish for the lock; dropping it (a hook panicked) takes it back.
struct Wish<'a, S: Structure> {
    lane: &'a Lane<S>,
    slot: &'a Slot<S>,
}

impl<'a, S: Structure> Wish<'a, S> {
    fn granted(self) -> Locked<'a, S> {
        let lane = self.lane;
        self.slot.state.store(slot::IDLE, Ordering::Relaxed);
        core::mem::forget(self);
        Locked { lane }
    }

    fn withdrawn(self, locked: Locked<'a, S>) -> Locked<'a, S> {
        self.slot.state.store(slot::IDLE, Ordering::Relaxed);
        core::mem::forget(self);
        locked
    }
}

impl<S: Structure> Drop for Wish<'_, S> {
    fn drop(&mut self) {
        let back =
            self.slot.state.compare_exchange(slot::WANTED, slot::IDLE, Ordering::Acquire, Ordering::Acquire);
        if back.is_err() {
            self.slot.state.store(slot::IDLE, Ordering::Relaxed);
            drop(Locked { lane: self.lane });
        }
    }
}

/// The right to write: the lock of a lane. Dropping it unlocks, or hands over.
pub(crate) struct Locked<'a, S: Structure> {
    lane: &'a Lane<S>,
}

impl<'a, S: Structure> Locked<'a, S> {
    #[inline(always)]
    pub(crate) fn lane(&self) -> &'a Lane<S> {
        self.lane
    }

    /// How many slots may be in use.
    #[inline(always)]
    pub(crate) fn span(&self) -> usize {
        self.lane.span.load(Ordering::Relaxed)
    }

    pub(crate) fn set_span(&self, span: usize) {
        self.lane.span.store(span, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn logged(&self) -> bool {
        self.lane.word.load(Ordering::Relaxed) & LOGGED != 0
    }

    pub(crate) fn set_logged(&self, logged: bool) {
        if logged { self.change(0, LOGGED) } else { self.change(LOGGED, 0) }
    }

    pub(crate) fn set_absent(&self, absent: bool) {
        if absent { self.change(POISONED | LOGGED, ABSENT) } else { self.change(ABSENT, 0) }
    }

    pub(crate) fn poison(&self) {
        self.change(0, POISONED);
    }

    fn change(&self, clear: u32, set: u32) {
        let word = self.lane.word.load(Ordering::Relaxed);
        self.lane.word.store(word & !clear | set, Ordering::Relaxed);
    }

    /// Notes that the data has changed, so that the next search for a thread to hand over to begins elsewhere.
    #[inline(always)]
    pub(crate) fn count_version(&self) {
        let word = self.lane.word.load(Ordering::Relaxed);
        self.lane.word.store(word.wrapping_add(VERSION), Ordering::Relaxed);
    }

    /// Waits until no thread but `own` reads. From then on nobody does until the lock is dropped.
    ///
    /// Returns whether some slot waits to be served.
    #[inline(always)]
    pub(crate) fn exclude_readers(&self, own: Option<usize>, hooks: &impl Hooks) -> bool {
        let span = self.span();
        // A thread alone cannot be in the way of itself.
        if span == 0 || (span == 1 && own == Some(0)) {
            return false;
        }
        fence(Ordering::SeqCst);
        let mut waiting = false;
        for seat in (0..span).filter(|&seat| own != Some(seat)) {
            let mut state = self.lane.slots[seat].state.load(Ordering::Acquire);
            let mut round = 0;
            while state == slot::READING {
                hooks.relax(round);
                round = round.saturating_add(1);
                state = self.lane.slots[seat].state.load(Ordering::Acquire);
            }
            waiting |= matches!(state, slot::POSTED | slot::WANTED);
        }
        waiting
    }

    /// Lends the batch.
    pub(crate) fn batch<R>(&self, f: impl FnOnce(&mut Batch) -> R) -> R {
        // SAFETY: the lock is held, and the closures given here do not nest.
        self.lane.batch.with_mut(|batch| f(unsafe { &mut *batch }))
    }

    /// Gives the lock to a thread that asked for it. Where the search begins moves on with every write.
    fn hand_over(&self) -> bool {
        let word = self.lane.word.load(Ordering::Relaxed);
        let (span, first) = (self.span(), (word / VERSION) as usize);
        gone(word).is_none() && (0..span).any(|step| grant(&self.lane.slots[(first + step) % span]))
    }

    /// Unlocks, but gives the lock to a thread that asks for it if there is one.
    pub(crate) fn unlock_fairly(self) {
        if self.hand_over() {
            core::mem::forget(self);
        }
    }
}

/// Hands the lock to the owner of `slot` if that is what it waits for.
fn grant<S: Structure>(slot: &Slot<S>) -> bool {
    slot.state.load(Ordering::Relaxed) == slot::WANTED
        && slot
            .state
            .compare_exchange(slot::WANTED, slot::GRANTED, Ordering::Release, Ordering::Relaxed)
            .is_ok()
}

impl<S: Structure> Drop for Locked<'_, S> {
    #[inline(always)]
    fn drop(&mut self) {
        let word = self.lane.word.load(Ordering::Relaxed);
        self.lane.word.store(word & !LOCKED, Ordering::Release);
    }
}

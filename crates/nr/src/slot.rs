//! A thread's slot: where it says that it reads, and where it leaves a write for a combiner.
//!
//! One atomic word carries both, so that a combiner that looks for readers to wait for and for writes to take along looks
//! at one cache line per thread:
//!
//! ```text
//!            .--- reads ----.                      .-- combiner --.
//!   IDLE --> READING --> IDLE      IDLE --> POSTED --> DONE --> IDLE      (or LOST, after a panic)
//!                                  IDLE --> WANTED --> GRANTED --> IDLE   (the lock, handed over)
//! ```
//!
//! The owner makes every step but those to DONE, LOST and GRANTED, which are the combiner's. The operation, and then its
//! response, lie in the slot itself if they are small, else on the owner's stack, which waits there.

use core::mem::{ManuallyDrop, MaybeUninit};

use crate::command::{Command, Structure};
use crate::sync::{AtomicU32, AtomicU64, Ordering, UnsafeCell};
use crate::tuning::{FOLLOWED_READS, TURNS};

/// Nothing goes on.
pub(crate) const IDLE: u32 = 0;
/// The owner reads, or is about to look whether it may.
pub(crate) const READING: u32 = 1;
/// A write waits for a combiner.
pub(crate) const POSTED: u32 = 2;
/// The write was run, its response is there.
pub(crate) const DONE: u32 = 3;
/// The combiner panicked after it took the write: there is no response.
pub(crate) const LOST: u32 = 4;
/// The owner has waited long for the lock.
pub(crate) const WANTED: u32 = 5;
/// The owner was given the lock.
pub(crate) const GRANTED: u32 = 6;

/// Room for small operations and responses, in words.
const INLINE: usize = 8;

/// An operation whose type is forgotten, in the place where its response will be.
pub(crate) struct Posted<S: Structure> {
    run: unsafe fn(*mut (), *mut S::Data),
    record: unsafe fn(*const ()) -> S::Entry,
    place: *mut (),
}

impl<S: Structure> Clone for Posted<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S: Structure> Copy for Posted<S> {}

impl<S: Structure> Posted<S> {
    /// Runs the operation and leaves the response in its place.
    ///
    /// # Safety
    /// Once per posted operation, by the holder of the lane's lock, with the data that the lock guards.
    pub(crate) unsafe fn run(&self, data: *mut S::Data) {
        // SAFETY: `Parcel::post` paired the function with the place; the rest is the caller's.
        unsafe { (self.run)(self.place, data) }
    }

    /// The operation's entry for the log.
    ///
    /// # Safety
    /// Before `run`, by the holder of the lane's lock.
    pub(crate) unsafe fn record(&self) -> S::Entry {
        // SAFETY: as for `run`.
        unsafe { (self.record)(self.place) }
    }
}

/// An operation, and after it was run, its response.
pub(crate) union Parcel<Op, Response> {
    op: ManuallyDrop<Op>,
    response: ManuallyDrop<Response>,
}

type ParcelOf<S, C> = Parcel<C, <C as Command<S>>::Response>;

/// # Safety
/// `place` points to a parcel that holds `C`; the lock that guards `data` is held.
unsafe fn run<S: Structure, C: Command<S>>(place: *mut (), data: *mut S::Data) {
    let parcel = place.cast::<ParcelOf<S, C>>();
    // SAFETY: the caller's promise. The operation is moved out, the response moved in.
    unsafe {
        let op = ManuallyDrop::take(&mut (*parcel).op);
        (*parcel).response = ManuallyDrop::new(op.run(data));
    }
}

/// # Safety
/// `place` points to a parcel that holds `C`.
unsafe fn record<S: Structure, C: Command<S>>(place: *const ()) -> S::Entry {
    // SAFETY: the caller's promise.
    unsafe { (*place.cast::<ParcelOf<S, C>>()).op.record() }
}

/// What a thread shares with the combiners of one lane.
#[repr(C, align(128))]
pub(crate) struct Slot<S: Structure> {
    pub(crate) state: AtomicU32,
    posted: UnsafeCell<MaybeUninit<Posted<S>>>,
    inline: UnsafeCell<MaybeUninit<[u64; INLINE]>>,
    // What the owner has done here; written by it alone, into a line that it has for itself.
    pub(crate) reads: AtomicU64,
    pub(crate) direct: AtomicU64,
    pub(crate) waits: AtomicU64,
    /// The owner's operations when it last served the others.
    served: AtomicU64,
    /// How many reads the owner may have done, to still follow.
    follows_until: AtomicU64,
}

impl<S: Structure> Slot<S> {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU32::new(IDLE),
            posted: UnsafeCell::new(MaybeUninit::uninit()),
            inline: UnsafeCell::new(MaybeUninit::uninit()),
            reads: AtomicU64::new(0),
            direct: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            served: AtomicU64::new(0),
            follows_until: AtomicU64::new(0),
        }
    }

    /// Where a parcel goes: into the slot if it fits, else to `outside`.
    pub(crate) fn place<C: Command<S>>(
        &self,
        outside: &mut MaybeUninit<ParcelOf<S, C>>,
    ) -> *mut ParcelOf<S, C> {
        let fits = const {
            size_of::<ParcelOf<S, C>>() <= INLINE * 8 && align_of::<ParcelOf<S, C>>() <= align_of::<u64>()
        };
        if fits { self.inline.with_mut(|place| place.cast()) } else { outside.as_mut_ptr() }
    }

    /// Leaves `op` at `place` for a combiner.
    ///
    /// # Safety
    /// By the owner, in state IDLE; `place` stays valid until the owner has taken the operation or its response.
    pub(crate) unsafe fn post<C: Command<S>>(&self, op: C, place: *mut ParcelOf<S, C>) {
        let posted = Posted { run: run::<S, C>, record: record::<S, C>, place: place.cast() };
        // SAFETY: no combiner touches an idle slot.
        unsafe {
            place.write(Parcel { op: ManuallyDrop::new(op) });
            self.posted.with_mut(|cell| (*cell).write(posted));
        }
        self.state.store(POSTED, Ordering::Release);
    }

    /// What was posted.
    ///
    /// # Safety
    /// By the holder of the lane's lock, which saw POSTED (Acquire) and has not answered yet.
    pub(crate) unsafe fn posted(&self) -> Posted<S> {
        // SAFETY: POSTED was seen, so `post` is over and the owner leaves the cell alone.
        self.posted.with(|cell| unsafe { (*cell).assume_init() })
    }

    /// Takes the response out of `place`.
    ///
    /// # Safety
    /// By the owner, which saw DONE (Acquire).
    pub(crate) unsafe fn take_response<C: Command<S>>(&self, place: *mut ParcelOf<S, C>) -> C::Response {
        self.state.store(IDLE, Ordering::Relaxed);
        // SAFETY: DONE was stored after the response was written. The cell is touched for the model checkers' sake.
        self.posted.with_mut(|_| unsafe { ManuallyDrop::into_inner((place.read()).response) })
    }

    /// Takes the operation back.
    ///
    /// # Safety
    /// By the owner, in state POSTED, when no combiner can come any more or the owner holds the lane's lock.
    pub(crate) unsafe fn withdraw<C: Command<S>>(&self, place: *mut ParcelOf<S, C>) -> C {
        self.state.store(IDLE, Ordering::Relaxed);
        // SAFETY: the operation was not taken, and cannot be.
        self.posted.with_mut(|_| unsafe { ManuallyDrop::into_inner((place.read()).op) })
    }
}

// ---- who runs whose writes

impl<S: Structure> Slot<S> {
    /// Whether the owner's last write was run by another thread, which may be expected to run the next one too.
    ///
    /// Not if the owner has read a lot since: where writes are rare, nobody comes by to run them.
    #[inline(always)]
    pub(crate) fn follows(&self) -> bool {
        self.reads.load(Ordering::Relaxed) < self.follows_until.load(Ordering::Relaxed)
    }

    /// Notes whether another thread has run the owner's write.
    pub(crate) fn follow(&self, follows: bool) {
        let until = if follows { self.reads.load(Ordering::Relaxed) + FOLLOWED_READS } else { 0 };
        self.follows_until.store(until, Ordering::Relaxed);
    }

    /// Whether it is time that the owner serves the other slots.
    ///
    /// Not at every write: a thread that has the lock's line, and the data, in its cache gets more done if it is let.
    /// Whoever waits is served after `TURNS` operations of the owner, or takes the lock when it is free.
    #[inline(always)]
    pub(crate) fn turn(&self) -> bool {
        let done = self.reads.load(Ordering::Relaxed) + self.direct.load(Ordering::Relaxed);
        let due = done - self.served.load(Ordering::Relaxed) >= TURNS;
        if due {
            self.served.store(done, Ordering::Relaxed);
        }
        due
    }
}

// SAFETY: `posted` and what it points to go from owner to combiner and back by the steps of `state`; operations
// and responses are `Send` (`Command`).
unsafe impl<S: Structure> Sync for Slot<S> {}
// SAFETY: as above; a slot holds no thread-bound state of its own.
unsafe impl<S: Structure> Send for Slot<S> {}

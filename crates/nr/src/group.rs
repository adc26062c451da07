//! The replicas of one structure and the logs between them: who is there, who comes and goes.
//!
//! ```text
//!              lane 0       lane 1                      a lane: lock, slots, combiner
//!   log 0 =======+============|=================>
//!   log 1 =======|============+=================>       each replica has a lane, and a cursor, on each log
//!                v            v
//!            [ replica: data, seats ]   [ replica ]   ...
//! ```
//!
//! All places for replicas, slots and log entries are made when the group is. A replica that is *absent* is a place
//! without data, whose cursors hold up nobody.
//!
//! Lock order: `admin`, then `recording`, then lanes of one replica by number, then `all_order`. Nobody waits for a lane while he holds a
//! lane of another replica or a higher one, and nobody waits for room in a log while he holds any lock.
//!
//! Neighbours: [`crate::port`], [`crate::combine`] and [`crate::all`] run operations; [`crate::node`] and [`crate::concurrent`] are the
//! public faces.

use alloc::boxed::Box;
use core::mem::MaybeUninit;

use crate::ReplicaId;
use crate::command::{Place, Structure};
use crate::counters::Counters;
use crate::error::{AddError, RegisterError, RemoveError};
use crate::hooks::Hooks;
use crate::lane::{Gone, Lane, Locked};
use crate::log::Log;
use crate::mutex::Mutex;
use crate::pad::Padded;
use crate::recorder::Recording;
use crate::sync::{AtomicBool, Ordering, UnsafeCell};

/// How much room a replicated structure has. Everything is allocated when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many replicas there can be at a time: NUMA nodes, usually.
    pub replicas: usize,
    /// How many threads can be registered with each replica: cores of a node, in a kernel.
    pub threads: usize,
    /// Entries that each log holds. Rounded up to a power of two, and to no less than twice `threads`.
    pub log_entries: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { replicas: 4, threads: 64, log_entries: 4096 }
    }
}

/// Where a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) replica: usize,
    pub(crate) lane: usize,
}

/// One replica, or a place for one.
pub(crate) struct Replica<S: Structure> {
    pub(crate) data: Place<S::Data>,
    pub(crate) lanes: Box<[Lane<S>]>,
    /// The slots that are taken.
    seats: Box<[AtomicBool]>,
    /// A dispatch panicked. Lanes other than the one where it happened learn it here.
    pub(crate) poisoned: Padded<AtomicBool>,
}

// SAFETY: the data is reached only by the rules of the lanes' locks, and is `Send + Sync`.
unsafe impl<S: Structure> Sync for Replica<S> {}
// SAFETY: as above.
unsafe impl<S: Structure> Send for Replica<S> {}

impl<S: Structure> Replica<S> {
    fn new(lanes: usize, threads: usize) -> Self {
        Self {
            data: UnsafeCell::new(MaybeUninit::uninit()),
            lanes: (0..lanes).map(|_| Lane::new(threads)).collect(),
            seats: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            poisoned: Padded(AtomicBool::new(false)),
        }
    }

    /// Lends the data to look at.
    ///
    /// # Safety
    /// The caller holds a lane's lock, or reads (`Reading`), and the replica is present.
    #[inline(always)]
    pub(crate) unsafe fn look<R>(&self, f: impl FnOnce(&S::Data) -> R) -> R {
        // SAFETY: the caller's promise.
        self.data.with(|data| f(unsafe { (*data).assume_init_ref() }))
    }

    fn present(&self) -> bool {
        self.lanes[0].gone() != Some(Gone::Absent)
    }

    /// Takes a free seat.
    fn sit(&self) -> Option<usize> {
        self.seats.iter().position(|seat| !seat.swap(true, Ordering::AcqRel))
    }

    fn seats_taken(&self) -> usize {
        let taken = |seat: &AtomicBool| seat.load(Ordering::Acquire);
        self.seats.iter().rposition(taken).map_or(0, |last| last + 1)
    }
}

/// The replicas of one structure, and the logs between them.
pub(crate) struct Group<S: Structure, H> {
    pub(crate) hooks: H,
    pub(crate) logs: Box<[Log<S::Entry>]>,
    pub(crate) replicas: Box<[Replica<S>]>,
    /// Held by whoever adds or removes a replica or a recorder.
    pub(crate) admin: Mutex<()>,
    /// Held while an operation that goes to all logs reserves its places, so that all logs have such operations
    /// in the same order.
    pub(crate) all_order: Mutex<()>,
    /// Whether there is a recorder; held while it drains.
    pub(crate) recording: Mutex<Recording>,
}

impl<S: Structure, H: Hooks> Group<S, H> {
    /// A group with `data` as its replica 0.
    pub(crate) fn new(config: Config, lanes: usize, data: S::Data, hooks: H) -> Self {
        let replicas = config.replicas.max(1);
        let threads = config.threads.max(1);
        let entries = config.log_entries.max(2 * threads).next_power_of_two();
        let group = Self {
            hooks,
            // One cursor more, for a recorder.
            logs: (0..lanes.max(1)).map(|_| Log::new(entries, replicas + 1)).collect(),
            replicas: (0..replicas).map(|_| Replica::new(lanes.max(1), threads)).collect(),
            admin: Mutex::new(()),
            all_order: Mutex::new(()),
            recording: Mutex::new(Recording::Off),
        };
        group.bring_in(0, data, |log| log.tail(), false);
        group
    }

    #[inline(always)]
    pub(crate) fn lane(&self, at: At) -> &Lane<S> {
        &self.replicas[at.replica].lanes[at.lane]
    }

    pub(crate) fn at(&self, replica: usize) -> impl Iterator<Item = At> + use<S, H> {
        (0..self.logs.len()).map(move |lane| At { replica, lane })
    }

    /// Waits for a lane's lock.
    pub(crate) fn lock(&self, at: At) -> Result<Locked<'_, S>, Gone> {
        let locked = self.lane(at).lock(&self.hooks)?;
        self.check(at, locked)
    }

    /// Passes on to this lane that the replica was poisoned in another.
    #[inline(always)]
    pub(crate) fn check<'a>(&self, at: At, locked: Locked<'a, S>) -> Result<Locked<'a, S>, Gone> {
        if S::SEVERAL_LANES && self.replicas[at.replica].poisoned.load(Ordering::Acquire) {
            locked.poison();
            self.logs[at.lane].deactivate(at.replica);
            return Err(Gone::Poisoned);
        }
        Ok(locked)
    }

    /// Fills an absent place. `admin` is held, or the group is new.
    fn bring_in(&self, replica: usize, data: S::Data, cursor: impl Fn(&Log<S::Entry>) -> u64, logged: bool) {
        let place = &self.replicas[replica];
        // SAFETY: nobody looks at an absent replica's data.
        place.data.with_mut(|cell| unsafe {
            (*cell).write(data);
        });
        place.poisoned.store(false, Ordering::Release);
        for at in self.at(replica) {
            let log = &self.logs[at.lane];
            log.set_cursor(replica, cursor(log));
            let locked = self.lane(at).lock_absent();
            locked.set_logged(logged);
            locked.set_absent(false);
        }
    }

    /// Adds a replica that begins as what `copy` makes of a live one.
    ///
    /// The live one stands still meanwhile; the others go on until the log is full.
    pub(crate) fn add(&self, copy: impl FnOnce(&S::Data) -> S::Data) -> Result<ReplicaId, AddError> {
        let _admin = self.admin.lock(&self.hooks);
        let free = self.replicas.iter().position(|replica| !replica.present()).ok_or(AddError::Full)?;
        let (source, locked) = self.lock_some_replica().ok_or(AddError::Poisoned)?;
        // SAFETY: all lanes are locked, so nobody writes.
        let data = unsafe { self.replicas[source].look(copy) };
        // The source stands at these cursors, and holds them while the new ones are set.
        self.bring_in(free, data, |log| log.cursor(source), true);
        locked.set_logged(true);
        Ok(ReplicaId(free))
    }

    /// Locks all lanes of a live replica.
    pub(crate) fn lock_some_replica(&self) -> Option<(usize, crate::all::AllLocked<'_, S, H>)> {
        (0..self.replicas.len()).find_map(|replica| Some((replica, self.lock_all(replica).ok()?)))
    }

    /// Takes a replica out and gives its data back. It must have no threads.
    pub(crate) fn remove(&self, replica: ReplicaId) -> Result<S::Data, RemoveError> {
        let _admin = self.admin.lock(&self.hooks);
        let place =
            self.replicas.get(replica.0).filter(|place| place.present()).ok_or(RemoveError::Absent)?;
        let others = self.present_count() - 1;
        if others == 0 {
            return Err(RemoveError::Last);
        }
        let locked = self.lock_all_even_poisoned(replica.0);
        if place.seats_taken() > 0 {
            return Err(RemoveError::InUse);
        }
        locked.for_each(|at, lane| {
            self.logs[at.lane].deactivate(at.replica);
            lane.set_absent(true);
        });
        // SAFETY: all lanes are locked and the place is absent: the data is ours.
        let data = place.data.with_mut(|cell| unsafe { (*cell).assume_init_read() });
        drop(locked);
        self.relax_logging();
        Ok(data)
    }

    pub(crate) fn present_count(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.present()).count()
    }

    /// Bypasses the logs again when a replica is alone. `admin` is held.
    pub(crate) fn relax_logging(&self) {
        let recorded = self.logs[0].active(self.replicas.len());
        if self.present_count() != 1 || recorded {
            return;
        }
        while let Some((replica, locked)) = self.lock_some_replica() {
            // Nobody else appends any more; what the replica still has to apply, it applies first.
            self.drain_all(&locked);
            if self.at(replica).all(|at| self.caught_up(at)) {
                locked.set_logged(false);
                return;
            }
        }
    }

    fn caught_up(&self, at: At) -> bool {
        self.logs[at.lane].cursor(at.replica) == self.logs[at.lane].tail()
    }

    /// Registers a thread with a replica: gives it a seat, which is a slot in every lane.
    pub(crate) fn register(&self, replica: ReplicaId) -> Result<usize, RegisterError> {
        let place = self.replicas.get(replica.0).ok_or(RegisterError::Absent)?;
        let seat = place.sit().ok_or(RegisterError::Full)?;
        for at in self.at(replica.0) {
            let Ok(locked) = self.lock(at) else {
                self.deregister(replica.0, seat);
                return Err(RegisterError::Absent);
            };
            locked.set_span(locked.span().max(seat + 1));
        }
        Ok(seat)
    }

    /// Gives a seat back.
    pub(crate) fn deregister(&self, replica: usize, seat: usize) {
        let place = &self.replicas[replica];
        place.seats[seat].store(false, Ordering::Release);
        for at in self.at(replica) {
            if let Ok(locked) = self.lock(at) {
                // A seat that is taken meanwhile raises the span itself, after us.
                locked.set_span(place.seats_taken());
            }
        }
    }

    /// Brings a replica up to the tails of the logs as of now.
    pub(crate) fn sync(&self, replica: ReplicaId) -> Result<(), Gone> {
        let place = self.replicas.get(replica.0).ok_or(Gone::Absent)?;
        for at in self.at(replica.0) {
            self.catch_up(at, None, self.logs[at.lane].tail())?;
        }
        place.lanes[0].gone().map_or(Ok(()), Err)
    }

    /// What a replica did so far; all zero for one that is not there.
    pub(crate) fn counters(&self, replica: ReplicaId) -> Counters {
        let mut sum = Counters::default();
        let Some(place) = self.replicas.get(replica.0).filter(|place| place.present()) else { return sum };
        for (lane, log) in place.lanes.iter().zip(&self.logs) {
            if log.active(replica.0) {
                let position = log.cursor(replica.0);
                sum.position += position;
                sum.lag += log.tail().saturating_sub(position);
            }
            lane.counters.add_to(&mut sum);
            for slot in lane.slots() {
                sum.reads += slot.reads.load(Ordering::Relaxed);
                sum.direct += slot.direct.load(Ordering::Relaxed);
                sum.waits += slot.waits.load(Ordering::Relaxed);
            }
        }
        sum
    }
}

impl<S: Structure, H> Drop for Group<S, H> {
    fn drop(&mut self) {
        for replica in self.replicas.iter().filter(|replica| replica.present()) {
            // SAFETY: a present replica has data, and nobody else is left.
            replica.data.with_mut(|data| unsafe { (*data).assume_init_drop() });
        }
    }
}

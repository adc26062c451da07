//! Operations that go to all logs, and what they do to those that go to one.
//!
//! ```text
//!   log 0   ... a  b  ALL  c ...        the operation lies in log 0; the other logs have a barrier in its place
//!   log 1   ... d  BARRIER  e f ...     a lane that comes to one stops there
//! ```
//!
//! Such an operation is applied with all lanes of a replica locked, when each has reached it: after everything before it in
//! every log, before everything behind it. The places in the logs are reserved under one lock (`all_order`), so
//! that two such operations are in the same order everywhere. Whoever comes to a barrier with one lane in hand lets go and
//! takes all of them, in ascending order.
//!
//! Neighbours: [`crate::combine`] handles a single lane; [`crate::group`] uses [`AllLocked`] to copy replicas.

use crate::combine::{Danger, Reached};
use crate::command::{Command, Structure};
use crate::counters::add;
use crate::group::{At, Group};
use crate::hooks::Hooks;
use crate::lane::{Gone, Locked};
use crate::log::{Full, Kind};
use crate::slot;
use crate::structure::Read;
use crate::sync::Ordering;
use crate::tuning::READ_TRIES;

/// All lanes of a replica, locked. Dropping it unlocks them.
pub(crate) struct AllLocked<'a, S: Structure, H: Hooks> {
    group: &'a Group<S, H>,
    replica: usize,
    /// Lanes locked so far.
    lanes: usize,
}

impl<'a, S: Structure, H: Hooks> AllLocked<'a, S, H> {
    fn held(&self, lane: usize) -> core::mem::ManuallyDrop<Locked<'a, S>> {
        debug_assert!(lane < self.lanes);
        // SAFETY: we hold it, and our own drop is the one that unlocks.
        unsafe { self.group.lane(At { replica: self.replica, lane }).held() }
    }

    /// Visits every lane that is locked.
    pub(crate) fn for_each(&self, mut f: impl FnMut(At, &Locked<'a, S>)) {
        for lane in 0..self.lanes {
            f(At { replica: self.replica, lane }, &self.held(lane));
        }
    }

    pub(crate) fn set_logged(&self, logged: bool) {
        self.for_each(|_, lane| lane.set_logged(logged));
    }

    fn exclude_readers(&self) {
        self.for_each(|_, lane| {
            lane.exclude_readers(None, &self.group.hooks);
        });
    }
}

impl<S: Structure, H: Hooks> Drop for AllLocked<'_, S, H> {
    fn drop(&mut self) {
        for lane in 0..self.lanes {
            core::mem::ManuallyDrop::into_inner(self.held(lane)).unlock_fairly();
        }
    }
}

/// Dropped only when an operation on everything panics: poisons every lane.
struct AllDanger<'l, 'a, S: Structure, H: Hooks>(&'l AllLocked<'a, S, H>);

impl<S: Structure, H: Hooks> Drop for AllDanger<'_, '_, S, H> {
    fn drop(&mut self) {
        let group = self.0.group;
        self.0.for_each(|at, locked| drop(Danger { group, at, locked }));
    }
}

impl<S: Structure, H: Hooks> Group<S, H> {
    /// Waits for all lanes of a replica.
    pub(crate) fn lock_all(&self, replica: usize) -> Result<AllLocked<'_, S, H>, Gone> {
        let mut all = AllLocked { group: self, replica, lanes: 0 };
        for at in self.at(replica) {
            core::mem::forget(self.lock(at)?);
            all.lanes += 1;
        }
        Ok(all)
    }

    /// Waits for all lanes of a replica, whether poisoned or not.
    pub(crate) fn lock_all_even_poisoned(&self, replica: usize) -> AllLocked<'_, S, H> {
        let mut all = AllLocked { group: self, replica, lanes: 0 };
        for at in self.at(replica) {
            core::mem::forget(self.lane(at).lock_even_poisoned(&self.hooks));
            all.lanes += 1;
        }
        all
    }

    /// Takes a replica past the barriers that are in its way.
    #[cold]
    pub(crate) fn pass(&self, replica: usize) -> Result<(), Gone> {
        let all = self.lock_all(replica)?;
        self.drain_all(&all);
        Ok(())
    }

    /// Applies all logs up to their tails as of now, or to entries that are not published yet.
    pub(crate) fn drain_all(&self, all: &AllLocked<'_, S, H>) {
        while self.drain_to_barrier(all, |lane| self.logs[lane].tail(), false) {
            self.pass_barrier(all);
        }
    }

    /// Applies every log up to its target. Returns true when all lanes have come to the same barrier instead.
    fn drain_to_barrier(&self, all: &AllLocked<'_, S, H>, target: impl Fn(usize) -> u64, wait: bool) -> bool {
        let mut round = 0;
        loop {
            let mut stopped = 0;
            all.for_each(|at, locked| {
                stopped +=
                    usize::from(self.drain(at, locked, None, target(at.lane), wait) == Reached::Barrier);
            });
            if stopped == 0 || stopped == self.logs.len() {
                return stopped > 0;
            }
            // The other barriers were reserved before this one was published; their marks will come.
            self.hooks.relax(round);
            round = round.saturating_add(1);
        }
    }

    /// Replays the operation at which all lanes stand.
    fn pass_barrier(&self, all: &AllLocked<'_, S, H>) {
        all.exclude_readers();
        let danger = AllDanger(all);
        let position = self.logs[0].cursor(all.replica);
        S::locked(&self.replicas[all.replica].data, |data| {
            // SAFETY: the entry is published, our cursor stands at it, and all lanes are locked.
            unsafe { self.logs[0].with_entry(position, |entry| S::replay(data.cast(), entry)) }
        });
        core::mem::forget(danger);
        all.for_each(|at, locked| {
            let log = &self.logs[at.lane];
            log.set_cursor(at.replica, log.cursor(at.replica) + 1);
            locked.count_version();
        });
    }

    /// Runs a write that goes to all logs.
    pub(crate) fn write_all<C: Command<S>>(&self, replica: usize, seat: usize, op: C) -> C::Response {
        let first = At { replica, lane: 0 };
        let mut recorded = None;
        loop {
            let all = match self.lock_all(replica) {
                Ok(all) => all,
                Err(gone) => self.complain(first, gone),
            };
            if all.held(0).logged() {
                // Recorded before anything is reserved, so that a panic in there costs nobody anything.
                let entry = recorded.take().unwrap_or_else(|| op.record());
                if let Err((at, full, entry)) = self.append_to_all(&all, entry) {
                    recorded = Some(entry);
                    drop(all);
                    self.relieve(at, full);
                    continue;
                }
                self.drain_to_own(&all);
            }
            add(&self.lane(first).slot(seat).direct, 1);
            return self.run_all(&all, op);
        }
    }

    /// Runs a write with all lanes locked and, if logged, standing at its places; and steps over them.
    fn run_all<C: Command<S>>(&self, all: &AllLocked<'_, S, H>, op: C) -> C::Response {
        all.exclude_readers();
        let danger = AllDanger(all);
        // SAFETY: all lanes are locked, and the readers are gone.
        let response = S::locked(&self.replicas[all.replica].data, |data| unsafe { op.run(data.cast()) });
        core::mem::forget(danger);
        all.for_each(|at, locked| {
            let log = &self.logs[at.lane];
            if locked.logged() {
                log.set_cursor(at.replica, log.cursor(at.replica) + 1);
            }
            locked.count_version();
        });
        response
    }

    /// Gives `entry` a place in every log, or says which log is full.
    fn append_to_all(&self, all: &AllLocked<'_, S, H>, entry: S::Entry) -> Result<(), (At, Full, S::Entry)> {
        let order = self.all_order.lock(&self.hooks);
        let places = Places(all);
        let mut failed = None;
        all.for_each(|at, locked| {
            if failed.is_none() {
                match self.logs[at.lane].reserve(1, at.replica) {
                    Ok(place) => locked.batch(|batch| batch.reserve(place)),
                    Err(full) => failed = Some((at, full)),
                }
            }
        });
        drop(order);
        if let Some((at, full)) = failed {
            return Err((at, full, entry));
        }
        let mut entry = Some(entry);
        all.for_each(|at, locked| {
            let (log, place) = (&self.logs[at.lane], locked.batch(|batch| batch.place));
            match entry.take() {
                // SAFETY: reserved above, and filled here only.
                Some(entry) => unsafe { log.fill(place, Kind::All, || entry) },
                // SAFETY: as above.
                None => unsafe { log.fill_without_entry(place, Kind::Barrier) },
            }
            locked.batch(|batch| batch.reserved = false);
        });
        drop(places);
        Ok(())
    }

    /// Applies all that comes before the places that `append_to_all` got.
    fn drain_to_own(&self, all: &AllLocked<'_, S, H>) {
        while self.drain_to_barrier(all, |lane| all.held(lane).batch(|batch| batch.place), true) {
            self.pass_barrier(all);
        }
    }

    // ---- reads

    /// Runs a read that sees the whole structure at one point in time.
    pub(crate) fn read_all<R: Read<S::Data>>(&self, replica: usize, seat: usize, op: R) -> R::Response {
        let first = At { replica, lane: 0 };
        for round in 0..READ_TRIES {
            if let Some(reading) = self.try_read_all(replica, seat) {
                if self.all_new(replica, reading.logged) {
                    // SAFETY: no writer passes `ReadingAll`.
                    let response = unsafe { self.replicas[replica].look(|data| op.read(data)) };
                    add(&self.lane(first).slot(seat).reads, 1);
                    return response;
                }
                drop(reading);
                for at in self.at(replica) {
                    // If the replica is gone, the next attempt ends here.
                    let _ = self.catch_up(at, None, self.logs[at.lane].tail());
                }
            } else if let Some(gone) = self.at(replica).find_map(|at| self.lane(at).gone()) {
                self.complain(first, gone)
            } else {
                self.hooks.relax(round);
            }
        }
        self.read_all_locked(replica, seat, op)
    }

    /// Whether nothing was completed in any log that the replica does not have.
    ///
    /// The replica stands still while this looks at one log after another. So if each has nothing new when its turn
    /// comes, all had nothing new when the first was looked at, and that is the point in time which the read sees.
    fn all_new(&self, replica: usize, logged: bool) -> bool {
        !logged || self.logs.iter().all(|log| log.nothing_new(log.place(replica)))
    }

    fn read_all_locked<R: Read<S::Data>>(&self, replica: usize, seat: usize, op: R) -> R::Response {
        let first = At { replica, lane: 0 };
        let all = match self.lock_all(replica) {
            Ok(all) => all,
            Err(gone) => self.complain(first, gone),
        };
        while !self.all_new(replica, all.held(0).logged()) {
            self.drain_all(&all);
        }
        add(&self.lane(first).slot(seat).reads, 1);
        // SAFETY: all lanes are locked, and this thread does not write.
        unsafe { self.replicas[replica].look(|data| op.read(data)) }
    }

    /// Says in every lane that `seat` reads, unless a writer is in one of them.
    fn try_read_all(&self, replica: usize, seat: usize) -> Option<ReadingAll<'_, S, H>> {
        let mut reading = ReadingAll { group: self, replica, seat, lanes: 0, logged: false };
        for at in self.at(replica) {
            let lane = self.lane(at);
            let one = lane.try_read(lane.slot(seat))?;
            reading.logged = one.logged();
            core::mem::forget(one);
            reading.lanes += 1;
        }
        let poisoned = self.replicas[replica].poisoned.load(Ordering::Acquire);
        (!poisoned).then_some(reading)
    }
}

/// A read of the whole structure in progress. Dropping it ends it.
struct ReadingAll<'a, S: Structure, H: Hooks> {
    group: &'a Group<S, H>,
    replica: usize,
    seat: usize,
    lanes: usize,
    logged: bool,
}

impl<S: Structure, H: Hooks> Drop for ReadingAll<'_, S, H> {
    fn drop(&mut self) {
        for lane in 0..self.lanes {
            let lane = self.group.lane(At { replica: self.replica, lane });
            lane.slot(self.seat).state.store(slot::IDLE, Ordering::Release);
        }
    }
}

/// The places of an operation in all logs. Dropping it makes void what was reserved and not filled.
struct Places<'l, 'a, S: Structure, H: Hooks>(&'l AllLocked<'a, S, H>);

impl<S: Structure, H: Hooks> Drop for Places<'_, '_, S, H> {
    fn drop(&mut self) {
        self.0.for_each(|at, locked| {
            if let Some(place) = locked.batch(|batch| batch.take_reserved()) {
                // SAFETY: reserved by us, and not filled.
                unsafe { self.0.group.logs[at.lane].fill_without_entry(place, Kind::Void) };
            }
        });
    }
}

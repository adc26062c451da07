//! The combiner: what the holder of a lane's lock does.
//!
//! ```text
//!   thread 0   post --.                                    .--> response
//!   thread 1   post --+--> combiner:                       +--> response
//!   thread 2   post --'     reserve n places in the log    |
//!                           record n entries, mark them    |
//!                           apply the log up to them ------'   (own entries are run as operations,
//!                           unlock, or hand over                those of other replicas are replayed)
//! ```
//!
//! While there is one replica the log is left out: the holder runs its own write, and then those that wait in the slots.
//! A thread that is alone with its replica has nobody to look for, so for it a write is: lock, run, unlock.
//!
//! Nobody waits for room in the log with a lock in hand: whoever finds the log full lets go, brings the slowest replica
//! forward, and begins again. So a replica that nobody uses holds nobody up, and a full log always makes progress.
//!
//! Neighbours: [`crate::port`] comes here with the lock; [`crate::log`] is the log; [`crate::all`] continues where an operation goes to
//! all logs.

use crate::ReplicaId;
use crate::command::Structure;
use crate::group::{At, Group};
use crate::hooks::Hooks;
use crate::lane::{Gone, Locked, Refused};
use crate::log::{Full, Kind};
use crate::slot;
use crate::sync::Ordering;

/// How far applying the log came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// As far as was asked.
    Target,
    /// An entry that its writer has not published yet.
    Gap,
    /// An operation on all logs, for which the other lanes are needed.
    Barrier,
}

/// How a combiner's round ended.
enum Round {
    Over,
    /// Writes are waiting, but the log is full.
    Full(Full),
    /// Writes are waiting behind an operation on all logs.
    Barrier,
}

impl<S: Structure, H: Hooks> Group<S, H> {
    /// Serves all slots, unlocks, and then does what can only be done without the lock.
    pub(crate) fn combine(&self, at: At, locked: Locked<'_, S>, own: Option<usize>) {
        let round = if locked.logged() {
            self.serve_logged(at, &locked, own)
        } else {
            locked.exclude_readers(own, &self.hooks);
            self.serve(at, &locked);
            Round::Over
        };
        locked.unlock_fairly();
        match round {
            Round::Over => {}
            Round::Full(full) => self.relieve(at, full),
            // If the replica is gone, its threads learn it from the lane.
            Round::Barrier => drop(self.pass(at.replica)),
        }
    }

    /// Runs what waits in the slots, without the log.
    pub(crate) fn serve(&self, at: At, locked: &Locked<'_, S>) {
        let mut served = 0;
        for seat in 0..locked.span() {
            if locked.lane().slot(seat).state.load(Ordering::Acquire) == slot::POSTED {
                self.answer(at, locked, seat);
                served += 1;
            }
        }
        if served > 0 {
            locked.lane().counters.count_batch(served);
            locked.count_version();
        }
    }

    /// Runs the write that waits in `seat` and answers it. Readers are excluded.
    fn answer(&self, at: At, locked: &Locked<'_, S>, seat: usize) {
        let slot = locked.lane().slot(seat);
        locked.batch(|batch| batch.running = Some(seat));
        let danger = Danger { group: self, at, locked };
        // SAFETY: the caller saw POSTED, and holds the lock; the readers are gone.
        S::locked(&self.replicas[at.replica].data, |data| unsafe { slot.posted().run(data.cast()) });
        core::mem::forget(danger);
        locked.batch(|batch| batch.running = None);
        slot.state.store(slot::DONE, Ordering::Release);
    }

    /// Appends what waits in the slots to the log, and applies the log up to there.
    fn serve_logged(&self, at: At, locked: &Locked<'_, S>, own: Option<usize>) -> Round {
        let log = &self.logs[at.lane];
        // A batch may be left over that was stopped by a barrier.
        let left = locked.batch(|batch| batch.end());
        if let Some(end) = left
            && self.drain(at, locked, own, end, true) == Reached::Barrier
        {
            return Round::Barrier;
        }
        let count = self.collect(locked);
        if count == 0 {
            return match self.drain(at, locked, own, log.bound(log.place(at.replica)), false) {
                Reached::Barrier => Round::Barrier,
                _ => Round::Over,
            };
        }
        let start = match log.reserve(count as u64, at.replica) {
            Ok(start) => start,
            Err(full) => {
                locked.batch(|batch| batch.clear());
                return match self.drain(at, locked, own, log.tail(), false) {
                    Reached::Barrier => Round::Barrier,
                    _ => Round::Full(full),
                };
            }
        };
        self.record(at, locked, start);
        locked.lane().counters.count_batch(count);
        match self.drain(at, locked, own, start + count as u64, true) {
            Reached::Barrier => Round::Barrier,
            _ => Round::Over,
        }
    }

    /// Makes a batch of what waits in the slots.
    fn collect(&self, locked: &Locked<'_, S>) -> usize {
        locked.batch(|batch| {
            batch.clear();
            let posted =
                |&seat: &usize| locked.lane().slot(seat).state.load(Ordering::Acquire) == slot::POSTED;
            batch.members.extend((0..locked.span()).filter(posted));
            batch.members.len()
        })
    }

    /// Publishes the batch in the log, from `start` on.
    fn record(&self, at: At, locked: &Locked<'_, S>, start: u64) {
        let danger = Danger { group: self, at, locked };
        let log = &self.logs[at.lane];
        let count = locked.batch(|batch| {
            batch.start = start;
            batch.members.len()
        });
        let mut filling = Filling { log, next: start, end: start + count as u64 };
        for index in 0..count {
            let seat = locked.batch(|batch| batch.members[index]);
            // SAFETY: the position was reserved here; the slot was POSTED, and its write was not run yet.
            unsafe {
                log.fill(filling.next, Kind::One, || locked.lane().slot(seat).posted().record());
            }
            filling.next += 1;
        }
        core::mem::forget(danger);
    }

    /// Applies the log up to `target`, excluding readers other than `own` first if there is anything to apply. Stops at an
    /// unpublished entry, unless it shall `wait` for it.
    pub(crate) fn drain(
        &self,
        at: At,
        locked: &Locked<'_, S>,
        own: Option<usize>,
        target: u64,
        wait: bool,
    ) -> Reached {
        let log = &self.logs[at.lane];
        let mut position = log.cursor(at.replica);
        if position >= target {
            return Reached::Target;
        }
        locked.exclude_readers(own, &self.hooks);
        let danger = Danger { group: self, at, locked };
        let mut round = 0;
        let reached = loop {
            if position >= target {
                break Reached::Target;
            }
            match log.kind_at(position) {
                None if wait => {
                    self.hooks.relax(round);
                    round = round.saturating_add(1);
                    continue;
                }
                None => break Reached::Gap,
                Some(Kind::All | Kind::Barrier) => break Reached::Barrier,
                Some(Kind::Void) => {}
                Some(Kind::One) => self.apply(at, locked, position),
            }
            position += 1;
        };
        core::mem::forget(danger);
        log.set_cursor(at.replica, position);
        locked.count_version();
        reached
    }

    /// Applies the entry at `position`: as the operation it was recorded from if that waits here, else by replay.
    fn apply(&self, at: At, locked: &Locked<'_, S>, position: u64) {
        if let Some(seat) = locked.batch(|batch| batch.member_at(position)) {
            self.answer(at, locked, seat);
            locked.batch(|batch| batch.answered += 1);
            return;
        }
        // SAFETY: the entry is published, our cursor is not past it, and the lane is locked.
        S::locked(&self.replicas[at.replica].data, |data| unsafe {
            self.logs[at.lane].with_entry(position, |entry| S::replay(data.cast(), entry));
        });
    }

    // ---- waiting without a lock

    /// Brings a lane forward, up to `target` or to the first entry that is not published yet. `own` is the caller's seat there.
    pub(crate) fn catch_up(&self, at: At, own: Option<usize>, target: u64) -> Result<(), Gone> {
        let log = &self.logs[at.lane];
        let mut round = 0;
        while log.cursor(at.replica) < target && !log.nothing_new(log.place(at.replica)) {
            match self.lane(at).try_lock() {
                Ok(locked) => self.combine(at, self.check(at, locked)?, own),
                Err(Refused::Gone(gone)) => return Err(gone),
                Err(Refused::Busy) => {
                    self.hooks.relax(round);
                    round = round.saturating_add(1);
                }
            }
        }
        Ok(())
    }

    /// The log of this lane is full: tells the owner, and brings the slowest replica forward.
    pub(crate) fn relieve(&self, at: At, full: Full) {
        let slowest = At { replica: full.cursor, lane: at.lane };
        if slowest.replica == self.replicas.len() {
            return self.cut_off_recorder(slowest.lane, full);
        }
        let behind = self.logs[at.lane].tail().saturating_sub(full.position);
        self.hooks.stalled(ReplicaId(slowest.replica), behind);
        // A replica that is gone by now holds up nobody.
        let _ = self.advance(slowest);
    }

    /// Applies what is published to a lane, once.
    fn advance(&self, at: At) -> Result<(), Gone> {
        let locked = self.lock(at)?;
        let reached = self.drain(at, &locked, None, self.logs[at.lane].tail(), false);
        locked.unlock_fairly();
        match reached {
            Reached::Barrier => self.pass(at.replica),
            Reached::Gap => {
                self.hooks.relax(0);
                Ok(())
            }
            Reached::Target => Ok(()),
        }
    }

    /// Ends an operation on a replica that is gone.
    #[cold]
    #[inline(never)]
    pub(crate) fn complain(&self, at: At, gone: Gone) -> ! {
        match gone {
            Gone::Poisoned => panic!("replica {} is poisoned: a dispatch panicked", at.replica),
            Gone::Absent => panic!("replica {} was removed", at.replica),
        }
    }
}

/// Dropped only when a dispatch (or a hook) panics while a lane is locked: poisons the replica.
pub(crate) struct Danger<'a, S: Structure, H: Hooks> {
    pub(crate) group: &'a Group<S, H>,
    pub(crate) at: At,
    pub(crate) locked: &'a Locked<'a, S>,
}

impl<S: Structure, H: Hooks> Drop for Danger<'_, S, H> {
    fn drop(&mut self) {
        let replica = &self.group.replicas[self.at.replica];
        self.locked.poison();
        replica.poisoned.store(true, Ordering::Release);
        self.group.logs[self.at.lane].deactivate(self.at.replica);
        if let Some(seat) = self.locked.batch(|batch| batch.running.take()) {
            self.locked.lane().slot(seat).state.store(slot::LOST, Ordering::Release);
        }
    }
}

/// Reserved places that are being filled; those left over when recording panics are void, for the other replicas.
pub(crate) struct Filling<'a, E> {
    pub(crate) log: &'a crate::log::Log<E>,
    pub(crate) next: u64,
    pub(crate) end: u64,
}

impl<E> Drop for Filling<'_, E> {
    fn drop(&mut self) {
        for position in self.next..self.end {
            // SAFETY: reserved by whoever made this, and not filled.
            unsafe { self.log.fill_without_entry(position, Kind::Void) };
        }
    }
}

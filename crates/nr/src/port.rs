//! A thread's way into one lane: how its reads and writes are run, or wait.
//!
//! ```text
//!   write:   lock free, no log?  --> run it, unlock                          (the short way)
//!            else                --> post it; wait until it is answered, or be the combiner
//!   read:    say READING         --> no writer, nothing new: look            (the short way)
//!            else                --> bring the replica up to date, try again; at last, ask for the lock
//! ```
//!
//! Where threads contend, one of them becomes the *leader* and the others *follow*: whose last write was run by another
//! thread posts the next one at once, and leaves the lock alone for a while. So the lock and the data stay in the cache of
//! the leader, which serves the followers now and then. A leader that stops is replaced by whoever loses patience first.
//!
//! Neighbours: [`crate::combine`] is what the holder of the lock does for the others; [`crate::node`] keeps a port per
//! handle, [`crate::concurrent`] makes one per operation.

use core::mem::MaybeUninit;

use crate::backoff::Backoff;
use crate::combine::{Danger, Reached};
use crate::command::{Command, Structure};
use crate::counters::add;
use crate::group::{At, Group, Replica};
use crate::hooks::Hooks;
use crate::lane::{Gone, Lane, Locked, Reading, Refused};
use crate::log::Log;
use crate::slot::{self, Parcel, Slot};
use crate::structure::Read;
use crate::sync::{AtomicU64, Ordering};
use crate::tuning::READ_TRIES;

/// Everything that a thread touches on its short ways, found beforehand: behind an atomic instruction, every
/// pointer that has to be followed counts.
pub(crate) struct Port<'g, S: Structure, H: Hooks> {
    group: &'g Group<S, H>,
    replica: &'g Replica<S>,
    lane: &'g Lane<S>,
    log: &'g Log<S::Entry>,
    cursor: &'g AtomicU64,
    slot: &'g Slot<S>,
    at: At,
    seat: usize,
}

impl<S: Structure, H: Hooks> Group<S, H> {
    /// The port of a registered thread to a lane.
    #[inline(always)]
    pub(crate) fn port(&self, at: At, seat: usize) -> Port<'_, S, H> {
        let replica = &self.replicas[at.replica];
        let lane = &replica.lanes[at.lane];
        let log = &self.logs[at.lane];
        Port {
            group: self,
            replica,
            lane,
            log,
            cursor: log.place(at.replica),
            slot: lane.slot(seat),
            at,
            seat,
        }
    }
}

impl<'g, S: Structure, H: Hooks> Port<'g, S, H> {
    pub(crate) fn replica(&self) -> usize {
        self.at.replica
    }

    /// Gives the seat back.
    pub(crate) fn leave(&self) {
        self.group.deregister(self.at.replica, self.seat);
    }

    // ---- writes

    /// Runs a write.
    #[inline(always)]
    pub(crate) fn write<C: Command<S>>(&self, op: C) -> C::Response {
        if !self.slot.follows()
            && let Some(locked) = self.lane.try_lock_unlogged()
        {
            return self.write_directly(op, locked);
        }
        self.write_posted(op)
    }

    #[inline(always)]
    fn write_directly<C: Command<S>>(&self, op: C, locked: Locked<'_, S>) -> C::Response {
        let locked = self.check(locked);
        let others = locked.exclude_readers(Some(self.seat), &self.group.hooks);
        let danger = Danger { group: self.group, at: self.at, locked: &locked };
        // SAFETY: the lane is locked, and its readers are gone.
        let response = S::locked(&self.replica.data, |data| unsafe { op.run(data.cast()) });
        core::mem::forget(danger);
        add(&self.slot.direct, 1);
        locked.count_version();
        if others && self.slot.turn() {
            self.group.serve(self.at, &locked);
            locked.unlock_fairly();
        }
        response
    }

    /// Leaves a write in the slot until some combiner, maybe this thread, has run it.
    #[inline(never)]
    fn write_posted<C: Command<S>>(&self, op: C) -> C::Response {
        let mut outside = MaybeUninit::uninit();
        let place = self.slot.place::<C>(&mut outside);
        // SAFETY: `Errand` keeps `place` until the operation or its response was taken.
        unsafe { self.slot.post(op, place) };
        let errand = Errand::<S, H, C> { port: self, place };
        match self.attend() {
            Ok(()) => errand.response(),
            Err(gone) => {
                drop(errand);
                self.complain(gone)
            }
        }
    }

    /// Waits until the posted write is answered, and combines if nobody else does.
    ///
    /// The slot's line is the owner's until it is answered, so it is looked at often; the lock's line is the combiner's,
    /// so it is looked at less and less, and at first not at all if another thread is used to run the owner's writes.
    fn attend(&self) -> Result<(), Gone> {
        let mut wait = if self.slot.follows() { Backoff::patient() } else { Backoff::new() };
        let mut led = false;
        loop {
            match self.slot.state.load(Ordering::Acquire) {
                slot::DONE => {
                    self.slot.follow(!led);
                    return Ok(());
                }
                slot::LOST => return Err(Gone::Poisoned),
                _ => {}
            }
            if wait.due() {
                match self.lane.try_lock() {
                    Ok(locked) => {
                        let locked = self.group.check(self.at, locked)?;
                        self.group.combine(self.at, locked, Some(self.seat));
                        led = true;
                        continue;
                    }
                    Err(Refused::Gone(gone)) => return self.last_look(gone),
                    Err(Refused::Busy) => wait.looked(),
                }
            }
            if wait.begins() {
                add(&self.slot.waits, 1);
            }
            wait.relax(&self.group.hooks);
        }
    }

    /// The replica is gone: but maybe the write was answered just before.
    fn last_look(&self, gone: Gone) -> Result<(), Gone> {
        match self.slot.state.load(Ordering::Acquire) {
            slot::DONE => Ok(()),
            _ => Err(gone),
        }
    }

    // ---- reads

    /// Runs a read.
    #[inline(always)]
    pub(crate) fn read<R: Read<S::Data>>(&self, op: R) -> R::Response {
        match self.lane.try_read(self.slot) {
            Some(reading) if !reading.logged() || self.log.nothing_new(self.cursor) => self.look(op, reading),
            Some(reading) => {
                drop(reading);
                self.read_behind(op)
            }
            None => self.read_slowly(op, self.log.bound(self.cursor)),
        }
    }

    #[inline(always)]
    fn look<R: Read<S::Data>>(&self, op: R, _reading: Reading<'_, S>) -> R::Response {
        if S::SEVERAL_LANES && self.replica.poisoned.load(Ordering::Acquire) {
            self.complain(Gone::Poisoned)
        }
        // SAFETY: no writer passes `Reading`.
        let response = unsafe { self.replica.look(|data| op.read(data)) };
        add(&self.slot.reads, 1);
        response
    }

    /// Runs a read with the lock in hand.
    fn look_locked<R: Read<S::Data>>(&self, op: R, locked: Locked<'_, S>) -> R::Response {
        // SAFETY: the lane is locked, and this thread does not write.
        let response = unsafe { self.replica.look(|data| op.read(data)) };
        add(&self.slot.reads, 1);
        if self.slot.turn() {
            self.group.combine(self.at, locked, Some(self.seat));
        }
        response
    }

    /// Runs a read where the replica is behind: brings it forward and looks, in one go if the lock is free.
    #[inline(never)]
    fn read_behind<R: Read<S::Data>>(&self, op: R) -> R::Response {
        let target = self.log.bound(self.cursor);
        if let Ok(locked) = self.lane.try_lock() {
            let locked = self.check(locked);
            if self.bring_forward(&locked, target) {
                return self.look_locked(op, locked);
            }
        }
        self.read_slowly(op, target)
    }

    /// Runs a read that had to give way to a writer. What was complete when it began lies before `target`; for what was
    /// appended later it need not wait.
    #[cold]
    #[inline(never)]
    fn read_slowly<R: Read<S::Data>>(&self, op: R, target: u64) -> R::Response {
        add(&self.slot.waits, 1);
        for round in 0..READ_TRIES {
            // To look costs nothing until the writer is gone; to announce a read would hold it up.
            if !self.lane.locked() {
                match self.lane.try_read(self.slot) {
                    Some(reading) if self.up_to_date(&reading, target) => return self.look(op, reading),
                    Some(reading) => {
                        drop(reading);
                        self.catch_up(target);
                        continue;
                    }
                    None => {}
                }
                if let Some(gone) = self.lane.gone() {
                    self.complain(gone)
                }
            }
            self.group.hooks.relax(round);
        }
        self.read_locked(op, target)
    }

    fn up_to_date(&self, reading: &Reading<'_, S>, target: u64) -> bool {
        !reading.logged()
            || self.cursor.load(Ordering::Acquire) >= target
            || self.log.nothing_new(self.cursor)
    }

    fn catch_up(&self, target: u64) {
        if let Err(gone) = self.group.catch_up(self.at, Some(self.seat), target) {
            self.complain(gone)
        }
    }

    /// Runs a read with the lock held, for those that found it taken too often.
    fn read_locked<R: Read<S::Data>>(&self, op: R, target: u64) -> R::Response {
        loop {
            let locked = match self.lane.lock_fairly(self.seat, &self.group.hooks) {
                Ok(locked) => self.check(locked),
                Err(gone) => self.complain(gone),
            };
            if self.bring_forward(&locked, target) {
                return self.look_locked(op, locked);
            }
            drop(locked);
            self.catch_up(target);
        }
    }

    /// Applies what the log has before `target`; whether that was possible with this lock alone.
    fn bring_forward(&self, locked: &Locked<'_, S>, target: u64) -> bool {
        !locked.logged()
            || self.group.drain(self.at, locked, Some(self.seat), target, false) != Reached::Barrier
    }

    // ---- replicas that are gone

    #[inline(always)]
    fn check<'l>(&self, locked: Locked<'l, S>) -> Locked<'l, S> {
        match self.group.check(self.at, locked) {
            Ok(locked) => locked,
            Err(gone) => self.complain(gone),
        }
    }

    #[cold]
    #[inline(never)]
    fn complain(&self, gone: Gone) -> ! {
        self.group.complain(self.at, gone)
    }
}

/// A write that waits in a slot, with what is needed to get out of there whatever happens.
struct Errand<'p, 'g, S: Structure, H: Hooks, C: Command<S>> {
    port: &'p Port<'g, S, H>,
    place: *mut Parcel<C, C::Response>,
}

impl<S: Structure, H: Hooks, C: Command<S>> Errand<'_, '_, S, H, C> {
    /// Takes the response, which is there.
    fn response(self) -> C::Response {
        let (slot, place) = (self.port.slot, self.place);
        core::mem::forget(self);
        // SAFETY: `attend` saw DONE.
        unsafe { slot.take_response::<C>(place) }
    }
}

impl<S: Structure, H: Hooks, C: Command<S>> Drop for Errand<'_, '_, S, H, C> {
    fn drop(&mut self) {
        // A second attempt, should a hook have panicked; it returns at once if the replica is gone.
        let _ = self.port.attend();
        let slot = self.port.slot;
        match slot.state.load(Ordering::Acquire) {
            // SAFETY: it is answered.
            slot::DONE => drop(unsafe { slot.take_response::<C>(self.place) }),
            // SAFETY: the lane is gone for good, so no combiner comes.
            slot::POSTED => drop(unsafe { slot.withdraw::<C>(self.place) }),
            _ => slot.state.store(slot::IDLE, Ordering::Relaxed),
        }
    }
}

//! Fair tasks: earliest eligible virtual deadline first.
//!
//! I. Stoica and H. Abdel-Wahab, "Earliest Eligible Virtual Deadline First", 1995; Linux's Documentation/scheduler/sched-eevdf.rst.
//!
//! Each task has a *weight*. Time on the processor, divided by it, is *virtual time*: a task's [`vruntime`](Entity) is what it has
//! received. If all were served at once, each in proportion to its weight, all would stand at the same point, which is the mean V of
//! their vruntimes by weight. What a task is behind V is its *lag*: time that it is owed, or, if negative, has received in
//! advance. A task is *eligible* when its lag is not negative. It asks for time in *requests*; a request's *deadline* is where
//! its vruntime will be when it has been served. The eligible task with the earliest deadline runs until its request is served. So no
//! task is ever further from its due than the longest request, and who asks for little at once gets it soon.
//!
//! Virtual times are 64-bit numbers that wrap around; two that are compared lie close together. V is kept as a sum relative to a
//! base near it, so that "is eligible" is a multiplication.
//!
//! The tasks that wait are in two heaps: those taken for eligible by deadline, the others by vruntime. V goes on while they
//! wait, and back when one that is owed time joins; so they are moved from one heap to the other where it matters, at the top.
//!
//! A task that sleeps keeps its lag, a request at most: what it is owed for when it wakes, what it has had in advance (its *debt*) until V
//! has caught up, as if it had waited for that. A new task begins with the debt of its maker, as if that had gone on. When all sleep, all are quits: a new *period* begins.
//!
//! Beside a thousand busy tasks V takes seconds to catch up with a request, and one that wakes then would wait for so long. It
//! is let off its debt while there is *grace*: a small part of the time that passes, for all tasks of the queue together.

use alloc::collections::TryReserveError;

use super::LONGEST_REQUEST;
use super::entity::{Entity, Schedulable, Seat};
use super::heap::{Heap, Name, distance};
use super::share::Share;

/// Virtual time per nanosecond of a task of weight 1, in bits.
const SCALE: u32 = 20;
/// A stretch of time counts as this much at most, in nanoseconds: 18 minutes.
const LONGEST_STRETCH: u64 = 1 << 40;
/// Which part of the time that passes is grace: one in so many.
pub const GRACE_PART: u64 = 16;
/// The most grace that there is at once, in nanoseconds.
pub const MOST_GRACE: u64 = 4 * LONGEST_REQUEST;

/// `time` nanoseconds of a task of this weight, as virtual time.
pub const fn virtual_time(time: u64, weight: u64) -> u64 {
    let time = if time < LONGEST_STRETCH { time } else { LONGEST_STRETCH };
    (time << SCALE) / if weight == 0 { 1 } else { weight }
}

/// `span` of virtual time of a task of this weight, in nanoseconds.
fn real_time(span: u64, weight: u64) -> u64 {
    ((u128::from(span) * u128::from(weight)) >> SCALE) as u64
}

/// As much time as `span` is for a task of weight `old`, for one of weight `new`.
fn rescale(span: i64, old: u64, new: u64) -> i64 {
    (i128::from(span) * i128::from(old) / i128::from(new.max(1))) as i64
}

/// The fair tasks of a queue; see the module.
pub struct Fair<T> {
    /// A virtual time near V.
    base: u64,
    /// Of all that do not sleep, weight times (vruntime - base).
    sum: i128,
    /// Of all that do not sleep.
    weight: u64,
    /// How often all slept.
    period: u64,
    /// How much debt may be let off, in nanoseconds.
    pub(super) grace: u64,
    /// Supposed to be eligible, by deadline.
    ready: Heap<T>,
    /// Not eligible yet, by vruntime.
    early: Heap<T>,
}

impl<T: Schedulable> Fair<T> {
    /// No tasks.
    pub const fn new() -> Self {
        Self {
            base: 0,
            sum: 0,
            weight: 0,
            period: 0,
            grace: MOST_GRACE,
            ready: Heap::new(Name::Ready),
            early: Heap::new(Name::Early),
        }
    }

    /// Makes room for `tasks` tasks.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_reserve(&mut self, tasks: usize) -> Result<(), TryReserveError> {
        self.ready.try_reserve(tasks)?;
        self.early.try_reserve(tasks)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.ready.len() + self.early.len()
    }

    /// The weight of all that do not sleep.
    #[cfg(test)]
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// All that wait.
    #[cfg(test)]
    pub fn waiting(&self) -> impl Iterator<Item = &T> {
        self.ready.tasks().chain(self.early.tasks())
    }

    /// V, rounded down; the base moves there.
    pub fn now(&mut self) -> u64 {
        if self.sum != 0 {
            let weight = self.weight.max(1);
            // The usual case fits a word, and is much cheaper there.
            let step = match i64::try_from(self.sum) {
                Ok(sum) => sum.div_euclid(weight as i64),
                Err(_) => self.sum.div_euclid(weight.into()) as i64,
            };
            self.base = self.base.wrapping_add_signed(step);
            self.sum -= i128::from(step) * i128::from(weight);
        }
        self.base
    }

    /// Whether a task at this vruntime is owed time, or nothing.
    fn is_eligible_at(&self, vruntime: u64) -> bool {
        i128::from(distance(vruntime, self.base)) * i128::from(self.weight) <= self.sum
    }

    /// Whether that task is.
    pub fn is_eligible(&self, entity: &Entity) -> bool {
        self.is_eligible_at(entity.vruntime.get())
    }

    fn contribution(&self, entity: &Entity) -> i128 {
        i128::from(distance(entity.vruntime.get(), self.base)) * i128::from(entity.share().weight())
    }

    /// A task counts, with the weight and the vruntime that it has now.
    fn count(&mut self, entity: &Entity) {
        self.weight += entity.share().weight();
        self.sum += self.contribution(entity);
    }

    /// A task no longer counts.
    fn discount(&mut self, entity: &Entity) {
        self.sum -= self.contribution(entity);
        self.weight -= entity.share().weight();
    }

    /// A task wakes or is new: it gets its place, at a distance from V that is its lag, and a deadline.
    #[inline]
    pub fn enter(&mut self, entity: &Entity) {
        if self.weight == 0 {
            self.weight = entity.share().weight();
            entity.vruntime.set(self.base);
        } else {
            let vruntime = self.place(entity);
            entity.vruntime.set(vruntime);
            self.count(entity);
        }
        self.begin_request(entity);
    }

    #[inline(never)]
    fn place(&mut self, entity: &Entity) -> u64 {
        let now = self.now();
        let lag = self.kept_lag(entity, now);
        if lag == 0 {
            return now;
        }
        // The task itself draws V towards it, which has to be made up for.
        now.wrapping_add_signed(-rescale(lag, self.weight + entity.share().weight(), self.weight))
    }

    /// What a task that wakes is owed, as virtual time.
    fn kept_lag(&mut self, entity: &Entity, now: u64) -> i64 {
        if entity.period.get() != self.period {
            return 0;
        }
        let kept = entity.lag.get() as i64;
        if kept >= 0 {
            return kept;
        }
        let lag = distance(now, entity.vruntime.get()).clamp(kept, 0);
        if self.lets_off(entity, lag.unsigned_abs()) { 0 } else { lag }
    }

    /// Whether there is enough grace for a task's debt; then it is used.
    fn lets_off(&mut self, entity: &Entity, debt: u64) -> bool {
        let share = entity.share();
        let rest = self.grace.checked_sub(real_time(debt, share.weight()));
        match rest {
            Some(rest) if !share.is_batch() => {
                self.grace = rest;
                true
            }
            _ => false,
        }
    }

    /// A new task owes as much time as its maker.
    pub fn inherit(&mut self, maker: &Entity, new: &Entity) {
        let now = self.now();
        let most = virtual_time(LONGEST_REQUEST, maker.share().weight()) as i64;
        let lag = distance(now, maker.vruntime.get()).clamp(-most, 0);
        let lag = rescale(lag, maker.share().weight(), new.share().weight());
        new.lag.set(lag as u64);
        new.vruntime.set(now.wrapping_add_signed(-lag));
        new.period.set(self.period);
    }

    /// A task goes to sleep, or away: what it is owed is noted.
    #[inline]
    pub fn leave(&mut self, entity: &Entity) {
        if self.weight > entity.share().weight() {
            return self.leave_others(entity);
        }
        (self.base, self.sum, self.weight) = (entity.vruntime.get(), 0, 0);
        entity.lag.set(0);
        self.period += 1;
        self.grace = MOST_GRACE;
    }

    #[inline(never)]
    fn leave_others(&mut self, entity: &Entity) {
        let weight = entity.share().weight();
        let most = virtual_time(LONGEST_REQUEST, weight) as i64;
        let lag = distance(self.now(), entity.vruntime.get()).clamp(-most, most);
        entity.lag.set(lag as u64);
        entity.period.set(self.period);
        self.discount(entity);
    }

    /// A task that waits or runs is given another weight. What it is owed stays owed, and what is left of its request stays to be
    /// served: both are the same time as before. So V stays where it is.
    pub fn reweigh(&mut self, entity: &Entity, share: Share) {
        let (old, new) = (entity.share().weight(), share.weight());
        let vruntime = entity.vruntime.get();
        let left = rescale(distance(entity.deadline.get(), vruntime), old, new);
        let now = self.now();
        let lag = rescale(distance(now, vruntime), old, new);
        self.discount(entity);
        entity.grant(share);
        entity.vruntime.set(now.wrapping_add_signed(-lag));
        entity.deadline.set(entity.vruntime.get().wrapping_add_signed(left));
        self.count(entity);
    }

    /// The same for one that sleeps.
    pub fn reweigh_asleep(entity: &Entity, share: Share) {
        let lag = entity.lag.get() as i64;
        let rescaled = rescale(lag, entity.share().weight(), share.weight());
        let then = entity.vruntime.get().wrapping_add_signed(lag);
        entity.grant(share);
        entity.lag.set(rescaled as u64);
        entity.vruntime.set(then.wrapping_add_signed(-rescaled));
    }

    /// Its request begins now.
    fn begin_request(&self, entity: &Entity) {
        entity.deadline.set(entity.vruntime.get().wrapping_add(entity.span()));
    }

    /// A task that runs gives up what it is owed: it is not eligible before one of the others.
    pub fn forgo(&mut self, entity: &Entity) {
        self.discount(entity);
        if self.weight > 0 {
            let others = self.now().wrapping_add(1);
            if distance(others, entity.vruntime.get()) > 0 {
                entity.vruntime.set(others);
                self.begin_request(entity);
            }
        }
        self.count(entity);
    }

    /// A task ran for `time` nanoseconds. Returns whether its request is served; then the next begins. Time that a task has for itself
    /// alone is not counted: it is no further from its due than before.
    #[inline]
    pub fn charge(&mut self, entity: &Entity, time: u64) -> bool {
        self.weight > entity.share().weight() && self.charge_among_others(entity, time)
    }

    #[inline(never)]
    fn charge_among_others(&mut self, entity: &Entity, time: u64) -> bool {
        self.grace = (self.grace + time / GRACE_PART).min(MOST_GRACE);
        let weight = entity.share().weight();
        let received = virtual_time(time, weight);
        let vruntime = entity.vruntime.get().wrapping_add(received);
        entity.vruntime.set(vruntime);
        self.sum += i128::from(received) * i128::from(weight);
        let served = distance(vruntime, entity.deadline.get()) >= 0;
        if served {
            entity.renew_request();
            self.begin_request(entity);
        }
        served
    }

    /// How much of its request is left, in nanoseconds.
    pub fn left(&self, entity: &Entity) -> u64 {
        let left = distance(entity.deadline.get(), entity.vruntime.get()).max(0);
        real_time(left as u64, entity.share().weight())
    }

    /// Puts a task that counts among those that wait.
    pub fn push(&mut self, task: T) {
        let entity = task.entity();
        let (vruntime, deadline) = (entity.vruntime.get(), entity.deadline.get());
        if self.is_eligible_at(vruntime) {
            self.ready.push(deadline, task);
        } else {
            self.early.push(vruntime, task);
        }
    }

    /// The eligible task with the earliest deadline, if one waits.
    pub fn first(&mut self) -> Option<&T> {
        while self.early.first().is_some_and(|(vruntime, _)| self.is_eligible_at(vruntime)) {
            let Some(task) = self.early.pop() else { break };
            self.ready.push(task.entity().deadline.get(), task);
        }
        while self.ready.first().is_some_and(|(_, task)| !self.is_eligible(task.entity())) {
            let Some(task) = self.ready.pop() else { break };
            self.early.push(task.entity().vruntime.get(), task);
        }
        self.ready.first().map(|(_, task)| task)
    }

    /// Takes the task that is to run out of those that wait.
    pub fn pop(&mut self) -> Option<T> {
        self.first();
        // One is eligible if none of them runs: the least vruntime is not above the mean.
        self.ready.pop().or_else(|| self.early.pop())
    }

    /// Takes out the task that waits at this place.
    pub fn take(&mut self, seat: Seat) -> Option<T> {
        match seat {
            Seat::In(Name::Ready, index) => self.ready.take(index as usize),
            Seat::In(Name::Early, index) => self.early.take(index as usize),
            _ => None,
        }
    }
}

//! The run queue of a core: which of its tasks runs, and for how long.
//!
//! A sequential structure without a clock: the [executor](super::executor) says what happens and how long the running task has run.
//! It is generic over the task, which is [`Schedulable`].
//!
//! - *Ranked* tasks first: [`Share::URGENT`], then real time by priority (sched(7)), equals in order of arrival. One that is
//!   interrupted goes on before its equals; `SCHED_RR` lets them go first after [`ROUND`].
//! - Then the fair ones, by virtual deadlines: [`fair`].
//!
//! The running task is not among those that wait, but counts with the fair ones. Each task knows its [`Seat`], so that it can
//! be taken out when its [`Share`] changes.
//!
//! Nothing here allocates except [`RunQueue::try_reserve`], to be called before a task is made; so a wake cannot fail.

pub mod entity;
mod fair;
mod heap;
#[cfg(test)]
mod model;
pub mod share;
#[cfg(test)]
mod tests;

use alloc::collections::TryReserveError;

use entity::Seat;
pub use entity::{Entity, Schedulable};
use fair::Fair;
use heap::{Heap, Name, distance};
pub use share::Share;

/// The longest request, in nanoseconds: how long a busy task runs before others of its weight get their turn.
pub const LONGEST_REQUEST: u64 = 3_000_000;
/// The first request of a new task: half of the longest, as in Linux (`PLACE_DEADLINE_INITIAL`).
const FIRST_REQUEST: u64 = LONGEST_REQUEST / 2;
/// The shortest request.
const SHORTEST_REQUEST: u64 = 100_000;
/// The longest time for which a task runs without a look at the queue, in nanoseconds.
const TICK: u64 = 4_000_000;
/// How long a task of `SCHED_RR` runs before its equals, in nanoseconds: Linux's `RR_TIMESLICE`.
pub const ROUND: u64 = 100_000_000;
/// No time slice is shorter.
const SHORTEST_SLICE: u64 = 50_000;

/// A run queue; see the module.
pub struct RunQueue<T> {
    ranked: Heap<T>,
    /// Of `ranked`, those that are urgent.
    urgent: usize,
    fair: Fair<T>,
    /// The only fair task that waits: a queue that is mostly empty stays out of the heaps.
    only: Option<T>,
    running: Option<T>,
    /// Whether the running task has had what it asked for.
    served: bool,
    arrivals: u64,
}

impl<T: Schedulable> RunQueue<T> {
    /// No tasks.
    pub const fn new() -> Self {
        Self {
            ranked: Heap::new(Name::Ranked),
            urgent: 0,
            fair: Fair::new(),
            only: None,
            running: None,
            served: false,
            arrivals: 0,
        }
    }

    /// Makes room for `tasks` tasks in all.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_reserve(&mut self, tasks: usize) -> Result<(), TryReserveError> {
        self.ranked.try_reserve(tasks)?;
        self.fair.try_reserve(tasks)
    }

    /// How many wait: urgent ones, and others.
    pub fn waiting(&self) -> (usize, usize) {
        let ranked = self.ranked.len() - self.urgent;
        (self.urgent, ranked + self.fair.len() + usize::from(self.only.is_some()))
    }

    /// The running task makes another, which owes what its maker owes: else who makes a successor and ends would owe nothing, ever.
    pub fn inherit(&mut self, new: &Entity) {
        let running = self.running.as_ref().map(Schedulable::entity);
        if let Some(maker) = running.filter(|maker| maker.share().is_fair() && new.share().is_fair()) {
            self.fair.inherit(maker, new);
        }
    }

    /// A task that is new, or slept, wants to run.
    #[inline]
    pub fn wake(&mut self, task: T) {
        let entity = task.entity();
        self.arrive(entity);
        if entity.share().is_fair() {
            self.fair.enter(entity);
        }
        self.push(task);
    }

    /// A task goes behind its equals.
    fn arrive(&mut self, entity: &Entity) {
        self.arrivals += 1;
        entity.arrival.set(self.arrivals);
    }

    /// Puts a task that has its place among those that wait.
    #[inline]
    fn push(&mut self, task: T) {
        if task.entity().share().is_fair() && self.only.is_none() && self.fair.len() == 0 {
            task.entity().sit(Seat::Only);
            self.only = Some(task);
        } else {
            self.push_to_heap(task);
        }
    }

    #[inline(never)]
    fn push_to_heap(&mut self, task: T) {
        let share = task.entity().share();
        if !share.is_fair() {
            self.urgent += usize::from(share == Share::URGENT);
            self.ranked.push(u64::from(Share::URGENT.rank() - share.rank()), task);
        } else {
            if let Some(only) = self.only.take() {
                self.fair.push(only);
            }
            self.fair.push(task);
        }
    }

    /// Takes the task that is to run now; it is the running one until [`sleep`](Self::sleep) or [`put_back`](Self::put_back).
    pub fn pick(&mut self) -> Option<&T> {
        let task = self.pop_ranked().or_else(|| self.only.take()).or_else(|| self.fair.pop())?;
        task.entity().sit(Seat::Running);
        self.served = false;
        Some(self.running.insert(task))
    }

    fn pop_ranked(&mut self) -> Option<T> {
        let task = self.ranked.pop()?;
        self.urgent -= usize::from(task.entity().share() == Share::URGENT);
        Some(task)
    }

    /// The running task has run for `time` nanoseconds more.
    pub fn charge(&mut self, time: u64) {
        let Some(task) = &self.running else { return };
        let entity = task.entity();
        entity.burst.set(entity.burst.get().saturating_add(time));
        if entity.share().is_fair() {
            self.served |= self.fair.charge(entity, time);
        }
    }

    /// The running task waits for something, or is done.
    pub fn sleep(&mut self) -> Option<T> {
        let task = self.running.take()?;
        let entity = task.entity();
        entity.sit(Seat::Away);
        if entity.share().is_fair() {
            self.fair.leave(entity);
        }
        entity.end_burst();
        Some(task)
    }

    /// The running task could go on. If it `yields` (sched_yield(2)) it goes behind its equals, and gives up what it is owed.
    pub fn put_back(&mut self, yields: bool) {
        let Some(task) = self.running.take() else { return };
        let entity = task.entity();
        let share = entity.share();
        if share.is_fair() {
            if yields {
                self.fair.forgo(entity);
                self.arrive(entity);
            }
        } else if yields || round_is_over(entity) {
            entity.burst.set(0);
            self.arrive(entity);
        }
        self.push(task);
    }

    /// Gives a task of this queue another share, wherever it is: asleep, waiting or running.
    pub fn change(&mut self, task: &T, share: Share) {
        let entity = task.entity();
        if entity.share() == share {
            return;
        }
        let seat = entity.seat();
        let waiting = self.take(seat);
        self.regrade(entity, share, seat == Seat::Away);
        if let Some(task) = waiting {
            self.push(task);
        }
    }

    /// Takes out the task that waits at this place.
    fn take(&mut self, seat: Seat) -> Option<T> {
        match seat {
            Seat::Away | Seat::Running => None,
            Seat::Only => self.only.take(),
            Seat::In(Name::Ranked, index) => {
                let task = self.ranked.take(index as usize)?;
                self.urgent -= usize::from(task.entity().share() == Share::URGENT);
                Some(task)
            }
            Seat::In(..) => self.fair.take(seat),
        }
    }

    fn regrade(&mut self, entity: &Entity, share: Share, asleep: bool) {
        let was_fair = entity.share().is_fair();
        if was_fair && share.is_fair() {
            return if asleep {
                Fair::<T>::reweigh_asleep(entity, share)
            } else {
                self.fair.reweigh(entity, share)
            };
        }
        if was_fair && !asleep {
            self.fair.leave(entity);
        }
        // What it was owed was virtual time of its old weight.
        entity.lag.set(0);
        entity.grant(share);
        entity.burst.set(0);
        self.arrive(entity);
        if share.is_fair() && !asleep {
            entity.renew_request();
            self.fair.enter(entity);
        }
    }

    /// Whether another task is to run instead of the running one, now.
    pub fn is_preempted(&mut self) -> bool {
        let Some(running) = &self.running else { return self.waiting() != (0, 0) };
        let entity = running.entity();
        let rank = entity.share().rank();
        if let Some((_, first)) = self.ranked.first() {
            let first = first.entity().share().rank();
            return first > rank || (first == rank && round_is_over(entity));
        }
        rank == 0 && self.is_preempted_by_fair()
    }

    fn is_preempted_by_fair(&mut self) -> bool {
        let Some(running) = self.running.as_ref().map(Schedulable::entity) else { return false };
        let first = match &self.only {
            Some(only) => self.fair.is_eligible(only.entity()).then_some(only),
            None => self.fair.first(),
        };
        let Some(first) = first.map(Schedulable::entity) else { return false };
        let is_earlier = distance(first.deadline.get(), running.deadline.get()) < 0;
        let is_in_a_hurry = !first.share().is_batch() && first.request() < running.request();
        let makes_way = running.share().is_idle() && !first.share().is_idle();
        // Who has not had its request yet goes on, except before those who ask for less at once.
        let is_over = core::mem::take(&mut self.served) && (is_earlier || !self.fair.is_eligible(running));
        makes_way || is_over || (is_earlier && is_in_a_hurry)
    }

    /// For how long the running task may run before the queue is asked again, in nanoseconds.
    pub fn slice(&self) -> u64 {
        let Some(running) = self.running.as_ref().map(Schedulable::entity) else { return TICK };
        if !running.share().is_fair() || (self.only.is_none() && self.fair.len() == 0) {
            return TICK;
        }
        self.fair.left(running).clamp(SHORTEST_SLICE, TICK)
    }
}

/// Whether a task of `SCHED_RR` has run for long enough before its equals.
fn round_is_over(entity: &Entity) -> bool {
    entity.share().rotates() && entity.burst.get() >= ROUND
}

//! What a run queue keeps with each task.
//!
//! The fields are written by the one who holds the queue. They are atomic so that a task can be shared; the accesses are plain loads
//! and stores.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::fair::virtual_time;
use super::heap::Name;
use super::share::Share;
use super::{FIRST_REQUEST, LONGEST_REQUEST, SHORTEST_REQUEST};

/// No burst counts as shorter, in nanoseconds.
const SHORTEST_BURST: u64 = SHORTEST_REQUEST / 2;

/// A number that has one writer at a time.
#[derive(Debug, Default)]
pub struct Field(AtomicU64);

impl Field {
    const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Changes it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// What can wait in a run queue.
pub trait Schedulable {
    /// What the queue keeps with it.
    fn entity(&self) -> &Entity;
}

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Not in the queue: asleep, or between two places.
    Away,
    /// It runs.
    Running,
    /// It waits, the only fair task to do so.
    Only,
    /// It waits in that heap, at that index.
    In(Name, u32),
}

impl Seat {
    fn to_word(self) -> u64 {
        let (kind, index) = match self {
            Self::Away => (0, 0),
            Self::Running => (1, 0),
            Self::Only => (2, 0),
            Self::In(Name::Ranked, index) => (3, index),
            Self::In(Name::Ready, index) => (4, index),
            Self::In(Name::Early, index) => (5, index),
        };
        kind << 32 | u64::from(index)
    }

    fn from_word(word: u64) -> Self {
        match (word >> 32, word as u32) {
            (1, _) => Self::Running,
            (2, _) => Self::Only,
            (3, index) => Self::In(Name::Ranked, index),
            (4, index) => Self::In(Name::Ready, index),
            (5, index) => Self::In(Name::Early, index),
            _ => Self::Away,
        }
    }
}

/// A task as its run queue sees it. Virtual times are explained in [`fair`](super::fair).
#[derive(Debug)]
pub struct Entity {
    share: AtomicU32,
    seat: Field,
    /// Virtual time that it has received.
    pub vruntime: Field,
    /// The virtual time at which its request should be served.
    pub deadline: Field,
    /// What it was owed when it went to sleep; a signed number of virtual time.
    pub lag: Field,
    /// The busy period of the queue to which `lag` belongs.
    pub period: Field,
    /// How much time it asks for at once, in nanoseconds.
    request: Field,
    /// The same as virtual time.
    span: Field,
    /// How long it has run since it was woken; with real time, since its turn began. In nanoseconds.
    pub burst: Field,
    /// How long it runs when it is woken, in nanoseconds: doubles at most, so that one long burst does not count for much.
    usual_burst: Field,
    /// When it arrived, among its equals.
    pub arrival: Field,
}

impl Entity {
    /// A new task with this share.
    pub const fn new(share: Share) -> Self {
        Self {
            share: AtomicU32::new(share.word()),
            seat: Field::new(0),
            vruntime: Field::new(0),
            deadline: Field::new(0),
            lag: Field::new(0),
            period: Field::new(0),
            request: Field::new(FIRST_REQUEST),
            span: Field::new(virtual_time(FIRST_REQUEST, share.weight())),
            burst: Field::new(0),
            usual_burst: Field::new(SHORTEST_BURST),
            arrival: Field::new(0),
        }
    }

    /// What it is given.
    pub fn share(&self) -> Share {
        Share::from_word(self.share.load(Ordering::Relaxed))
    }

    /// Gives it another share; the queue has to see to the rest.
    pub(super) fn grant(&self, share: Share) {
        self.share.store(share.word(), Ordering::Relaxed);
        self.set_request(self.request.get());
    }

    /// How much time it asks for at once, in nanoseconds.
    pub(super) fn request(&self) -> u64 {
        self.request.get()
    }

    /// The same as virtual time.
    pub(super) fn span(&self) -> u64 {
        self.span.get()
    }

    fn set_request(&self, request: u64) {
        self.request.set(request);
        self.span.set(virtual_time(request, self.share().weight()));
    }

    /// Where it is.
    pub(super) fn seat(&self) -> Seat {
        Seat::from_word(self.seat.get())
    }

    pub(super) fn sit(&self, seat: Seat) {
        self.seat.set(seat.to_word());
    }

    /// Its next request is twice what it usually runs, or has run already: who sleeps after little asks for little at once, and is
    /// therefore served early.
    pub(super) fn renew_request(&self) {
        let expected = 2 * self.usual_burst.get().max(self.burst.get());
        let request = expected.clamp(SHORTEST_REQUEST, LONGEST_REQUEST);
        self.set_request(if self.share().is_batch() { LONGEST_REQUEST } else { request });
    }

    /// It goes to sleep: a burst is over. One that was longer than any request was in pieces anyway, and says nothing about how
    /// long the task will run when it is woken.
    #[inline]
    pub(super) fn end_burst(&self) {
        let burst = self.burst.get();
        self.burst.set(0);
        let is_as_before = burst <= SHORTEST_BURST && self.usual_burst.get() == SHORTEST_BURST;
        if !is_as_before || self.request.get() != SHORTEST_REQUEST {
            self.learn(burst);
        }
    }

    #[inline(never)]
    fn learn(&self, burst: u64) {
        let usual = self.usual_burst.get();
        if burst <= LONGEST_REQUEST {
            let lower = (usual - usual.saturating_sub(burst) / 4).max(SHORTEST_BURST);
            self.usual_burst.set(if burst > usual { burst.min(2 * usual) } else { lower });
        }
        self.renew_request();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_read_as_it_was_written() {
        let heaps = [Name::Ranked, Name::Ready, Name::Early].map(|name| Seat::In(name, u32::MAX));
        let seats = [Seat::Away, Seat::Running, Seat::Only].into_iter().chain(heaps);
        seats.for_each(|seat| assert_eq!(Seat::from_word(seat.to_word()), seat));
    }

    #[test]
    fn requests_follow_short_bursts_and_no_long_ones() {
        let entity = Entity::new(Share::fair(0));
        let after = |burst: u64| {
            entity.burst.set(burst);
            entity.end_burst();
            entity.request.get()
        };
        assert_eq!(after(100 * LONGEST_REQUEST), SHORTEST_REQUEST);
        assert_eq!(after(LONGEST_REQUEST), 2 * SHORTEST_REQUEST);
        let often = |burst| (0..100).fold(0, |_, _| after(burst));
        assert_eq!(often(1_000_000), 2_000_000);
        assert_eq!(after(600_000), 1_800_000);
        assert_eq!(often(10), SHORTEST_REQUEST);
    }
}

//! A model of the fair tasks, without heaps and with exact fractions, and what holds for any course of events.
//!
//! [`Fluid`] serves all at once, each in proportion to its weight: what a task is due. The other checks look at all tasks one by one.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::fair::virtual_time;
use super::tests::{Task, task};
use super::*;

/// What rounding of virtual times makes in the courses below, in nanoseconds.
const ROUNDING: u64 = 1000;

/// What happens while a task has the core.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// It runs so many nanoseconds and could go on.
    Run(u64),
    /// It runs and yields.
    Yield(u64),
    /// It runs and sleeps.
    Sleep(u64),
    /// That one wakes, if it sleeps.
    Wake(usize),
    /// That one is given that share.
    Change(usize, Share),
}

impl Event {
    /// The same for one of so many tasks.
    fn among(self, tasks: usize) -> Self {
        match self {
            Self::Wake(index) => Self::Wake(index % tasks),
            Self::Change(index, share) => Self::Change(index % tasks, share),
            other => other,
        }
    }
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![1_000..100_000u64, 100_000..LONGEST_REQUEST]
}

fn event(tasks: usize) -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => time().prop_map(Event::Run),
        1 => time().prop_map(Event::Yield),
        2 => time().prop_map(Event::Sleep),
        4 => (0..tasks).prop_map(Event::Wake),
        1 => (0..tasks, -20..20).prop_map(|(task, nice)| Event::Change(task, Share::fair(nice))),
    ]
}

/// A queue, and all its tasks beside it.
struct World {
    queue: RunQueue<Task>,
    tasks: Vec<Task>,
    awake: Vec<bool>,
    /// Nanoseconds that each has had.
    received: Vec<u64>,
}

impl World {
    fn new(shares: &[Share]) -> Self {
        let tasks: Vec<Task> = (0..).zip(shares).map(|(name, &share)| task(name, share)).collect();
        let mut queue = RunQueue::new();
        queue.try_reserve(tasks.len()).unwrap();
        let (awake, received) = (vec![false; tasks.len()], vec![0; tasks.len()]);
        let mut world = Self { queue, tasks, awake, received };
        (0..shares.len()).for_each(|index| world.wake(index));
        world
    }

    fn wake(&mut self, index: usize) {
        if !core::mem::replace(&mut self.awake[index], true) {
            self.queue.wake(self.tasks[index].clone());
        }
    }

    /// Those that wait or run.
    fn contenders(&self) -> impl Iterator<Item = &Entity> {
        self.tasks.iter().zip(&self.awake).filter(|(_, awake)| **awake).map(|(task, _)| task.entity())
    }

    /// Weight times lag of a task: exact, by a look at all.
    fn lag(&self, of: &Entity) -> i128 {
        let behind = |other: &Entity| {
            let distance = other.vruntime.get().wrapping_sub(of.vruntime.get()) as i64;
            i128::from(distance) * i128::from(other.share().weight())
        };
        self.contenders().map(behind).sum()
    }

    /// The earliest deadline among the eligible, counted from that of `of`.
    fn earliest(&self, of: &Entity) -> i64 {
        let eligible = self.contenders().filter(|entity| self.lag(entity) >= 0);
        eligible.map(|entity| entity.deadline.get().wrapping_sub(of.deadline.get()) as i64).min().unwrap()
    }

    /// Who is picked next.
    fn next(&mut self) -> Option<usize> {
        let task = self.queue.pick().cloned()?;
        let index = task.0.0 as usize;
        self.queue.put_back(false);
        Some(index)
    }

    /// Picks; the pick is the right one.
    fn pick(&mut self) -> Option<Task> {
        let picked = self.queue.pick().cloned()?;
        assert!(self.lag(picked.entity()) >= 0, "task {} is not eligible", picked.0.0);
        assert_eq!(self.earliest(picked.entity()), 0, "task {} has not the earliest deadline", picked.0.0);
        Some(picked)
    }

    fn run(&mut self, task: &Task, time: u64) {
        self.queue.charge(time);
        self.received[task.0.0 as usize] += time;
    }

    fn perform(&mut self, event: Event) {
        match event {
            Event::Wake(index) => return self.wake(index),
            Event::Change(index, share) => return self.change(index, share),
            _ => {}
        }
        let Some(picked) = self.pick() else { return };
        match event {
            Event::Run(time) => {
                self.run(&picked, time);
                self.queue.put_back(false);
            }
            Event::Yield(time) => {
                self.run(&picked, time);
                self.queue.put_back(true);
            }
            Event::Sleep(time) => {
                self.run(&picked, time);
                self.queue.sleep();
                self.awake[picked.0.0 as usize] = false;
            }
            Event::Wake(_) | Event::Change(..) => {}
        }
    }

    /// Another share; what the task is owed and what is left of its request are as much time as before.
    fn change(&mut self, index: usize, share: Share) {
        let entity = self.tasks[index].entity();
        let owed =
            |world: &Self| world.lag(entity) * i128::from(entity.share().weight()) / world.total().max(1);
        let left = |world: &Self| world.queue.fair.left(entity);
        let before = (owed(self), left(self));
        self.queue.change(&self.tasks[index], share);
        if self.awake[index] {
            // To a nanosecond, or to a unit of virtual time of the heavier weight.
            assert!((owed(self) - before.0).abs() <= 1 << 21, "{before:?}, {}", owed(self));
            assert!(left(self).abs_diff(before.1) <= 1, "{before:?}, {}", left(self));
        }
    }

    /// The weight of all contenders.
    fn total(&self) -> i128 {
        self.contenders().map(|entity| i128::from(entity.share().weight())).sum()
    }
}

/// What each of some tasks would have had if all were served at once.
struct Fluid {
    weights: Vec<u64>,
    total: u64,
}

impl Fluid {
    fn new(shares: &[Share]) -> Self {
        let weights: Vec<u64> = shares.iter().map(|share| share.weight()).collect();
        Self { total: weights.iter().sum(), weights }
    }

    /// How far `received` is from what is due to that task after `elapsed` nanoseconds, in nanoseconds.
    fn off(&self, index: usize, received: u64, elapsed: u64) -> u64 {
        let due = u128::from(elapsed) * u128::from(self.weights[index]) / u128::from(self.total);
        (due as u64).abs_diff(received)
    }
}

fn nice_values() -> impl Strategy<Value = Vec<i32>> {
    proptest::collection::vec(-20..20i32, 1..12)
}

fn fair(nice: &[i32]) -> Vec<Share> {
    nice.iter().map(|&nice| Share::fair(nice)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Heaps, wake-ups and changes of weight: the pick is that of a look at all; nothing gets lost.
    #[test]
    fn the_pick_is_the_earliest_deadline_of_the_eligible(
        nice in nice_values(),
        events in proptest::collection::vec(event(12), 1..300),
    ) {
        let mut world = World::new(&fair(&nice));
        for event in events {
            world.perform(event.among(nice.len()));
            let awake = world.awake.iter().filter(|awake| **awake).count();
            prop_assert_eq!(world.queue.waiting(), (0, awake));
            prop_assert_eq!(i128::from(world.queue.fair.weight()), world.total());
        }
    }

    /// Shares by weight, no starvation: whoever is always ready is never further from its due than the longest request (theorem 1
    /// of Stoica and Abdel-Wahab: lag lies between -r and r). It may be interrupted in a request at any time.
    #[test]
    fn what_is_received_is_within_a_request_of_what_is_due(
        nice in nice_values(),
        times in proptest::collection::vec(time(), 1..400),
    ) {
        let shares = fair(&nice);
        let (mut world, fluid) = (World::new(&shares), Fluid::new(&shares));
        let mut elapsed = 0;
        for time in times.into_iter().cycle().take(600) {
            let picked = world.pick().unwrap();
            // Virtual time is rounded down: it takes a nanosecond more until a request is served.
            let time = time.min(world.queue.fair.left(picked.entity()) + 1);
            world.run(&picked, time);
            elapsed += time;
            world.queue.put_back(false);
            for (index, &received) in world.received.iter().enumerate() {
                let off = fluid.off(index, received, elapsed);
                prop_assert!(off <= LONGEST_REQUEST + ROUNDING, "task {index} is off by {off}");
            }
        }
    }

    /// Whoever sleeps and wakes: nobody gets more than a request in advance, and lags cancel each other out.
    #[test]
    fn nobody_runs_more_than_a_request_in_advance(
        nice in nice_values(),
        events in proptest::collection::vec(event(12), 1..300),
    ) {
        let mut world = World::new(&fair(&nice));
        for event in events {
            let event = event.among(nice.len());
            let running = world.next();
            world.perform(event);
            if let (Some(running), Event::Run(_)) = (running, event) {
                let entity = world.tasks[running].entity();
                let most = i128::from(virtual_time(LONGEST_REQUEST, entity.share().weight()) + 1);
                prop_assert!(world.lag(entity) >= -most * world.total(), "task {running}");
            }
            let sum: i128 =
                world.contenders().map(|entity| world.lag(entity) * i128::from(entity.share().weight())).sum();
            prop_assert_eq!(sum, 0);
        }
    }

    /// Whatever the others do, one that is always ready does not wait for more than some rounds of their requests.
    #[test]
    fn nobody_starves(others in 1..12usize, events in proptest::collection::vec(event(12), 500..1500)) {
        let mut world = World::new(&vec![Share::fair(0); others + 1]);
        let (mut had, mut waited) = (0, 0);
        for event in events {
            let is_its_turn = world.next() == Some(0);
            match event.among(others + 1) {
                // It neither sleeps nor changes, and the others keep their weight.
                Event::Change(..) => continue,
                Event::Sleep(time) if is_its_turn => world.perform(Event::Run(time)),
                event => world.perform(event),
            }
            let now = world.received[0];
            let elapsed: u64 = world.received.iter().sum();
            if now > had {
                (had, waited) = (now, elapsed);
            }
            let rounds = (elapsed - waited) / (LONGEST_REQUEST * (others as u64 + 1));
            prop_assert!(rounds <= 4, "it waits for {} ms beside {others}", (elapsed - waited) / 1_000_000);
        }
    }
}

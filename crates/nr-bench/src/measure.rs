//! One round of one contender, and the median of many.
//!
//! Rounds are short, and those of all contenders take turns, so that they meet the same weather. A round in which a thread
//! had to wait for a processor says nothing about the contender: it is told from the kernel's accounting, and repeated.
//! Only if that does not help is it used, and the result is marked. With more threads than processors they always
//! wait; then no round is repeated.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::contender::{Contender, Session};
use crate::keys::{Keys, Pattern};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Threads that work.
    pub threads: usize,
    /// Simulated nodes: replicas, for contenders that have some.
    pub nodes: usize,
    /// Writes, in percent.
    pub writes: u64,
    /// Which keys.
    pub pattern: Pattern,
}

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of which the median is taken.
    pub rounds: usize,
    /// Length of a round.
    pub length: Duration,
    /// Times that a disturbed round is repeated.
    pub patience: usize,
}

/// The share of its time for which a thread may have waited for a processor, in a round that counts.
const DISTURBED: f64 = 0.08;

/// The result of a round.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Operations of all threads per second, in millions.
    pub mops: f64,
    /// What the slowest thread got done, as a share of the average thread.
    pub slowest: f64,
    /// Every thread had its processor.
    pub calm: bool,
}

impl Round {
    /// Of threads that each did so many millions of operations per second, and waited for so much of their time.
    fn new(threads: &[(f64, f64)]) -> Self {
        let mops: f64 = threads.iter().map(|&(mops, _)| mops).sum();
        let least = threads.iter().map(|&(mops, _)| mops).fold(f64::INFINITY, f64::min);
        Self {
            mops,
            slowest: least * threads.len() as f64 / mops,
            calm: threads.iter().all(|&(_, waited)| waited <= DISTURBED),
        }
    }
}

/// How many threads can run at a time.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A contender that is ready to be measured.
pub trait Measurable {
    /// Runs one round.
    fn round(&self, case: &Case, length: Duration) -> Round;
}

impl<C: Contender> Measurable for C {
    fn round(&self, case: &Case, length: Duration) -> Round {
        let stop = AtomicBool::new(false);
        let start = Barrier::new(case.threads + 1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..case.threads)
                .map(|thread| {
                    let session = self.session(thread);
                    let keys = Keys::new(case.pattern, thread as u64);
                    let (start, stop) = (&start, &stop);
                    scope.spawn(move || {
                        start.wait();
                        work(session, keys, case.writes, stop)
                    })
                })
                .collect();
            start.wait();
            std::thread::sleep(length);
            stop.store(true, Ordering::Relaxed);
            let results = threads.into_iter().map(|thread| thread.join().expect("a contender panicked"));
            Round::new(&results.collect::<Vec<_>>())
        })
    }
}

/// Works until told to stop. Returns millions of operations per second, and the share of its time that it waited.
fn work(mut session: impl Session, mut keys: Keys, writes: u64, stop: &AtomicBool) -> (f64, f64) {
    let (mut operations, mut sum) = (0u64, 0u64);
    let (clock, before) = (Instant::now(), waited());
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..64 {
            let (key, value) = keys.next();
            let answer = if value >> 48 < writes * 65536 / 100 {
                session.put(key, value & 0xffff_ffff)
            } else {
                session.get(key)
            };
            sum = sum.wrapping_add(answer);
        }
        operations += 64;
    }
    black_box(sum);
    let elapsed = clock.elapsed().as_secs_f64();
    let share = match (before, waited()) {
        (Some(before), Some(after)) => (after - before).as_secs_f64() / elapsed,
        _ => 0.0,
    };
    (operations as f64 / elapsed / 1e6, share)
}

/// For how long this thread could have run and had no processor, where the system tells (Linux, sched-stats.rst).
fn waited() -> Option<Duration> {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(line.split(' ').nth(1)?.parse().ok()?))
}

/// The median of some rounds.
#[derive(Clone, Debug)]
pub struct Result {
    /// Operations of all threads per second, in millions.
    pub mops: f64,
    /// What the slowest thread got done, as a share of the average thread, in the same round.
    pub slowest: f64,
    /// How many of the rounds were calm.
    pub calm: usize,
    /// What was done in each round, in their order; `None` for one that was disturbed.
    pub rounds: Vec<Option<f64>>,
}

impl Result {
    /// How many times as much was done as by `other`, whose rounds took turns with these: the median over the rounds, so
    /// that a machine that is now fast and now slow does not matter. `None` when no round was calm for both.
    pub fn times(&self, other: &Self) -> Option<f64> {
        let pairs = self.rounds.iter().zip(&other.rounds);
        let mut ratios: Vec<f64> = pairs.filter_map(|(ours, theirs)| Some((*ours)? / (*theirs)?)).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied()
    }
}

/// Measures all contenders, each in its case, their rounds taking turns.
pub fn measure(subjects: &[(Case, Box<dyn Measurable>)], effort: &Effort) -> Vec<Result> {
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); subjects.len()];
    for (case, contender) in subjects {
        // Warm-up.
        contender.round(case, effort.length);
    }
    for _ in 0..effort.rounds {
        for ((case, contender), rounds) in subjects.iter().zip(&mut rounds) {
            let patience = if case.threads > processors() { 0 } else { effort.patience };
            let attempts = std::iter::repeat_with(|| contender.round(case, effort.length));
            let enough = |&(attempt, round): &(usize, Round)| round.calm || attempt == patience;
            rounds.extend(attempts.enumerate().find(enough).map(|(_, round)| round));
        }
    }
    rounds.into_iter().map(median).collect()
}

fn median(mut rounds: Vec<Round>) -> Result {
    let calm = rounds.iter().filter(|round| round.calm).count();
    let all = rounds.iter().map(|round| round.calm.then_some(round.mops)).collect();
    // A disturbed round counts only where there is no other.
    if calm > 0 {
        rounds.retain(|round| round.calm);
    }
    rounds.sort_by(|a, b| a.mops.total_cmp(&b.mops));
    let Round { mops, slowest, .. } = rounds[rounds.len() / 2];
    Result { mops, slowest, calm, rounds: all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_leaves_out_disturbed_rounds() {
        let round = |mops, calm| Round { mops, slowest: 1.0, calm };
        let rounds =
            vec![round(1.0, false), round(5.0, true), round(9.0, true), round(7.0, true), round(0.0, false)];
        let result = median(rounds);
        assert_eq!((result.mops, result.calm), (7.0, 3));
        assert_eq!(median(vec![round(3.0, false)]).mops, 3.0);
    }

    #[test]
    fn what_took_turns_is_compared_round_by_round() {
        let of = |mops: [f64; 3], calm: [bool; 3]| {
            median(
                mops.into_iter().zip(calm).map(|(mops, calm)| Round { mops, slowest: 1.0, calm }).collect(),
            )
        };
        // Twice as much in each round, though the machine slowed down while they were measured.
        let (ours, theirs) = (of([80.0, 40.0, 20.0], [true; 3]), of([40.0, 20.0, 10.0], [true, false, true]));
        assert_eq!(ours.times(&theirs), Some(2.0));
        assert_eq!(ours.times(&of([1.0; 3], [false; 3])), None);
    }

    #[test]
    fn a_round_is_calm_if_no_thread_waited_and_fair_if_all_did_the_same() {
        let round = Round::new(&[(6.0, 0.0), (2.0, 0.01)]);
        assert_eq!((round.mops, round.slowest, round.calm), (8.0, 0.5, true));
        assert!(!Round::new(&[(6.0, 0.0), (6.0, 0.5)]).calm);
    }
}

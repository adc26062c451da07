//! One round of one contender, and the median of many.
//!
//! Rounds are short, and those of all contenders take turns, so that they meet the same weather. A round in which a thread
//! did not have its processor for itself says nothing about the contender: it is told from the kernel's accounting,
//! and repeated. Only if that does not help is it used, and the result is marked.

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

/// The share of a processor that a thread must have had for its round to count.
const UNDISTURBED: f64 = 0.92;

/// The result of a round.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Operations of all threads per second, in millions.
    pub mops: f64,
    /// Every thread had its processor.
    pub calm: bool,
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
            results.fold(Round { mops: 0.0, calm: true }, |sum, (mops, share)| Round {
                mops: sum.mops + mops,
                calm: sum.calm && share >= UNDISTURBED,
            })
        })
    }
}

/// Works until told to stop. Returns millions of operations per second, and the share of a processor it had.
fn work(mut session: impl Session, mut keys: Keys, writes: u64, stop: &AtomicBool) -> (f64, f64) {
    let (mut operations, mut sum) = (0u64, 0u64);
    let (clock, cpu) = (Instant::now(), cpu_time());
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
    let share = match (cpu, cpu_time()) {
        (Some(before), Some(after)) => (after - before).as_secs_f64() / elapsed,
        _ => 1.0,
    };
    (operations as f64 / elapsed / 1e6, share)
}

/// The processor time of this thread, where the system tells (Linux, proc(5)).
fn cpu_time() -> Option<Duration> {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(line.split(' ').next()?.parse().ok()?))
}

/// The median of some rounds.
#[derive(Clone, Copy, Debug)]
pub struct Result {
    /// Operations of all threads per second, in millions.
    pub mops: f64,
    /// How many of the rounds were calm.
    pub calm: usize,
}

/// Measures all contenders, their rounds taking turns.
pub fn measure(contenders: &[Box<dyn Measurable>], case: &Case, effort: &Effort) -> Vec<Result> {
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); contenders.len()];
    for contender in contenders {
        // Warm-up.
        contender.round(case, effort.length);
    }
    for _ in 0..effort.rounds {
        for (contender, rounds) in contenders.iter().zip(&mut rounds) {
            let mut attempts = (0..=effort.patience).map(|_| contender.round(case, effort.length));
            let calm_or_last = attempts.by_ref().find(|round| round.calm);
            rounds.push(calm_or_last.unwrap_or_else(|| contender.round(case, effort.length)));
        }
    }
    rounds.into_iter().map(median).collect()
}

fn median(mut rounds: Vec<Round>) -> Result {
    let calm = rounds.iter().filter(|round| round.calm).count();
    // A disturbed round counts only where there is no other.
    if calm > 0 {
        rounds.retain(|round| round.calm);
    }
    rounds.sort_by(|a, b| a.mops.total_cmp(&b.mops));
    Result { mops: rounds[rounds.len() / 2].mops, calm }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_leaves_out_disturbed_rounds() {
        let round = |mops, calm| Round { mops, calm };
        let rounds =
            vec![round(1.0, false), round(5.0, true), round(9.0, true), round(7.0, true), round(0.0, false)];
        let result = median(rounds);
        assert_eq!((result.mops, result.calm), (7.0, 3));
        assert_eq!(median(vec![round(3.0, false)]).mops, 3.0);
    }
}

//! Time slices: busy threads all progress, and one that sleeps still wakes in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Options, Verdict};

/// How long the threads spin, in steps after each of which all must have advanced.
const STEPS: usize = 5;
const STEP: Duration = Duration::from_millis(400);

/// How late the sleeper may be for each busy thread; slices are some milliseconds.
const LATE_PER_THREAD: Duration = Duration::from_millis(100);

/// N busy threads that never enter the kernel, and one sleeper.
pub fn run(options: &Options) -> Verdict {
    let count = options.number(0, 4)?;
    let stop = Arc::new(AtomicBool::new(false));
    let counters: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
    let threads: Vec<_> = (0..count)
        .map(|index| {
            let (stop, counters) = (Arc::clone(&stop), Arc::clone(&counters));
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    counters[index].fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    let verdict = watch(&counters);
    stop.store(true, Relaxed);
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked".to_owned())?;
    }
    verdict
}

/// Checks progress and lateness, step by step.
fn watch(counters: &[AtomicU64]) -> Verdict {
    let mut before: Vec<u64> = vec![0; counters.len()];
    let mut latest = Duration::ZERO;
    for step in 0..STEPS {
        let start = Instant::now();
        thread::sleep(STEP);
        latest = latest.max(start.elapsed().saturating_sub(STEP));
        for (index, counter) in counters.iter().enumerate() {
            let now = counter.load(Relaxed);
            if now == before[index] {
                return Err(format!("thread {index} got no time in step {step}"));
            }
            before[index] = now;
        }
    }
    let allowed = LATE_PER_THREAD * (counters.len() as u32 + 1);
    println!(
        "spin: {} threads, least {} and most {} rounds, sleeper late by {latest:?}",
        before.len(),
        smallest(&before),
        largest(&before)
    );
    if latest > allowed { Err(format!("a sleeper woke {latest:?} late")) } else { Ok(()) }
}

fn smallest(rounds: &[u64]) -> u64 {
    rounds.iter().copied().min().unwrap_or(0)
}

fn largest(rounds: &[u64]) -> u64 {
    rounds.iter().copied().max().unwrap_or(0)
}

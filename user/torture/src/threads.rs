//! Many threads at once, several times: created, all alive together, joined, nothing left.

use std::sync::{Arc, Barrier};
use std::thread;

use crate::{Options, Verdict, aftermath};

/// Rounds of creating and joining them all.
const ROUNDS: usize = 3;

/// N threads that meet at a barrier, add up their numbers and leave.
pub fn run(options: &Options) -> Verdict {
    let count = options.number(0, 100)?;
    for round in 0..ROUNDS {
        let total = together(count).map_err(|message| format!("round {round}: {message}"))?;
        if total != count * (count + 1) / 2 {
            return Err(format!("round {round}: {total} is not the sum of 1 to {count}"));
        }
    }
    let mut alive = 0;
    if let Ok(tasks) = std::fs::read_dir("/proc/self/task") {
        alive = tasks.count();
    }
    println!("threads: {ROUNDS} times {count}, {alive} left");
    aftermath::check()
}

/// Starts them, lets them meet, joins them; the sum of what they returned.
fn together(count: usize) -> Result<usize, String> {
    let barrier = Arc::new(Barrier::new(count));
    let mut threads = Vec::new();
    for number in 1..=count {
        let barrier = Arc::clone(&barrier);
        let thread = thread::Builder::new().stack_size(64 << 10).spawn(move || {
            barrier.wait();
            number
        });
        threads.push(thread.map_err(|error| format!("thread {number}: {error}"))?);
    }
    threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())).sum()
}

//! Thread-local storage and the FS base belong to their thread, whatever the others do.

use std::cell::Cell;
use std::thread;

use user_sys::{must, sys};

use crate::{Options, Verdict};

/// Rounds that each thread makes.
const ROUNDS: usize = 2000;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
    static BLOCK: Cell<[u64; 64]> = const { Cell::new([7; 64]) };
}

/// ARCH_GET_FS of arch_prctl(2).
const GET_FS: i32 = 0x1003;

/// The thread pointer as user code sees it: the first word of thread-local storage (System V ABI, TLS variant
/// II).
fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: every thread of the C library has a thread pointer, and its first word is its own address.
    unsafe { std::arch::asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, readonly)) };
    pointer
}

/// Eight threads, each with its own values, across yields, sleeps and calls.
pub fn run(_options: &Options) -> Verdict {
    let threads: Vec<_> = (1..=8).map(|number| thread::spawn(move || own_values_stay(number))).collect();
    let bases: Vec<usize> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
        .collect::<Result<_, _>>()?;
    if NUMBER.get() != 0 || BLOCK.get() != [7; 64] {
        return Err("the main thread's values changed".to_owned());
    }
    match bases.iter().all(|&base| base != thread_pointer()) {
        true => Ok(()),
        false => Err("a thread ran on the main thread's base".to_owned()),
    }
}

/// Checks this thread's values while it is switched in and out; returns its base.
fn own_values_stay(number: usize) -> Result<usize, String> {
    let base = thread_pointer();
    NUMBER.set(number);
    for round in 0..ROUNDS {
        BLOCK.set([(number * round) as u64; 64]);
        must(sys!(sched_yield));
        if round % 100 == 0 {
            must(sys!(nanosleep, &user_sys::timespec(0, 1000), 0));
        }
        let mut told = 0_usize;
        must(sys!(arch_prctl, GET_FS, &mut told));
        if thread_pointer() != base || told != base {
            return Err(format!("thread {number}, round {round}: another FS base"));
        }
        if NUMBER.get() != number || BLOCK.get() != [(number * round) as u64; 64] {
            return Err(format!("thread {number}, round {round}: another thread's value"));
        }
    }
    Ok(base)
}

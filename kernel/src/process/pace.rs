//! Long calls: they go in pieces, and pause between them.
//!
//! The kernel is not preempted and runs with interrupts off, so a call that has gigabytes of memory to clear, or thousands of descriptors
//! to look at, would keep the core from everybody else, and from its devices. Whatever a program can make long is charged to
//! a [`Pace`]: pieces of some length with [`pause`](Pace::pause), the rounds of a loop with [`charge`](Pace::charge). It looks at the
//! clock now and then, takes interrupts, lets those run whose turn it is, and ends a call whose thread is to end.
//!
//! A pause is an `.await`: the guard of a spin lock cannot live across one, since guards are not `Send` and tasks must be
//! ([`sync`](crate::sync)). What nobody can pause in, because it ends with its last reference, is left for later: see
//! [`leftovers`](crate::sched::leftovers).

use alloc::vec::Vec;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use super::run::give_way;
use super::thread::Thread;
use super::usage::Charge;
use crate::arch;
use crate::errno::Errno;

/// How long a call goes on without a pause, in nanoseconds. With the longest piece it has to stay below half a millisecond.
const STRETCH: u64 = 50_000;

/// What is charged between two looks at the clock. A unit is some dozens of instructions.
const UNITS: u32 = 128;

/// The pace of one call. It costs nothing until much has been charged.
pub struct Pace<'a> {
    /// `None` before there are threads.
    thread: Option<&'a Thread>,
    /// Units before the next look at the clock.
    left: u32,
    /// When to pause next; 0 before the first look at the clock.
    until: u64,
}

impl<'a> Pace<'a> {
    /// For a call of `thread` that begins now.
    pub fn new(thread: &'a Thread) -> Self {
        Self { thread: Some(thread), left: UNITS, until: 0 }
    }

    /// For what the kernel does itself while it starts: it never pauses.
    pub fn of_start() -> Self {
        Self { thread: None, left: UNITS, until: 0 }
    }

    /// To be called in each round of a loop, with what the round costs, in units of some dozens of instructions. Pauses, if it is time.
    ///
    /// # Errors
    /// `EINTR` when the thread is about to end.
    #[inline]
    pub async fn charge(&mut self, units: u32) -> Result<(), Errno> {
        match self.left.checked_sub(units) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = UNITS;
                self.pause().await
            }
        }
    }

    /// Drops what is in `items` one by one: what the call held while it ran. Goes on though the thread is about to end.
    pub async fn release<T>(&mut self, mut items: Vec<T>) {
        while items.pop().is_some() {
            let _ = self.charge(2).await;
        }
    }

    /// To be called between two pieces that take some time: pauses, if it is time.
    ///
    /// # Errors
    /// `EINTR` when the thread is about to end.
    pub async fn pause(&mut self) -> Result<(), Errno> {
        let Some(thread) = self.thread else { return Ok(()) };
        let now = arch::now();
        if self.until == 0 {
            self.until = now + STRETCH;
        } else if now >= self.until {
            // The time was the kernel's, though a pause looks like the end of a slice of the program's.
            let elapsed = thread.usage.charge(now, Charge::System);
            thread.process().count_time(elapsed, Charge::System);
            arch::take_interrupts();
            give_way(thread).await;
            self.until = arch::now() + STRETCH;
        }
        if thread.is_dying() { Err(Errno::EINTR) } else { Ok(()) }
    }
}

/// What `future` comes to, if it does without a pause.
pub fn without_pause<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::signal::{Signal, SignalInfo};
    use super::super::tests::{process, run_as_thread};
    use super::*;
    use alloc::sync::Arc;
    use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    #[test]
    fn a_long_call_lets_others_run_and_ends_with_its_thread() {
        let (process, other) = (process(), process());
        let thread = process.leader().unwrap();
        let (seen, pauses) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (flag, count) = (seen.clone(), pauses.clone());
        let long = run_as_thread(thread.clone(), async move {
            let mut pace = Pace::new(&thread);
            loop {
                if let Err(error) = pace.charge(1).await {
                    return error;
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let target = process.clone();
        let short = run_as_thread(other.leader().unwrap(), async move {
            flag.store(true, Ordering::Relaxed);
            target.send_signal(SignalInfo::kernel(Signal::KILL)).unwrap();
        });
        assert_eq!((long.result(), short.result()), (Some(Errno::EINTR), Some(())));
        assert!(seen.load(Ordering::Relaxed) && pauses.load(Ordering::Relaxed) > 0);
        let usage = process.usage();
        assert!(usage.system > usage.user, "{usage:?}");
    }
}

//! Long calls: they go in pieces, and pause between them.
//!
//! The kernel is not preempted, so a call that has gigabytes of memory to clear would keep the core from everybody else, and from its
//! interrupts. [`Pace`] says when it has had the core for long enough, lets the others go first, and ends a call whose thread is to end.

use super::run::give_way;
use super::thread::Thread;
use super::usage::Charge;
use crate::arch;
use crate::errno::Errno;

/// How long a call goes on without a pause, in nanoseconds; a piece should take less.
const STRETCH: u64 = 1_000_000;

/// The pace of one call.
pub struct Pace<'a> {
    thread: &'a Thread,
    /// When to pause next.
    until: u64,
}

impl<'a> Pace<'a> {
    /// For a call of `thread` that begins now.
    pub fn new(thread: &'a Thread) -> Self {
        Self { thread, until: arch::now() + STRETCH }
    }

    /// To be called between two pieces: pauses, if it is time. No lock may be held.
    ///
    /// # Errors
    /// `EINTR` when the thread is about to end.
    pub async fn pause(&mut self) -> Result<(), Errno> {
        let now = arch::now();
        if now >= self.until {
            // The time was the kernel's, though a pause looks like the end of a slice of the program's.
            let elapsed = self.thread.usage.charge(now, Charge::System);
            self.thread.process().count_time(elapsed, Charge::System);
            arch::take_interrupts();
            give_way(self.thread).await;
            self.until = arch::now() + STRETCH;
        }
        if self.thread.is_dying() { Err(Errno::EINTR) } else { Ok(()) }
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
                if let Err(error) = pace.pause().await {
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

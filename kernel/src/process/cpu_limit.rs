//! `RLIMIT_CPU`: how long a process may compute (setrlimit(2)).
//!
//! At the soft limit, and each second from then on, the process gets `SIGXCPU`; at the hard one `SIGKILL`. As on Linux the soft limit
//! moves on by a second with each signal. Where processor time is charged it is counted down to the next time at which something is due;
//! only then are the accounts of all threads added up.

use core::sync::atomic::{AtomicU64, Ordering};

use super::group::Process;
use super::limits::{Limit, Resource, UNLIMITED};
use super::signal::{Signal, SignalInfo};

const SECOND: u64 = 1_000_000_000;

/// The count of a process.
#[derive(Default)]
pub struct CpuLimit {
    /// Nanoseconds of processor time until the accounts are to be looked at; 0 for never.
    left: AtomicU64,
}

impl CpuLimit {
    /// Counts `elapsed` nanoseconds. Whether it is time to look.
    fn count(&self, elapsed: u64) -> bool {
        let down = |left: u64| (left > elapsed).then(|| left - elapsed);
        self.left.load(Ordering::Relaxed) != 0
            && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, down).is_err()
    }

    /// Stops counting: the process has ended.
    pub fn stop(&self) {
        self.left.store(0, Ordering::Relaxed);
    }
}

impl Process {
    /// Has the limit looked after: when it is set, and in a new process.
    pub fn watch_cpu_limit(&self) {
        let limit = self.rlimit(Resource::Cpu);
        let left = next_event(limit).map_or(0, |at| at.saturating_sub(self.used()).max(1));
        self.cpu_limit.left.store(left, Ordering::Relaxed);
    }

    /// Counts `elapsed` nanoseconds of processor time, and sends what is due.
    pub(super) fn count_cpu_limit(&self, elapsed: u64) {
        if !self.cpu_limit.count(elapsed) {
            return;
        }
        let limit = self.rlimit(Resource::Cpu);
        if let Some(signal) = due(limit, self.used()) {
            if signal == Signal::XCPU {
                // Refused when there is no room below the hard limit, at which the next signal is another.
                let _ = self.limits().set(Resource::Cpu, Limit { soft: limit.soft + 1, ..limit }, true);
            }
            // A standard signal is never refused.
            let _ = self.send_signal(SignalInfo::kernel(signal));
        }
        self.watch_cpu_limit();
    }

    /// Processor time of all threads, in nanoseconds.
    fn used(&self) -> u64 {
        let totals = self.usage();
        totals.user + totals.system
    }
}

/// When, in nanoseconds of processor time, `limit` has an effect next.
fn next_event(limit: Limit) -> Option<u64> {
    // The soft limit is never above the hard one.
    (limit.soft != UNLIMITED).then(|| limit.soft.saturating_mul(SECOND))
}

/// What a process gets that has `used` so many nanoseconds.
fn due(limit: Limit, used: u64) -> Option<Signal> {
    let reached = |limit: u64| limit != UNLIMITED && used >= limit.saturating_mul(SECOND);
    match (reached(limit.soft), reached(limit.hard)) {
        (_, true) => Some(Signal::KILL),
        (true, false) => Some(Signal::XCPU),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::process;
    use super::*;

    #[test]
    fn the_soft_limit_warns_and_the_hard_one_kills() {
        let limit = |soft, hard| Limit { soft, hard };
        assert_eq!(due(limit(1, 3), SECOND - 1), None);
        assert_eq!(due(limit(1, 3), SECOND), Some(Signal::XCPU));
        assert_eq!(due(limit(3, 3), 3 * SECOND), Some(Signal::KILL));
        assert_eq!(due(limit(0, UNLIMITED), 0), Some(Signal::XCPU));
        assert_eq!(due(limit(UNLIMITED, UNLIMITED), u64::MAX), None);
        assert_eq!(
            (next_event(limit(2, 3)), next_event(limit(UNLIMITED, UNLIMITED))),
            (Some(2 * SECOND), None)
        );
    }

    #[test]
    fn a_limit_that_is_reached_is_noticed_when_time_is_charged() {
        let process = process();
        process.count_cpu_limit(100 * SECOND);
        assert!(process.leader().unwrap().pending().is_empty(), "without a limit nothing is");
        process.change_limit(Resource::Cpu, Limit { soft: 0, hard: 5 }, true).unwrap();
        process.count_cpu_limit(10);
        assert!(process.leader().unwrap().pending().contains(Signal::XCPU));
        assert_eq!(process.rlimit(Resource::Cpu), Limit { soft: 1, hard: 5 });
        // The count alone is no proof: the accounts say that a second is not over.
        process.count_cpu_limit(2 * SECOND);
        assert_eq!(process.rlimit(Resource::Cpu).soft, 1);
        process.change_limit(Resource::Cpu, Limit { soft: UNLIMITED, hard: UNLIMITED }, true).unwrap();
        assert!(!process.cpu_limit.count(u64::MAX));
    }
}

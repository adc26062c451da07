//! Accounts: time on the processor, page faults, switches. getrusage(2), times(2).
//!
//! Time is measured where a thread gets and gives up the processor and at its interrupts, not at each system call: what ends
//! in an interrupt of user code counts as user time, what ends in a wait as system time.

use core::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds per clock tick of times(2): `sysconf(_SC_CLK_TCK)` is 100.
pub const TICK: u64 = 10_000_000;

/// Running totals of a thread, written by it alone and read by anyone.
#[derive(Default)]
pub struct Usage {
    user: AtomicU64,
    system: AtomicU64,
    faults: AtomicU64,
    voluntary_switches: AtomicU64,
    involuntary_switches: AtomicU64,
    /// Since when time has not been charged; 0 while it does not run.
    since: AtomicU64,
}

/// What a stretch of time went into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// The program's own instructions.
    User,
    /// Work of the kernel for it.
    System,
}

/// Totals at one moment; of a thread, or added up over several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Nanoseconds in user mode.
    pub user: u64,
    /// Nanoseconds in the kernel.
    pub system: u64,
    /// Page faults.
    pub faults: u64,
    /// Waits.
    pub voluntary_switches: u64,
    /// Times it gave way at the end of a time slice.
    pub involuntary_switches: u64,
    /// The largest resident set, in KiB.
    pub max_resident: u64,
}

impl Totals {
    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        self.user += other.user;
        self.system += other.system;
        self.faults += other.faults;
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
        self.max_resident = self.max_resident.max(other.max_resident);
    }
}

fn add(total: &AtomicU64, amount: u64) {
    // There is one writer, so no read-modify-write cycle is needed.
    total.store(total.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

impl Usage {
    /// The thread begins to run, at `now`.
    pub fn start(&self, now: u64) {
        self.since.store(now.max(1), Ordering::Relaxed);
    }

    /// Charges the time up to `now`; returns its length.
    pub fn charge(&self, now: u64, to: Charge) -> u64 {
        let since = self.since.swap(now, Ordering::Relaxed);
        let elapsed = if since == 0 { 0 } else { now.saturating_sub(since) };
        add(if to == Charge::User { &self.user } else { &self.system }, elapsed);
        elapsed
    }

    /// The thread gives the processor up, at `now`. Returns the nanoseconds that this charges.
    pub fn stop(&self, now: u64, yielded: bool) -> u64 {
        let elapsed = self.charge(now, if yielded { Charge::User } else { Charge::System });
        add(if yielded { &self.involuntary_switches } else { &self.voluntary_switches }, 1);
        self.since.store(0, Ordering::Relaxed);
        elapsed
    }

    /// A page fault was served.
    pub fn count_fault(&self) {
        add(&self.faults, 1);
    }

    /// The totals, with what a running thread has not been charged yet counted as user time.
    pub fn totals(&self, now: u64) -> Totals {
        let since = self.since.load(Ordering::Relaxed);
        let running = if since == 0 { 0 } else { now.saturating_sub(since) };
        Totals {
            user: self.user.load(Ordering::Relaxed) + running,
            system: self.system.load(Ordering::Relaxed),
            faults: self.faults.load(Ordering::Relaxed),
            voluntary_switches: self.voluntary_switches.load(Ordering::Relaxed),
            involuntary_switches: self.involuntary_switches.load(Ordering::Relaxed),
            max_resident: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_charged_to_what_it_ended_in() {
        let usage = Usage::default();
        usage.start(100);
        assert_eq!(usage.charge(130, Charge::User), 30);
        usage.stop(150, false);
        usage.start(1000);
        assert_eq!(usage.totals(1005).user, 35);
        usage.stop(1010, true);
        let totals = usage.totals(5000);
        assert_eq!((totals.user, totals.system), (40, 20));
        assert_eq!((totals.voluntary_switches, totals.involuntary_switches), (1, 1));
    }

    #[test]
    fn totals_add_up_and_keep_the_largest_resident_set() {
        let mut sum = Totals { user: 1, max_resident: 50, ..Totals::default() };
        sum.add(&Totals { user: 2, faults: 3, max_resident: 40, ..Totals::default() });
        assert_eq!((sum.user, sum.faults, sum.max_resident), (3, 3, 50));
    }
}

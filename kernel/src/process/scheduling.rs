//! What a thread asks of the scheduler: policy, priority, nice value, cores. sched(7).
//!
//! Policy and nice value say what share of its core a thread has ([`Parameters::share`]). The affinity mask is checked against the
//! cores that there are.

use crate::arch::MAX_CORES;
use crate::errno::Errno;
use crate::sched::Share;

/// A scheduling policy: `SCHED_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Policy {
    /// `SCHED_OTHER`
    #[default]
    Other = 0,
    /// `SCHED_FIFO`
    Fifo = 1,
    /// `SCHED_RR`
    RoundRobin = 2,
    /// `SCHED_BATCH`
    Batch = 3,
    /// `SCHED_IDLE`
    Idle = 5,
}

impl Policy {
    /// The policy of that number.
    ///
    /// # Errors
    /// `EINVAL`; also for `SCHED_DEADLINE`, which is not there.
    pub fn new(number: u32) -> Result<Self, Errno> {
        Ok(match number {
            0 => Self::Other,
            1 => Self::Fifo,
            2 => Self::RoundRobin,
            3 => Self::Batch,
            5 => Self::Idle,
            _ => return Err(Errno::EINVAL),
        })
    }

    /// The static priorities it allows.
    pub fn priorities(self) -> core::ops::RangeInclusive<i32> {
        match self {
            Self::Fifo | Self::RoundRobin => 1..=99,
            _ => 0..=0,
        }
    }

    /// Whether it runs before all others, and needs privilege.
    pub fn is_real_time(self) -> bool {
        matches!(self, Self::Fifo | Self::RoundRobin)
    }
}

/// A set of cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreSet(pub u64);

const _: () = assert!(MAX_CORES <= 64, "a core set is one word");

impl CoreSet {
    /// The first `count` cores.
    pub fn first(count: usize) -> Self {
        Self(if count >= 64 { u64::MAX } else { (1 << count) - 1 })
    }
}

/// What a thread asks of the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Its policy.
    pub policy: Policy,
    /// Its static priority.
    pub priority: i32,
    /// -20 (most favoured) to 19.
    pub nice: i32,
    /// `SCHED_RESET_ON_FORK`
    pub reset_on_fork: bool,
    /// Where it may run.
    pub cores: CoreSet,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { policy: Policy::Other, priority: 0, nice: 0, reset_on_fork: false, cores: CoreSet(u64::MAX) }
    }
}

impl Parameters {
    /// The share of its core that this asks for.
    pub fn share(&self) -> Share {
        match self.policy {
            Policy::Other => Share::fair(self.nice),
            Policy::Batch => Share::batch(self.nice),
            Policy::Idle => Share::idle(),
            Policy::Fifo => Share::real_time(self.priority, false),
            Policy::RoundRobin => Share::real_time(self.priority, true),
        }
    }

    /// Those of a thread made by one with these.
    pub fn inherited(self) -> Self {
        if !self.reset_on_fork {
            return self;
        }
        let policy = if self.policy.is_real_time() { Policy::Other } else { self.policy };
        Self { policy, priority: 0, nice: self.nice.max(0), reset_on_fork: false, cores: self.cores }
    }

    /// Changes policy and priority.
    ///
    /// # Errors
    /// `EINVAL` for a priority that the policy does not have; `EPERM` for a real-time policy without privilege.
    pub fn set_policy(&mut self, policy: Policy, priority: i32, privileged: bool) -> Result<(), Errno> {
        if !policy.priorities().contains(&priority) {
            return Err(Errno::EINVAL);
        }
        if policy.is_real_time() && !privileged {
            return Err(Errno::EPERM);
        }
        (self.policy, self.priority) = (policy, priority);
        Ok(())
    }

    /// Changes the nice value, clamped to its range.
    ///
    /// # Errors
    /// `EACCES` when it is lowered without privilege.
    pub fn set_nice(&mut self, nice: i32, privileged: bool) -> Result<(), Errno> {
        let nice = nice.clamp(-20, 19);
        if nice < self.nice && !privileged {
            return Err(Errno::EACCES);
        }
        self.nice = nice;
        Ok(())
    }

    /// Restricts it to `cores`, of which those in `online` count.
    ///
    /// # Errors
    /// `EINVAL` when none is left.
    pub fn set_cores(&mut self, cores: CoreSet, online: CoreSet) -> Result<(), Errno> {
        if cores.0 & online.0 == 0 {
            return Err(Errno::EINVAL);
        }
        self.cores = CoreSet(cores.0 & online.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_belong_to_policies() {
        let mut parameters = Parameters::default();
        assert_eq!(parameters.set_policy(Policy::Fifo, 0, true), Err(Errno::EINVAL));
        assert_eq!(parameters.set_policy(Policy::Fifo, 1, false), Err(Errno::EPERM));
        assert_eq!(parameters.set_policy(Policy::RoundRobin, 99, true), Ok(()));
        parameters.reset_on_fork = true;
        assert_eq!(parameters.inherited(), Parameters::default());
    }

    #[test]
    fn nice_values_are_clamped_and_lowered_by_root_only() {
        let mut parameters = Parameters::default();
        parameters.set_nice(100, false).unwrap();
        assert_eq!(parameters.nice, 19);
        assert_eq!(parameters.set_nice(18, false), Err(Errno::EACCES));
        parameters.set_nice(-100, true).unwrap();
        assert_eq!(parameters.nice, -20);
    }

    #[test]
    fn affinity_needs_a_core_that_exists() {
        let mut parameters = Parameters::default();
        assert_eq!(parameters.set_cores(CoreSet(0b100), CoreSet::first(2)), Err(Errno::EINVAL));
        parameters.set_cores(CoreSet(0b110), CoreSet::first(2)).unwrap();
        assert_eq!(parameters.cores, CoreSet(0b10));
    }
}

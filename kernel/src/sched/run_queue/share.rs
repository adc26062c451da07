//! What a task gets of its core, in one word: a rank above the fair tasks, or a weight among them.

/// The weights of nice -20 to 19: each is about 1.25 times the next, so that a step of nice is a tenth of the processor between two
/// tasks (Linux, kernel/sched/core.c, `sched_prio_to_weight`).
const WEIGHTS: [u32; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, // -20
    9548, 7620, 6100, 4904, 3906, 3121, 2501, 1991, 1586, 1277, // -10
    1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, // 0
    110, 87, 70, 56, 45, 36, 29, 23, 18, 15, // 10
];

/// The weight of `SCHED_IDLE`.
const IDLE_WEIGHT: u32 = 3;

const WEIGHT_BITS: u32 = 0x1_ffff;
/// Takes turns with its equals: `SCHED_RR`.
const ROTATES: u32 = 1 << 20;
/// Does not preempt when it is woken: `SCHED_BATCH`.
const BATCH: u32 = 1 << 21;
/// Runs when nobody else wants to: `SCHED_IDLE`.
const IDLE: u32 = 1 << 22;
const RANK_SHIFT: u32 = 24;

/// Rank and weight of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// A kernel activity that answers a device: before all others, in order of arrival.
    pub const URGENT: Self = Self(100 << RANK_SHIFT);

    /// `SCHED_OTHER` with this nice value, which is clamped to its range.
    pub const fn fair(nice: i32) -> Self {
        let index = if nice < -20 {
            0
        } else if nice > 19 {
            39
        } else {
            nice + 20
        };
        Self(WEIGHTS[index as usize])
    }

    /// `SCHED_BATCH` with this nice value.
    pub const fn batch(nice: i32) -> Self {
        Self(Self::fair(nice).0 | BATCH)
    }

    /// `SCHED_IDLE`
    pub const fn idle() -> Self {
        Self(IDLE_WEIGHT | IDLE | BATCH)
    }

    /// `SCHED_FIFO`, or `SCHED_RR` if it `rotates`, with this priority (1 to 99, to which it is clamped).
    pub const fn real_time(priority: i32, rotates: bool) -> Self {
        let priority = if priority < 1 {
            1
        } else if priority > 99 {
            99
        } else {
            priority
        };
        Self((priority as u32) << RANK_SHIFT | if rotates { ROTATES } else { 0 })
    }

    /// As [`Share::word`] had it.
    pub const fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// As one word.
    pub const fn word(self) -> u32 {
        self.0
    }

    /// 0 for the fair tasks; the higher goes first.
    pub const fn rank(self) -> u32 {
        self.0 >> RANK_SHIFT
    }

    /// Whether it has a weight rather than a rank.
    pub const fn is_fair(self) -> bool {
        self.rank() == 0
    }

    /// Whether it is of `SCHED_FIFO` or `SCHED_RR`.
    pub const fn is_real_time(self) -> bool {
        !self.is_fair() && self.rank() < Self::URGENT.rank()
    }

    /// Its part of the time among the fair tasks.
    pub const fn weight(self) -> u64 {
        (self.0 & WEIGHT_BITS) as u64
    }

    /// Whether it takes turns with its equals of real time.
    pub const fn rotates(self) -> bool {
        self.0 & ROTATES != 0
    }

    /// Whether it waits for its turn when it is woken.
    pub const fn is_batch(self) -> bool {
        self.0 & BATCH != 0
    }

    /// Whether anyone who is not like it may interrupt it.
    pub const fn is_idle(self) -> bool {
        self.0 & IDLE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_linux() {
        let weights = [-21, -20, 0, 5, 19, 20].map(|nice| Share::fair(nice).weight());
        assert_eq!(weights, [88761, 88761, 1024, 335, 15, 15]);
        assert_eq!(Share::idle().weight(), 3);
    }

    #[test]
    fn ranks_are_ordered() {
        let ranks = [Share::idle(), Share::batch(-20), Share::fair(-20)].map(Share::rank);
        assert_eq!(ranks, [0; 3]);
        let real_time = [Share::real_time(1, true), Share::real_time(99, false), Share::URGENT];
        assert_eq!(real_time.map(Share::rank), [1, 99, 100]);
        assert_eq!(real_time.map(Share::rotates), [true, false, false]);
        assert_eq!(real_time.map(Share::is_real_time), [true, true, false]);
        assert!(Share::batch(0).is_batch() && !Share::batch(0).is_idle() && Share::idle().is_idle());
    }
}

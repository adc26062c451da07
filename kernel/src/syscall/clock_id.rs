//! Clocks as programs name them: `clockid_t` of clock_gettime(2).
//!
//! Numbers from 0 on are clocks of the machine. Negative ones are processor-time clocks of a process or thread
//! (clock_getcpuclockid(3), pthread_getcpuclockid(3)): the complement of an id, shifted left by three, over a bit that says
//! "thread" and two that say what is counted.

use alloc::sync::Arc;

use crate::arch;
use crate::errno::Errno;
use crate::process::usage::Totals;
use crate::process::{self, Thread};

/// A clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockId {
    /// `CLOCK_REALTIME`, `CLOCK_TAI`: since the Unix epoch. That there are leap seconds nobody has told this kernel, so
    /// the two are one, as on Linux until adjtimex(2) tells it.
    Wall {
        /// Whether it is the one that can be set in principle: `CLOCK_REALTIME`.
        is_real: bool,
    },
    /// `CLOCK_MONOTONIC`, `CLOCK_BOOTTIME`: since boot.
    Monotonic,
    /// `CLOCK_REALTIME_COARSE`: read only; as fine as the others here.
    WallReading,
    /// `CLOCK_MONOTONIC_RAW`, `CLOCK_MONOTONIC_COARSE`: read only, likewise.
    MonotonicReading,
    /// `CLOCK_REALTIME_ALARM`, `CLOCK_BOOTTIME_ALARM`: nothing can wake this machine, so they cannot be read.
    Alarm,
    /// A process's time on the processor.
    Process(ProcessorClock),
    /// A thread's.
    Thread(ProcessorClock),
}

/// Time on the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorClock {
    /// Whose; 0 is the caller.
    pub id: u32,
    /// Only that in user mode.
    pub user_only: bool,
}

impl ProcessorClock {
    const OWN: Self = Self { id: 0, user_only: false };

    fn of(self, totals: &Totals) -> u64 {
        if self.user_only { totals.user } else { totals.user + totals.system }
    }
}

impl ClockId {
    /// The clock of that number.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(number: i32) -> Result<Self, Errno> {
        Ok(match number {
            0 => Self::Wall { is_real: true },
            1 | 7 => Self::Monotonic,
            2 => Self::Process(ProcessorClock::OWN),
            3 => Self::Thread(ProcessorClock::OWN),
            4 | 6 => Self::MonotonicReading,
            5 => Self::WallReading,
            8 | 9 => Self::Alarm,
            11 => Self::Wall { is_real: false },
            number if number < 0 => Self::processor(number)?,
            _ => return Err(Errno::EINVAL),
        })
    }

    fn processor(number: i32) -> Result<Self, Errno> {
        const THREAD: i32 = 4;
        let user_only = match number & 3 {
            0 | 2 => false,
            1 => true,
            // A clock behind a descriptor, or nothing.
            _ => return Err(Errno::EINVAL),
        };
        let clock = ProcessorClock { id: !(number >> 3) as u32, user_only };
        Ok(if number & THREAD != 0 { Self::Thread(clock) } else { Self::Process(clock) })
    }

    /// What it shows, in nanoseconds, to `caller`.
    ///
    /// # Errors
    /// `EINVAL` when it cannot be read, or is that of nobody, or of a thread of another process.
    pub fn now(self, caller: &Arc<Thread>) -> Result<u64, Errno> {
        Ok(match self {
            Self::Wall { .. } | Self::WallReading => arch::now() + arch::wall_clock_offset(),
            Self::Monotonic | Self::MonotonicReading => arch::now(),
            Self::Alarm => return Err(Errno::EINVAL),
            Self::Process(clock) if clock.id == 0 => clock.of(&caller.process().usage()),
            Self::Process(clock) => clock.of(&process::find(clock.id).ok_or(Errno::EINVAL)?.usage()),
            Self::Thread(clock) if clock.id == 0 => clock.of(&caller.usage().totals(arch::now())),
            Self::Thread(clock) => {
                let thread = process::find_thread(clock.id).ok_or(Errno::EINVAL)?;
                if !Arc::ptr_eq(thread.process(), caller.process()) {
                    return Err(Errno::EINVAL);
                }
                clock.of(&thread.usage().totals(arch::now()))
            }
        })
    }

    /// The point of [`arch::now`] at which this clock shows `time`; what has passed is in the past.
    ///
    /// # Errors
    /// `EOPNOTSUPP` when one cannot sleep by it.
    pub fn deadline(self, time: u64) -> Result<u64, Errno> {
        match self {
            Self::Wall { .. } => Ok(time.saturating_sub(arch::wall_clock_offset())),
            Self::Monotonic => Ok(time),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::tests::{process, second_thread};

    fn of_process(pid: u32) -> ClockId {
        ClockId::new((!pid as i32) << 3 | 2).unwrap()
    }

    fn of_thread(tid: u32) -> ClockId {
        ClockId::new((!tid as i32) << 3 | 6).unwrap()
    }

    #[test]
    fn numbers_name_clocks() {
        assert_eq!(ClockId::new(0), Ok(ClockId::Wall { is_real: true }));
        assert_eq!(ClockId::new(7), Ok(ClockId::Monotonic));
        assert_eq!(of_process(700), ClockId::Process(ProcessorClock { id: 700, user_only: false }));
        assert_eq!(of_thread(701), ClockId::Thread(ProcessorClock { id: 701, user_only: false }));
        // Neither the reserved numbers nor descriptors are clocks.
        for number in [10, 12, 99, -1, -5] {
            assert_eq!(ClockId::new(number), Err(Errno::EINVAL), "{number}");
        }
    }

    #[test]
    fn processor_clocks_are_read_by_pid_and_by_tid_within_the_process() {
        let (ours, other) = (process(), process());
        let caller = ours.leader().unwrap();
        let second = second_thread(&ours);
        assert_eq!(of_process(other.pid()).now(&caller), Ok(0));
        assert_eq!(of_thread(second.tid()).now(&caller), Ok(0));
        assert_eq!(of_thread(other.leader().unwrap().tid()).now(&caller), Err(Errno::EINVAL));
        assert_eq!(of_process(4_000_000).now(&caller), Err(Errno::EINVAL));
        caller.usage().start(arch::now().saturating_sub(1_000_000));
        for clock in [of_process(0), of_thread(0), ClockId::new(2).unwrap(), ClockId::new(3).unwrap()] {
            assert!(clock.now(&caller).unwrap() > 0);
        }
    }

    #[test]
    fn one_sleeps_by_clocks_that_are_not_mere_readings() {
        assert_eq!(ClockId::Monotonic.deadline(5), Ok(5));
        let wall = ClockId::Wall { is_real: true };
        assert_eq!(wall.deadline(5), Ok(0));
        assert_eq!(
            wall.deadline(arch::wall_clock_offset() + 5).map(|at| at.abs_diff(5) < 10_000_000),
            Ok(true)
        );
        for clock in [ClockId::WallReading, ClockId::MonotonicReading, ClockId::Alarm] {
            assert_eq!(clock.deadline(5), Err(Errno::EOPNOTSUPP));
        }
    }
}

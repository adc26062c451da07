//! Timers behind descriptors (timerfd_create(2)).
//!
//! Expirations are counted when somebody looks, from the deadline and the interval; a kernel timer only wakes those who wait. It is
//! armed for the first expiration that nobody has read, and again when that has been read: so a timer costs no more than its reader
//! can bear, however short its interval.

use alloc::sync::Arc;
use alloc::task::Wake;
use core::task::Waker;

use super::{File, FileType, Stat, anon};
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::sched::timer::Timer;
use crate::sched::{Events, WaitQueue};
use crate::sync::SpinLock;
use crate::uaccess::ReadBuf;

/// A timer's setting, in nanoseconds: `struct itimerspec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Time between expirations after the first; 0 for one expiration.
    pub interval: u64,
    /// Time to the first expiration; 0 for a timer that is off.
    pub value: u64,
}

#[derive(Default)]
struct State {
    /// Next expiration in nanoseconds of [`arch::now`]; `None` when the timer is off or has expired for good.
    deadline: Option<u64>,
    interval: u64,
    /// Expirations not read yet.
    expired: u64,
    /// Armed while no expiration waits for a reader.
    timer: Option<Timer>,
}

impl State {
    /// Counts the expirations up to `now`.
    fn advance(&mut self, now: u64) {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else { return };
        let intervals = (now - deadline).checked_div(self.interval);
        // Without an interval it expires once.
        let passed = intervals.map_or(1, |count| count + 1);
        self.expired = self.expired.saturating_add(passed);
        self.deadline = intervals.and_then(|_| deadline.checked_add(passed.saturating_mul(self.interval)));
    }

    fn remaining(&self, now: u64) -> Setting {
        let value = self.deadline.map_or(0, |deadline| deadline.saturating_sub(now).max(1));
        Setting { interval: self.interval, value }
    }
}

struct Shared {
    state: SpinLock<State>,
    queue: WaitQueue,
}

impl Shared {
    /// Arms the kernel timer, unless there is something to read already.
    fn arm(self: &Arc<Self>, state: &mut State) {
        let deadline = state.deadline.filter(|_| state.expired == 0);
        state.timer = deadline.map(|deadline| Timer::at(deadline, &Waker::from(self.clone())));
    }
}

impl Wake for Shared {
    /// The kernel timer expired.
    fn wake(self: Arc<Self>) {
        let mut state = self.state.lock();
        state.advance(arch::now());
        // It may have been set anew since the core took the expired timer out.
        self.arm(&mut state);
        let expired = state.expired != 0;
        drop(state);
        if expired {
            self.queue.wake(Events::IN);
        }
    }
}

/// A timer behind a descriptor.
pub struct TimerFd {
    shared: Arc<Shared>,
    /// Whether its absolute times are of the wall clock.
    realtime: bool,
}

impl TimerFd {
    /// A timer that is off, of the wall clock or of the monotonic one.
    pub fn new(realtime: bool) -> Self {
        let shared = Shared { state: SpinLock::new(State::default()), queue: WaitQueue::new() };
        Self { shared: Arc::new(shared), realtime }
    }

    /// Sets the timer; with `absolute`, `value` is a time of its clock. Returns the setting that it had.
    pub fn set(&self, setting: Setting, absolute: bool) -> Setting {
        let now = arch::now();
        let offset = if self.realtime { arch::wall_clock_offset() } else { 0 };
        let mut state = self.shared.state.lock();
        state.advance(now);
        let old = state.remaining(now);
        let start =
            if absolute { setting.value.saturating_sub(offset) } else { now.saturating_add(setting.value) };
        state.deadline = (setting.value != 0).then_some(start);
        state.interval = setting.interval;
        state.expired = 0;
        state.advance(now);
        self.shared.arm(&mut state);
        let expired = state.expired != 0;
        drop(state);
        if expired {
            self.shared.queue.wake(Events::IN);
        }
        old
    }

    /// Time to the next expiration, and the interval.
    pub fn get(&self) -> Setting {
        let now = arch::now();
        let mut state = self.shared.state.lock();
        state.advance(now);
        state.remaining(now)
    }
}

impl File for TimerFd {
    fn read(&self, _offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        if buf.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut state = self.shared.state.lock();
        state.advance(arch::now());
        if state.expired == 0 {
            return Err(Errno::EAGAIN);
        }
        if !buf.push_whole(&state.expired.to_ne_bytes()) {
            return Err(Errno::EFAULT);
        }
        state.expired = 0;
        self.shared.arm(&mut state);
        Ok(8)
    }

    fn poll(&self) -> Events {
        let mut state = self.shared.state.lock();
        state.advance(arch::now());
        if state.expired > 0 { Events::IN | Events::RDNORM } else { Events::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.shared.queue)
    }

    fn class(&self) -> &'static str {
        "[timerfd]"
    }

    fn stat(&self) -> Stat {
        anon::for_current(FileType::Anonymous)
    }
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        // The armed timer holds the shared part through its waker.
        let timer = self.shared.state.lock().timer.take();
        drop(timer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::fixture::Waiter;
    use crate::sched::timer::expire;

    fn read(timer: &TimerFd) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        timer.read(0, &mut ReadBuf::kernel(&mut bytes)).map(|_| u64::from_ne_bytes(bytes))
    }

    #[test]
    fn expirations_are_counted_from_the_interval() {
        let mut state = State { deadline: Some(100), interval: 10, ..State::default() };
        state.advance(99);
        assert_eq!((state.expired, state.deadline), (0, Some(100)));
        state.advance(125);
        assert_eq!((state.expired, state.deadline), (3, Some(130)));
        assert_eq!(state.remaining(126), Setting { interval: 10, value: 4 });
    }

    #[test]
    fn a_timer_expires_once_and_can_be_switched_off() {
        let timer = TimerFd::new(false);
        assert_eq!(timer.set(Setting { interval: 0, value: 1 }, true), Setting::default());
        while arch::now() < 1 {}
        assert_eq!(timer.poll(), Events::IN | Events::RDNORM);
        assert_eq!((read(&timer), read(&timer)), (Ok(1), Err(Errno::EAGAIN)));
        timer.set(Setting { interval: 5, value: u64::MAX / 2 }, false);
        assert_eq!(timer.get().interval, 5);
        timer.set(Setting::default(), false);
        assert_eq!(timer.get().value, 0);
    }

    #[test]
    fn those_who_wait_are_woken() {
        let timer = TimerFd::new(false);
        let waiter = Waiter::new(timer.wait_queue().unwrap(), Events::IN);
        timer.set(Setting { interval: 0, value: 1_000_000 }, false);
        waiter.was_woken();
        while !waiter.was_woken() {
            crate::sched::run_until_idle();
        }
        assert_eq!(read(&timer), Ok(1));
    }

    #[test]
    fn a_short_interval_costs_one_wake_for_each_read() {
        let timer = TimerFd::new(false);
        let waiter = Waiter::new(timer.wait_queue().unwrap(), Events::IN);
        timer.set(Setting { interval: 1, value: 1 }, false);
        for _ in 0..3 {
            while !waiter.was_woken() {
                expire(arch::now());
            }
            assert!(timer.shared.state.lock().timer.is_none());
            expire(arch::now() + 1000);
            assert!(!waiter.was_woken());
            assert!(read(&timer).is_ok_and(|expired| expired > 1));
        }
    }

    #[test]
    fn who_waits_is_told_at_once_of_a_time_that_has_passed() {
        let timer = TimerFd::new(false);
        let waiter = Waiter::new(timer.wait_queue().unwrap(), Events::IN);
        while arch::now() < 1 {}
        timer.set(Setting { interval: 0, value: 1 }, true);
        assert!(waiter.was_woken());
    }
}

//! Interval timers: setitimer(2), alarm(2).
//!
//! The real-time one is a timer of the core on which it was set, whose waker sends `SIGALRM`; it goes on with its interval when that
//! has been taken, and so costs no more than the program that receives its signals can bear. The other two count processor
//! time and are looked at where that is charged. All times are nanoseconds.
//!
//! Lock order: thread group, then the real-time timer, then the core's timers.

use alloc::sync::{Arc, Weak};
use alloc::task::Wake;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;

use super::group::Process;
use super::signal::{Signal, SignalInfo};
use super::usage::Charge;
use crate::arch;
use crate::sched::timer::Timer;
use crate::sync::SpinLock;

/// An interval timer's setting: how long until it expires (0: never), and how long from then on each time (0: once).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Until the next expiry.
    pub value: u64,
    /// Between expiries after it.
    pub interval: u64,
}

/// Which clock a timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// `ITIMER_REAL`: time that passes.
    Real,
    /// `ITIMER_VIRTUAL`: the process's time in user mode.
    Virtual,
    /// `ITIMER_PROF`: its time on the processor.
    Profiling,
}

/// The interval timers of a process.
#[derive(Default)]
pub struct IntervalTimers {
    real: SpinLock<Real>,
    counted: SpinLock<Counted>,
    /// Whether one of `counted` runs, readable without the lock.
    counting: AtomicBool,
}

#[derive(Default)]
struct Real {
    /// The next expiry, or while `sent` the last, in nanoseconds of [`arch::now`].
    deadline: Option<u64>,
    interval: u64,
    /// Its signal has been sent and not been taken.
    sent: bool,
    timer: Option<Timer>,
}

#[derive(Default)]
struct Counted {
    virtual_time: Setting,
    profiling: Setting,
}

/// Has `SIGALRM` sent to its process when woken. Holds no process alive.
struct Alarm(Weak<Process>);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        if let Some(process) = self.0.upgrade() {
            expire_real(&process);
        }
    }
}

fn expire_real(process: &Process) {
    let mut real = process.timers.real.lock();
    // It may have been set anew since the core took the expired timer out.
    if real.sent || real.deadline.is_none_or(|deadline| deadline > arch::now()) {
        return;
    }
    real.sent = true;
    let expired = real.timer.take();
    drop(real);
    drop(expired);
    // A standard signal is never refused.
    let _ = process.send_signal(SignalInfo::kernel(Signal::ALRM));
}

/// The first expiry after `now` of a timer that expired at `deadline`.
pub(super) fn next_expiry(deadline: u64, interval: u64, now: u64) -> Option<u64> {
    if interval == 0 {
        return None;
    }
    let missed = now.saturating_sub(deadline) / interval;
    Some(deadline.saturating_add(interval.saturating_mul(missed + 1)))
}

impl Process {
    /// What `clock`'s timer is set to now.
    pub fn interval_timer(&self, clock: Clock) -> Setting {
        match clock {
            Clock::Real => self.timers.real.lock().setting(arch::now()),
            Clock::Virtual => self.timers.counted.lock().virtual_time,
            Clock::Profiling => self.timers.counted.lock().profiling,
        }
    }

    /// Sets `clock`'s timer; returns what it was set to.
    pub fn set_interval_timer(self: &Arc<Self>, clock: Clock, new: Setting) -> Setting {
        if clock == Clock::Real {
            return self.set_real_timer(new);
        }
        let mut counted = self.timers.counted.lock();
        let slot = if clock == Clock::Virtual { &mut counted.virtual_time } else { &mut counted.profiling };
        let old = core::mem::replace(slot, new);
        let counting = counted.virtual_time.value != 0 || counted.profiling.value != 0;
        self.timers.counting.store(counting, Ordering::Relaxed);
        old
    }

    fn set_real_timer(self: &Arc<Self>, new: Setting) -> Setting {
        let deadline = (new.value != 0).then(|| arch::now().saturating_add(new.value));
        let timer = deadline.map(|deadline| self.alarm_at(deadline));
        let fresh = Real { deadline, interval: new.interval, sent: false, timer };
        let mut real = self.timers.real.lock();
        let old = real.setting(arch::now());
        let former = core::mem::replace(&mut *real, fresh);
        drop(real);
        drop(former);
        old
    }

    fn alarm_at(self: &Arc<Self>, deadline: u64) -> Timer {
        Timer::at(deadline, &Waker::from(Arc::new(Alarm(Arc::downgrade(self)))))
    }

    /// A `SIGALRM` has been taken, or is no longer ignored: the timer that has sent it goes on.
    pub(super) fn alarm_goes_on(self: &Arc<Self>) {
        let mut real = self.timers.real.lock();
        let (true, Some(deadline)) = (real.sent, real.deadline) else { return };
        real.sent = false;
        real.deadline = next_expiry(deadline, real.interval, arch::now());
        real.timer = real.deadline.map(|deadline| self.alarm_at(deadline));
    }

    /// Counts `elapsed` nanoseconds of processor time; timers that expire send their signals.
    pub(super) fn count_time(&self, elapsed: u64, charge: Charge) {
        self.count_cpu_limit(elapsed);
        if !self.timers.counting.load(Ordering::Relaxed) {
            return;
        }
        let (virtual_expired, profiling_expired) = {
            let mut counted = self.timers.counted.lock();
            let user = if charge == Charge::User { elapsed } else { 0 };
            (counted.virtual_time.count(user), counted.profiling.count(elapsed))
        };
        for (expired, signal) in [(virtual_expired, Signal::VTALRM), (profiling_expired, Signal::PROF)] {
            if expired {
                // A standard signal is never refused.
                let _ = self.send_signal(SignalInfo::kernel(signal));
            }
        }
    }

    /// Stops all of them: the process has ended.
    pub(super) fn stop_timers(&self) {
        let former = core::mem::take(&mut *self.timers.real.lock());
        drop(former);
        *self.timers.counted.lock() = Counted::default();
        self.timers.counting.store(false, Ordering::Relaxed);
        self.cpu_limit.stop();
    }
}

impl Real {
    fn setting(&self, now: u64) -> Setting {
        let next = match self.deadline {
            Some(deadline) if self.sent => next_expiry(deadline, self.interval, now),
            deadline => deadline,
        };
        // A timer that is due but has not been looked at yet still runs.
        let value = next.map_or(0, |next| next.saturating_sub(now).max(1));
        Setting { value, interval: self.interval }
    }
}

impl Setting {
    /// Counts down by `elapsed`. Whether it expired.
    fn count(&mut self, elapsed: u64) -> bool {
        if self.value == 0 || elapsed == 0 {
            return false;
        }
        if elapsed < self.value {
            self.value -= elapsed;
            return false;
        }
        let late = elapsed - self.value;
        self.value = if self.interval == 0 { 0 } else { self.interval - late % self.interval };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::signal::{Action, IGNORE, SignalSet};
    use super::super::tests::process;
    use super::*;
    use crate::sched::timer::expire;

    const MILLISECOND: u64 = 1_000_000;

    fn wait_until(deadline: u64) {
        while arch::now() < deadline {
            std::thread::yield_now();
        }
        expire(arch::now());
    }

    #[test]
    fn an_alarm_comes_once() {
        let process = process();
        let once = Setting { value: MILLISECOND, interval: 0 };
        assert_eq!(process.set_interval_timer(Clock::Real, once), Setting::default());
        wait_until(arch::now() + 2 * MILLISECOND);
        assert!(process.leader().unwrap().pending().contains(Signal::ALRM));
        assert_eq!(process.interval_timer(Clock::Real), Setting::default());
    }

    #[test]
    fn a_periodic_timer_goes_on_and_an_alarm_can_be_taken_back() {
        let process = process();
        let thread = process.leader().unwrap();
        let alarm = SignalSet::of(&[Signal::ALRM]);
        let start = arch::now();
        process.set_interval_timer(Clock::Real, Setting { value: MILLISECOND, interval: MILLISECOND });
        for expiry in 1..=3 {
            while thread.take_signal_of(alarm).is_none() {
                expire(arch::now());
            }
            assert!(arch::now() >= start + expiry * MILLISECOND);
        }
        let left = process.set_interval_timer(Clock::Real, Setting::default());
        assert!(left.value > 0 && left.interval == MILLISECOND);
        // An expiry may have come just before it was taken back, but none comes after.
        thread.take_signal_of(alarm);
        wait_until(arch::now() + 2 * MILLISECOND);
        assert!(thread.take_signal_of(alarm).is_none());
    }

    #[test]
    fn a_periodic_timer_waits_until_its_signal_is_taken() {
        let process = process();
        let thread = process.leader().unwrap();
        process.set_interval_timer(Clock::Real, Setting { value: 1, interval: MILLISECOND });
        wait_until(arch::now() + 3 * MILLISECOND);
        assert!(process.timers.real.lock().timer.is_none());
        assert!((1..=MILLISECOND).contains(&process.interval_timer(Clock::Real).value));
        assert!(thread.take_signal_of(SignalSet::of(&[Signal::ALRM])).is_some());
        assert!(process.timers.real.lock().deadline.is_some_and(|next| next > arch::now() - MILLISECOND));
        assert!(process.timers.real.lock().timer.is_some());
    }

    #[test]
    fn an_ignored_timer_sleeps_until_its_signal_means_something() {
        let process = process();
        let thread = process.leader().unwrap();
        process.set_action(Signal::ALRM, Action { handler: IGNORE, ..Action::default() });
        process.set_interval_timer(Clock::Real, Setting { value: 1, interval: 1 });
        wait_until(arch::now() + 1000);
        assert!(process.timers.real.lock().timer.is_none() && thread.pending().is_empty());
        process.set_action(Signal::ALRM, Action { handler: 0x40_0000, ..Action::default() });
        wait_until(arch::now() + 1000);
        assert!(thread.pending().contains(Signal::ALRM));
    }

    #[test]
    fn missed_expiries_are_skipped() {
        assert_eq!(next_expiry(100, 10, 100), Some(110));
        assert_eq!(next_expiry(100, 10, 135), Some(140));
        assert_eq!(next_expiry(100, 0, 135), None);
        assert_eq!(next_expiry(u64::MAX - 1, u64::MAX, u64::MAX), Some(u64::MAX));
    }

    #[test]
    fn processor_time_counts_down_the_other_two() {
        let process = process();
        process.set_interval_timer(Clock::Virtual, Setting { value: 100, interval: 30 });
        process.set_interval_timer(Clock::Profiling, Setting { value: 120, interval: 0 });
        process.count_time(90, Charge::User);
        process.count_time(29, Charge::System);
        assert!(process.leader().unwrap().pending().is_empty());
        process.count_time(15, Charge::User);
        let both = SignalSet::of(&[Signal::VTALRM, Signal::PROF]);
        assert_eq!(process.leader().unwrap().pending(), both);
        assert_eq!(process.interval_timer(Clock::Virtual), Setting { value: 25, interval: 30 });
        assert_eq!(process.interval_timer(Clock::Profiling), Setting::default());
    }
}

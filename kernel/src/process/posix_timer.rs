//! POSIX timers: timer_create(2).
//!
//! A process has any number of them, up to its limit of pending signals. One that expires sends its signal, once, and waits
//! until that is taken ([`PosixTimer::signal_taken`]); only then does it go on with its interval, and what it would have sent
//! meanwhile is counted: the overrun. So a timer costs no more than the program that receives its signals can bear. One
//! whose signal is ignored waits until it no longer is; one whose signal is lost (there was no memory, or a `SIGCONT` took a stop
//! back) goes on by itself, but not before [`PAUSE`] has passed.
//!
//! The kernel timer behind an armed one wakes it on the core on which it was armed. All times are nanoseconds.
//!
//! Lock order: thread group, a thread's signals, the table of a process, a timer's state, then the core's timers.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::task::Wake;
use alloc::vec::Vec;
use core::task::Waker;

use super::group::Process;
use super::interval_timer::{Setting, next_expiry};
use super::limits::Resource;
use super::signal::{Signal, SignalInfo};
use super::thread::Thread;
use crate::arch;
use crate::errno::Errno;
use crate::sched::timer::Timer;
use crate::sync::SpinLock;

/// How long a timer whose signal was lost waits at least.
const PAUSE: u64 = 1_000_000;

/// Who is told of an expiry: `sigev_notify`.
#[derive(Clone)]
pub enum Target {
    /// Nobody: the program looks at the time left (`SIGEV_NONE`).
    Nobody,
    /// The process (`SIGEV_SIGNAL`; `SIGEV_THREAD` is that to the kernel).
    Process,
    /// One thread of it (`SIGEV_THREAD_ID`).
    Thread(Weak<Thread>),
}

/// What [`Process::create_timer`] needs.
pub struct NewTimer {
    /// Whether absolute times are of the wall clock, not of the monotonic one.
    pub wall: bool,
    /// Who is told.
    pub target: Target,
    /// By which signal.
    pub signal: Signal,
    /// What is told along with it; the timer's id unless the program has chosen.
    pub value: Option<u64>,
}

/// The timers of a process, by id.
#[derive(Default)]
pub struct PosixTimers(SpinLock<Table>);

#[derive(Default)]
struct Table {
    timers: BTreeMap<i32, Arc<PosixTimer>>,
    /// The id to try next: one that was deleted is not used again soon.
    next: i32,
}

impl Table {
    fn free_id(&mut self) -> i32 {
        loop {
            let id = self.next;
            self.next = id.checked_add(1).unwrap_or(0);
            // There are fewer timers than ids.
            if !self.timers.contains_key(&id) {
                return id;
            }
        }
    }
}

/// A timer.
pub struct PosixTimer {
    id: i32,
    process: Weak<Process>,
    wall: bool,
    target: Target,
    info: SignalInfo,
    state: SpinLock<State>,
}

#[derive(Default)]
struct State {
    /// The next expiry, or while `sent` the last, in nanoseconds of [`arch::now`]; `None` while the timer is off.
    deadline: Option<u64>,
    interval: u64,
    /// Its signal has been sent and not been taken.
    sent: bool,
    /// It was ignored, and is `sent` until it no longer would be.
    ignored: bool,
    /// Expiries that came between the last signal's sending and its taking.
    overrun: i32,
    timer: Option<Timer>,
}

impl State {
    /// Expiries after the deadline, up to `now`.
    fn missed(&self, now: u64) -> i32 {
        let late = self.deadline.map_or(0, |deadline| now.saturating_sub(deadline));
        late.checked_div(self.interval).map_or(0, |missed| missed.min(i32::MAX as u64) as i32)
    }

    /// Time left, and the interval; `tells` whether the timer sends signals.
    fn setting(&self, now: u64, tells: bool) -> Setting {
        let Some(deadline) = self.deadline else { return Setting { value: 0, interval: self.interval } };
        let value = match deadline.checked_sub(now) {
            Some(left @ 1..) => left,
            // It is due, but has not been looked at yet.
            _ if tells && !self.sent => 1,
            _ => next_expiry(deadline, self.interval, now).map_or(0, |next| next.saturating_sub(now).max(1)),
        };
        Setting { value, interval: self.interval }
    }
}

impl PosixTimer {
    /// Its id.
    pub fn id(&self) -> i32 {
        self.id
    }

    fn tells(&self) -> bool {
        !matches!(self.target, Target::Nobody)
    }

    /// timer_settime(2): sets it; with `absolute`, the value is a time of its clock. What the former setting has sent is forgotten.
    /// Returns the former setting.
    pub fn set(self: &Arc<Self>, new: Setting, absolute: bool) -> Setting {
        self.forget_pending();
        let now = arch::now();
        let offset = if self.wall { arch::wall_clock_offset() } else { 0 };
        let start = if absolute { new.value.saturating_sub(offset) } else { now.saturating_add(new.value) };
        let is_on = new.value != 0;
        let mut state = self.state.lock();
        let old = state.setting(now, self.tells());
        let fresh = State {
            deadline: is_on.then_some(start),
            interval: if is_on { new.interval } else { 0 },
            timer: (is_on && self.tells()).then(|| self.wake_at(start)),
            ..State::default()
        };
        let former = core::mem::replace(&mut *state, fresh);
        drop(state);
        drop(former);
        old
    }

    /// timer_gettime(2): time left, and the interval.
    pub fn get(&self) -> Setting {
        self.state.lock().setting(arch::now(), self.tells())
    }

    /// timer_getoverrun(2): that of the signal that was taken last.
    pub fn overrun(&self) -> i32 {
        self.state.lock().overrun
    }

    /// The overrun of its pending signal, were it taken now.
    pub(super) fn overrun_so_far(&self) -> i32 {
        self.state.lock().missed(arch::now())
    }

    /// Its signal has been taken: it goes on. Returns the overrun.
    pub(super) fn signal_taken(self: &Arc<Self>) -> i32 {
        self.go_on(0)
    }

    /// Its signal has come to nothing, and would again: it waits until the process does something else about it.
    pub(super) fn signal_ignored(self: &Arc<Self>) {
        self.state.lock().ignored = true;
    }

    /// Its signal has come to nothing, but need not the next time: it goes on, but not at once.
    pub(super) fn signal_lost(self: &Arc<Self>) {
        self.go_on(PAUSE);
    }

    fn go_on(self: &Arc<Self>, pause: u64) -> i32 {
        let now = arch::now();
        let mut state = self.state.lock();
        // It may have been set anew meanwhile.
        let (true, Some(deadline)) = (state.sent, state.deadline) else { return 0 };
        state.sent = false;
        state.ignored = false;
        state.overrun = state.missed(now);
        state.deadline = next_expiry(deadline, state.interval, now).map(|next| next.max(now + pause));
        state.timer = state.deadline.map(|deadline| self.wake_at(deadline));
        state.overrun
    }

    fn wake_at(self: &Arc<Self>, deadline: u64) -> Timer {
        Timer::at(deadline, &Waker::from(self.clone()))
    }

    fn expire(self: &Arc<Self>) {
        let mut state = self.state.lock();
        // It may have been set anew since the core took the expired timer out.
        if state.sent || state.deadline.is_none_or(|deadline| deadline > arch::now()) {
            return;
        }
        state.sent = true;
        let expired = state.timer.take();
        drop(state);
        drop(expired);
        let Some(process) = self.process.upgrade() else { return };
        let sent = match &self.target {
            Target::Nobody => return,
            Target::Process => process.send_timer_signal(None, self.info, self),
            Target::Thread(thread) => match thread.upgrade() {
                Some(thread) => process.send_timer_signal(Some(&thread), self.info, self),
                None => return self.stop(),
            },
        };
        if !sent && !self.state.lock().ignored {
            self.signal_lost();
        }
    }

    /// Switches it off. The armed kernel timer holds it through its waker, so that this has to come before its end.
    fn stop(&self) {
        let former = core::mem::take(&mut *self.state.lock());
        drop(former);
    }

    fn forget_pending(&self) {
        if let Some(process) = self.process.upgrade() {
            process.discard_timer_signal(self);
        }
    }
}

impl Wake for PosixTimer {
    fn wake(self: Arc<Self>) {
        self.expire();
    }
}

impl Process {
    /// timer_create(2): a timer that is off.
    ///
    /// # Errors
    /// `EAGAIN` when the process has as many as it may have signals pending.
    pub fn create_timer(self: &Arc<Self>, new: NewTimer) -> Result<Arc<PosixTimer>, Errno> {
        let limit = self.rlimit(Resource::PendingSignals).soft;
        let mut table = self.posix_timers.0.lock();
        if table.timers.len() as u64 >= limit {
            return Err(Errno::EAGAIN);
        }
        let id = table.free_id();
        let value = new.value.unwrap_or(id as u64);
        let timer = Arc::new(PosixTimer {
            id,
            process: Arc::downgrade(self),
            wall: new.wall,
            target: new.target,
            info: SignalInfo::timer(new.signal, id, value),
            state: SpinLock::new(State::default()),
        });
        table.timers.insert(id, timer.clone());
        Ok(timer)
    }

    /// The timer of that id.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn timer(&self, id: i32) -> Result<Arc<PosixTimer>, Errno> {
        self.posix_timers.0.lock().timers.get(&id).cloned().ok_or(Errno::EINVAL)
    }

    /// `signal` is no longer ignored: the timers whose signal it is and that waited for that go on.
    pub(super) fn posix_timers_go_on(&self, signal: Signal) {
        for timer in self.posix_timers.0.lock().timers.values() {
            if timer.info.signal() == signal && timer.state.lock().ignored {
                timer.go_on(0);
            }
        }
    }

    /// timer_delete(2). What it has sent is forgotten.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn delete_timer(&self, id: i32) -> Result<(), Errno> {
        let timer = self.posix_timers.0.lock().timers.remove(&id).ok_or(Errno::EINVAL)?;
        timer.stop();
        timer.forget_pending();
        Ok(())
    }

    /// Deletes all: the process has ended, or executes a new program.
    pub(super) fn delete_timers(&self) {
        let ids: Vec<i32> = self.posix_timers.0.lock().timers.keys().copied().collect();
        for id in ids {
            // Another thread may have deleted it meanwhile, which is as good.
            let _ = self.delete_timer(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::signal::{Action, IGNORE, MaskChange, SignalSet};
    use super::super::tests::{end, process, second_thread};
    use super::*;
    use crate::process::limits::Limit;
    use crate::sched::timer::expire;

    const MILLISECOND: u64 = 1_000_000;
    const USR1: SignalSet = SignalSet::of(&[Signal::USR1]);

    fn wait_until(deadline: u64) {
        while arch::now() < deadline {
            std::thread::yield_now();
        }
        expire(arch::now());
    }

    fn timer(process: &Arc<Process>, target: Target) -> Arc<PosixTimer> {
        let new = NewTimer { wall: false, target, signal: Signal::USR1, value: Some(77) };
        process.create_timer(new).unwrap()
    }

    /// A process that blocks `SIGUSR1`, with a timer that sends it.
    fn blocking() -> (Arc<Process>, Arc<Thread>, Arc<PosixTimer>) {
        let process = process();
        let thread = process.leader().unwrap();
        thread.change_mask(MaskChange::Block, USR1);
        let timer = timer(&process, Target::Process);
        (process, thread, timer)
    }

    fn once(value: u64) -> Setting {
        Setting { value, interval: 0 }
    }

    #[test]
    fn it_sends_one_signal_and_counts_what_it_does_not_send() {
        let (_process, thread, timer) = blocking();
        let start = arch::now();
        timer.set(Setting { value: MILLISECOND, interval: MILLISECOND }, false);
        wait_until(start + 6 * MILLISECOND);
        let left = timer.get();
        assert!((1..=MILLISECOND).contains(&left.value) && left.interval == MILLISECOND);
        let info = thread.take_signal_of(USR1).unwrap();
        assert_eq!((info.code(), thread.take_signal_of(USR1)), (-2, None));
        assert!(timer.overrun() >= 4);
        let taken = arch::now();
        wait_until(taken + 2 * MILLISECOND);
        assert!(thread.take_signal_of(USR1).is_some());
        assert!(timer.overrun() <= ((arch::now() - taken) / MILLISECOND) as i32);
    }

    #[test]
    fn what_is_told_is_the_id_the_overrun_and_the_value() {
        let (_process, thread, timer) = blocking();
        timer.set(once(1), false);
        wait_until(arch::now() + 2);
        let bytes = thread.take_signal_of(USR1).unwrap().to_user();
        let word = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(8), word(16), word(20), word(24)), (10, -2, timer.id(), 0, 77));
        assert_eq!((timer.get(), timer.overrun()), (Setting::default(), 0));
    }

    #[test]
    fn setting_and_deleting_forget_what_was_sent() {
        let (process, thread, timer) = blocking();
        timer.set(once(1), false);
        wait_until(arch::now() + 2);
        assert!(thread.pending().contains(Signal::USR1));
        timer.set(once(1_000_000_000_000), false);
        assert!(thread.pending().is_empty());
        let former = timer.set(once(1), true);
        assert!(former.value > 900_000_000_000);
        wait_until(arch::now());
        assert!(thread.pending().contains(Signal::USR1));
        assert_eq!(process.delete_timer(timer.id()), Ok(()));
        assert!(thread.pending().is_empty());
        assert_eq!(process.delete_timer(timer.id()), Err(Errno::EINVAL));
        assert_eq!(process.timer(timer.id()).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn one_signal_for_each_timer_even_if_the_signal_is_the_same() {
        let (process, thread, first) = blocking();
        let second = timer(&process, Target::Process);
        first.set(once(1), false);
        second.set(once(1), false);
        wait_until(arch::now() + 2);
        let taken = [(); 3].map(|()| thread.take_signal_of(USR1).is_some());
        assert_eq!(taken, [true, true, false]);
    }

    #[test]
    fn a_thread_can_be_chosen_and_its_end_stops_the_timer() {
        let process = process();
        let second = second_thread(&process);
        let timer = timer(&process, Target::Thread(Arc::downgrade(&second)));
        process.leader().unwrap().change_mask(MaskChange::Block, USR1);
        second.change_mask(MaskChange::Block, USR1);
        timer.set(Setting { value: 1, interval: MILLISECOND }, false);
        wait_until(arch::now() + 2);
        assert!(process.leader().unwrap().pending().is_empty());
        assert!(second.take_signal_of(USR1).is_some());
        end(&second);
        drop(second);
        wait_until(arch::now() + 2 * MILLISECOND);
        assert_eq!(timer.get(), Setting::default());
        assert!(process.leader().unwrap().pending().is_empty());
    }

    #[test]
    fn an_ignored_timer_sleeps_until_its_signal_means_something() {
        let process = process();
        let ignore = || process.set_action(Signal::USR1, Action { handler: IGNORE, ..Action::default() });
        let handle = || process.set_action(Signal::USR1, Action { handler: 0x1000, ..Action::default() });
        ignore();
        let thread = process.leader().unwrap();
        let timer = timer(&process, Target::Process);
        let is_armed = || timer.state.lock().timer.is_some();
        timer.set(Setting { value: 1, interval: 1 }, false);
        wait_until(arch::now() + 2);
        assert!(!is_armed() && thread.pending().is_empty() && timer.get().value == 1);
        handle();
        assert!(is_armed());
        wait_until(arch::now() + 2);
        assert!(thread.pending().contains(Signal::USR1));
        // Ignoring it now takes it back, and the timer waits again.
        ignore();
        assert!(!is_armed() && thread.pending().is_empty());
        handle();
        assert!(is_armed());
    }

    #[test]
    fn a_timer_whose_signal_was_taken_back_goes_on_at_its_leisure() {
        let process = process();
        let new = NewTimer { wall: false, target: Target::Process, signal: Signal::TSTP, value: None };
        let timer = process.create_timer(new).unwrap();
        let thread = process.leader().unwrap();
        timer.set(Setting { value: 1, interval: 1 }, false);
        wait_until(arch::now() + 2);
        assert!(thread.pending().contains(Signal::TSTP));
        let before = arch::now();
        process.send_signal(SignalInfo::kernel(Signal::CONT)).unwrap();
        assert!(!thread.pending().contains(Signal::TSTP));
        let state = timer.state.lock();
        assert!(state.timer.is_some() && state.deadline.is_some_and(|next| next >= before + PAUSE));
    }

    #[test]
    fn a_timer_that_tells_nobody_is_looked_at() {
        let process = process();
        let timer = timer(&process, Target::Nobody);
        timer.set(Setting { value: 1, interval: MILLISECOND }, true);
        assert!(timer.state.lock().timer.is_none());
        assert!((1..=MILLISECOND).contains(&timer.get().value));
        timer.set(once(1), true);
        assert_eq!(timer.get(), Setting::default());
        timer.set(Setting { value: 0, interval: 5 }, false);
        assert_eq!(timer.get(), Setting::default());
    }

    #[test]
    fn there_are_as_many_as_signals_may_be_pending_and_they_end_with_the_process() {
        let process = process();
        process.limits().set(Resource::PendingSignals, Limit { soft: 2, hard: 2 }, true).unwrap();
        let timers = [(); 2].map(|()| timer(&process, Target::Process));
        let new = NewTimer { wall: true, target: Target::Nobody, signal: Signal::ALRM, value: None };
        assert_eq!(process.create_timer(new).err(), Some(Errno::EAGAIN));
        assert_eq!(timers.each_ref().map(|timer| timer.id()), [0, 1]);
        timers[1].set(once(1_000_000_000_000), false);
        end(&process.leader().unwrap());
        // Neither the table nor an armed kernel timer holds them any more.
        assert!(timers.iter().all(|timer| Arc::strong_count(timer) == 1));
    }
}

//! Sending signals.

use alloc::sync::Arc;

use super::super::group::{Process, ThreadGroup};
use super::super::limits::Resource;
use super::super::posix_timer::PosixTimer;
use super::super::status::ExitStatus;
use super::super::thread::{Thread, attention};
use super::{Action, DEFAULT, DefaultAction, Pending, QueueFull, Signal, SignalInfo, SignalSet};
use crate::errno::Errno;

impl Process {
    /// Sends a signal that any thread of the process may take.
    ///
    /// # Errors
    /// `EAGAIN` when a program queues a real-time signal beyond `RLIMIT_SIGPENDING`.
    pub fn send_signal(&self, info: SignalInfo) -> Result<(), Errno> {
        self.post(None, info, None).map(drop)
    }

    /// Sends the signal of `timer` to the process, or to `target` alone. Whether it is pending now; if not, it has come to nothing.
    pub(in super::super) fn send_timer_signal(
        &self,
        target: Option<&Thread>,
        info: SignalInfo,
        timer: &Arc<PosixTimer>,
    ) -> bool {
        self.post(target, info, Some(timer)).unwrap_or(false)
    }

    /// Forgets the signal that `timer` has sent, if it is pending.
    pub(in super::super) fn discard_timer_signal(&self, timer: &PosixTimer) {
        let mut group = self.group();
        group.shared.discard_timer(timer);
        for thread in &group.threads {
            thread.signals.lock().pending.discard_timer(timer);
        }
        update_all(&group);
    }

    /// sigaction(2): sets the action for `signal`, and forgets pending instances if they come to nothing under it.
    /// Returns the former action.
    pub fn set_action(self: &Arc<Self>, signal: Signal, action: Action) -> Action {
        let former = self.actions().replace(signal, action);
        if action.ignores(signal) {
            let mut group = self.group();
            discard(&mut group, SignalSet::of(&[signal]), PosixTimer::signal_ignored);
            update_all(&group);
        } else if !former.is_handler() {
            // Under the lock, so that no timer finds its signal ignored and is not seen here.
            let _group = self.group();
            self.timers_go_on(signal);
        }
        former
    }

    /// `signal` is no longer ignored: the timers that waited for that go on.
    fn timers_go_on(self: &Arc<Self>, signal: Signal) {
        if signal == Signal::ALRM {
            self.alarm_goes_on();
        }
        self.posix_timers_go_on(signal);
    }

    /// Sends `info`, to `target` alone if there is one, for `timer` if it is one's. Whether it is pending then.
    fn post(
        &self,
        target: Option<&Thread>,
        info: SignalInfo,
        timer: Option<&Arc<PosixTimer>>,
    ) -> Result<bool, Errno> {
        let signal = info.signal();
        let mut group = self.group();
        let Some(first) = group.threads.first().cloned() else { return Ok(false) };
        if group.exit.is_some() {
            return Ok(false);
        }
        let continued = self.settle_stops(&mut group, signal);
        let push = |pending: &mut Pending, limit| match timer {
            Some(timer) => Ok(pending.push_timer(info, timer)),
            None => pending.push(info, limit).map(|()| true),
        };
        let receiver = target.unwrap_or(&first);
        let result = if self.drops(receiver, signal) {
            timer.into_iter().for_each(PosixTimer::signal_ignored);
            Ok(false)
        } else {
            self.enqueue(&mut group, receiver, target.is_some(), signal, push)
        };
        drop(group);
        if continued {
            self.report_continued();
        }
        if result == Ok(true) {
            self.tell_listeners();
        }
        result
    }

    /// `SIGCONT` takes back pending stops and lets a stopped process go on; a stop takes back a pending `SIGCONT`.
    /// Whether the process was stopped and goes on.
    fn settle_stops(&self, group: &mut ThreadGroup, signal: Signal) -> bool {
        match signal.default_action() {
            DefaultAction::Stop => discard(group, SignalSet::of(&[Signal::CONT]), PosixTimer::signal_lost),
            DefaultAction::Continue => {
                discard(group, SignalSet::STOPS, PosixTimer::signal_lost);
                group.stop_taken = false;
                return group.resume();
            }
            _ => {}
        }
        false
    }

    fn enqueue(
        &self,
        group: &mut ThreadGroup,
        target: &Thread,
        targeted: bool,
        signal: Signal,
        push: impl FnOnce(&mut Pending, usize) -> Result<bool, QueueFull>,
    ) -> Result<bool, Errno> {
        if signal == Signal::KILL {
            group.begin_exit(ExitStatus::Killed(signal));
            return Ok(false);
        }
        let limit = self.rlimit(Resource::PendingSignals).soft as usize;
        if targeted {
            let pushed = push(&mut target.signals.lock().pending, limit)?;
            if !target.blocked().contains(signal) {
                target.notify(attention::SIGNAL);
            }
            Ok(pushed)
        } else {
            let pushed = push(&mut group.shared, limit)?;
            if let Some(taker) = group.threads.iter().find(|thread| !thread.blocked().contains(signal)) {
                taker.notify(attention::SIGNAL);
            }
            Ok(pushed)
        }
    }

    /// Whether `signal` comes to nothing: it is ignored, or would end the first process, and is not kept pending all the same
    /// ([`ThreadSignals::keeps`](super::ThreadSignals)).
    fn drops(&self, target: &Thread, signal: Signal) -> bool {
        let action = self.actions().get(signal);
        let ignored = action.ignores(signal) || (self.is_init() && action.handler == DEFAULT);
        ignored && !target.signals.lock().keeps(signal)
    }
}

impl From<QueueFull> for Errno {
    fn from(_: QueueFull) -> Self {
        Self::EAGAIN
    }
}

fn discard(group: &mut ThreadGroup, signals: SignalSet, dropped: fn(&Arc<PosixTimer>)) {
    group.shared.discard(signals, dropped);
    for thread in &group.threads {
        thread.signals.lock().pending.discard(signals, dropped);
    }
}

/// After pending signals have been forgotten.
fn update_all(group: &ThreadGroup) {
    for thread in &group.threads {
        let own = thread.signals.lock();
        thread.update_attention(group, &own);
    }
}

impl ThreadGroup {
    /// Lets a stopped process go on. Whether it was stopped.
    pub(in super::super) fn resume(&mut self) -> bool {
        if self.stop.take().is_none() {
            return false;
        }
        self.stop_report = None;
        self.continue_report = true;
        for thread in &self.threads {
            thread.wake();
        }
        true
    }
}

impl Thread {
    /// Sends a signal that this thread has to take.
    ///
    /// # Errors
    /// As [`Process::send_signal`].
    pub fn send_signal(&self, info: SignalInfo) -> Result<(), Errno> {
        self.process().post(Some(self), info, None).map(drop)
    }

    /// Sends a signal that the thread cannot do without: its own instruction caused it. If it is blocked or ignored, the
    /// process ends.
    pub fn force_signal(&self, info: SignalInfo) {
        let signal = info.signal();
        let actions = self.process().actions();
        let mut group = self.process().group();
        let mut own = self.signals.lock();
        if own.blocked.contains(signal) || !actions.get(signal).is_handler() {
            actions.replace(signal, Action::default());
            own.blocked.remove(signal);
            drop(own);
            group.begin_exit(fatal_status(signal));
            return;
        }
        // Room for one is never refused to the kernel.
        let _ = own.pending.push(info, usize::MAX);
        self.update_attention(&group, &own);
    }
}

/// How a process ends that `signal` kills.
pub(super) fn fatal_status(signal: Signal) -> ExitStatus {
    match signal.default_action() {
        DefaultAction::Core => ExitStatus::Dumped(signal),
        _ => ExitStatus::Killed(signal),
    }
}

/// Sends `info` to `process`, if `sender` may.
///
/// # Errors
/// `EPERM`; `EAGAIN` as [`Process::send_signal`].
pub fn send_checked(
    sender: &Thread,
    process: &Arc<Process>,
    signal: Option<Signal>,
    info: impl FnOnce(Signal) -> SignalInfo,
) -> Result<(), Errno> {
    if !may_signal(sender, process, signal) {
        return Err(Errno::EPERM);
    }
    signal.map_or(Ok(()), |signal| process.send_signal(info(signal)))
}

/// Whether kill(2) lets `sender` send `signal` to `process`: by user ids, and `SIGCONT` within a session.
pub fn may_signal(sender: &Thread, process: &Arc<Process>, signal: Option<Signal>) -> bool {
    if Arc::ptr_eq(sender.process(), process) {
        return true;
    }
    let own = sender.credentials();
    // A zombie has no thread left whose ids could be looked at, and takes no signal.
    let allowed = process.leader().is_none_or(|leader| own.may_signal(&leader.credentials()));
    allowed || (signal == Some(Signal::CONT) && process.sid() == sender.process().sid())
}

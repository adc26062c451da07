//! Signals that were sent but not delivered yet.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use super::super::posix_timer::PosixTimer;
use super::{Signal, SignalInfo, SignalSet};

/// An instance of a signal.
struct Instance {
    info: SignalInfo,
    /// The timer that sent it, and goes on when it is taken.
    timer: Option<Arc<PosixTimer>>,
}

impl Instance {
    fn is_of(&self, timer: &PosixTimer) -> bool {
        self.timer.as_ref().is_some_and(|own| core::ptr::eq(&**own, timer))
    }
}

/// The pending signals of a thread, or those of a process that any of its threads may take.
#[derive(Default)]
pub struct Pending {
    set: SignalSet,
    /// In the order of arrival. Standard signals have at most one entry each, and one more for each timer.
    queue: VecDeque<Instance>,
}

/// A real-time signal could not be queued: `EAGAIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl Pending {
    /// None pending.
    pub const fn new() -> Self {
        Self { set: SignalSet::EMPTY, queue: VecDeque::new() }
    }

    /// The signals pending.
    pub fn set(&self) -> SignalSet {
        self.set
    }

    /// Queued instances.
    #[cfg(test)]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Adds `info`. A standard signal that is pending already is merged with the first one. `limit` bounds the queue
    /// (`RLIMIT_SIGPENDING`): beyond it a signal of the kernel or a standard one is still delivered, but without its
    /// particulars.
    ///
    /// # Errors
    /// [`QueueFull`] for a real-time signal that a program queued.
    pub fn push(&mut self, info: SignalInfo, limit: usize) -> Result<(), QueueFull> {
        let signal = info.signal();
        if !signal.is_real_time() && self.set.contains(signal) {
            return Ok(());
        }
        if self.queue.len() < limit && self.queue.try_reserve(1).is_ok() {
            self.queue.push_back(Instance { info, timer: None });
        } else if signal.is_real_time() && info.is_from_user() && info.code() != super::SI_USER {
            return Err(QueueFull);
        }
        self.set.insert(signal);
        Ok(())
    }

    /// Adds the signal of a timer, which has no other pending: it is bounded by the number of timers, and never merged. Whether there
    /// was memory for it.
    pub fn push_timer(&mut self, info: SignalInfo, timer: &Arc<PosixTimer>) -> bool {
        if self.queue.try_reserve(1).is_err() {
            return false;
        }
        self.queue.push_back(Instance { info, timer: Some(timer.clone()) });
        self.set.insert(info.signal());
        true
    }

    /// The next signal outside `blocked`: those that the thread's own instructions caused, then by number. Where its oldest instance is.
    fn find(&self, blocked: SignalSet) -> Option<(Signal, Option<usize>)> {
        let ready = self.set.minus(blocked);
        let signal = ready.intersection(SignalSet::SYNCHRONOUS).first().or_else(|| ready.first())?;
        Some((signal, self.queue.iter().position(|instance| instance.info.signal() == signal)))
    }

    /// What [`take`](Self::take) would take now.
    pub fn next(&self, blocked: SignalSet) -> Option<SignalInfo> {
        let (signal, at) = self.find(blocked)?;
        let instance = at.and_then(|at| self.queue.get(at));
        Some(instance.map_or(particulars_lost(signal), |instance| match &instance.timer {
            Some(timer) => instance.info.with_overrun(timer.overrun_so_far()),
            None => instance.info,
        }))
    }

    /// Takes the next signal outside `blocked`. A timer that sent it goes on.
    pub fn take(&mut self, blocked: SignalSet) -> Option<SignalInfo> {
        let (signal, at) = self.find(blocked)?;
        let instance = at.and_then(|at| self.queue.remove(at));
        self.forget_unless_queued(signal);
        Some(instance.map_or(particulars_lost(signal), |instance| match instance.timer {
            Some(timer) => instance.info.with_overrun(timer.signal_taken()),
            None => instance.info,
        }))
    }

    fn forget_unless_queued(&mut self, signal: Signal) {
        if !self.queue.iter().any(|instance| instance.info.signal() == signal) {
            self.set.remove(signal);
        }
    }

    /// Forgets the pending instances of `signals`; the timers that sent them are told by `dropped`.
    pub fn discard(&mut self, signals: SignalSet, dropped: fn(&Arc<PosixTimer>)) {
        if self.set.intersection(signals).is_empty() {
            return;
        }
        self.set = self.set.minus(signals);
        self.queue.retain(|instance| {
            let stays = !signals.contains(instance.info.signal());
            if let Some(timer) = instance.timer.as_ref().filter(|_| !stays) {
                dropped(timer);
            }
            stays
        });
    }

    /// Forgets what `timer`, which has been set anew or deleted, has sent.
    pub fn discard_timer(&mut self, timer: &PosixTimer) {
        let Some(at) = self.queue.iter().position(|instance| instance.is_of(timer)) else { return };
        if let Some(instance) = self.queue.remove(at) {
            self.forget_unless_queued(instance.info.signal());
        }
    }
}

/// What is told of a signal for which there was no place in the queue.
fn particulars_lost(signal: Signal) -> SignalInfo {
    SignalInfo::user(signal, super::SI_USER, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::super::info::{SI_TKILL, SI_USER};
    use super::*;
    use proptest::prelude::*;

    const SI_QUEUE: i32 = -1;

    fn user(number: i32, sender: u32) -> SignalInfo {
        SignalInfo::user(Signal::new(number).unwrap(), SI_QUEUE, sender, 0)
    }

    #[test]
    fn standard_signals_merge_and_real_time_signals_queue() {
        let mut pending = Pending::new();
        for sender in 1..=3 {
            pending.push(user(10, sender), 100).unwrap();
            pending.push(user(40, sender), 100).unwrap();
        }
        let taken: Vec<_> = core::iter::from_fn(|| pending.take(SignalSet::EMPTY))
            .map(|i| (i.signal().number(), i.pid()))
            .collect();
        assert_eq!(taken, [(10, 1), (40, 1), (40, 2), (40, 3)]);
        assert!(pending.set().is_empty());
    }

    #[test]
    fn the_lowest_comes_first_but_faults_before_all() {
        let mut pending = Pending::new();
        for number in [15, 11, 1] {
            pending.push(user(number, 0), 100).unwrap();
        }
        let taken: Vec<_> =
            core::iter::from_fn(|| pending.take(SignalSet::EMPTY)).map(|i| i.signal().number()).collect();
        assert_eq!(taken, [11, 1, 15]);
    }

    #[test]
    fn a_full_queue_refuses_real_time_signals_of_programs_only() {
        let mut pending = Pending::new();
        assert_eq!(pending.push(user(40, 1), 0), Err(QueueFull));
        assert!(pending.set().is_empty());
        let kill = |number, code| SignalInfo::user(Signal::new(number).unwrap(), code, 1, 0);
        pending.push(kill(15, SI_TKILL), 0).unwrap();
        pending.push(kill(41, SI_USER), 0).unwrap();
        assert_eq!(pending.take(SignalSet::EMPTY), Some(kill(15, SI_USER).with_sender_lost()));
        assert_eq!(pending.take(SignalSet::EMPTY).unwrap().signal().number(), 41);
        assert_eq!(pending.take(SignalSet::EMPTY), None);
    }

    impl SignalInfo {
        fn with_sender_lost(self) -> Self {
            Self::user(self.signal(), SI_USER, 0, 0)
        }
    }

    proptest! {
        /// Against a list: merge standard signals, take the lowest unblocked, oldest instance first.
        #[test]
        fn behaves_like_a_sorted_list(operations in prop::collection::vec((0u8..3, 1i32..=64, any::<u64>()), 1..60)) {
            let (mut pending, mut model) = (Pending::new(), Vec::<SignalInfo>::new());
            for (sender, (operation, number, bits)) in (1..).zip(operations) {
                match operation {
                    0 => {
                        let info = user(number, sender);
                        pending.push(info, 1000).unwrap();
                        if number >= 32 || !model.iter().any(|i| i.signal().number() == number) {
                            model.push(info);
                        }
                    }
                    1 => {
                        let blocked = SignalSet::from_bits(bits);
                        let rank = |i: &SignalInfo| {
                            (!SignalSet::SYNCHRONOUS.contains(i.signal()), i.signal())
                        };
                        let ready = model.iter().filter(|i| !blocked.contains(i.signal())).map(rank).min();
                        let expected = ready.and_then(|r| model.iter().position(|i| rank(i) == r)).map(|at| model.remove(at));
                        prop_assert_eq!(pending.take(blocked), expected);
                    }
                    _ => {
                        pending.discard(SignalSet::from_bits(bits), |_| unreachable!("no timer sent one"));
                        model.retain(|i| !SignalSet::from_bits(bits).contains(i.signal()));
                    }
                }
                let set = model.iter().fold(SignalSet::EMPTY, |s, i| s.union(SignalSet::of(&[i.signal()])));
                prop_assert_eq!(pending.set(), set);
                prop_assert_eq!(pending.queued(), model.len());
            }
        }
    }
}

//! Who is told of each signal that a process gets, blocked or not: those who wait for signals at descriptors (signalfd(2)).

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::super::group::Process;
use crate::sched::{Events, WaitQueue};
use crate::sync::SpinLock;

/// The queues to wake. They belong to descriptors, and go with these.
#[derive(Default)]
pub struct Listeners(SpinLock<Vec<Weak<WaitQueue>>>);

impl Process {
    /// Has `queue` woken at each signal from now on; that it is asked for more than once makes no difference.
    pub fn listen_for_signals(&self, queue: &Arc<WaitQueue>) {
        let mut listeners = self.listeners.0.lock();
        if listeners.iter().any(|known| core::ptr::eq(known.as_ptr(), Arc::as_ptr(queue))) {
            return;
        }
        listeners.retain(|known| known.strong_count() > 0);
        listeners.push(Arc::downgrade(queue));
    }

    /// A signal has come.
    pub(super) fn tell_listeners(&self) {
        for queue in self.listeners.0.lock().iter().filter_map(Weak::upgrade) {
            queue.wake(Events::IN | Events::RDNORM);
        }
    }
}

//! Who waits, for tests.

use alloc::sync::Arc;
use alloc::task::Wake;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;

use super::{Events, Registration, WaitQueue};

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One who waits in a queue, as a thread does: errors and the other end's end are always of interest.
pub struct Waiter<'a> {
    flag: Arc<Flag>,
    _registration: Registration<&'a WaitQueue>,
}

impl<'a> Waiter<'a> {
    /// Waits for `events`.
    pub fn new(queue: &'a WaitQueue, events: Events) -> Self {
        Self::for_nothing_else(queue, events | Events::ERR | Events::HUP)
    }

    /// Waits for `events` and nothing else.
    pub fn for_nothing_else(queue: &'a WaitQueue, events: Events) -> Self {
        let flag = Arc::new(Flag::default());
        let _registration = queue.register(events, &Waker::from(flag.clone()));
        Self { flag, _registration }
    }

    /// Whether it has been woken since the last time this was asked.
    pub fn was_woken(&self) -> bool {
        self.flag.0.swap(false, Ordering::Relaxed)
    }
}

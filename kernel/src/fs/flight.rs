//! Closing a descriptor of an open file that is also under way in messages: it may have been the last way to it, so whoever
//! collects what cannot be reached any more (see `net/unix/in_flight.rs`) is asked to look.

use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Poll;

use crate::sched::{Events, WaitQueue};

static ASKED: AtomicBool = AtomicBool::new(false);
static COLLECTOR: WaitQueue = WaitQueue::new();

/// Asks for a look.
pub fn ask() {
    ASKED.store(true, Ordering::Release);
    COLLECTOR.wake(Events::IN);
}

/// Waits until somebody has asked since the last time.
pub async fn asked() {
    let mut registration = None;
    poll_fn(|context| {
        registration.get_or_insert_with(|| COLLECTOR.register(Events::IN, context.waker()));
        if ASKED.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

//! Wait queues: who wants to know when something becomes ready.
//!
//! Each pipe, socket, timer and so on has one. A waiter registers a waker with the events it waits for, tries its
//! operation again (the event may have come in between), and only then sleeps. The entry stays until its
//! [`Registration`] is dropped, so an epoll instance may register once and be woken for every event.
//! However many wait, one who leaves costs the same ([`Slots`]). The entries keep their memory, so a wait allocates only the
//! first time a queue gets so long.

use core::sync::atomic::{AtomicUsize, Ordering, fence};
use core::task::Waker;

use super::slots::Slots;
use crate::sync::SpinLock;

bitflags::bitflags! {
    /// What a file is ready for, with the numbers of poll(2) and epoll(7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Events: u32 {
        /// `POLLIN`: there is something to read, or end of file.
        const IN = 0x001;
        /// `POLLPRI`: exceptional condition.
        const PRI = 0x002;
        /// `POLLOUT`: a write would not block.
        const OUT = 0x004;
        /// `POLLERR`: error; reported whether or not asked for.
        const ERR = 0x008;
        /// `POLLHUP`: the other end is gone; reported whether or not asked for.
        const HUP = 0x010;
        /// `POLLNVAL`: not an open descriptor.
        const NVAL = 0x020;
        /// `POLLRDNORM`: as `IN`.
        const RDNORM = 0x040;
        /// `POLLRDBAND`: never set here.
        const RDBAND = 0x080;
        /// `POLLWRNORM`: as `OUT`.
        const WRNORM = 0x100;
        /// `POLLWRBAND`: never set here.
        const WRBAND = 0x200;
        /// `POLLRDHUP`: the peer of a stream socket shut down its writing half.
        const RDHUP = 0x2000;
    }
}

struct Entry {
    interest: Events,
    exclusive: bool,
    waker: Waker,
}

/// The waiters of one object.
#[derive(Default)]
pub struct WaitQueue {
    /// Number of entries, readable without the lock: most wakes find nobody waiting.
    waiting: AtomicUsize,
    entries: SpinLock<Slots<Entry>>,
}

impl WaitQueue {
    /// A queue in which nobody waits.
    pub const fn new() -> Self {
        Self { waiting: AtomicUsize::new(0), entries: SpinLock::new(Slots::new()) }
    }

    /// Has `waker` woken for each event of `interest` until the returned registration is dropped.
    pub fn register(&self, interest: Events, waker: &Waker) -> Registration<&Self> {
        Registration { place: self.add(interest, false, waker), queue: self }
    }

    /// As [`register`](Self::register), for an owner that keeps the queue alive through `queue`
    /// (an epoll instance: an `Arc` of the file). With `exclusive`, one event wakes one such waiter (`EPOLLEXCLUSIVE`).
    pub fn register_owned<Q: AsRef<WaitQueue>>(
        queue: Q,
        interest: Events,
        exclusive: bool,
        waker: &Waker,
    ) -> Registration<Q> {
        Registration { place: queue.as_ref().add(interest, exclusive, waker), queue }
    }

    fn add(&self, interest: Events, exclusive: bool, waker: &Waker) -> usize {
        let entry = Entry { interest, exclusive, waker: waker.clone() };
        let mut entries = self.entries.lock();
        let place = entries.push(entry);
        self.waiting.store(entries.len(), Ordering::Relaxed);
        drop(entries);
        // Pairs with the fence in `wake`: either the waker sees this entry, or this waiter's next try sees the event.
        fence(Ordering::SeqCst);
        place
    }

    fn remove(&self, place: usize) {
        let mut entries = self.entries.lock();
        let entry = entries.remove(place);
        self.waiting.store(entries.len(), Ordering::Relaxed);
        drop(entries);
        // The waker may be the last owner of something that looks at this queue.
        drop(entry);
    }

    /// Wakes all who wait for one of `events`, but only the first of those that wait exclusively.
    pub fn wake(&self, events: Events) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut exclusive_woken = false;
        for entry in self.entries.lock().iter() {
            if entry.interest.intersects(events) && !(entry.exclusive && exclusive_woken) {
                exclusive_woken |= entry.exclusive;
                entry.waker.wake_by_ref();
            }
        }
    }
}

impl AsRef<WaitQueue> for WaitQueue {
    fn as_ref(&self) -> &WaitQueue {
        self
    }
}

/// An entry in a wait queue; dropped, it is taken out.
pub struct Registration<Q: AsRef<WaitQueue>> {
    queue: Q,
    place: usize,
}

impl<Q: AsRef<WaitQueue>> Drop for Registration<Q> {
    fn drop(&mut self) {
        self.queue.as_ref().remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use core::sync::atomic::AtomicU32;

    #[derive(Default)]
    struct Count(AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_those_interested_until_dropped() {
        let (queue, count) = (WaitQueue::new(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        let registration = queue.register(Events::IN, &waker);
        queue.wake(Events::OUT);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        queue.wake(Events::IN | Events::HUP);
        queue.wake(Events::IN);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        drop(registration);
        queue.wake(Events::IN);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn one_event_wakes_one_exclusive_waiter_and_all_others() {
        let (queue, count) = (WaitQueue::new(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        let _first = WaitQueue::register_owned(&queue, Events::IN, true, &waker);
        let _second = WaitQueue::register_owned(&queue, Events::IN, true, &waker);
        let _third = queue.register(Events::IN, &waker);
        queue.wake(Events::IN);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}

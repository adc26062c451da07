//! The one place where threads wait.
//!
//! Files never block: an operation that cannot go on says `EAGAIN`. Here the wait is added: register on the object's wait queue, try
//! again, sleep. A wait ends with the operation's result, with `ERESTARTSYS` when the thread has to look at a signal, or with
//! `EAGAIN` when its deadline passes; callers turn these into what their call reports.
//!
//! No wake is lost: the queue is joined before the second attempt, and a signal or timer marks the task as woken even while
//! it is being polled.

use core::future::poll_fn;
use core::task::{Context, Poll};

use super::thread::Thread;
use crate::arch;
use crate::errno::Errno;
use crate::sched::timer::Timer;
use crate::sched::{Events, WaitQueue};

/// Tries `attempt` until it says something else than `EAGAIN`, waiting on `queue` for one of `events` in between. The deadline is in
/// nanoseconds of [`arch::now`].
///
/// # Errors
/// What `attempt` says; `ERESTARTSYS` when interrupted, but `EINTR` with a deadline, since the call made again would wait for all
/// of its time once more (signal(7)); `EAGAIN` after the deadline.
pub async fn block_on<T>(
    thread: &Thread,
    queue: &WaitQueue,
    events: Events,
    deadline: Option<u64>,
    mut attempt: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match attempt() {
        Err(Errno::EAGAIN) => {}
        done => return done,
    }
    let mut registration = None;
    let mut limit = Limit::new(thread, deadline);
    poll_fn(|context| {
        registration
            .get_or_insert_with(|| queue.register(events | Events::ERR | Events::HUP, context.waker()));
        match attempt() {
            Err(Errno::EAGAIN) => limit.poll(context).map(|end| Err(no_restart(end, deadline))),
            done => Poll::Ready(done),
        }
    })
    .await
}

fn no_restart(end: Errno, deadline: Option<u64>) -> Errno {
    if end == Errno::ERESTARTSYS && deadline.is_some() { Errno::EINTR } else { end }
}

/// As [`block_on`], but only the end of the thread interrupts it: for waits that end by themselves, as those of vfork and execve.
///
/// # Errors
/// `EINTR` when the thread is about to end.
pub async fn block_unless_dying(
    thread: &Thread,
    queue: &WaitQueue,
    mut done: impl FnMut() -> bool,
) -> Result<(), Errno> {
    let mut registration = None;
    poll_fn(|context| {
        registration.get_or_insert_with(|| queue.register(Events::IN, context.waker()));
        if done() {
            Poll::Ready(Ok(()))
        } else if thread.is_dying() {
            Poll::Ready(Err(Errno::EINTR))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Waits for a signal or the deadline.
///
/// # Errors
/// Always: `ERESTARTSYS` when interrupted, `EAGAIN` after the deadline.
pub async fn sleep(thread: &Thread, deadline: Option<u64>) -> Errno {
    let mut limit = Limit::new(thread, deadline);
    poll_fn(|context| limit.poll(context)).await
}

/// What ends a wait that brings nothing: a signal, or a deadline.
pub struct Limit<'a> {
    thread: &'a Thread,
    deadline: Option<u64>,
    timer: Option<Timer>,
}

impl<'a> Limit<'a> {
    /// For a wait of `thread`.
    pub fn new(thread: &'a Thread, deadline: Option<u64>) -> Self {
        Self { thread, deadline, timer: None }
    }

    /// To be asked last in the poll of a future in which the thread waits; sees to it that the task is polled again in time.
    pub fn poll(&mut self, context: &Context<'_>) -> Poll<Errno> {
        if self.thread.interrupted() {
            return Poll::Ready(Errno::ERESTARTSYS);
        }
        if let Some(deadline) = self.deadline {
            if arch::now() >= deadline {
                return Poll::Ready(Errno::EAGAIN);
            }
            self.timer.get_or_insert_with(|| Timer::at(deadline, context.waker()));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::super::signal::{Signal, SignalInfo};
    use super::super::tests::{process, run_as_thread};
    use super::*;
    use alloc::sync::Arc;
    use core::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct Semaphore {
        count: AtomicU32,
        queue: WaitQueue,
    }

    impl Semaphore {
        fn up(&self) {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.queue.wake(Events::IN);
        }

        fn down(&self) -> Result<(), Errno> {
            let take = |n: u32| n.checked_sub(1);
            self.count
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .map(|_| ())
                .map_err(|_| Errno::EAGAIN)
        }
    }

    fn wait(
        thread: Arc<Thread>,
        semaphore: Arc<Semaphore>,
        deadline: Option<u64>,
    ) -> super::super::tests::Running<Result<(), Errno>> {
        run_as_thread(thread.clone(), async move {
            block_on(&thread, &semaphore.queue, Events::IN, deadline, || semaphore.down()).await
        })
    }

    #[test]
    fn an_operation_that_can_go_on_does_not_wait() {
        let semaphore = Arc::new(Semaphore::default());
        semaphore.up();
        assert_eq!(wait(process().leader().unwrap(), semaphore, None).result(), Some(Ok(())));
    }

    #[test]
    fn a_wait_ends_with_the_event() {
        let semaphore = Arc::new(Semaphore::default());
        let running = wait(process().leader().unwrap(), semaphore.clone(), None);
        assert_eq!(running.result(), None);
        semaphore.up();
        assert_eq!(running.result(), Some(Ok(())));
    }

    #[test]
    fn a_signal_interrupts_a_wait() {
        let semaphore = Arc::new(Semaphore::default());
        let process = process();
        let running = wait(process.leader().unwrap(), semaphore, None);
        assert_eq!(running.result(), None);
        process.send_signal(SignalInfo::kernel(Signal::TERM)).unwrap();
        assert_eq!(running.result(), Some(Err(Errno::ERESTARTSYS)));
    }

    #[test]
    fn a_wait_with_a_deadline_is_not_begun_again_after_a_signal() {
        let (semaphore, process) = (Arc::new(Semaphore::default()), process());
        let running = wait(process.leader().unwrap(), semaphore, Some(arch::now() + 60_000_000_000));
        assert_eq!(running.result(), None);
        process.send_signal(SignalInfo::kernel(Signal::TERM)).unwrap();
        assert_eq!(running.result(), Some(Err(Errno::EINTR)));
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let semaphore = Arc::new(Semaphore::default());
        let deadline = arch::now() + 2_000_000;
        let running = wait(process().leader().unwrap(), semaphore, Some(deadline));
        assert_eq!(running.result_after(deadline), Err(Errno::EAGAIN));
    }

    #[test]
    fn only_death_ends_a_wait_that_no_signal_interrupts() {
        let process = process();
        let thread = process.leader().unwrap();
        let semaphore = Arc::new(Semaphore::default());
        let running = run_as_thread(thread.clone(), async move {
            block_unless_dying(&thread, &semaphore.queue, || semaphore.down().is_ok()).await
        });
        process.send_signal(SignalInfo::kernel(Signal::TERM)).unwrap();
        assert_eq!(running.result(), None);
        process.send_signal(SignalInfo::kernel(Signal::KILL)).unwrap();
        assert_eq!(running.result(), Some(Err(Errno::EINTR)));
    }
}

//! The executor: polls the tasks of a core, one at a time, on the core's only stack.
//!
//! A [`Task`] is an `Arc` that holds its future and a state word. Its waker *is* that `Arc`, so a wake allocates nothing:
//! it moves the state from `IDLE` to `SCHEDULED` and pushes the task on its core's *inbox*, an intrusive
//! lock-free stack. So a wake is legal anywhere, an interrupt handler and another core included. The core's executor moves its
//! inbox into its run queues, urgent tasks (kernel activities that answer devices) before the rest.
//!
//! States: `IDLE` (waits for a wake), `SCHEDULED` (in an inbox or queue), `RUNNING` (being polled), `WOKEN` (woken while being
//! polled: runs again), `DONE` (finished; wakes are ignored).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::task::Wake;
use core::cell::UnsafeCell;
use core::future::Future;
use core::pin::Pin;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};
use core::task::{Context, Poll, Waker};

use crate::arch::{self, CoreId};
use crate::percore::PerCore;
use crate::sync::SpinLock;

const IDLE: u8 = 0;
const SCHEDULED: u8 = 1;
const RUNNING: u8 = 2;
const WOKEN: u8 = 3;
const DONE: u8 = 4;

/// Which run queue a task waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Runs before any user thread: short kernel activities that answer a device.
    Urgent,
    /// Takes its turn: user threads.
    Normal,
}

type BoxedFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    state: AtomicU8,
    core: CoreId,
    priority: Priority,
    /// Link of the inbox; owned by whoever moved `state` to `SCHEDULED`.
    next: AtomicPtr<Task>,
    /// `None` once finished. Touched only by the poller, in state `RUNNING` or `WOKEN`.
    future: UnsafeCell<Option<BoxedFuture>>,
}

// SAFETY: `future` is reached only by the one executor that moved the state to `RUNNING`; the future itself is `Send`.
unsafe impl Sync for Task {}
// SAFETY: as above; every other field is atomic or plain data.
unsafe impl Send for Task {}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if self.note_wake() {
            Queue::push(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.note_wake() {
            Queue::push(self.clone());
        }
    }
}

impl Task {
    /// Whether the caller has to put the task in its core's inbox.
    fn note_wake(&self) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let next = match state {
                IDLE => SCHEDULED,
                RUNNING => WOKEN,
                _ => return false,
            };
            match self.state.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return next == SCHEDULED,
                Err(now) => state = now,
            }
        }
    }

    fn poll(self: Arc<Self>) {
        self.state.store(RUNNING, Ordering::Release);
        let waker = Waker::from(self.clone());
        // SAFETY: the state is RUNNING and this executor made it so; nobody else touches the future.
        let slot = unsafe { &mut *self.future.get() };
        let Some(future) = slot else { return };
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => {
                *slot = None;
                self.state.store(DONE, Ordering::Release);
            }
            Poll::Pending => {
                if self.state.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_err() {
                    self.state.store(SCHEDULED, Ordering::Release);
                    Queue::push(self);
                }
            }
        }
    }
}

/// A core's run queues.
struct Queue {
    inbox: AtomicPtr<Task>,
    sleeping: AtomicBool,
    runnable: SpinLock<Runnable>,
}

struct Runnable {
    urgent: VecDeque<Arc<Task>>,
    normal: VecDeque<Arc<Task>>,
}

static QUEUES: PerCore<Queue> = crate::per_core!(Queue {
    inbox: AtomicPtr::new(ptr::null_mut()),
    sleeping: AtomicBool::new(false),
    runnable: SpinLock::new(Runnable { urgent: VecDeque::new(), normal: VecDeque::new() }),
});

impl Queue {
    /// Puts a task in state `SCHEDULED` into its core's inbox, and wakes that core if it sleeps.
    fn push(task: Arc<Task>) {
        let core = task.core;
        let queue = QUEUES.of(core);
        let raw = Arc::into_raw(task).cast_mut();
        let mut head = queue.inbox.load(Ordering::Relaxed);
        loop {
            // SAFETY: `raw` came from `Arc::into_raw` above and its reference is ours until the exchange succeeds.
            unsafe { (*raw).next.store(head, Ordering::Relaxed) };
            match queue.inbox.compare_exchange_weak(head, raw, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        if core != arch::core_id() && queue.sleeping.load(Ordering::SeqCst) {
            arch::wake_core(core);
        }
    }

    /// Moves the inbox to the run queues, oldest first.
    fn drain_inbox(&self, runnable: &mut Runnable) {
        if self.inbox.load(Ordering::Relaxed).is_null() {
            return;
        }
        let mut newest_first = self.inbox.swap(ptr::null_mut(), Ordering::Acquire);
        let mut oldest_first = ptr::null_mut::<Task>();
        while !newest_first.is_null() {
            // SAFETY: the swap made this whole list ours, and each node is kept alive by its own reference.
            let next = unsafe { (*newest_first).next.swap(oldest_first, Ordering::Relaxed) };
            oldest_first = core::mem::replace(&mut newest_first, next);
        }
        while !oldest_first.is_null() {
            // SAFETY: the pointer came from `Arc::into_raw` in `push`, and is turned back exactly once.
            let task = unsafe { Arc::from_raw(oldest_first) };
            oldest_first = task.next.load(Ordering::Relaxed);
            match task.priority {
                Priority::Urgent => runnable.urgent.push_back(task),
                Priority::Normal => runnable.normal.push_back(task),
            }
        }
    }

    fn next(&self) -> Option<Arc<Task>> {
        let mut runnable = self.runnable.lock();
        self.drain_inbox(&mut runnable);
        let urgent = runnable.urgent.pop_front();
        urgent.or_else(|| runnable.normal.pop_front())
    }

    fn has_work(&self, least: Priority) -> bool {
        let mut runnable = self.runnable.lock();
        self.drain_inbox(&mut runnable);
        !runnable.urgent.is_empty() || (least == Priority::Normal && !runnable.normal.is_empty())
    }
}

/// Names a task, so that others can wake it.
#[derive(Clone)]
pub struct TaskHandle(Arc<Task>);

impl TaskHandle {
    /// Makes the task run (again).
    pub fn wake(&self) {
        self.0.wake_by_ref();
    }
}

/// Starts `future` as a task of `core`.
pub fn spawn(
    core: CoreId,
    priority: Priority,
    future: impl Future<Output = ()> + Send + 'static,
) -> TaskHandle {
    let task = Arc::new(Task {
        state: AtomicU8::new(SCHEDULED),
        core,
        priority,
        next: AtomicPtr::new(ptr::null_mut()),
        future: UnsafeCell::new(Some(Box::pin(future))),
    });
    Queue::push(task.clone());
    TaskHandle(task)
}

/// How many tasks of `core` are ready, the urgent ones and the others. What is still in its inbox does not count.
pub(super) fn ready(core: CoreId) -> (usize, usize) {
    let runnable = QUEUES.of(core).runnable.lock();
    (runnable.urgent.len(), runnable.normal.len())
}

/// Whether another task waits for this core: a running user thread then gives way at the end of its slice.
pub fn has_work() -> bool {
    QUEUES.here().has_work(Priority::Normal)
}

/// Whether a kernel activity waits for this core: a running user thread then gives way at once.
pub fn has_urgent_work() -> bool {
    QUEUES.here().has_work(Priority::Urgent)
}

/// Polls tasks of this core until none is runnable.
pub fn run_until_idle() {
    let queue = QUEUES.here();
    loop {
        super::timer::expire(arch::now());
        let Some(task) = queue.next() else { return };
        task.poll();
    }
}

/// Polls the tasks of this core for ever; sleeps while there is nothing to do.
#[cfg(target_os = "none")]
pub fn run() -> ! {
    let queue = QUEUES.here();
    loop {
        run_until_idle();
        queue.sleeping.store(true, Ordering::SeqCst);
        // A wake before the store above left its task in the inbox; one after it sends an interrupt, which
        // `wait_for_interrupt` takes even if it comes before the halt.
        if queue.inbox.load(Ordering::SeqCst).is_null() {
            super::timer::arm();
            arch::wait_for_interrupt();
        }
        queue.sleeping.store(false, Ordering::SeqCst);
    }
}

/// Lets the other runnable tasks of this core run once.
pub fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    core::future::poll_fn(move |context| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Waits until the task is woken.
pub fn wait_for_wake() -> impl Future<Output = ()> {
    let mut waited = false;
    core::future::poll_fn(
        move |_| if core::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn log() -> (Arc<Mutex<Vec<u32>>>, impl Fn(u32) + Clone) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = log.clone();
        (log, move |n| writer.lock().unwrap().push(n))
    }

    #[test]
    fn tasks_run_in_order_and_urgent_ones_first() {
        let (log, write) = log();
        let core = arch::core_id();
        for (n, priority) in [(1, Priority::Normal), (2, Priority::Normal), (3, Priority::Urgent)] {
            let write = write.clone();
            spawn(core, priority, async move { write(n) });
        }
        run_until_idle();
        assert_eq!(*log.lock().unwrap(), [3, 1, 2]);
    }

    #[test]
    fn a_task_that_yields_lets_the_others_run() {
        let (log, write) = log();
        let core = arch::core_id();
        for n in [1, 2] {
            let write = write.clone();
            spawn(core, Priority::Normal, async move {
                write(n);
                yield_now().await;
                write(n + 10);
            });
        }
        run_until_idle();
        assert_eq!(*log.lock().unwrap(), [1, 2, 11, 12]);
    }

    #[test]
    fn wakes_from_another_core_are_never_lost() {
        let core = arch::core_id();
        let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let polls = count.clone();
        let task = spawn(
            core,
            Priority::Normal,
            core::future::poll_fn(move |_| {
                if polls.fetch_add(1, Ordering::SeqCst) >= 1000 { Poll::Ready(()) } else { Poll::Pending }
            }),
        );
        let seen = count.clone();
        let waker = std::thread::spawn(move || {
            while seen.load(Ordering::SeqCst) <= 1000 {
                let before = seen.load(Ordering::SeqCst);
                task.wake();
                while seen.load(Ordering::SeqCst) == before {
                    std::thread::yield_now();
                }
            }
        });
        while count.load(Ordering::SeqCst) <= 1000 {
            run_until_idle();
        }
        waker.join().unwrap();
    }

    #[test]
    fn a_finished_task_drops_its_future_and_ignores_wakes() {
        let owned = Arc::new(());
        let inner = owned.clone();
        let task = spawn(arch::core_id(), Priority::Normal, async move { drop(inner) });
        run_until_idle();
        assert_eq!(Arc::strong_count(&owned), 1);
        task.wake();
        run_until_idle();
    }
}

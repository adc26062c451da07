//! The executor: polls the tasks of a core, one at a time, on the core's only stack.
//!
//! A [`Task`] is an `Arc` that holds its future and a state word. Its waker *is* that `Arc`, so a wake allocates nothing:
//! it moves the state from `IDLE` to `SCHEDULED` and pushes the task on its core's *inbox*, an intrusive
//! lock-free stack. So a wake is legal anywhere, an interrupt handler and another core included. The core's executor moves its
//! inbox into its [run queue](super::run_queue), which says who is next; there is room in it for every task of the core, since
//! [`Place`] was asked for it before.
//!
//! States: `IDLE` (waits for a wake), `SCHEDULED` (in an inbox or queue), `RUNNING` (being polled), `WOKEN` (woken while being
//! polled: runs again), `DONE` (finished; wakes are ignored). Every wake is a read-modify-write of the state, and so is the step to
//! `RUNNING`: whichever comes second sees what the other wrote before, so that a wake that finds the task scheduled is not lost.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use core::cell::UnsafeCell;
use core::future::Future;
use core::mem::ManuallyDrop;
use core::pin::Pin;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};

use super::run_queue::{Entity, RunQueue, Schedulable, Share};
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
    /// Takes its turn among user threads, with nice 0.
    Normal,
}

/// Room for one task in the run queue of a core.
pub struct Place(CoreId);

/// There is no memory for one more task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Place {
    /// Makes room for a task on `core`.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn on(core: CoreId) -> Result<Self, NoRoom> {
        let queue = QUEUES.of(core);
        // The count goes up first, so that two who ask at once get two places.
        let place = Self(core);
        let tasks = queue.tasks.fetch_add(1, Ordering::Relaxed) + 1;
        queue.runnable.lock().queue.try_reserve(tasks).map_err(|_| NoRoom)?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        QUEUES.of(self.0).tasks.fetch_sub(1, Ordering::Relaxed);
    }
}

type BoxedFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    state: AtomicU8,
    place: Place,
    /// What the run queue keeps; written under the lock of the queue.
    entity: Entity,
    /// Link of the inbox; owned by whoever moved `state` to `SCHEDULED`.
    next: AtomicPtr<Task>,
    /// `None` once finished. Touched only by the poller, in state `RUNNING` or `WOKEN`.
    future: UnsafeCell<Option<BoxedFuture>>,
}

// SAFETY: `future` is reached only by the one executor that moved the state to `RUNNING`; the future itself is `Send`.
unsafe impl Sync for Task {}
// SAFETY: as above; every other field is atomic or plain data.
unsafe impl Send for Task {}

impl Schedulable for Arc<Task> {
    fn entity(&self) -> &Entity {
        &self.entity
    }
}

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
                DONE => return false,
                same => same,
            };
            match self.state.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return state == IDLE,
                Err(now) => state = now,
            }
        }
    }

    /// Polls the future. Returns whether it could go on at once.
    fn poll(self: &Arc<Self>) -> bool {
        // With the acquiring half, the poll sees what was written before any wake that found the task scheduled.
        self.state.swap(RUNNING, Ordering::AcqRel);
        // SAFETY: the pointer is that of an `Arc` that outlives the waker, whose reference is not given back.
        let waker = ManuallyDrop::new(Waker::from(unsafe { Arc::from_raw(Arc::as_ptr(self)) }));
        // SAFETY: the state is RUNNING and this executor made it so; nobody else touches the future.
        let slot = unsafe { &mut *self.future.get() };
        let Some(future) = slot else { return false };
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => {
                *slot = None;
                self.state.store(DONE, Ordering::Release);
                false
            }
            Poll::Pending => {
                let woken =
                    self.state.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_err();
                if woken {
                    self.state.swap(SCHEDULED, Ordering::AcqRel);
                }
                woken
            }
        }
    }
}

/// A core's run queue and what belongs to it.
struct Queue {
    inbox: AtomicPtr<Task>,
    /// Tasks that this core has, waiting or not.
    tasks: AtomicUsize,
    /// Until when the running task may run without a look at the queue, in nanoseconds of [`arch::now`].
    slice_end: AtomicU64,
    /// The running task gives way to its equals.
    yields: AtomicBool,
    runnable: SpinLock<Runnable>,
}

struct Runnable {
    queue: RunQueue<Arc<Task>>,
    /// Up to when the running task has been charged, in nanoseconds of [`arch::now`].
    charged: u64,
}

static QUEUES: PerCore<Queue> = crate::per_core!(Queue {
    inbox: AtomicPtr::new(ptr::null_mut()),
    tasks: AtomicUsize::new(0),
    slice_end: AtomicU64::new(0),
    yields: AtomicBool::new(false),
    runnable: SpinLock::new(Runnable { queue: RunQueue::new(), charged: 0 }),
});

impl Runnable {
    fn charge(&mut self, now: u64) {
        self.queue.charge(now.saturating_sub(self.charged));
        self.charged = now.max(self.charged);
    }
}

impl Queue {
    /// Puts a task in state `SCHEDULED` into its core's inbox. Another core is told when its inbox is no longer empty, and the own one
    /// looks when it enters user mode, if the task is of real time.
    fn push(task: Arc<Task>) {
        let core = task.place.0;
        let queue = QUEUES.of(core);
        let is_real_time = task.entity.share().is_real_time();
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
        if core == arch::core_id() {
            if is_real_time {
                super::timer::arm_before(arch::now());
            }
        } else if head.is_null() {
            arch::wake_core(core);
        }
    }

    /// Moves the inbox to the run queue, oldest first.
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
            runnable.queue.wake(task);
        }
    }

    /// The task to run from `now` on; it stays the running one, and so is kept, until the next call. The one before ran until now, and
    /// goes on later if it could go on at once (`goes_on`).
    fn next(&self, goes_on: bool, now: u64) -> Option<*const Task> {
        let mut runnable = self.runnable.lock();
        runnable.charge(now);
        let asleep = if goes_on {
            runnable.queue.put_back(self.yields.load(Ordering::Relaxed));
            None
        } else {
            runnable.queue.sleep()
        };
        self.yields.store(false, Ordering::Relaxed);
        self.drain_inbox(&mut runnable);
        let next = runnable.queue.pick().map(Arc::as_ptr);
        self.slice_end.store(now + runnable.queue.slice(), Ordering::Relaxed);
        drop(runnable);
        // It may be the last reference, and what that drops takes locks.
        drop(asleep);
        next
    }

    #[cfg(test)]
    fn waiting(&self) -> (usize, usize) {
        let mut runnable = self.runnable.lock();
        self.drain_inbox(&mut runnable);
        runnable.queue.waiting()
    }

    /// A new task is about to come, made by the one that runs if that is on this core.
    fn expect(&self, new: &Task) {
        if new.place.0 == arch::core_id() && new.entity.share().is_fair() {
            let now = arch::now();
            let mut runnable = self.runnable.lock();
            runnable.charge(now);
            runnable.queue.inherit(&new.entity);
        }
    }

    /// Gives a task of this queue another share. The core looks again whose turn it is.
    fn change(&self, task: &Arc<Task>, share: Share) {
        if task.entity.share() == share {
            return;
        }
        let now = arch::now();
        let mut runnable = self.runnable.lock();
        runnable.charge(now);
        runnable.queue.change(task, share);
        drop(runnable);
        if task.place.0 == arch::core_id() {
            super::timer::arm_before(now);
        } else {
            arch::wake_core(task.place.0);
        }
    }

    /// Whether another task should run at `now` instead of the running one; if not, its time slice goes on.
    fn is_preempted(&self, now: u64) -> bool {
        let mut runnable = self.runnable.lock();
        runnable.charge(now);
        self.drain_inbox(&mut runnable);
        let preempted = runnable.queue.is_preempted();
        self.slice_end.store(now + runnable.queue.slice(), Ordering::Relaxed);
        preempted
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

    /// Gives the task another share of its core, from now on.
    pub fn set_share(&self, share: Share) {
        QUEUES.of(self.0.place.0).change(&self.0, share);
    }
}

/// Starts `future`, an activity of the kernel's own, as a task of `core`. What a program can start uses [`spawn_at`].
///
/// # Panics
/// If there is no memory.
pub fn spawn(
    core: CoreId,
    priority: Priority,
    future: impl Future<Output = ()> + Send + 'static,
) -> TaskHandle {
    let share = if priority == Priority::Urgent { Share::URGENT } else { Share::fair(0) };
    let Ok(place) = Place::on(core) else { panic!("no memory for a task of the kernel") };
    spawn_at(place, share, future)
}

/// Starts `future` as a task at a place that was got before, with this share of the core.
pub fn spawn_at(place: Place, share: Share, future: impl Future<Output = ()> + Send + 'static) -> TaskHandle {
    let task = Arc::new(Task {
        state: AtomicU8::new(SCHEDULED),
        place,
        entity: Entity::new(share),
        next: AtomicPtr::new(ptr::null_mut()),
        future: UnsafeCell::new(Some(Box::pin(future))),
    });
    QUEUES.of(task.place.0).expect(&task);
    Queue::push(task.clone());
    TaskHandle(task)
}

/// How many tasks of `core` are ready, the urgent ones and the others. What is still in its inbox does not count.
pub(super) fn ready(core: CoreId) -> (usize, usize) {
    QUEUES.of(core).runnable.lock().queue.waiting()
}

/// Whether another task waits for this core.
#[cfg(test)]
fn has_work() -> bool {
    QUEUES.here().waiting() != (0, 0)
}

/// Whether the running task should give way now, at `now`; if not, it has a new [slice](slice_end).
pub fn is_preempted(now: u64) -> bool {
    QUEUES.here().is_preempted(now)
}

/// When the running task is to ask whether it [is preempted](is_preempted), in nanoseconds of [`arch::now`].
pub fn slice_end() -> u64 {
    QUEUES.here().slice_end.load(Ordering::Relaxed)
}

/// Polls tasks of this core until none is runnable.
pub fn run_until_idle() {
    let queue = QUEUES.here();
    let mut goes_on = false;
    loop {
        let now = arch::now();
        let all_expired = super::timer::expire(now);
        let Some(task) = queue.next(goes_on, now) else {
            if all_expired {
                return;
            }
            goes_on = false;
            continue;
        };
        // SAFETY: the queue keeps the running task, whose `Arc` this points into, until the next call; this one is not dropped.
        let task = ManuallyDrop::new(unsafe { Arc::from_raw(task) });
        goes_on = task.poll();
    }
}

/// Polls the tasks of this core for ever; sleeps while there is nothing to do.
#[cfg(target_os = "none")]
pub fn run() -> ! {
    let queue = QUEUES.here();
    loop {
        run_until_idle();
        // Whoever puts a task into the empty inbox sends an interrupt, which `wait_for_interrupt` takes even if it comes
        // before the halt.
        if queue.inbox.load(Ordering::SeqCst).is_null() {
            super::timer::arm();
            arch::wait_for_interrupt();
        }
    }
}

/// Lets other runnable tasks of this core go first, and gives up what this one is owed.
pub fn yield_now() -> impl Future<Output = ()> {
    let mut preempted = give_way();
    core::future::poll_fn(move |context| {
        let poll = Pin::new(&mut preempted).poll(context);
        if poll.is_pending() {
            QUEUES.here().yields.store(true, Ordering::Relaxed);
        }
        poll
    })
}

/// Lets those run whose turn it is; this task goes on with what is left of its own.
pub fn give_way() -> impl Future<Output = ()> + Unpin {
    let mut gave_way = false;
    core::future::poll_fn(move |context| {
        if core::mem::replace(&mut gave_way, true) {
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
        let log = log.lock().unwrap();
        assert!(log[..2] == [1, 2] && log.len() == 4, "{log:?}");
    }

    #[test]
    fn a_waiting_task_that_becomes_real_time_goes_first() {
        let (log, write) = log();
        let tasks = [1, 2, 3].map(|n| {
            let write = write.clone();
            spawn(arch::core_id(), Priority::Normal, async move { write(n) })
        });
        assert!(has_work());
        tasks[2].set_share(Share::real_time(1, false));
        assert!(is_preempted(arch::now()));
        run_until_idle();
        assert_eq!(*log.lock().unwrap(), [3, 1, 2]);
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

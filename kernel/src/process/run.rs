//! The life of a thread: a future that runs user code, serves its traps, and looks at what others want of it.
//!
//! The loop is what every system call passes through, so one round takes a load of the attention word, the call itself, and the switch
//! to user mode and back: no lock, no allocation, no reference count. The interval timer is set where a slice begins and where it
//! has fired; whoever sets an earlier timer meanwhile sets the hardware's, too.

use alloc::sync::Arc;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::sync::atomic::Ordering;
use core::task::{Context, Poll};

use super::deliver;
use super::exit::{clear_memory, close_files, end_thread};
use super::pace::Pace;
use super::thread::{RunState, Thread, attention};
use super::trace::Traced;
use super::usage::Charge;
use super::{current, fault, oom, trace};
use crate::arch::signal_frame::LastTrap;
use crate::arch::{self, Trap, UserContext};
use crate::errno::{Errno, SysResult};
use crate::memory::{AddressSpace, Fault, VirtAddr};
use crate::sched::{self, Place, leftovers, timer};
use crate::syscall::{self, Caller};

/// How long a thread of real time waits for memory that another is to give back, in nanoseconds.
const OUT_OF_MEMORY_PAUSE: u64 = 1_000_000;

/// Starts `thread` with these registers, at a place that it was given before.
pub(super) fn spawn(thread: Arc<Thread>, context: UserContext, place: Place) {
    let running = thread.clone();
    let task = sched::spawn_at(place, thread.scheduling().share(), async move {
        let mut life = pin!(live(&running, context));
        poll_fn(|cx| poll_on_core(&running, life.as_mut(), cx)).await;
    });
    thread.set_task(task);
}

/// Gives the core to `thread` for one poll of `future`.
pub(super) fn poll_on_core<F: Future>(
    thread: &Arc<Thread>,
    future: core::pin::Pin<&mut F>,
    context: &mut Context<'_>,
) -> Poll<F::Output> {
    let _running = current::enter(thread);
    let now = arch::now();
    thread.usage.start(now);
    timer::arm_before(sched::slice_end());
    thread.set_state(RunState::Running);
    thread.activate_space();
    let result = future.poll(context);
    let yielded = thread.yielding.swap(false, Ordering::Relaxed);
    let elapsed = thread.usage.stop(arch::now(), yielded);
    thread.process().count_time(elapsed, if yielded { Charge::User } else { Charge::System });
    if result.is_pending() && !yielded && thread.state() == RunState::Running {
        thread.set_state(RunState::Sleeping);
    }
    result
}

/// Whether the thread goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    End,
}

/// A system call that a signal interrupted before it did anything: why, and its number.
#[derive(Clone, Copy)]
pub(super) struct Interrupted {
    pub error: Errno,
    pub number: u64,
}

async fn live(thread: &Arc<Thread>, mut context: UserContext) {
    let space = thread.space();
    let mut caller = Caller { thread, context: &mut context, space };
    let mut last_trap = LastTrap::default();
    let mut interrupted = None;
    loop {
        if thread.attention.load(Ordering::Relaxed) != 0 || interrupted.is_some() {
            let flow = apart(attend(&mut caller, &mut interrupted, &last_trap)).await;
            if flow == Flow::End {
                break;
            }
        }
        match arch::enter_user(caller.context) {
            Trap::SystemCall => {
                // The number is EAX; what else is in RAX means nothing.
                let number = caller.context.registers.rax as u32;
                interrupted = if syscall::may_wait(number) {
                    let traced = begin_call(&caller, number);
                    let result = syscall::dispatch(&mut caller, number).await;
                    end_call(&mut caller, number, traced, result)
                } else {
                    call_now(&mut caller, number)
                };
            }
            Trap::PageFault { address, code } => {
                last_trap = LastTrap { vector: 14, error: fault::visible_code(address, code), address };
                page_fault(&caller, address, code).await;
            }
            Trap::Exception { vector, code } => {
                last_trap = LastTrap { vector: vector.into(), error: code, ..last_trap };
                thread.force_signal(fault::exception(vector, caller.context));
            }
            Trap::Interrupt => interrupt(thread).await,
        }
    }
    apart(give_back(thread, &caller.space)).await;
    drop(caller);
    drop(context);
    end_thread(thread);
}

/// Gives back in pieces what is large, before the thread ends.
async fn give_back(thread: &Thread, space: &Arc<AddressSpace>) {
    clear_memory(thread, space).await;
    close_files(thread).await;
    clear_leftovers(thread).await;
}

/// As `future`, in a function of its own: what is rare is kept out of the loop that every call passes through.
async fn apart<F: Future>(future: F) -> F::Output {
    #[inline(never)]
    fn poll<F: Future>(future: core::pin::Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
        future.poll(context)
    }
    let mut future = pin!(future);
    poll_fn(|context| poll(future.as_mut(), context)).await
}

/// Performs call `number`, which the registers ask for and which never waits. Apart from [`live`], whose state is kept in memory.
#[inline(never)]
fn call_now(caller: &mut Caller<'_>, number: u32) -> Option<Interrupted> {
    let traced = begin_call(caller, number);
    let result = syscall::dispatch_now(caller, number);
    end_call(caller, number, traced, result)
}

/// Notes that the program makes call `number`.
#[inline(always)]
fn begin_call(caller: &Caller<'_>, number: u32) -> Option<Traced> {
    caller.thread.begin_call(number);
    trace::begin(caller.context)
}

/// Returns `result` to the program. What is returned here is to be done again, unless a handler runs.
#[inline(always)]
fn end_call(
    caller: &mut Caller<'_>,
    number: u32,
    traced: Option<Traced>,
    result: SysResult,
) -> Option<Interrupted> {
    caller.thread.end_call();
    if let Some(traced) = traced {
        traced.end(caller.thread, number, result);
    }
    let (value, interrupted) = match result {
        Ok(value) => (value as u64, None),
        Err(error) if error.is_restart() => {
            (number.into(), Some(Interrupted { error, number: number.into() }))
        }
        Err(error) => (error.to_return_value(), None),
    };
    caller.context.registers.rax = value;
    interrupted
}

async fn page_fault(caller: &Caller<'_>, address: u64, code: u64) {
    let thread = caller.thread;
    thread.usage.count_fault();
    let Err(fault) = caller.space.fault(VirtAddr::new(address), fault::access(code)) else { return };
    match fault::page_fault(fault, address) {
        Some(info) => thread.force_signal(info),
        None => {
            debug_assert_eq!(fault, Fault::OutOfMemory);
            oom::make_room(thread);
            // Whoever has to go, goes now; then the access is tried again.
            if thread.scheduling().policy.is_real_time() {
                // Nobody else would run before it.
                timer::sleep_until(arch::now() + OUT_OF_MEMORY_PAUSE).await;
            } else {
                sched::yield_now().await;
            }
        }
    }
}

/// Takes apart what was left on this core, by this thread as a rule.
async fn clear_leftovers(thread: &Thread) {
    let mut pace = Pace::new(thread);
    while let Some(mut left) = leftovers::next() {
        while left.take_apart() {
            // That the thread is to end is no reason to stop.
            let _ = pace.pause().await;
        }
    }
}

/// For [`leftovers::tell_by`]: the thread that runs clears them before it goes on.
pub fn tell_of_leftovers() {
    if let Some(thread) = current::current() {
        thread.attention.fetch_or(attention::LEFTOVERS, Ordering::Relaxed);
    }
}

/// After an interrupt: timers, accounts, and whether it is another's turn.
async fn interrupt(thread: &Arc<Thread>) {
    let now = arch::now();
    timer::expire(now);
    let elapsed = thread.usage.charge(now, Charge::User);
    thread.process().count_time(elapsed, Charge::User);
    if sched::is_preempted(now) {
        give_way(thread).await;
    } else {
        timer::arm_before(sched::slice_end());
    }
}

/// Lets those threads of the core run whose turn it is; this one stays ready.
pub(crate) async fn give_way(thread: &Thread) {
    thread.yielding.store(true, Ordering::Relaxed);
    sched::give_way().await;
}

/// Lets the other threads of the core run first; this one stays ready. sched_yield(2)
pub(crate) async fn yield_now(thread: &Thread) {
    thread.yielding.store(true, Ordering::Relaxed);
    sched::yield_now().await;
}

/// Does what others want of the thread, until nothing is left: it ends, stops, takes signals, goes on with an interrupted call.
async fn attend(
    caller: &mut Caller<'_>,
    interrupted: &mut Option<Interrupted>,
    last_trap: &LastTrap,
) -> Flow {
    let thread = caller.thread;
    loop {
        let bits = thread.attention.load(Ordering::Acquire);
        if bits & attention::LEFTOVERS != 0 {
            thread.attention.fetch_and(!attention::LEFTOVERS, Ordering::Relaxed);
            clear_leftovers(thread).await;
            continue;
        }
        if bits & attention::EXIT != 0 {
            return Flow::End;
        }
        if bits & attention::STOP != 0 {
            thread.stay_stopped().await;
            continue;
        }
        if bits & attention::SIGNAL != 0 {
            if let Some(received) = thread.take_signal() {
                deliver::to_handler(caller, &received, interrupted.take(), last_trap);
            }
            continue;
        }
        if let Some(interrupted) = interrupted.take() {
            deliver::restart(caller.context, interrupted);
        }
        if bits & attention::RESTORE_MASK != 0 {
            thread.restore_mask();
            continue;
        }
        return Flow::Continue;
    }
}

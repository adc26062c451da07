//! Signals: sigaction(2), sigprocmask(2), sigaltstack(2), sigsuspend(2), sigtimedwait(2), rt_sigqueueinfo(2),
//! kill(2), alarm(2).

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

use libc::{
    SA_NODEFER, SA_RESETHAND, SA_RESTART, SIG_BLOCK, SIG_DFL, SIG_IGN, SIG_SETMASK, SIG_UNBLOCK, SIGALRM,
    SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2, siginfo_t,
};
use user_sys::child::in_child;
use user_sys::signal::{mask, pending, set};
use user_sys::{Child, Handler, Zeroed, millis, must, sys, timespec};

use crate::fixture::{pipe, read_text, repeat_alarm, stop_alarm, took_at_least, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("signals":
    handler, action_errors, action_reports, ignore, masks, mask_errors, blocked_then_delivered,
    delivery_order, standard_ones_merge, real_time_ones_queue, queue_value, queue_errors, handler_mask,
    no_defer, reset_hand, restart_read, interrupt_read, interrupted_timeouts, interrupted_calls, suspend, timed_wait,
    timed_wait_values, timed_wait_ignored, wait_errors, kill_errors, tgkill, pause, stop_clears_continue, exec_of_default,
);

pub fn own() -> i32 {
    must(sys!(getpid))
}

pub fn raise(signal: i32) {
    must(sys!(kill, own(), signal));
}

pub fn block(signals: &[i32]) {
    must(mask(SIG_BLOCK, signals).map(|_| 0));
}

fn unblock(signals: &[i32]) {
    must(mask(SIG_UNBLOCK, signals).map(|_| 0));
}

/// The mask now.
pub fn blocked() -> u64 {
    mask(SIG_BLOCK, &[]).unwrap_or(u64::MAX)
}

fn handler(t: Transcript) {
    must(Handler::install(SIGUSR1, 0, &[]));
    raise(SIGUSR1);
    t.say("runs before kill returns", Handler::count(SIGUSR1));
    t.say("code and sender", (Handler::code(), Handler::pid() == own()));
    raise(SIGUSR1);
    t.say("stays installed", Handler::count(SIGUSR1));
    must(sys!(tgkill, own(), must(sys!(gettid)), SIGUSR1));
    t.say("code of tgkill", Handler::code());
}

/// The kernel's form of sigaction: handler, flags, restorer, mask.
type KernelAction = [usize; 4];

fn action_errors(t: Transcript) {
    let action: KernelAction = [0; 4];
    let try_set = |signal: i32| ok(sys!(rt_sigaction, signal, &action, 0, 8));
    t.say("SIGKILL", try_set(SIGKILL));
    t.say("SIGSTOP", try_set(SIGSTOP));
    t.say("zero", try_set(0));
    t.say("64", try_set(64));
    t.say("65", try_set(65));
    t.say("negative", try_set(-1));
    t.say("wrong size", ok(sys!(rt_sigaction, SIGUSR1, &action, 0, 4)));
    t.say("wrong new", ok(sys!(rt_sigaction, SIGUSR1, 1, 0, 8)));
    t.say("wrong old", ok(sys!(rt_sigaction, SIGUSR1, 0, 1, 8)));
    t.say("SIGKILL asked", ok(sys!(rt_sigaction, SIGKILL, 0, &mut [0_usize; 4], 8)));
}

fn action_reports(t: Transcript) {
    must(Handler::install(SIGUSR1, SA_RESTART | SA_NODEFER, &[SIGUSR2, SIGTERM, SIGKILL]));
    let mut old: KernelAction = [0; 4];
    must(sys!(rt_sigaction, SIGUSR1, 0, &mut old, 8));
    let flags = SA_RESTART | SA_NODEFER | libc::SA_SIGINFO;
    t.say("flags", old[1] as i32 & flags == flags);
    t.say("mask without SIGKILL", old[3] as u64 == set(&[SIGUSR2, SIGTERM]));
    t.say("handler", old[0] > 1);
    must(sys!(rt_sigaction, SIGUSR2, 0, &mut old, 8));
    t.say("default", (old[0], old[3]));
}

fn ignore(t: Transcript) {
    must(Handler::install_function(SIGTERM, SIG_IGN, 0, &[]));
    raise(SIGTERM);
    t.say("ignored", pending());
    block(&[SIGTERM]);
    raise(SIGTERM);
    t.say("blocked and ignored is kept", pending() == set(&[SIGTERM]));
    must(Handler::install_function(SIGTERM, SIG_IGN, 0, &[]));
    t.say("ignoring drops what is pending", pending());
    block(&[SIGUSR1, SIGCHLD]);
    must(Handler::install(SIGUSR1, 0, &[]));
    raise(SIGUSR1);
    must(Handler::install_function(SIGUSR1, SIG_DFL, 0, &[]));
    t.say("a default that kills keeps it", pending() == set(&[SIGUSR1]));
    raise(SIGCHLD);
    must(Handler::install_function(SIGCHLD, SIG_DFL, 0, &[]));
    t.say("a default that ignores drops it", pending() == set(&[SIGUSR1]));
}

fn masks(t: Transcript) {
    t.say("empty at first", blocked());
    t.say("block", mask(SIG_BLOCK, &[SIGUSR1, SIGUSR2]));
    t.say("old on unblock", mask(SIG_UNBLOCK, &[SIGUSR1]) == Ok(set(&[SIGUSR1, SIGUSR2])));
    t.say("set", mask(SIG_SETMASK, &[SIGTERM]) == Ok(set(&[SIGUSR2])));
    t.say("now", blocked() == set(&[SIGTERM]));
    block(&[SIGKILL, SIGSTOP]);
    t.say("SIGKILL and SIGSTOP are left out", blocked() == set(&[SIGTERM]));
    t.say(
        "all",
        (ok(sys!(rt_sigprocmask, SIG_SETMASK, &u64::MAX, 0, 8)), blocked() == !set(&[SIGKILL, SIGSTOP])),
    );
    t.say(
        "and still SIGKILL kills",
        in_child(|| {
            raise(SIGKILL);
            0
        }),
    );
}

fn mask_errors(t: Transcript) {
    let some = 0_u64;
    t.say("unknown operation", ok(sys!(rt_sigprocmask, 9, &some, 0, 8)));
    t.say("unknown operation, nothing to set", ok(sys!(rt_sigprocmask, 9, 0, 0, 8)));
    t.say("wrong size", ok(sys!(rt_sigprocmask, SIG_BLOCK, &some, 0, 16)));
    t.say("wrong new", ok(sys!(rt_sigprocmask, SIG_BLOCK, 1, 0, 8)));
    t.say("wrong old", ok(sys!(rt_sigprocmask, SIG_BLOCK, 0, 1, 8)));
    t.say(
        "wrong old, but it is set",
        (ok(sys!(rt_sigprocmask, SIG_BLOCK, &set(&[SIGUSR1]), 1, 8)), blocked() == set(&[SIGUSR1])),
    );
    t.say("pending to a wrong pointer", ok(sys!(rt_sigpending, 1, 8)));
    t.say("pending, too large", ok(sys!(rt_sigpending, &mut [0_u64; 2], 16)));
}

fn blocked_then_delivered(t: Transcript) {
    must(Handler::install(SIGUSR1, 0, &[]));
    block(&[SIGUSR1]);
    raise(SIGUSR1);
    t.say("held back", (Handler::count(SIGUSR1), pending() == set(&[SIGUSR1])));
    unblock(&[SIGUSR1]);
    t.say("delivered by unblocking", (Handler::count(SIGUSR1), pending()));
}

fn delivery_order(t: Transcript) {
    for signal in [SIGUSR1, SIGTERM, SIGUSR2, 40, 35] {
        must(Handler::install(signal, 0, &[SIGUSR1, SIGTERM, SIGUSR2, 40, 35]));
    }
    block(&[SIGUSR1, SIGTERM, SIGUSR2, 40, 35]);
    for signal in [40, SIGTERM, 35, SIGUSR2, SIGUSR1] {
        raise(signal);
    }
    unblock(&[SIGUSR1, SIGTERM, SIGUSR2, 40, 35]);
    t.say("lowest number first, with the others masked in the handler", Handler::order());
}

fn standard_ones_merge(t: Transcript) {
    must(Handler::install(SIGUSR1, 0, &[]));
    block(&[SIGUSR1]);
    for _ in 0..5 {
        raise(SIGUSR1);
    }
    unblock(&[SIGUSR1]);
    t.say("delivered", Handler::count(SIGUSR1));
}

fn real_time_ones_queue(t: Transcript) {
    must(Handler::install(40, 0, &[]));
    block(&[40]);
    for _ in 0..5 {
        raise(40);
    }
    t.say("pending", pending() == set(&[40]));
    unblock(&[40]);
    t.say("delivered", Handler::count(40));
}

/// A siginfo_t as rt_sigqueueinfo(2) takes it: signal, code, sender and value.
fn info(signal: i32, code: i32, value: u64) -> [u64; 16] {
    let mut info = [0; 16];
    info[0] = signal as u64;
    info[1] = u64::from(code as u32);
    info[2] = own() as u64;
    info[3] = value;
    info
}

static VALUES: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];

static NEXT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn keep_value(_signal: i32, info: *mut siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: sent by rt_sigqueueinfo, so the value is there.
    let value = unsafe { (*info).si_value() }.sival_ptr as usize;
    VALUES[NEXT.fetch_add(1, SeqCst) % 4].store(value, SeqCst);
}

fn queue_value(t: Transcript) {
    must(Handler::install_function(41, keep_value as *const () as usize, libc::SA_SIGINFO, &[]));
    block(&[41]);
    for value in [11, 1 << 40, 33] {
        t.say("queued", ok(sys!(rt_sigqueueinfo, own(), 41, &info(41, libc::SI_QUEUE, value))));
    }
    unblock(&[41]);
    t.say("values in order", VALUES.iter().map(|value| value.load(SeqCst)).collect::<Vec<_>>());
    t.say(
        "to a thread",
        ok(sys!(rt_tgsigqueueinfo, own(), must(sys!(gettid)), 41, &info(41, libc::SI_QUEUE, 44))),
    );
    t.say("its value", VALUES[3].load(SeqCst));
}

fn queue_errors(t: Transcript) {
    t.say("no such process", ok(sys!(rt_sigqueueinfo, 999_999, SIGUSR1, &info(SIGUSR1, libc::SI_QUEUE, 0))));
    t.say("unknown signal", ok(sys!(rt_sigqueueinfo, own(), 65, &info(65, libc::SI_QUEUE, 0))));
    t.say("wrong pointer", ok(sys!(rt_sigqueueinfo, own(), SIGUSR1, 1)));
    let child = Child::spawn(|| must(sys!(pause)));
    t.say(
        "the kernel's codes are not for others",
        ok(sys!(rt_sigqueueinfo, child.pid(), SIGUSR1, &info(SIGUSR1, 1, 0))),
    );
    t.say("signal 0", ok(sys!(rt_sigqueueinfo, child.pid(), 0, &info(0, libc::SI_QUEUE, 0))));
}

static SEEN_MASK: AtomicUsize = AtomicUsize::new(0);

extern "C" fn note_mask(_signal: i32) {
    SEEN_MASK.store(blocked() as usize, SeqCst);
}

fn handler_mask(t: Transcript) {
    must(Handler::install_function(SIGUSR1, note_mask as *const () as usize, 0, &[SIGTERM]));
    block(&[SIGUSR2]);
    raise(SIGUSR1);
    t.say(
        "itself, its mask and the old one",
        SEEN_MASK.load(SeqCst) as u64 == set(&[SIGUSR1, SIGTERM, SIGUSR2]),
    );
    t.say("the old one afterwards", blocked() == set(&[SIGUSR2]));
    must(Handler::install_function(SIGUSR1, note_mask as *const () as usize, SA_NODEFER, &[]));
    raise(SIGUSR1);
    t.say("SA_NODEFER leaves itself out", SEEN_MASK.load(SeqCst) as u64 == set(&[SIGUSR2]));
}

static DEPTH: AtomicI32 = AtomicI32::new(0);

static DEEPEST: AtomicI32 = AtomicI32::new(0);

extern "C" fn raise_again(signal: i32) {
    let depth = DEPTH.fetch_add(1, SeqCst) + 1;
    DEEPEST.fetch_max(depth, SeqCst);
    if depth < 5 && DEEPEST.load(SeqCst) < 5 {
        raise(signal);
    }
    DEPTH.fetch_sub(1, SeqCst);
}

fn no_defer(t: Transcript) {
    must(Handler::install_function(SIGUSR1, raise_again as *const () as usize, SA_NODEFER, &[]));
    raise(SIGUSR1);
    t.say("nests", DEEPEST.load(SeqCst));
    DEEPEST.store(0, SeqCst);
    must(Handler::install_function(SIGUSR1, raise_once as *const () as usize, 0, &[]));
    raise(SIGUSR1);
    t.say("waits for the end of the handler", (DEEPEST.load(SeqCst), CALLS.load(SeqCst)));
}

static CALLS: AtomicI32 = AtomicI32::new(0);

extern "C" fn raise_once(signal: i32) {
    let depth = DEPTH.fetch_add(1, SeqCst) + 1;
    DEEPEST.fetch_max(depth, SeqCst);
    if CALLS.fetch_add(1, SeqCst) == 0 {
        raise(signal);
    }
    DEPTH.fetch_sub(1, SeqCst);
}

fn reset_hand(t: Transcript) {
    t.say(
        "second one has the default action",
        in_child(|| {
            must(Handler::install(SIGUSR1, SA_RESETHAND, &[]));
            raise(SIGUSR1);
            if Handler::count(SIGUSR1) != 1 {
                return 1;
            }
            raise(SIGUSR1);
            2
        }),
    );
}

static FEED: AtomicI32 = AtomicI32::new(-1);

extern "C" fn feed_on_third(_signal: i32) {
    if CALLS.fetch_add(1, SeqCst) == 2 {
        let _ = write(FEED.load(SeqCst), b"fed");
    }
}

fn restart_read(t: Transcript) {
    let (reader, writer) = pipe(0);
    FEED.store(writer, SeqCst);
    repeat_alarm(10, 0);
    must(Handler::install_function(SIGALRM, feed_on_third as *const () as usize, SA_RESTART, &[]));
    t.say("read goes on after the handler", read_text(reader, 10));
    stop_alarm();
    t.say("handler ran at least thrice", CALLS.load(SeqCst) >= 3);
}

fn interrupt_read(t: Transcript) {
    let (reader, writer) = pipe(0);
    repeat_alarm(10, 0);
    t.say("read", read_text(reader, 10));
    t.say("write that has begun", write(writer, &vec![0; 100_000]));
    t.say("write that has not", write(writer, &[0; 10]));
    stop_alarm();
}

/// SA_RESTART does not begin a wait with a timeout again.
fn interrupted_timeouts(t: Transcript) {
    let (a, _b) = crate::net::unix_pair(libc::SOCK_STREAM);
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        must(sys!(setsockopt, a, libc::SOL_SOCKET, option, &[100_i64, 0], 16));
    }
    repeat_alarm(10, SA_RESTART);
    t.say("read", read_text(a, 10));
    t.say("recv", crate::net::recv(a, 10, 0));
    while crate::net::send(a, &[0; 4096], libc::MSG_DONTWAIT).is_ok() {}
    t.say("write", write(a, &[0; 4096]));
    t.say("send", crate::net::send(a, &[0; 4096], 0));
    stop_alarm();
}

fn interrupted_calls(t: Transcript) {
    repeat_alarm(10, SA_RESTART);
    t.say("nanosleep", sys!(nanosleep, &timespec(100, 0), 0));
    let mut left = timespec(0, 0);
    t.say("nanosleep tells what is left", (sys!(nanosleep, &timespec(100, 0), &mut left), left.tv_sec >= 50));
    t.say("clock_nanosleep", sys!(clock_nanosleep, libc::CLOCK_MONOTONIC, 0, &timespec(100, 0), 0));
    t.say("pause", sys!(pause));
    t.say("rt_sigsuspend", sys!(rt_sigsuspend, &0_u64, 8));
    t.say("rt_sigtimedwait", sys!(rt_sigtimedwait, &set(&[SIGUSR1]), 0, &timespec(100, 0), 8));
    let word = 0_u32;
    t.say("futex with a timeout", sys!(futex, &word, libc::FUTEX_WAIT, 0, &timespec(100, 0), 0, 0));
    stop_alarm();
}

fn suspend(t: Transcript) {
    must(Handler::install(SIGUSR1, 0, &[]));
    block(&[SIGUSR1, SIGUSR2]);
    raise(SIGUSR1);
    t.say("lets the signal in", sys!(rt_sigsuspend, &set(&[SIGUSR2]), 8));
    t.say("handler ran", Handler::count(SIGUSR1));
    t.say("mask is back", blocked() == set(&[SIGUSR1, SIGUSR2]));
    t.say("wrong size", sys!(rt_sigsuspend, &0_u64, 4));
    t.say("wrong pointer", sys!(rt_sigsuspend, 1, 8));
}

fn timed_wait(t: Transcript) {
    block(&[SIGUSR1, SIGUSR2]);
    let both = set(&[SIGUSR1, SIGUSR2]);
    t.say("none, no time", sys!(rt_sigtimedwait, &both, 0, &timespec(0, 0), 8));
    t.say("none in 20 ms", took_at_least(20, || sys!(rt_sigtimedwait, &both, 0, &millis(20), 8)));
    raise(SIGUSR2);
    raise(SIGUSR1);
    t.say("lowest first", (sys!(rt_sigtimedwait, &both, 0, 0, 8), sys!(rt_sigtimedwait, &both, 0, 0, 8)));
    t.say("taken", pending());
    let us = own();
    let child = Child::spawn(|| must(sys!(kill, us, SIGUSR1)));
    t.say("waits for a child's", sys!(rt_sigtimedwait, &set(&[SIGUSR1]), 0, &timespec(10, 0), 8));
    t.say("child", child.wait());
}

fn timed_wait_values(t: Transcript) {
    block(&[42]);
    must(sys!(rt_sigqueueinfo, own(), 42, &info(42, libc::SI_QUEUE, 4242)));
    let mut got = siginfo_t::zeroed();
    t.say("signal", sys!(rt_sigtimedwait, &set(&[42]), &mut got, 0, 8));
    // SAFETY: the signal was queued with a value.
    let value = unsafe { got.si_value() }.sival_ptr as usize;
    t.say("code and value", (got.si_code, value));
}

/// What is ignored by default is not lost while it is waited for.
fn timed_wait_ignored(t: Transcript) {
    block(&[SIGCHLD, libc::SIGWINCH]);
    let child = Child::spawn(|| 0);
    t.say("a child's end", sys!(rt_sigtimedwait, &set(&[SIGCHLD]), 0, &timespec(10, 0), 8));
    t.say("child", child.wait());
    let us = own();
    let child = Child::spawn(|| must(sys!(kill, us, libc::SIGWINCH)));
    t.say("sent by a child", sys!(rt_sigtimedwait, &set(&[libc::SIGWINCH]), 0, &timespec(10, 0), 8));
    t.say("child", child.wait());
}

fn wait_errors(t: Transcript) {
    t.say("wrong size", sys!(rt_sigtimedwait, &0_u64, 0, 0, 4));
    t.say("wrong set", sys!(rt_sigtimedwait, 1, 0, 0, 8));
    t.say("time out of range", sys!(rt_sigtimedwait, &0_u64, 0, &timespec(0, -1), 8));
    t.say("negative time", sys!(rt_sigtimedwait, &0_u64, 0, &timespec(-1, 0), 8));
}

fn kill_errors(t: Transcript) {
    t.say("signal 0 to ourselves", ok(sys!(kill, own(), 0)));
    t.say("unknown signal", ok(sys!(kill, own(), 65)));
    t.say("negative signal", ok(sys!(kill, own(), -1)));
    t.say("no such process", ok(sys!(kill, 999_999, 0)));
    t.say("no such group", ok(sys!(kill, -999_999, 0)));
    t.say("smallest number", ok(sys!(kill, i32::MIN, 0)));
}

fn tgkill(t: Transcript) {
    let (pid, tid) = (own(), must(sys!(gettid)));
    t.say("ourselves", ok(sys!(tgkill, pid, tid, 0)));
    t.say("thread of another process", ok(sys!(tgkill, must(sys!(getppid)), tid, 0)));
    t.say("no such thread", ok(sys!(tgkill, pid, 999_999, 0)));
    t.say("zero", ok(sys!(tgkill, 0, tid, 0)));
    t.say("negative", ok(sys!(tgkill, pid, -1, 0)));
    t.say("unknown signal", ok(sys!(tgkill, pid, tid, 65)));
    t.say("tkill", ok(sys!(tkill, tid, 0)));
}

fn pause(t: Transcript) {
    let us = own();
    must(Handler::install(SIGUSR1, 0, &[]));
    block(&[SIGUSR1]);
    let child = Child::spawn(|| must(sys!(kill, us, SIGUSR1)));
    t.say("child", child.wait());
    t.say("pending wakes sigsuspend at once", sys!(rt_sigsuspend, &0_u64, 8));
    must(Handler::install_function(SIGCHLD, SIG_DFL, 0, &[]));
    must(Handler::install_function(SIGUSR2, SIG_IGN, 0, &[]));
    let child = Child::spawn(|| {
        for signal in [SIGUSR2, SIGCHLD, libc::SIGWINCH, SIGUSR2] {
            must(sys!(kill, us, signal));
        }
        must(sys!(kill, us, SIGUSR1))
    });
    t.say("ignored ones do not wake", (sys!(rt_sigsuspend, &0_u64, 8), Handler::count(SIGUSR1)));
    t.say("child then", child.wait());
}

fn stop_clears_continue(t: Transcript) {
    block(&[SIGCONT, libc::SIGTSTP]);
    raise(libc::SIGTSTP);
    t.say("stop pending", pending() == set(&[libc::SIGTSTP]));
    raise(SIGCONT);
    t.say("SIGCONT drops it", pending() == set(&[SIGCONT]));
    raise(libc::SIGTSTP);
    t.say("and the other way round", pending() == set(&[libc::SIGTSTP]));
}

fn exec_of_default(t: Transcript) {
    let mut child = Child::spawn(|| {
        raise(libc::SIGTSTP);
        5
    });
    t.say("SIGTSTP stops", child.wait_for(libc::WUNTRACED));
    must(child.kill(SIGCONT));
    t.say("goes on", child.wait());
    let mut child = Child::spawn(|| {
        must(Handler::install(SIGCONT, 0, &[]));
        raise(SIGSTOP);
        Handler::count(SIGCONT) as i32
    });
    t.say("SIGSTOP stops", child.wait_for(libc::WUNTRACED));
    must(child.kill(SIGCONT));
    t.say("SIGCONT is handled too", child.wait());
}

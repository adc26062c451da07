//! Timers that signal: alarm(2), setitimer(2), timer_create(2).

use libc::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, ITIMER_REAL, SA_RESTART, SIG_BLOCK, SIG_DFL, SIGALRM, SIGEV_NONE,
    SIGEV_SIGNAL, SIGEV_THREAD_ID, TIMER_ABSTIME, itimerspec, sigevent, siginfo_t,
};
use user_sys::child::in_child;
use user_sys::{Handler, Res, Zeroed, millis, must, sys, timespec};

use crate::fixture::{monotonic, status};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("timers":
    alarms, interval_timer, timer_errors, posix_timers, posix_create_errors, posix_set_errors,
    posix_settings, posix_overrun, posix_thread, posix_default, posix_belong_to_the_process,
);

fn alarms(t: Transcript) {
    must(Handler::install(SIGALRM, 0, &[]));
    t.say("what the watchdog had left", sys!(alarm, 100).map(|left| left > 0));
    t.say("what is left", sys!(alarm, 0).map(|left| (90..=100).contains(&left)));
    t.say("none set", sys!(alarm, 1));
    t.say("comes", sys!(pause));
    t.say("once", Handler::count(SIGALRM));
    t.say(
        "default action",
        in_child(|| {
            must(Handler::install_function(SIGALRM, SIG_DFL, 0, &[]));
            must(sys!(alarm, 1));
            must(sys!(pause))
        }),
    );
}

fn interval_timer(t: Transcript) {
    must(Handler::install(SIGALRM, SA_RESTART, &[]));
    let timer = [0_i64, 5_000, 0, 10_000];
    let start = monotonic();
    must(sys!(setitimer, ITIMER_REAL, &timer, 0));
    while Handler::count(SIGALRM) < 5 && monotonic() - start < 5_000_000_000 {}
    t.say("five, not too early", (Handler::count(SIGALRM) >= 5, monotonic() - start >= 29_000_000));
    let mut now = [0_i64; 4];
    t.say("getitimer", ok(sys!(getitimer, ITIMER_REAL, &mut now)));
    t.say("interval and rest", (now[0], now[1], now[2], (0..=10_000).contains(&now[3])));
    let mut old = [0_i64; 4];
    t.say("stop tells the old", (ok(sys!(setitimer, ITIMER_REAL, &[0_i64; 4], &mut old)), old[1]));
    let count = Handler::count(SIGALRM);
    must(sys!(nanosleep, &millis(30), 0));
    t.say("no more", Handler::count(SIGALRM) - count);
    t.say("getitimer then", (ok(sys!(getitimer, ITIMER_REAL, &mut now)), now.to_vec()));
}

fn timer_errors(t: Transcript) {
    t.say("unknown timer", ok(sys!(setitimer, 9, &[0_i64; 4], 0)));
    t.say("microseconds out of range", ok(sys!(setitimer, ITIMER_REAL, &[0_i64, 0, 0, 1_000_000], 0)));
    t.say("negative", ok(sys!(setitimer, ITIMER_REAL, &[0_i64, 0, -1, 0], 0)));
    t.say("wrong pointer", ok(sys!(setitimer, ITIMER_REAL, 1, 0)));
    t.say("getitimer, unknown", ok(sys!(getitimer, 9, &mut [0_i64; 4])));
    t.say("getitimer, wrong pointer", ok(sys!(getitimer, ITIMER_REAL, 1)));
}

fn posix_timers(t: Transcript) {
    must(Handler::install(43, 0, &[]));
    let mut event = libc::sigevent::zeroed();
    event.sigev_signo = 43;
    event.sigev_notify = libc::SIGEV_SIGNAL;
    let mut id = -1_i32;
    t.say("create", ok(sys!(timer_create, libc::CLOCK_MONOTONIC, &event, &mut id)));
    let spec = libc::itimerspec { it_interval: timespec(0, 0), it_value: millis(10) };
    t.say("set", ok(sys!(timer_settime, id, 0, &spec, 0)));
    let start = monotonic();
    while Handler::count(43) == 0 && monotonic() - start < 5_000_000_000 {}
    t.say("came", (Handler::count(43), Handler::code()));
    t.say("overrun", sys!(timer_getoverrun, id));
    t.say("delete", ok(sys!(timer_delete, id)));
    t.say("again", ok(sys!(timer_delete, id)));
}

fn event(notify: i32, signal: i32) -> sigevent {
    let mut event = sigevent::zeroed();
    (event.sigev_notify, event.sigev_signo) = (notify, signal);
    event
}

fn create(clock: i32, event: &sigevent) -> Res {
    let mut id = -1_i32;
    sys!(timer_create, clock, event, &mut id).map(|_| id as usize)
}

/// Sets a timer to expire in `first` milliseconds and then every `interval`.
fn arm(id: i32, first: i64, interval: i64) -> Res {
    let spec = itimerspec { it_interval: millis(interval), it_value: millis(first) };
    sys!(timer_settime, id, 0, &spec, 0)
}

/// Seconds left, and the interval in milliseconds.
fn get(id: i32) -> (i64, i64) {
    let mut now = itimerspec::zeroed();
    must(sys!(timer_gettime, id, &mut now));
    (now.it_value.tv_sec, now.it_interval.tv_sec * 1000 + now.it_interval.tv_nsec / 1_000_000)
}

fn posix_create_errors(t: Transcript) {
    let good = event(SIGEV_SIGNAL, 43);
    t.say("unknown clock", ok(create(99, &good)));
    t.say("clock that cannot", ok(create(libc::CLOCK_MONOTONIC_COARSE, &good)));
    t.say("no signal", ok(create(CLOCK_MONOTONIC, &event(SIGEV_SIGNAL, 0))));
    t.say("signal out of range", ok(create(CLOCK_MONOTONIC, &event(SIGEV_SIGNAL, 65))));
    t.say("nobody needs no signal", ok(create(CLOCK_MONOTONIC, &event(SIGEV_NONE, 65))));
    t.say("unknown way", ok(create(CLOCK_MONOTONIC, &event(7, 43))));
    let mut strange = event(SIGEV_THREAD_ID, 43);
    strange.sigev_notify_thread_id = must(sys!(getppid));
    t.say("thread of another process", ok(create(CLOCK_MONOTONIC, &strange)));
    t.say("wrong event", ok(sys!(timer_create, CLOCK_MONOTONIC, 1, &mut 0_i32)));
    t.say("wrong place for the id", ok(sys!(timer_create, CLOCK_MONOTONIC, &good, 1)));
}

fn posix_set_errors(t: Transcript) {
    let id = must(create(CLOCK_MONOTONIC, &event(SIGEV_NONE, 0)));
    let set = |value| {
        let spec = itimerspec { it_interval: timespec(0, 0), it_value: value };
        ok(sys!(timer_settime, id, 0, &spec, 0))
    };
    t.say("nanoseconds out of range", set(timespec(0, 1_000_000_000)));
    t.say("negative", set(timespec(-1, 0)));
    t.say("no setting", ok(sys!(timer_settime, id, 0, 0, 0)));
    t.say("wrong setting", ok(sys!(timer_settime, id, 0, 1, 0)));
    t.say("unknown timer", ok(sys!(timer_settime, 99, 0, &itimerspec::zeroed(), 0)));
    t.say("gettime, wrong pointer", ok(sys!(timer_gettime, id, 1)));
    t.say("gettime, unknown timer", ok(sys!(timer_gettime, 99, &mut itimerspec::zeroed())));
    t.say("getoverrun, unknown timer", ok(sys!(timer_getoverrun, 99)));
}

fn posix_settings(t: Transcript) {
    let id = must(create(CLOCK_REALTIME, &event(SIGEV_NONE, 0)));
    t.say("off", get(id));
    t.say("set", ok(arm(id, 1_000_000, 3_500)));
    let (left, interval) = get(id);
    t.say("time left and interval", ((990..=1000).contains(&left), interval));
    let mut old = itimerspec::zeroed();
    t.say("settime tells the old", ok(sys!(timer_settime, id, 0, &itimerspec::zeroed(), &mut old)));
    t.say("old", ((990..=1000).contains(&old.it_value.tv_sec), old.it_interval.tv_sec));
    let past = itimerspec { it_interval: timespec(0, 0), it_value: timespec(1, 0) };
    t.say("a time that has passed", ok(sys!(timer_settime, id, TIMER_ABSTIME, &past, 0)));
    t.say("has expired", get(id));
    let periodic = itimerspec { it_interval: timespec(5000, 0), it_value: timespec(1, 0) };
    t.say("with an interval", ok(sys!(timer_settime, id, TIMER_ABSTIME, &periodic, 0)));
    t.say("the next is ahead", (get(id).0 <= 5000, get(id).1));
    // One that tells nobody still shows its former time on Linux when it is switched off: so another.
    let telling = must(create(CLOCK_REALTIME, &event(SIGEV_SIGNAL, 43)));
    t.say("an interval alone", (ok(arm(telling, 0, 9)), get(telling)));
}

fn posix_overrun(t: Transcript) {
    must(user_sys::signal::mask(SIG_BLOCK, &[43]).map(|_| 0));
    let mut notice = event(SIGEV_SIGNAL, 43);
    notice.sigev_value.sival_ptr = std::ptr::without_provenance_mut(0x1234_5678_9abc);
    let id = must(create(CLOCK_MONOTONIC, &notice));
    must(arm(id, 2, 2));
    must(sys!(nanosleep, &millis(40), 0));
    let mut info = siginfo_t::zeroed();
    let set = user_sys::signal::set(&[43]);
    t.say("one signal", sys!(rt_sigtimedwait, &set, &mut info, &timespec(5, 0), 8));
    // SAFETY: what a timer tells.
    t.say("value", unsafe { info.si_value() }.sival_ptr as usize == 0x1234_5678_9abc);
    t.say("code", info.si_code);
    t.say("overrun", sys!(timer_getoverrun, id).map(|overrun| overrun >= 10));
    t.say("goes on", sys!(rt_sigtimedwait, &set, 0, &timespec(5, 0), 8));
    t.say("stop", ok(arm(id, 0, 0)));
}

fn posix_thread(t: Transcript) {
    must(user_sys::signal::mask(SIG_BLOCK, &[43]).map(|_| 0));
    let mut notice = event(SIGEV_THREAD_ID, 43);
    notice.sigev_notify_thread_id = must(sys!(gettid));
    let id = must(create(CLOCK_MONOTONIC, &notice));
    t.say("set", ok(arm(id, 5, 0)));
    let set = user_sys::signal::set(&[43]);
    t.say("came", sys!(rt_sigtimedwait, &set, 0, &timespec(5, 0), 8));
}

fn posix_default(t: Transcript) {
    must(Handler::install(SIGALRM, 0, &[]));
    let mut id = -1_i32;
    t.say("create", ok(sys!(timer_create, CLOCK_MONOTONIC, 0, &mut id)));
    must(arm(id, 10, 0));
    t.say("comes", sys!(pause));
    t.say("as an alarm", (Handler::count(SIGALRM), Handler::code(), Handler::address() as i32 == id));
}

fn posix_belong_to_the_process(t: Transcript) {
    let id = must(create(CLOCK_MONOTONIC, &event(SIGEV_NONE, 0)));
    must(arm(id, 1_000_000, 0));
    t.say(
        "a child has none",
        in_child(|| status(sys!(timer_getoverrun, id) == Err(user_sys::Errno::EINVAL))),
    );
    t.say("the parent still has it", get(id).0 > 0);
    let second = must(create(CLOCK_MONOTONIC, &event(SIGEV_NONE, 0)));
    t.say("ids differ", second != id);
    t.say("delete", (ok(sys!(timer_delete, id)), ok(sys!(timer_gettime, id, &mut itimerspec::zeroed()))));
    t.say("the other stays", get(second));
}

//! Timers that signal: alarm(2), setitimer(2), timer_create(2).

use libc::{ITIMER_REAL, SA_RESTART, SIG_DFL, SIGALRM};
use user_sys::child::in_child;
use user_sys::{Handler, Zeroed, millis, must, sys, timespec};

use crate::fixture::monotonic;
use crate::section;
use crate::transcript::{Transcript, ok};

section!("timers":
    alarms, interval_timer, timer_errors, posix_timers,
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

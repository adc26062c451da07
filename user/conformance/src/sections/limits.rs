//! What limits do when they are reached: setrlimit(2).

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use libc::{MAP_ANONYMOUS, MAP_SHARED, RLIM_INFINITY, RLIMIT_CPU, SIG_IGN, SIGXCPU, rlimit};
use user_sys::child::in_child;
use user_sys::map::mmap;
use user_sys::{Handler, PAGE, Res, Zeroed, must, sys};

use super::memory::{READ_WRITE, must_map};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("limits":
    processor_time, processor_time_warns, processor_time_values,
);

fn limit_time(soft: u64, hard: u64) -> Res {
    sys!(setrlimit, RLIMIT_CPU, &rlimit { rlim_cur: soft, rlim_max: hard })
}

fn time_limit() -> rlimit {
    let mut limit = rlimit::zeroed();
    must(sys!(getrlimit, RLIMIT_CPU, &mut limit));
    limit
}

/// Computes until a signal ends it.
fn compute() -> i32 {
    loop {
        std::hint::spin_loop();
    }
}

fn processor_time(t: Transcript) {
    t.say(
        "soft limit",
        in_child(|| {
            must(limit_time(1, 10));
            compute()
        }),
    );
    t.say(
        "hard limit",
        in_child(|| {
            must(Handler::install_function(SIGXCPU, SIG_IGN, 0, &[]));
            must(limit_time(1, 1));
            compute()
        }),
    );
    t.say(
        "handed to a child, whose time begins anew",
        in_child(|| {
            must(limit_time(1, 10));
            let child = in_child(compute);
            i32::from(child != user_sys::Ended::Killed(SIGXCPU)) + 2 * time_limit().rlim_cur as i32
        }),
    );
}

static COUNTS: AtomicI64 = AtomicI64::new(0);

extern "C" fn note_warning(_signal: i32) {
    let shared = std::ptr::with_exposed_provenance::<AtomicI64>(COUNTS.load(SeqCst) as usize);
    // SAFETY: the case mapped a page there, which is zeroed and stays.
    unsafe { &*shared }.fetch_add(1 + 100 * time_limit().rlim_cur as i64, SeqCst);
}

fn processor_time_warns(t: Transcript) {
    let at = must_map(mmap(0, PAGE, READ_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    COUNTS.store(at as i64, SeqCst);
    let ended = in_child(|| {
        must(Handler::install_function(SIGXCPU, note_warning as *const () as usize, 0, &[]));
        must(limit_time(1, 3));
        compute()
    });
    t.say("ends", ended);
    // SAFETY: as in the handler.
    let sum = unsafe { &*std::ptr::with_exposed_provenance::<AtomicI64>(at) }.load(SeqCst);
    t.say("warnings, and the sum of the soft limits after each", (sum % 100, sum / 100));
}

fn processor_time_values(t: Transcript) {
    t.say("soft above hard", ok(limit_time(5, 4)));
    t.say("lowered", ok(limit_time(1000, 2000)));
    let limit = time_limit();
    t.say("told", (limit.rlim_cur, limit.rlim_max));
    t.say("soft one unlimited", ok(limit_time(RLIM_INFINITY, 2000)));
    t.say("raised to the hard one", ok(limit_time(2000, 2000)));
}

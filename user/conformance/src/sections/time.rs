//! Clocks and sleeping: clock_gettime(2), clock_getres(2), nanosleep(2), gettimeofday(2), times(2), the vDSO.

use libc::{
    CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW, CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI, CLOCK_THREAD_CPUTIME_ID, TIMER_ABSTIME,
};
use user_sys::{Errno, Zeroed, must, sys, timespec};

use crate::fixture::{monotonic, took_at_least};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("time":
    clocks, clock_errors, resolution, monotonic_order, vdso_agrees, wall, processor_time, sleep,
    sleep_errors, absolute_sleep, ticks,
);

const CLOCKS: [(&str, i32); 9] = [
    ("real time", CLOCK_REALTIME),
    ("monotonic", CLOCK_MONOTONIC),
    ("process", CLOCK_PROCESS_CPUTIME_ID),
    ("thread", CLOCK_THREAD_CPUTIME_ID),
    ("raw", CLOCK_MONOTONIC_RAW),
    ("coarse real time", CLOCK_REALTIME_COARSE),
    ("coarse monotonic", CLOCK_MONOTONIC_COARSE),
    ("boot", CLOCK_BOOTTIME),
    ("tai", CLOCK_TAI),
];

/// A clock read by system call, in nanoseconds.
fn trap(clock: i32) -> Result<i64, Errno> {
    let mut now = timespec(0, 0);
    sys!(clock_gettime, clock, &mut now)?;
    Ok(now.tv_sec * 1_000_000_000 + now.tv_nsec)
}

/// A clock read through the C library, which uses the vDSO where there is one.
fn library(clock: i32) -> i64 {
    let mut now = timespec(0, 0);
    // SAFETY: the structure is ours.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn clocks(t: Transcript) {
    for (name, clock) in CLOCKS {
        t.say(name, trap(clock).map(|now| now > 0));
    }
}

fn clock_errors(t: Transcript) {
    let mut now = timespec(0, 0);
    t.say("unknown", ok(sys!(clock_gettime, 99, &mut now)));
    t.say("negative", ok(sys!(clock_gettime, -1, &mut now)));
    t.say("wrong pointer", ok(sys!(clock_gettime, CLOCK_MONOTONIC, 1)));
    t.say("setting the monotonic clock", ok(sys!(clock_settime, CLOCK_MONOTONIC, &now)));
    t.say("setting to a time out of range", ok(sys!(clock_settime, CLOCK_REALTIME, &timespec(0, -1))));
}

fn resolution(t: Transcript) {
    let mut resolution = timespec(9, 9);
    for (name, clock) in CLOCKS {
        let known = ok(sys!(clock_getres, clock, &mut resolution));
        t.say(name, (known, resolution.tv_sec == 0 && (1..=10_000_000).contains(&resolution.tv_nsec)));
    }
    t.say("no result wanted", ok(sys!(clock_getres, CLOCK_MONOTONIC, 0)));
    t.say("unknown", ok(sys!(clock_getres, 99, &mut resolution)));
    t.say("wrong pointer", ok(sys!(clock_getres, CLOCK_MONOTONIC, 1)));
}

fn monotonic_order(t: Transcript) {
    for (name, clock) in
        [("monotonic", CLOCK_MONOTONIC), ("raw", CLOCK_MONOTONIC_RAW), ("boot", CLOCK_BOOTTIME)]
    {
        let readings: Vec<i64> = (0..2000)
            .map(|index| if index % 2 == 0 { library(clock) } else { trap(clock).unwrap_or(0) })
            .collect();
        t.say(name, readings.is_sorted());
    }
    t.say("advances", {
        let start = monotonic();
        let mut now = start;
        while now == start {
            now = monotonic();
        }
        now > start
    });
    t.say("across processes", {
        let before = monotonic();
        let child = user_sys::child::in_child(|| i32::from(monotonic() < before));
        (child, monotonic() >= before)
    });
}

fn vdso_agrees(t: Transcript) {
    for (name, clock) in CLOCKS {
        let between = (0..100).all(|_| {
            let before = trap(clock).unwrap_or(i64::MAX);
            let inside = library(clock);
            before <= inside && inside <= trap(clock).unwrap_or(0)
        });
        // Wall time may be set meanwhile, and the raw clock is read by other means: the others must fit in
        // between.
        if !matches!(clock, CLOCK_REALTIME | CLOCK_TAI) {
            t.say(name, between);
        }
    }
    let mut pair = [0_i64; 2];
    must(sys!(gettimeofday, &mut pair, 0));
    let seconds = library(CLOCK_REALTIME) / 1_000_000_000;
    t.say("gettimeofday", (seconds - pair[0]).abs() <= 2);
    t.say("time", sys!(time, 0).map(|now| (seconds - now as i64).abs() <= 2));
    // SAFETY: no result structure is passed.
    t.say("time through the library", (unsafe { libc::time(std::ptr::null_mut()) } - seconds).abs() <= 2);
    // SAFETY: no argument.
    t.say("core through the library", unsafe { libc::sched_getcpu() } >= 0);
}

fn wall(t: Transcript) {
    t.say("after 2020", trap(CLOCK_REALTIME).map(|now| now > 1_577_836_800_000_000_000));
    t.say("before 2100", trap(CLOCK_REALTIME).map(|now| now < 4_102_444_800_000_000_000));
    t.say("gettimeofday to nowhere", ok(sys!(gettimeofday, 0, 0)));
    t.say("gettimeofday to a wrong pointer", ok(sys!(gettimeofday, 1, 0)));
    t.say("time to a wrong pointer", ok(sys!(time, 1)));
    let mut seconds = 0_i64;
    t.say("time stores what it returns", sys!(time, &mut seconds).map(|now| now as i64 == seconds));
}

/// Computes for so many milliseconds.
fn compute(milliseconds: i64) {
    let end = monotonic() + milliseconds * 1_000_000;
    while monotonic() < end {}
}

fn processor_time(t: Transcript) {
    let start = (trap(CLOCK_PROCESS_CPUTIME_ID), trap(CLOCK_THREAD_CPUTIME_ID));
    compute(30);
    let advanced =
        |clock: i32, from: Result<i64, Errno>| trap(clock).and_then(|now| from.map(|from| now > from));
    t.say("process advances", advanced(CLOCK_PROCESS_CPUTIME_ID, start.0));
    t.say("thread advances", advanced(CLOCK_THREAD_CPUTIME_ID, start.1));
    let before = trap(CLOCK_THREAD_CPUTIME_ID).unwrap_or(0);
    must(sys!(nanosleep, &timespec(0, 50_000_000), 0));
    t.say("sleep uses none", trap(CLOCK_THREAD_CPUTIME_ID).map(|now| now - before < 40_000_000));
    let mut usage = libc::rusage::zeroed();
    t.say("getrusage", ok(sys!(getrusage, libc::RUSAGE_SELF, &mut usage)));
    let mut tms = libc::tms::zeroed();
    t.say("times", sys!(times, &mut tms).map(|ticks| ticks > 0));
}

fn sleep(t: Transcript) {
    t.say("20 ms", took_at_least(20, || sys!(nanosleep, &timespec(0, 20_000_000), 0)));
    t.say("nothing", sys!(nanosleep, &timespec(0, 0), 0));
    let mut left = timespec(7, 7);
    t.say("the rest is not written", (sys!(nanosleep, &timespec(0, 1000), &mut left), left.tv_sec));
    for (name, clock) in [
        ("real time", CLOCK_REALTIME),
        ("monotonic", CLOCK_MONOTONIC),
        ("boot", CLOCK_BOOTTIME),
        ("process", CLOCK_PROCESS_CPUTIME_ID),
    ] {
        if clock != CLOCK_PROCESS_CPUTIME_ID {
            t.say(name, took_at_least(20, || sys!(clock_nanosleep, clock, 0, &timespec(0, 20_000_000), 0)));
        }
    }
}

fn sleep_errors(t: Transcript) {
    t.say("negative", ok(sys!(nanosleep, &timespec(-1, 0), 0)));
    t.say("nanoseconds out of range", ok(sys!(nanosleep, &timespec(0, 1_000_000_000), 0)));
    t.say("wrong pointer", ok(sys!(nanosleep, 1, 0)));
    t.say("unknown clock", ok(sys!(clock_nanosleep, 99, 0, &timespec(0, 1), 0)));
    t.say("thread's clock", ok(sys!(clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &timespec(0, 1), 0)));
    t.say("clock that cannot", ok(sys!(clock_nanosleep, CLOCK_MONOTONIC_RAW, 0, &timespec(0, 1), 0)));
}

fn absolute_sleep(t: Transcript) {
    for (name, clock) in [("monotonic", CLOCK_MONOTONIC), ("real time", CLOCK_REALTIME)] {
        let until = trap(clock).unwrap_or(0) + 20_000_000;
        let at = timespec(until / 1_000_000_000, until % 1_000_000_000);
        t.say(
            name,
            (sys!(clock_nanosleep, clock, TIMER_ABSTIME, &at, 0), trap(clock).map(|now| now >= until)),
        );
    }
    t.say("in the past", sys!(clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &timespec(0, 1), 0));
}

fn ticks(t: Transcript) {
    let first = sys!(times, 0).unwrap_or(0);
    must(sys!(nanosleep, &timespec(0, 120_000_000), 0));
    let passed = sys!(times, 0).unwrap_or(0) - first;
    t.say("a hundred a second", (10..2000).contains(&passed));
    t.say("wrong pointer", ok(sys!(times, 1)));
}

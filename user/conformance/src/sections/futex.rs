//! Waiting on a word of memory: futex(2), get_robust_list(2).

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::thread;

use libc::{
    FUTEX_BITSET_MATCH_ANY, FUTEX_CLOCK_REALTIME, FUTEX_CMP_REQUEUE, FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE,
    FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
};
use user_sys::child::in_child;
use user_sys::{Child, Errno, Res, must, sys, timespec};

use super::threads::{futex, shared_word, wait_for_ever};
use crate::fixture::{status, took_at_least};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("futex":
    wait_mismatch, wait_and_wake, wake_counts, wait_timeouts, wait_absolute, bitsets, requeue, wake_op,
    futex_errors, shared_futex, private_is_private, robust_list, robust_errors,
);

/// FUTEX_WAIT with a relative timeout.
fn wait(word: &AtomicU32, value: u32, timeout: &libc::timespec) -> Res {
    futex(word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, value, std::ptr::from_ref(timeout) as usize)
}

fn wake(word: &AtomicU32, count: u32) -> Res {
    futex(word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count, 0)
}

/// Wakes until that many have been woken: sleepers may not have arrived yet.
fn wake_all_of(word: &AtomicU32, count: usize) -> usize {
    let mut woken = 0;
    while woken < count {
        woken += wake(word, 1).unwrap_or(0);
        must(sys!(sched_yield));
    }
    woken
}

fn wait_mismatch(t: Transcript) {
    let word = AtomicU32::new(1);
    t.say("other value", wait_for_ever(&word, 0));
    t.say("wake of nobody", wake(&word, 1));
}

fn wait_and_wake(t: Transcript) {
    static WORD: AtomicU32 = AtomicU32::new(0);
    let sleeper = thread::spawn(|| wait_for_ever(&WORD, 0));
    t.say("woken", wake_all_of(&WORD, 1));
    t.say("sleeper", sleeper.join().unwrap_or(Err(Errno::EIO)));
    t.say("value is not looked at by wake", WORD.load(SeqCst));
}

fn wake_counts(t: Transcript) {
    static WORD: AtomicU32 = AtomicU32::new(0);
    static OUT: AtomicUsize = AtomicUsize::new(0);
    let sleepers: Vec<_> = (0..6)
        .map(|_| {
            thread::spawn(|| {
                let result = wait_for_ever(&WORD, 0);
                OUT.fetch_add(1, SeqCst);
                result
            })
        })
        .collect();
    t.say("two", wake_all_of(&WORD, 2));
    while OUT.load(SeqCst) < 2 {
        must(sys!(sched_yield));
    }
    t.say("only two are out", OUT.load(SeqCst));
    t.say("the rest", wake_all_of(&WORD, 4));
    t.say(
        "results",
        sleepers.into_iter().map(|thread| thread.join().unwrap_or(Err(Errno::EIO))).collect::<Vec<_>>(),
    );
}

fn wait_timeouts(t: Transcript) {
    let word = AtomicU32::new(0);
    t.say("20 ms", took_at_least(20, || wait(&word, 0, &timespec(0, 20_000_000))));
    t.say("no time", wait(&word, 0, &timespec(0, 0)));
    t.say("negative", wait(&word, 0, &timespec(-1, 0)));
    t.say("nanoseconds out of range", wait(&word, 0, &timespec(0, 1_000_000_000)));
    t.say("wrong pointer", futex(&word, FUTEX_WAIT, 0, 1));
}

fn wait_absolute(t: Transcript) {
    let word = AtomicU32::new(0);
    let until = |operation: i32, clock: i32, ahead: i64| {
        let mut at = timespec(0, 0);
        must(sys!(clock_gettime, clock, &mut at));
        let nanoseconds = at.tv_nsec + ahead * 1_000_000;
        let at = timespec(
            at.tv_sec + nanoseconds.div_euclid(1_000_000_000),
            nanoseconds.rem_euclid(1_000_000_000),
        );
        sys!(futex, word.as_ptr(), operation, 0, &at, 0, FUTEX_BITSET_MATCH_ANY)
    };
    t.say("monotonic", took_at_least(19, || until(FUTEX_WAIT_BITSET, libc::CLOCK_MONOTONIC, 20)));
    let real = FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME;
    t.say("real time", took_at_least(19, || until(real, libc::CLOCK_REALTIME, 20)));
    t.say("in the past", until(FUTEX_WAIT_BITSET, libc::CLOCK_MONOTONIC, -20));
}

fn bitsets(t: Transcript) {
    static WORD: AtomicU32 = AtomicU32::new(0);
    let sleep =
        |bits: u32| thread::spawn(move || sys!(futex, WORD.as_ptr(), FUTEX_WAIT_BITSET, 0, 0, 0, bits));
    let (first, second) = (sleep(0b01), sleep(0b10));
    let wake_bits = |bits: u32| {
        let mut woken = 0;
        while woken == 0 {
            woken = sys!(futex, WORD.as_ptr(), FUTEX_WAKE_BITSET, 10, 0, 0, bits).unwrap_or(0);
            must(sys!(sched_yield));
        }
        woken
    };
    t.say("first", (wake_bits(0b101), first.join().unwrap_or(Err(Errno::EIO))));
    t.say("no match", sys!(futex, WORD.as_ptr(), FUTEX_WAKE_BITSET, 10, 0, 0, 0b100));
    t.say("second", (wake_bits(0b110), second.join().unwrap_or(Err(Errno::EIO))));
    t.say("no bits to wait for", sys!(futex, WORD.as_ptr(), FUTEX_WAIT_BITSET, 0, 0, 0, 0));
    t.say("no bits to wake", sys!(futex, WORD.as_ptr(), FUTEX_WAKE_BITSET, 1, 0, 0, 0));
}

fn requeue(t: Transcript) {
    static FROM: AtomicU32 = AtomicU32::new(0);
    static TO: AtomicU32 = AtomicU32::new(0);
    let move_all =
        |operation: i32, expected: u32| sys!(futex, FROM.as_ptr(), operation, 0, 100, TO.as_ptr(), expected);
    t.say("nobody", move_all(FUTEX_REQUEUE | FUTEX_PRIVATE_FLAG, 0));
    t.say("compared, another value", move_all(FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 1));
    let sleepers: Vec<_> = (0..3).map(|_| thread::spawn(|| wait_for_ever(&FROM, 0))).collect();
    let mut moved = 0;
    while moved < 3 {
        moved += move_all(FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 0).unwrap_or(0);
        must(sys!(sched_yield));
    }
    // A sleeper that wakes for no reason goes back to the old place, on Linux too: so both places are woken.
    let (mut old, mut new) = (0, 0);
    while old + new < 3 {
        new += wake(&TO, 10).unwrap_or(0);
        old += wake(&FROM, 10).unwrap_or(0);
        must(sys!(sched_yield));
    }
    t.say("all woken, not all at the old place", (old + new, new > 0));
    t.say(
        "results",
        sleepers.into_iter().map(|thread| thread.join().unwrap_or(Err(Errno::EIO))).collect::<Vec<_>>(),
    );
    t.say("negative counts", sys!(futex, FROM.as_ptr(), FUTEX_REQUEUE, -1, -1, TO.as_ptr(), 0));
}

fn wake_op(t: Transcript) {
    let (first, second) = (AtomicU32::new(0), AtomicU32::new(5));
    // Add 3 to the second word; wake its sleepers if it was greater than 4.
    let operation = 1 << 28 | 4 << 24 | 3 << 12 | 4;
    t.say("nobody to wake", sys!(futex, first.as_ptr(), FUTEX_WAKE_OP, 1, 1, second.as_ptr(), operation));
    t.say("second word", second.load(SeqCst));
}

fn futex_errors(t: Transcript) {
    let word = AtomicU32::new(0);
    t.say("not aligned", sys!(futex, word.as_ptr() as usize + 1, FUTEX_WAIT, 0, 0, 0, 0));
    t.say("null", sys!(futex, 0, FUTEX_WAIT, 0, &timespec(0, 1), 0, 0));
    t.say("wake at null", sys!(futex, 0, FUTEX_WAKE, 1, 0, 0, 0));
    t.say("kernel's half", sys!(futex, 0xffff_ffff_8000_0000_usize, FUTEX_WAIT, 0, &timespec(0, 1), 0, 0));
    t.say("unknown operation", sys!(futex, word.as_ptr(), 77, 0, 0, 0, 0));
    t.say("real time with wake", sys!(futex, word.as_ptr(), FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 1, 0, 0, 0));
}

fn shared_futex(t: Transcript) {
    let (_, word) = shared_word();
    let child = Child::spawn(|| status(futex(word, FUTEX_WAIT, 0, 0).is_ok()));
    while futex(word, FUTEX_WAKE, 1, 0) == Ok(0) {
        must(sys!(sched_yield));
    }
    t.say("woken across processes", child.wait());
    let fd = crate::fixture::file_with(c"file", &[0; 64]);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let map = || user_sys::map::mmap(0, 4096, protection, libc::MAP_SHARED, fd, 0).unwrap_or_default();
    let (here, there) = (map(), map());
    let child = Child::spawn(|| status(sys!(futex, here, FUTEX_WAIT, 0, 0, 0, 0).is_ok()));
    while sys!(futex, there, FUTEX_WAKE, 1, 0, 0, 0) == Ok(0) {
        must(sys!(sched_yield));
    }
    t.say("by another mapping of the file", (here != there, child.wait()));
}

fn private_is_private(t: Transcript) {
    let word = AtomicU32::new(0);
    let child =
        Child::spawn(|| wait(&word, 0, &timespec(0, 200_000_000)).map_or_else(Errno::into_raw, |_| 0));
    must(sys!(nanosleep, &timespec(0, 50_000_000), 0));
    t.say("wake of a child's copy", wake(&word, 1));
    t.say("child", child.wait());
}

/// A robust list with one lock, whose word lies 8 bytes after its entry.
#[repr(C)]
struct RobustList {
    head: usize,
    offset: i64,
    pending: usize,
    entry: usize,
    word: AtomicU32,
}

fn robust_list(t: Transcript) {
    let (at, word) = shared_word();
    word.store(0, SeqCst);
    let lock_and = |leave: fn() -> i32| {
        in_child(|| {
            let list: *mut RobustList = std::ptr::with_exposed_provenance_mut(at);
            // SAFETY: the shared page is large enough, and no one else uses it meanwhile.
            unsafe {
                (*list).head = &raw const (*list).entry as usize;
                (*list).entry = &raw const (*list).head as usize;
                (*list).offset = 8;
                (*list).pending = 0;
                (*list).word.store(must(sys!(gettid)) as u32 | 0x8000_0000, SeqCst);
            }
            must(sys!(set_robust_list, at, 24));
            leave()
        })
    };
    // SAFETY: as above; the child has ended.
    let found = || unsafe { (*std::ptr::with_exposed_provenance::<RobustList>(at)).word.load(SeqCst) };
    t.say("exit", lock_and(|| 0));
    t.say("owner died, waiters kept", format!("{:#x}", found()));
    t.say("killed", lock_and(|| must(sys!(kill, must(sys!(getpid)), libc::SIGKILL))));
    t.say("owner died again", format!("{:#x}", found()));
}

fn robust_errors(t: Transcript) {
    t.say("wrong size", ok(sys!(set_robust_list, 0, 12)));
    let (mut head, mut size) = (1_usize, 0_usize);
    t.say("get", ok(sys!(get_robust_list, 0, &mut head, &mut size)));
    t.say("size", size);
    t.say("of no process", ok(sys!(get_robust_list, 999_999, &mut head, &mut size)));
    t.say(
        "a list that goes nowhere",
        in_child(|| {
            let list = [8_usize, 0, 0];
            must(sys!(set_robust_list, &list, 24));
            5
        }),
    );
    t.say(
        "a list that goes in circles",
        in_child(|| {
            let mut list = [0_usize; 3];
            let at = &raw mut list as usize;
            list = [at + 16, 0, at + 16];
            std::hint::black_box(&mut list);
            must(sys!(set_robust_list, at, 24));
            6
        }),
    );
}

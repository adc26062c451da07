//! What the kernel's paths cost: ticks of the time-stamp counter and nanoseconds per operation.
//!
//! Under QEMU's `-icount shift=0` the counter counts instructions, so that the ticks are path lengths. Each figure is the best of
//! several rounds.

use std::arch::x86_64::_rdtsc;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Instant;

use user_sys::map::mmap;
use user_sys::{Child, must, sys, timespec};

use crate::{Options, Verdict};

/// Rounds of which the best counts.
const ROUNDS: usize = 5;

/// An operation: its name, how often a round does it, and how a round is done.
type Operation = (&'static str, usize, fn(usize));

const OPERATIONS: [Operation; 14] = [
    ("getpid", 10_000, |n| repeat(n, || sys!(getpid).is_ok())),
    ("clock_gettime_vdso", 10_000, |n| repeat(n, vdso_clock)),
    ("clock_gettime_trap", 10_000, |n| {
        repeat(n, || sys!(clock_gettime, libc::CLOCK_MONOTONIC, &mut timespec(0, 0)).is_ok())
    }),
    ("read_zero", 10_000, read_zero),
    ("pipe_write_read", 5_000, pipe_write_read),
    ("epoll_wait_none", 10_000, epoll_wait_none),
    ("futex_wake_none", 10_000, |n| {
        let word = AtomicU32::new(0);
        repeat(n, || {
            sys!(futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1, 0, 0, 0).is_ok()
        });
    }),
    ("open_close", 2_000, |n| {
        repeat(n, || sys!(close, must(sys!(open, c"/dev/null", libc::O_RDONLY, 0))).is_ok())
    }),
    ("mmap_munmap", 1_000, |n| repeat(n, map_unmap)),
    ("mmap_touch_munmap", 1_000, |n| repeat(n, map_touch_unmap)),
    ("thread_switch_pipes", 500, thread_switch),
    ("thread_create_join", 200, |n| repeat(n, || thread::spawn(|| ()).join().is_ok())),
    ("fork_exit_wait", 50, |n| repeat(n, || Child::try_spawn(|| 0).map(Child::wait).is_ok())),
    ("vfork_exec_wait", 20, |n| repeat(n, || Command::new("/proc/self/exe").arg("noop").output().is_ok())),
];

/// All operations, or those that are named.
pub fn run(options: &Options) -> Verdict {
    for name in &options.positional {
        if !OPERATIONS.iter().any(|operation| operation.0 == name) {
            return Err(format!("no operation named {name}"));
        }
    }
    println!("{:<22}{:>12}{:>12}", "operation", "ticks", "ns");
    for (name, count, body) in OPERATIONS {
        if options.positional.is_empty() || options.positional.iter().any(|wanted| wanted == name) {
            let (ticks, nanoseconds) = best(count, body);
            println!("{name:<22}{ticks:>12}{nanoseconds:>12}");
        }
    }
    Ok(())
}

/// The best round: ticks and nanoseconds per operation.
fn best(count: usize, body: fn(usize)) -> (u64, u64) {
    let mut best = (u64::MAX, u64::MAX);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        // SAFETY: every x86-64 processor has the counter, and user code may read it.
        let before = unsafe { _rdtsc() };
        body(count);
        // SAFETY: as above.
        let ticks = unsafe { _rdtsc() } - before;
        best = best.min((ticks / count as u64, start.elapsed().as_nanos() as u64 / count as u64));
    }
    best
}

/// Does `operation` so often.
///
/// # Panics
/// When it fails: a figure would be that of the error.
fn repeat(count: usize, mut operation: impl FnMut() -> bool) {
    for _ in 0..count {
        assert!(operation(), "the operation failed");
    }
}

fn vdso_clock() -> bool {
    let mut now = timespec(0, 0);
    // SAFETY: the structure is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) == 0 }
}

fn read_zero(count: usize) {
    let fd = must(sys!(open, c"/dev/zero", libc::O_RDONLY, 0));
    repeat(count, || sys!(read, fd, &mut [0_u8], 1).is_ok());
    must(sys!(close, fd));
}

fn pipe() -> [i32; 2] {
    let mut ends = [0; 2];
    must(sys!(pipe2, &mut ends, libc::O_CLOEXEC));
    ends
}

fn close(ends: [i32; 2]) {
    ends.iter().for_each(|&end| {
        must(sys!(close, end));
    });
}

fn pipe_write_read(count: usize) {
    let [reader, writer] = pipe();
    repeat(count, || sys!(write, writer, b"x", 1).is_ok() && sys!(read, reader, &mut [0_u8], 1).is_ok());
    close([reader, writer]);
}

fn epoll_wait_none(count: usize) {
    let (epoll, [reader, writer]) = (must(sys!(epoll_create1, 0)), pipe());
    let event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    must(sys!(epoll_ctl, epoll, libc::EPOLL_CTL_ADD, reader, &event));
    repeat(count, || sys!(epoll_wait, epoll, &mut [event], 1, 0) == Ok(0));
    close([reader, writer]);
    must(sys!(close, epoll));
}

fn map_page() -> user_sys::Res {
    mmap(0, 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
}

fn map_unmap() -> bool {
    map_page().is_ok_and(|at| sys!(munmap, at, 4096).is_ok())
}

fn map_touch_unmap() -> bool {
    map_page().is_ok_and(|at| {
        user_sys::map::poke(at, 1);
        sys!(munmap, at, 4096).is_ok()
    })
}

/// To another thread and back, through two pipes.
fn thread_switch(count: usize) {
    let (there, back) = (pipe(), pipe());
    let partner = thread::spawn(move || repeat(count, || pass(there[0], back[1])));
    repeat(count, || sys!(write, there[1], b"x", 1).is_ok() && sys!(read, back[0], &mut [0_u8], 1) == Ok(1));
    assert!(partner.join().is_ok(), "the partner failed");
    close(there);
    close(back);
}

fn pass(from: i32, to: i32) -> bool {
    sys!(read, from, &mut [0_u8], 1) == Ok(1) && sys!(write, to, b"x", 1).is_ok()
}

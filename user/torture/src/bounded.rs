//! Every call is bounded: whatever a program makes long, the core goes on taking interrupts, and others have their turn. Each case makes
//! calls long in one way, as an ordinary user; a watcher of real time naps meanwhile, and sees how late it wakes. Where the kernel says
//! how long interrupts had to wait (`latency` on its command line), that is looked at, too.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use user_sys::map::{mmap, poke};
use user_sys::{Child, Ended, must, sys};

use crate::shared::Shared;
use crate::{Options, Verdict};

/// How long interrupts may wait, in nanoseconds of a clock that counts instructions.
const LIMIT: usize = 500_000;
/// How late the watcher may be: it waits for the interrupt, and for its turn.
const LATE: Duration = Duration::from_millis(1);
const NAP: Duration = Duration::from_millis(1);
/// How soon one that is in a long call is gone once it is killed.
const KILLED: Duration = Duration::from_millis(3);
const NOBODY: i32 = 65534;

const DESCRIPTORS: usize = 20_000;
const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

/// What is made long, and how.
const CASES: [(&str, fn()); 19] = [
    ("poll", poll),
    ("select", select),
    ("descriptors", descriptors),
    ("epoll", epoll),
    ("zeroes", || read_over_and_over(c"/dev/zero", 64 * MIB)),
    ("random", || read_over_and_over(c"/dev/urandom", MIB / 2)),
    ("fresh memory", fresh_memory),
    ("writev", writev),
    ("copies", copies),
    ("truncate", truncate),
    ("fallocate", fallocate),
    ("last close", last_close),
    ("shared memory", shared_memory),
    ("mapped file", mapped_file),
    ("over a mapping", over_a_mapping),
    ("heap", heap),
    ("mappings", mappings),
    ("arguments", arguments),
    ("console", console),
];

/// `bounded [CASE...]`
pub fn run(options: &Options) -> Verdict {
    let limit = libc::rlimit { rlim_cur: 2 * DESCRIPTORS as u64, rlim_max: 2 * DESCRIPTORS as u64 };
    must(sys!(prlimit64, 0, libc::RLIMIT_NOFILE, &limit, 0));
    let shared = Shared::new()?;
    let watcher = watch(shared.counter(0));
    let chosen =
        |name: &str| options.positional.is_empty() || options.positional.iter().any(|one| one == name);
    let mut broken = Vec::new();
    for (name, case) in CASES.into_iter().filter(|(name, _)| chosen(name)) {
        if let Err(message) = check(shared.counter(0), case) {
            broken.push(format!("{name}: {message}"));
        }
    }
    must(watcher.kill(libc::SIGKILL));
    watcher.wait();
    if chosen("killed")
        && let Err(message) = check_killed()
    {
        broken.push(format!("killed: {message}"));
    }
    if broken.is_empty() { Ok(()) } else { Err(broken.join("; ")) }
}

/// One of real time that naps, and keeps by how many nanoseconds it was late at most.
fn watch(latest: &AtomicUsize) -> Child {
    Child::spawn(|| {
        must(sys!(sched_setscheduler, 0, libc::SCHED_FIFO, &1_i32));
        loop {
            let start = Instant::now();
            sleep(NAP);
            latest.fetch_max((start.elapsed() - NAP).as_nanos() as usize, Relaxed);
        }
    })
}

/// How long interrupts waited at most since this was asked last; 0 where nobody measures it.
fn longest_wait() -> usize {
    let text = std::fs::read_to_string("/proc/nrk/latency").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn become_nobody() {
    if sys!(geteuid) == Ok(0) {
        must(sys!(setresuid, NOBODY, NOBODY, NOBODY));
    }
}

fn check(latest: &AtomicUsize, case: fn()) -> Verdict {
    sleep(2 * NAP);
    longest_wait();
    latest.store(0, Relaxed);
    let child = Child::spawn(|| {
        become_nobody();
        case();
        0
    });
    let ended = child.wait();
    sleep(2 * NAP);
    let (waited, late) = (longest_wait(), Duration::from_nanos(latest.load(Relaxed) as u64));
    if ended != Ended::Exited(0) {
        return Err(format!("{ended}"));
    }
    if waited <= LIMIT && late <= LATE {
        return Ok(());
    }
    Err(format!("interrupts waited {} us, the watcher was {late:?} late", waited / 1000))
}

/// Who is killed in a long call is gone at once.
fn check_killed() -> Verdict {
    let child = Child::spawn(|| {
        become_nobody();
        read_over_and_over(c"/dev/urandom", 1 << 30);
        0
    });
    sleep(5 * NAP);
    let start = Instant::now();
    must(child.kill(libc::SIGKILL));
    let (ended, time) = (child.wait(), start.elapsed());
    let gone = ended == Ended::Killed(libc::SIGKILL) && time <= KILLED;
    if gone { Ok(()) } else { Err(format!("{ended} after {time:?}")) }
}

fn map(len: usize, flags: i32, fd: i32) -> usize {
    let flags = flags | if fd < 0 { libc::MAP_ANONYMOUS } else { 0 };
    match mmap(0, len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) {
        Ok(at) => at,
        Err(errno) => panic!("mmap: {}", user_sys::errno_name(errno)),
    }
}

fn touch(at: usize, len: usize) {
    (0..len).step_by(PAGE).for_each(|offset| poke(at + offset, 1));
}

/// Memory of which every page is there.
fn filled(len: usize) -> usize {
    let at = map(len, libc::MAP_PRIVATE, -1);
    touch(at, len);
    at
}

fn pipe() -> [i32; 2] {
    let mut ends = [0; 2];
    must(sys!(pipe2, &mut ends, 0));
    ends
}

fn poll() {
    let [reader, _writer] = pipe();
    let mut fds = vec![libc::pollfd { fd: reader, events: libc::POLLIN, revents: 0 }; DESCRIPTORS];
    assert_eq!(sys!(poll, &mut fds[..], DESCRIPTORS, 1), Ok(0));
    must(sys!(write, _writer, c"x", 1));
    assert_eq!(sys!(poll, &mut fds[..], DESCRIPTORS, 1), Ok(DESCRIPTORS));
}

fn select() {
    let [reader, _writer] = pipe();
    (0..DESCRIPTORS).for_each(|_| assert!(sys!(dup, reader).is_ok()));
    let mut set = vec![u64::MAX; DESCRIPTORS / 64];
    // Standard output is always ready.
    set[0] &= !7;
    let mut timeout = libc::timeval { tv_sec: 0, tv_usec: 1000 };
    assert_eq!(sys!(select, DESCRIPTORS, &mut set[..], 0, 0, &mut timeout), Ok(0));
}

/// Copied by fork(2), closed at an end and by close_range(2).
fn descriptors() {
    (0..DESCRIPTORS).for_each(|_| assert!(sys!(eventfd2, 0, 0).is_ok()));
    assert_eq!(user_sys::child::in_child(|| 0), Ended::Exited(0));
    must(sys!(close_range, 3, u32::MAX, 0));
}

/// Many descriptors that are ready, and watched.
fn epoll() {
    let instance = must(sys!(epoll_create1, 0));
    let event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    for _ in 0..DESCRIPTORS {
        let fd = must(sys!(eventfd2, 1, 0));
        must(sys!(epoll_ctl, instance, libc::EPOLL_CTL_ADD, fd, &event));
    }
    must(sys!(close_range, instance + DESCRIPTORS as i32 / 2, u32::MAX, 0));
    must(sys!(close, instance));
}

/// `total` bytes from a device into a smaller buffer, in one call.
fn read_over_and_over(device: &std::ffi::CStr, total: usize) {
    const PARTS: usize = 512;
    let (file, part) = (must(sys!(open, device, libc::O_RDONLY, 0)), total / PARTS);
    let at = filled(part);
    let parts =
        vec![libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(at), iov_len: part }; PARTS];
    assert_eq!(sys!(readv, file, &parts[..], PARTS), Ok(total));
}

fn fresh_memory() {
    let zero = must(sys!(open, c"/dev/zero", libc::O_RDONLY, 0));
    let at = map(32 * MIB, libc::MAP_PRIVATE, -1);
    assert_eq!(sys!(read, zero, at, 32 * MIB), Ok(32 * MIB));
}

/// A file without a name, of so many bytes.
fn file(len: usize) -> i32 {
    let file = must(sys!(memfd_create, c"bounded", 0));
    let at = filled(MIB);
    (0..len / MIB).for_each(|_| assert_eq!(sys!(write, file, at, MIB), Ok(MIB)));
    file
}

fn writev() {
    let (file, at) = (must(sys!(memfd_create, c"bounded", 0)), filled(32 * MIB));
    assert_eq!(sys!(write, file, at, 32 * MIB), Ok(32 * MIB));
    let null = must(sys!(open, c"/dev/null", libc::O_WRONLY, 0));
    assert_eq!(sys!(write, null, at, 32 * MIB), Ok(32 * MIB));
}

fn copies() {
    let (from, to) = (file(16 * MIB), must(sys!(memfd_create, c"to", 0)));
    assert_eq!(sys!(copy_file_range, from, &mut 0_u64, to, 0, 16 * MIB, 0), Ok(16 * MIB));
    let (sparse, null) =
        (must(sys!(memfd_create, c"sparse", 0)), must(sys!(open, c"/dev/null", libc::O_WRONLY, 0)));
    must(sys!(ftruncate, sparse, 1_u64 << 40));
    assert_eq!(sys!(sendfile, null, sparse, 0, 64 * MIB), Ok(64 * MIB));
}

fn truncate() {
    must(sys!(ftruncate, file(64 * MIB), 0));
}

fn fallocate() {
    let file = must(sys!(memfd_create, c"bounded", 0));
    must(sys!(fallocate, file, 0, 0, 64 * MIB));
    assert_eq!(sys!(fallocate, file, 0, 0, 1_u64 << 50), Err(user_sys::Errno::ENOSPC));
    must(sys!(fallocate, file, 3, 0, 64 * MIB));
}

fn last_close() {
    must(sys!(close, file(64 * MIB)));
}

fn shared_memory() {
    let at = map(64 * MIB, libc::MAP_SHARED, -1);
    touch(at, 64 * MIB);
    must(sys!(munmap, at, 64 * MIB));
}

/// Cut under several mappings of it.
fn mapped_file() {
    let file = must(sys!(memfd_create, c"bounded", 0));
    must(sys!(ftruncate, file, 32 * MIB));
    (0..8).for_each(|_| touch(map(32 * MIB, libc::MAP_SHARED, file), 32 * MIB));
    must(sys!(ftruncate, file, 0));
}

fn over_a_mapping() {
    let at = filled(64 * MIB);
    assert_eq!(user_sys::child::in_child(|| 0), Ended::Exited(0));
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    assert_eq!(mmap(at, 64 * MIB, libc::PROT_READ, flags, -1, 0), Ok(at));
}

fn heap() {
    let start = sys!(brk, 0).unwrap_or(0);
    assert_eq!(sys!(brk, start + 64 * MIB), Ok(start + 64 * MIB));
    touch(start.next_multiple_of(PAGE), 63 * MIB);
    assert_eq!(sys!(brk, start), Ok(start));
}

/// What /proc tells of many mappings, to one who reads little.
fn mappings() {
    const MAPPINGS: usize = 2000;
    let at = map(2 * MAPPINGS * PAGE, libc::MAP_PRIVATE, -1);
    (0..MAPPINGS).for_each(|one| assert!(sys!(mprotect, at + 2 * one * PAGE, PAGE, libc::PROT_READ).is_ok()));
    filled(64 * MIB);
    for name in [c"/proc/self/maps", c"/proc/self/smaps", c"/proc/self/smaps_rollup"] {
        let (file, mut bytes) = (must(sys!(open, name, libc::O_RDONLY, 0)), vec![0_u8; 1 << 16]);
        must(sys!(pread64, file, &mut bytes[..], 1, 0));
        while must(sys!(read, file, &mut bytes[..], 1 << 16)) > 0 {}
        must(sys!(pread64, file, &mut bytes[..], 1, 100_000));
    }
}

/// This program again, with as many arguments as fit, which it does not look at.
fn arguments() {
    const ARGUMENTS: usize = 100_000;
    let mut arguments = vec![c"torture".as_ptr(), c"noop".as_ptr()];
    arguments.resize(ARGUMENTS, c"".as_ptr());
    arguments.push(std::ptr::null());
    let ended = user_sys::child::in_child(|| {
        let _ = sys!(execve, c"/proc/self/exe", &arguments[..], 0);
        1
    });
    assert_eq!(ended, Ended::Exited(0));
}

fn console() {
    const LEN: usize = 192 << 10;
    let blanks = vec![b' '; LEN];
    assert_eq!(sys!(write, 1, &blanks[..], LEN), Ok(LEN));
}

//! Threads: clone(2), futex(2), set_tid_address(2), set_robust_list(2), arch_prctl(2), exit_group(2).

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;

use libc::{
    CLONE_FS, CLONE_NEWNS, CLONE_SIGHAND, CLONE_THREAD, CLONE_VM, FUTEX_PRIVATE_FLAG, FUTEX_WAIT, SIGCHLD,
    SIGUSR1,
};
use user_sys::child::{exit_now, in_child};
use user_sys::{Child, Errno, Handler, Res, must, sys, timespec};

use crate::fixture::{is_open, monotonic, pipe, read_text, status, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("threads":
    create_and_join, ids, locals, shared_state, many, mutexes, condition, clone_errors, clone3_errors,
    child_tid, thread_signals, process_signals, exit_group_ends_all, main_thread_leaves,
    fatal_signal_ends_all, thread_exit_leaves_others, fork_from_thread, fs_base, affinity, blocked_in_read,
    set_tid_address, names,
);

pub fn futex(word: &AtomicU32, operation: i32, value: u32, timeout: usize) -> Res {
    sys!(futex, word.as_ptr(), operation, value, timeout, 0, 0)
}

/// FUTEX_WAIT without end.
pub fn wait_for_ever(word: &AtomicU32, value: u32) -> Res {
    futex(word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, value, 0)
}

fn create_and_join(t: Transcript) {
    t.say("value", thread::spawn(|| 42).join().unwrap_or(0));
    t.say("with a stack of its own", {
        let local = 1;
        let here = &raw const local as usize;
        thread::spawn(move || {
            let local = 2;
            (&raw const local as usize).abs_diff(here) > 4096
        })
        .join()
        .unwrap_or(false)
    });
    t.say("nested", thread::spawn(|| thread::spawn(|| 7).join().unwrap_or(0)).join().unwrap_or(0));
}

fn ids(t: Transcript) {
    let pid = must(sys!(getpid));
    let (same, other) = thread::spawn(move || (sys!(getpid) == Ok(pid as usize), must(sys!(gettid)) != pid))
        .join()
        .unwrap_or_default();
    t.say("one process", same);
    t.say("a number of its own", other);
    t.say("one parent", sys!(getppid) == thread::spawn(|| sys!(getppid)).join().unwrap_or(Ok(0)));
}

thread_local! {
    static LOCAL: Cell<usize> = const { Cell::new(5) };
}

fn locals(t: Transcript) {
    LOCAL.set(6);
    let seen: Vec<usize> = (0..4)
        .map(|number| {
            thread::spawn(move || {
                let first = LOCAL.get();
                LOCAL.set(number);
                thread::yield_now();
                first * 100 + LOCAL.get()
            })
        })
        .map(|thread| thread.join().unwrap_or(0))
        .collect();
    t.say("each its own", seen);
    t.say("main's stays", LOCAL.get());
}

fn shared_state(t: Transcript) {
    let (reader, writer) = pipe(0);
    let done = thread::spawn(move || {
        must(sys!(mkdir, c"made", 0o755));
        must(sys!(chdir, c"made"));
        must(sys!(umask, 0o77));
        must(sys!(dup2, reader, 50));
        must(write(writer, b"x"))
    });
    t.say("thread", done.join().unwrap_or(-1));
    t.say("descriptors", is_open(50));
    t.say("current directory", ok(sys!(access, c"../made", 0)));
    t.say("umask", sys!(umask, 0o22));
    t.say("signal mask is not shared", {
        let blocked = thread::spawn(|| user_sys::signal::mask(libc::SIG_BLOCK, &[SIGUSR1])).join();
        (blocked.is_ok(), user_sys::signal::mask(libc::SIG_BLOCK, &[]))
    });
    t.say("mask is inherited", {
        must(user_sys::signal::mask(libc::SIG_BLOCK, &[SIGUSR1]).map(|_| 0));
        thread::spawn(|| user_sys::signal::mask(libc::SIG_BLOCK, &[])).join().unwrap_or(Ok(0))
    });
}

fn many(t: Transcript) {
    let count = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..64)
        .map(|_| {
            let count = Arc::clone(&count);
            thread::spawn(move || count.fetch_add(1, SeqCst))
        })
        .collect();
    t.say("joined", threads.into_iter().filter_map(|thread| thread.join().ok()).count());
    t.say("counted", count.load(SeqCst));
    let barrier = Arc::new(Barrier::new(16));
    let at_once: Vec<_> = (0..16)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || usize::from(barrier.wait().is_leader()))
        })
        .collect();
    t.say("leaders of a barrier", at_once.into_iter().filter_map(|thread| thread.join().ok()).sum::<usize>());
}

fn mutexes(t: Transcript) {
    let total = Arc::new(Mutex::new(0_u64));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let total = Arc::clone(&total);
            thread::spawn(move || {
                for _ in 0..2000 {
                    if let Ok(mut total) = total.lock() {
                        *total += 1;
                    }
                }
            })
        })
        .collect();
    t.say("joined", threads.into_iter().filter_map(|thread| thread.join().ok()).count());
    t.say("total", total.lock().map_or(0, |total| *total));
}

fn condition(t: Transcript) {
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    let other = Arc::clone(&shared);
    let partner = thread::spawn(move || play(&other, 1));
    t.say("rounds here", play(&shared, 0));
    t.say("rounds there", partner.join().unwrap_or(0));
}

/// Two threads take turns by parity, a hundred times each.
fn play(shared: &(Mutex<u32>, Condvar), parity: u32) -> u32 {
    let mut rounds = 0;
    let Ok(mut turn) = shared.0.lock() else { return 0 };
    while rounds < 100 {
        if *turn % 2 == parity {
            *turn += 1;
            rounds += 1;
            shared.1.notify_one();
        } else {
            turn = match shared.1.wait(turn) {
                Ok(turn) => turn,
                Err(_) => return 0,
            };
        }
    }
    rounds
}

/// A futex word in memory that children share.
pub fn shared_word() -> (usize, &'static AtomicU32) {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let Ok(at) = user_sys::map::mmap(0, 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) else {
        panic!("mmap")
    };
    // SAFETY: the mapping is never removed, aligned, and holds zeros.
    (at, unsafe { &*std::ptr::with_exposed_provenance(at) })
}

fn clone(flags: i32) -> Result<(), Errno> {
    match sys!(clone, flags, 0, 0, 0, 0) {
        Ok(0) => exit_now(0),
        Ok(pid) => {
            Child::adopt(pid as i32).wait();
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}

fn clone_errors(t: Transcript) {
    t.say("like fork", clone(SIGCHLD));
    t.say("handlers without memory", clone(CLONE_SIGHAND | SIGCHLD));
    t.say("thread without handlers", clone(CLONE_THREAD | CLONE_VM | SIGCHLD));
    t.say("thread without memory", clone(CLONE_THREAD | CLONE_SIGHAND | SIGCHLD));
    t.say("file system view and a new one", clone(CLONE_FS | CLONE_NEWNS | SIGCHLD));
    t.say("with a shared file table", clone(libc::CLONE_FILES | CLONE_FS | SIGCHLD));
}

fn clone3(arguments: &[u64], size: usize) -> Result<(), Errno> {
    match sys!(clone3, arguments, size) {
        Ok(0) => exit_now(0),
        Ok(pid) => {
            Child::adopt(pid as i32).wait();
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}

fn clone3_errors(t: Transcript) {
    let signal = SIGCHLD as u64;
    t.say("like fork", clone3(&[0, 0, 0, 0, signal, 0, 0, 0], 64));
    t.say("too small", clone3(&[0; 8], 56));
    t.say("larger, with zeros", clone3(&[0, 0, 0, 0, signal, 0, 0, 0, 0, 0, 0, 0, 0], 104));
    t.say("larger, with something", clone3(&[0, 0, 0, 0, signal, 0, 0, 0, 0, 0, 0, 0, 1], 104));
    t.say("larger than a page", clone3(&[0; 600], 4800));
    t.say("signal in the flags", clone3(&[signal, 0, 0, 0, 0, 0, 0, 0], 64));
    t.say("unknown signal", clone3(&[0, 0, 0, 0, 65, 0, 0, 0], 64));
    t.say("size without a stack", clone3(&[0, 0, 0, 0, signal, 0, 4096, 0], 64));
    t.say("stack without a size", clone3(&[0, 0, 0, 0, signal, 4096, 0, 0], 64));
    t.say("wrong pointer", ok(sys!(clone3, 1, 64)));
}

fn child_tid(t: Transcript) {
    let (at, word) = shared_word();
    let flags = libc::CLONE_PARENT_SETTID | libc::CLONE_CHILD_SETTID | SIGCHLD;
    let pid = match sys!(clone, flags, 0, at, at + 8, 0) {
        Ok(0) => {
            let own = must(sys!(getpid)) as u32;
            // SAFETY: the second word of the same page.
            let second: &AtomicU32 = unsafe { &*std::ptr::with_exposed_provenance(at + 8) };
            exit_now(i32::from(second.load(SeqCst) == own))
        }
        other => must(other),
    };
    t.say("parent's word", word.load(SeqCst) == pid as u32);
    t.say("child's word", Child::adopt(pid).wait());
    let joined = AtomicI32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| joined.store(1, SeqCst));
    });
    t.say("join rests on the cleared word", joined.load(SeqCst));
}

fn thread_signals(t: Transcript) {
    must(Handler::install(SIGUSR1, 0, &[]));
    static TID: AtomicI32 = AtomicI32::new(0);
    static RAN_ON: AtomicI32 = AtomicI32::new(0);
    extern "C" fn note(_signal: i32) {
        RAN_ON.store(must(sys!(gettid)), SeqCst);
    }
    must(Handler::install_function(SIGUSR1, note as *const () as usize, 0, &[]));
    let sleeper = thread::spawn(|| {
        TID.store(must(sys!(gettid)), SeqCst);
        sys!(pause)
    });
    let tid = loop {
        match TID.load(SeqCst) {
            0 => must(sys!(sched_yield)),
            tid => break tid,
        };
    };
    while RAN_ON.load(SeqCst) == 0 || !sleeper.is_finished() {
        let _ = sys!(tgkill, must(sys!(getpid)), tid, SIGUSR1);
        must(sys!(nanosleep, &timespec(0, 1_000_000), 0));
    }
    t.say("runs on the thread that it is for", RAN_ON.load(SeqCst) == tid);
    t.say("its call", sleeper.join().unwrap_or(Ok(0)));
}

fn process_signals(t: Transcript) {
    static RAN_ON: AtomicI32 = AtomicI32::new(0);
    static READY: AtomicBool = AtomicBool::new(false);
    extern "C" fn note(_signal: i32) {
        RAN_ON.store(must(sys!(gettid)), SeqCst);
    }
    must(Handler::install_function(SIGUSR1, note as *const () as usize, 0, &[]));
    let taker = thread::spawn(|| {
        READY.store(true, SeqCst);
        while RAN_ON.load(SeqCst) == 0 {
            must(sys!(sched_yield));
        }
        must(sys!(gettid))
    });
    while !READY.load(SeqCst) {
        must(sys!(sched_yield));
    }
    must(user_sys::signal::mask(libc::SIG_BLOCK, &[SIGUSR1]).map(|_| 0));
    must(sys!(kill, must(sys!(getpid)), SIGUSR1));
    let tid = taker.join().unwrap_or(0);
    t.say("goes to a thread that does not block it", RAN_ON.load(SeqCst) == tid);
}

fn exit_group_ends_all(t: Transcript) {
    t.say(
        "threads in several calls",
        in_child(|| {
            static WORD: AtomicU32 = AtomicU32::new(0);
            let (reader, _writer) = pipe(0);
            thread::spawn(|| wait_for_ever(&WORD, 0));
            thread::spawn(move || read_text(reader, 1));
            thread::spawn(|| sys!(nanosleep, &timespec(1000, 0), 0));
            thread::spawn(|| sys!(wait4, -1, 0, 0, 0));
            thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
            must(sys!(nanosleep, &timespec(0, 20_000_000), 0));
            exit_now(33)
        }),
    );
}

fn main_thread_leaves(t: Transcript) {
    t.say(
        "the process lives until the last thread",
        in_child(|| {
            thread::spawn(|| {
                must(sys!(nanosleep, &timespec(0, 30_000_000), 0));
                exit_now(44)
            });
            must(sys!(exit, 0))
        }),
    );
}

fn fatal_signal_ends_all(t: Transcript) {
    t.say(
        "in a thread",
        in_child(|| {
            thread::spawn(|| {
                must(Handler::install_function(libc::SIGSEGV, libc::SIG_DFL, 0, &[]));
                user_sys::map::peek(std::hint::black_box(0))
            });
            must(sys!(pause))
        }),
    );
}

fn thread_exit_leaves_others(t: Transcript) {
    let (reader, writer) = pipe(0);
    t.say(
        "raw exit of a thread",
        in_child(|| {
            thread::spawn(move || {
                must(write(writer, b"x"));
                must(sys!(exit, 9))
            });
            must(sys!(read, reader, &mut [0_u8], 1));
            must(sys!(nanosleep, &timespec(0, 20_000_000), 0));
            4
        }),
    );
}

fn fork_from_thread(t: Transcript) {
    let ended = thread::spawn(|| {
        let tid = must(sys!(gettid));
        let child =
            Child::spawn(|| status(must(sys!(gettid)) == must(sys!(getpid)) && must(sys!(getppid)) != tid));
        child.wait()
    });
    t.say("child has one thread, the process is its parent", ended.join().ok());
    let child = thread::spawn(|| Child::spawn(|| 8)).join();
    t.say("another thread can wait", child.ok().map(Child::wait));
}

fn fs_base(t: Transcript) {
    let mut base = 0_usize;
    t.say("get", ok(sys!(arch_prctl, 0x1003, &mut base)));
    t.say("is the thread's own pointer", {
        let own: usize;
        // SAFETY: the first word of thread-local storage holds its own address (System V ABI).
        unsafe { std::arch::asm!("mov {}, fs:[0]", out(reg) own) };
        own == base
    });
    t.say("gs", (ok(sys!(arch_prctl, 0x1001, 0x1234_5000)), ok(sys!(arch_prctl, 0x1004, &mut base)), base));
    t.say("beyond the user half", ok(sys!(arch_prctl, 0x1001, 0xffff_8000_0000_0000_usize)));
    t.say("wrong pointer", ok(sys!(arch_prctl, 0x1003, 1)));
    t.say("unknown", ok(sys!(arch_prctl, 0x9999, 0)));
}

fn affinity(t: Transcript) {
    let mut mask = [0_u64; 16];
    t.say("get", sys!(sched_getaffinity, 0, 128, &mut mask).map(|bytes| bytes % 8 == 0 && bytes > 0));
    t.say("some core", mask.iter().any(|&word| word != 0));
    t.say("set the same", ok(sys!(sched_setaffinity, 0, 128, &mask)));
    t.say("none", ok(sys!(sched_setaffinity, 0, 128, &[0_u64; 16])));
    t.say("odd length", ok(sys!(sched_getaffinity, 0, 9, &mut mask)));
    t.say("no such thread", ok(sys!(sched_getaffinity, 999_999, 128, &mut mask)));
    t.say("get of a negative id", ok(sys!(sched_getaffinity, -1, 128, &mut mask)));
    t.say("set of a negative id", ok(sys!(sched_setaffinity, -1, 128, &mask)));
    t.say("wrong pointer", ok(sys!(sched_setaffinity, 0, 128, 1)));
    t.say("running on a core of the mask", {
        let (mut core, mut node) = (u32::MAX, u32::MAX);
        must(sys!(getcpu, &mut core, &mut node, 0));
        mask[core as usize / 64] >> (core % 64) & 1
    });
}

fn blocked_in_read(t: Transcript) {
    let (reader, writer) = pipe(0);
    let sleeper = thread::spawn(move || read_text(reader, 5));
    let busy = thread::spawn(|| {
        let end = monotonic() + 20_000_000;
        while monotonic() < end {}
        1
    });
    t.say("others run meanwhile", busy.join().unwrap_or(0));
    must(write(writer, b"now"));
    t.say("then it", sleeper.join().unwrap_or(Err(Errno::EIO)));
}

fn set_tid_address(t: Transcript) {
    t.say("returns the thread's number", sys!(set_tid_address, 0) == sys!(gettid));
    t.say(
        "in a thread",
        thread::spawn(|| {
            // The C library's own word has to be put back for the join, so a process of its own does this.
            matches!(
                in_child(|| status(sys!(set_tid_address, 0) == sys!(gettid))),
                user_sys::Ended::Exited(0)
            )
        })
        .join()
        .unwrap_or(false),
    );
}

fn names(t: Transcript) {
    let name = || {
        let mut name = [0_u8; 16];
        must(sys!(prctl, libc::PR_GET_NAME, &mut name, 0, 0, 0));
        String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
    };
    must(sys!(prctl, libc::PR_SET_NAME, c"main", 0, 0, 0));
    t.say("own", name());
    t.say("cut at 15 bytes", {
        must(sys!(prctl, libc::PR_SET_NAME, c"a name that is too long", 0, 0, 0));
        name()
    });
    let other = thread::Builder::new().name("worker".to_owned()).spawn(name);
    t.say("thread's", other.ok().and_then(|thread| thread.join().ok()));
    t.say("in /proc", std::fs::read_to_string("/proc/self/comm").unwrap_or_default().trim_end());
}

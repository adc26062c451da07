//! Deep stacks, and their ends: the main thread's, a thread's, a signal's.

use std::thread;

use user_sys::{Child, Ended, Handler, must, sys};

use crate::{Options, Verdict, aftermath};

/// Bytes of one step down.
const FRAME: usize = 4096;

/// Goes down so many steps and checks every frame on the way back.
fn descend(depth: usize) -> usize {
    let mut frame = [0_u8; FRAME];
    frame[depth % FRAME] = depth as u8;
    std::hint::black_box(&mut frame);
    if depth == 0 {
        return 0;
    }
    let below = descend(depth - 1);
    below + usize::from(std::hint::black_box(&frame)[depth % FRAME] == depth as u8)
}

/// All of them.
pub fn run(_options: &Options) -> Verdict {
    expect("seven MiB on the main thread's stack", descend(1700), 1700)?;
    let large = thread::Builder::new().stack_size(256 << 20).spawn(|| descend(30_000));
    let depth = large.map_err(|error| format!("a thread with 256 MiB: {error}"))?.join();
    expect("on a thread's stack", depth.unwrap_or(0), 30_000)?;
    overflow("the main thread", || drop_result(descend(usize::MAX)))?;
    overflow("a thread", || {
        let thread = thread::Builder::new().stack_size(1 << 20).spawn(|| descend(usize::MAX));
        let _ = thread.map(thread::JoinHandle::join);
    })?;
    overflow("a handler that signals itself", || {
        must(Handler::install_function(libc::SIGUSR1, again as *const () as usize, libc::SA_NODEFER, &[]));
        must(sys!(kill, must(sys!(getpid)), libc::SIGUSR1));
    })?;
    aftermath::check()
}

fn drop_result(depth: usize) {
    std::hint::black_box(depth);
}

extern "C" fn again(_signal: i32) {
    let _ = sys!(kill, must(sys!(getpid)), libc::SIGUSR1);
}

fn expect(what: &str, got: usize, wanted: usize) -> Verdict {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got} of {wanted} frames were sound")) }
}

/// The end of a stack must be SIGSEGV, for that process alone.
fn overflow(what: &str, body: impl FnOnce()) -> Verdict {
    let child = Child::spawn(|| {
        must(Handler::install_function(libc::SIGSEGV, libc::SIG_DFL, 0, &[]));
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        must(sys!(prlimit64, 0, libc::RLIMIT_CORE, &none, 0));
        body();
        0
    });
    match child.wait() {
        Ended::Killed(libc::SIGSEGV) => Ok(()),
        other => Err(format!("overflow of {what}: {other}")),
    }
}

//! Forks until it is refused, for a bounded time; then everything is reaped, and forking works again.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use user_sys::{Child, Errno, must, sys};

use crate::shared::Shared;
use crate::{Options, Verdict, aftermath};

/// Processes on a host, where nobody said otherwise.
const HOST_LIMIT: usize = 200;

/// How long it may go on.
const DURATION: Duration = Duration::from_secs(10);

/// Counters: processes made; the errno of the refusal, or all ones for our own limit.
const MADE: usize = 0;
const REFUSED: usize = 1;

/// A process that forks, whose children fork, until one of them is refused.
pub fn run(options: &Options) -> Verdict {
    let limit = options.limit.unwrap_or(if options.in_guest { usize::MAX } else { HOST_LIMIT });
    let shared = Shared::new()?;
    must(sys!(prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    let until = Instant::now() + DURATION;
    let leader = Child::spawn(|| {
        must(sys!(setpgid, 0, 0));
        explode(limit, until, &shared);
        0
    });
    let group = leader.pid();
    while Instant::now() < until && shared.counter(REFUSED).load(SeqCst) == 0 {
        must(sys!(nanosleep, &user_sys::timespec(0, 5_000_000), 0));
    }
    let _ = sys!(kill, -group, libc::SIGKILL);
    std::mem::forget(leader);
    let reaped = reap_all();
    let refused = shared.counter(REFUSED).load(SeqCst);
    println!(
        "forkbomb: {} processes made, {reaped} reaped, {}",
        shared.counter(MADE).load(SeqCst),
        reason(refused)
    );
    wait_until_gone(group)?;
    aftermath::check()
}

fn reason(refused: usize) -> String {
    match refused {
        0 => "the time was over".to_owned(),
        usize::MAX => "the limit was reached".to_owned(),
        errno => user_sys::errno_name(Errno::new(errno as i32)),
    }
}

/// Forks until somebody was refused; parent and child both go on. Then waits to be killed.
fn explode(limit: usize, until: Instant, shared: &Shared) {
    while Instant::now() < until && shared.counter(REFUSED).load(SeqCst) == 0 {
        if shared.counter(MADE).fetch_add(1, SeqCst) >= limit {
            shared.counter(MADE).fetch_sub(1, SeqCst);
            shared.counter(REFUSED).store(usize::MAX, SeqCst);
            break;
        }
        if let Err(errno) = sys!(fork) {
            shared.counter(MADE).fetch_sub(1, SeqCst);
            shared.counter(REFUSED).store(errno.into_raw() as usize, SeqCst);
        }
    }
    must(sys!(pause));
}

/// Init may have some left to reap, where there is no subreaper: that must not take long.
fn wait_until_gone(group: i32) -> Verdict {
    let until = Instant::now() + DURATION;
    while sys!(kill, -group, 0) != Err(Errno::ESRCH) {
        if Instant::now() > until {
            return Err("some of them live on".to_owned());
        }
        must(sys!(nanosleep, &user_sys::timespec(0, 5_000_000), 0));
    }
    Ok(())
}

/// Waits for the leader and all that became our children when their parents died.
fn reap_all() -> usize {
    let mut reaped = 0;
    loop {
        match sys!(wait4, -1, 0, 0, 0) {
            Ok(_) => reaped += 1,
            Err(Errno::EINTR) => {}
            Err(_) => return reaped,
        }
    }
}

//! Timers that expire faster than anybody looks, many at once, of an ordinary user: others must not notice.

use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use user_sys::{Child, Ended, Zeroed, must, sys};

use crate::shared::Shared;
use crate::{Options, Verdict, aftermath, naps};

/// Processes, and how many timers each has.
const PROCESSES: usize = 8;
const TIMERS: usize = 500;

/// When those expire that expire at the same time, from the start on: all are armed by then.
const TOGETHER: Duration = Duration::from_millis(200);
/// So long before that the naps begin.
const AHEAD: Duration = Duration::from_millis(5);

/// How often an alarm comes whose handler is to get anywhere.
const ALARM: Duration = Duration::from_micros(100);

/// A kind of timer, and how a process arms its timers; told when those are to expire that do together.
type Kind = (&'static str, fn(Instant));

const KINDS: [Kind; 6] = [
    ("descriptors", |_| descriptors(&fastest())),
    ("descriptors that expire together", |when| descriptors(&once(when))),
    ("ignored timers", |_| timers(libc::SIGUSR1)),
    ("blocked timers", |_| timers(libc::SIGUSR2)),
    ("ignored alarms", |_| alarm(libc::SIG_IGN, Duration::from_micros(1))),
    ("alarms", |_| alarm(handle as *const () as usize, ALARM)),
];

/// Each kind in turn.
pub fn run(_options: &Options) -> Verdict {
    KINDS.into_iter().try_for_each(check)?;
    aftermath::check()
}

fn check((name, arm): Kind) -> Verdict {
    let shared = Shared::new()?;
    let armed = shared.counter(0);
    let together = Instant::now() + TOGETHER;
    let processes: Vec<Child> = (0..PROCESSES).map(|_| process(|| arm(together), &shared)).collect();
    while armed.load(Relaxed) < PROCESSES {
        sleep(naps::NAP);
    }
    let rest = together.checked_duration_since(Instant::now()).ok_or("arming timers took too long")?;
    sleep(rest.saturating_sub(AHEAD));
    let taken = naps::take();
    for process in &processes {
        must(process.kill(libc::SIGKILL));
    }
    for process in processes {
        match process.wait() {
            Ended::Killed(libc::SIGKILL) => {}
            other => return Err(format!("{name}: {other}")),
        }
    }
    naps::judge("storm", name, &taken, naps::LONGEST)
}

/// A process that arms its timers, tells so and sleeps for ever.
fn process(arm: impl FnOnce(), shared: &Shared) -> Child {
    Child::spawn(move || {
        naps::become_nobody();
        arm();
        shared.counter(0).fetch_add(1, Relaxed);
        loop {
            // Signals interrupt it.
            let _ = sys!(pause);
        }
    })
}

/// One nanosecond, again and again.
fn fastest() -> libc::itimerspec {
    libc::itimerspec { it_interval: user_sys::timespec(0, 1), it_value: user_sys::timespec(0, 1) }
}

/// Once, at `when`.
fn once(when: Instant) -> libc::itimerspec {
    let rest = when.saturating_duration_since(Instant::now());
    let value = user_sys::timespec(rest.as_secs() as i64, rest.subsec_nanos().into());
    libc::itimerspec { it_interval: user_sys::timespec(0, 0), it_value: value }
}

fn descriptors(setting: &libc::itimerspec) {
    for _ in 0..TIMERS {
        let timer = must(sys!(timerfd_create, libc::CLOCK_MONOTONIC, 0));
        must(sys!(timerfd_settime, timer, 0, setting, 0));
    }
}

/// POSIX timers that send `signal`: SIGUSR1, which is ignored, or SIGUSR2, which is blocked.
fn timers(signal: i32) {
    must(user_sys::Handler::install_function(libc::SIGUSR1, libc::SIG_IGN, 0, &[]));
    must(user_sys::signal::mask(libc::SIG_BLOCK, &[libc::SIGUSR2]).map(|_| 0));
    let mut event = libc::sigevent::zeroed();
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = signal;
    for _ in 0..TIMERS {
        let mut timer = 0_i32;
        must(sys!(timer_create, libc::CLOCK_MONOTONIC, &event, &mut timer));
        must(sys!(timer_settime, timer, 0, &fastest(), 0));
    }
}

extern "C" fn handle(_signal: i32) {}

fn alarm(handler: usize, every: Duration) {
    must(user_sys::Handler::install_function(libc::SIGALRM, handler, 0, &[]));
    let every = libc::timeval { tv_sec: 0, tv_usec: every.subsec_micros().into() };
    let setting = libc::itimerval { it_interval: every, it_value: every };
    must(sys!(setitimer, libc::ITIMER_REAL, &setting, 0));
}

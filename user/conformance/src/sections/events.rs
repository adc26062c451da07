//! Descriptors that count, time and collect: eventfd(2), timerfd_create(2), signalfd(2).

use libc::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, EFD_NONBLOCK, EFD_SEMAPHORE, POLLIN, POLLOUT, SIG_BLOCK, SIGUSR1,
    SIGUSR2, TFD_NONBLOCK, TFD_TIMER_ABSTIME, itimerspec, signalfd_siginfo,
};
use user_sys::{Child, Errno, Handler, Zeroed, must, sys, timespec};

use super::poll::names;
use crate::fixture::{repeat_alarm, status, took_at_least};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("events":
    eventfd_counter, eventfd_semaphore, eventfd_limits, eventfd_blocks, eventfd_poll, eventfd_errors,
    timerfd_once, timerfd_repeats, timerfd_absolute, timerfd_gettime, timerfd_blocks, timerfd_errors,
    signalfd_reads, signalfd_many, signalfd_errors, signalfd_wakes, signalfd_tells,
);

fn get(fd: i32) -> Result<u64, Errno> {
    let mut value = 0_u64;
    sys!(read, fd, &mut value, 8).map(|_| value)
}

fn put(fd: i32, value: u64) -> Result<(), Errno> {
    ok(sys!(write, fd, &value, 8))
}

fn polled(fd: i32) -> String {
    let mut entry = libc::pollfd { fd, events: POLLIN | POLLOUT, revents: 0 };
    must(sys!(poll, &mut entry, 1, 0));
    names(entry.revents)
}

fn eventfd_counter(t: Transcript) {
    let fd = must(sys!(eventfd2, 3, EFD_NONBLOCK));
    t.say("initial", get(fd));
    t.say("zero", get(fd));
    t.say("adds", (put(fd, 2), put(fd, 5), get(fd)));
    t.say("old call", ok(sys!(eventfd, 7)));
    t.say("adding nothing", (put(fd, 0), get(fd)));
}

fn eventfd_semaphore(t: Transcript) {
    let fd = must(sys!(eventfd2, 2, EFD_NONBLOCK | EFD_SEMAPHORE));
    t.say("one at a time", (get(fd), get(fd), get(fd)));
    t.say("put three", (put(fd, 3), get(fd)));
}

fn eventfd_limits(t: Transcript) {
    let fd = must(sys!(eventfd2, 0, EFD_NONBLOCK));
    t.say("largest", put(fd, u64::MAX - 1));
    t.say("one more", put(fd, 1));
    t.say("poll", polled(fd));
    t.say("get", get(fd));
    t.say("all ones", put(fd, u64::MAX));
}

fn eventfd_blocks(t: Transcript) {
    let fd = must(sys!(eventfd2, 0, 0));
    let child = Child::spawn(|| status(get(fd) == Ok(9)));
    must(sys!(write, fd, &9_u64, 8));
    t.say("reader", child.wait());
    must(sys!(write, fd, &(u64::MAX - 1), 8));
    let child = Child::spawn(|| status(put(fd, 4) == Ok(())));
    t.say("full", get(fd).map(|value| value >= u64::MAX - 1));
    t.say("writer", child.wait());
    t.say("what it wrote", get(fd));
}

fn eventfd_poll(t: Transcript) {
    let fd = must(sys!(eventfd2, 0, 0));
    t.say("zero", polled(fd));
    must(sys!(write, fd, &1_u64, 8));
    t.say("one", polled(fd));
}

fn eventfd_errors(t: Transcript) {
    let fd = must(sys!(eventfd2, 1, EFD_NONBLOCK));
    t.say("short read", sys!(read, fd, &mut [0_u8; 4], 4));
    t.say("short write", sys!(write, fd, &[0_u8; 4], 4));
    t.say("long read", sys!(read, fd, &mut [0_u64; 2], 16));
    t.say("unknown flag", ok(sys!(eventfd2, 0, 0x100)));
    t.say("wrong pointer", sys!(write, fd, 1, 8));
}

/// Sets the timer to go off in `first` nanoseconds and then every `interval`.
fn arm(fd: i32, first: i64, interval: i64) -> Result<(), Errno> {
    let spec = itimerspec { it_interval: timespec(0, interval), it_value: timespec(0, first) };
    ok(sys!(timerfd_settime, fd, 0, &spec, 0))
}

fn timerfd_once(t: Transcript) {
    let fd = must(sys!(timerfd_create, CLOCK_MONOTONIC, TFD_NONBLOCK));
    t.say("disarmed", (get(fd), polled(fd)));
    t.say("arm", arm(fd, 300_000_000, 0));
    t.say("not yet", get(fd));
    t.say(
        "waits",
        took_at_least(200, || {
            let mut entry = libc::pollfd { fd, events: POLLIN, revents: 0 };
            sys!(poll, &mut entry, 1, -1)
        }),
    );
    t.say("expired once", get(fd));
    t.say("and no more", (get(fd), polled(fd)));
    t.say("disarm", (arm(fd, 1_000, 0), arm(fd, 0, 0), get(fd)));
}

fn timerfd_repeats(t: Transcript) {
    let fd = must(sys!(timerfd_create, CLOCK_MONOTONIC, 0));
    must(arm(fd, 5_000_000, 5_000_000).map(|()| 0));
    let mut total = 0;
    while total < 5 {
        total += get(fd).unwrap_or(99);
    }
    t.say("expirations add up", (5..60).contains(&total));
    must(sys!(nanosleep, &timespec(0, 30_000_000), 0));
    t.say("missed ones are counted", get(fd).map(|count| count >= 4));
}

fn timerfd_absolute(t: Transcript) {
    for (name, clock) in [("monotonic", CLOCK_MONOTONIC), ("real time", CLOCK_REALTIME)] {
        let fd = must(sys!(timerfd_create, clock, 0));
        let mut now = timespec(0, 0);
        must(sys!(clock_gettime, clock, &mut now));
        let at = timespec(now.tv_sec - 1, now.tv_nsec);
        let spec = itimerspec { it_interval: timespec(0, 0), it_value: at };
        t.say(name, (ok(sys!(timerfd_settime, fd, TFD_TIMER_ABSTIME, &spec, 0)), get(fd)));
    }
}

fn timerfd_gettime(t: Transcript) {
    let fd = must(sys!(timerfd_create, CLOCK_MONOTONIC, 0));
    let mut now = itimerspec::zeroed();
    t.say("disarmed", (ok(sys!(timerfd_gettime, fd, &mut now)), now.it_value.tv_sec, now.it_value.tv_nsec));
    let spec = itimerspec { it_interval: timespec(3, 7), it_value: timespec(1000, 0) };
    must(sys!(timerfd_settime, fd, 0, &spec, 0));
    must(sys!(timerfd_gettime, fd, &mut now));
    t.say("time left", (990..=1000).contains(&now.it_value.tv_sec));
    t.say("interval", (now.it_interval.tv_sec, now.it_interval.tv_nsec));
    let mut old = itimerspec::zeroed();
    t.say("settime tells the old", ok(sys!(timerfd_settime, fd, 0, &itimerspec::zeroed(), &mut old)));
    t.say("old", ((990..=1000).contains(&old.it_value.tv_sec), old.it_interval.tv_sec));
}

fn timerfd_blocks(t: Transcript) {
    let fd = must(sys!(timerfd_create, CLOCK_MONOTONIC, 0));
    must(arm(fd, 20_000_000, 0).map(|()| 0));
    t.say("read waits", took_at_least(15, || get(fd)));
    repeat_alarm(10, 0);
    t.say("interrupted", get(fd));
    t.say("handler ran", Handler::count(libc::SIGALRM) > 0);
}

fn timerfd_errors(t: Transcript) {
    let fd = must(sys!(timerfd_create, CLOCK_MONOTONIC, TFD_NONBLOCK));
    t.say("unknown clock", ok(sys!(timerfd_create, 99, 0)));
    t.say("clock that cannot", ok(sys!(timerfd_create, libc::CLOCK_THREAD_CPUTIME_ID, 0)));
    t.say("unknown flag", ok(sys!(timerfd_create, CLOCK_MONOTONIC, 1)));
    t.say("nanoseconds out of range", arm(fd, 1_000_000_000, 0));
    t.say("negative", arm(fd, -1, 0));
    t.say("wrong pointer", ok(sys!(timerfd_settime, fd, 0, 1, 0)));
    t.say("unknown settime flag", ok(sys!(timerfd_settime, fd, 0x80, &itimerspec::zeroed(), 0)));
    t.say("not a timer", ok(sys!(timerfd_settime, must(sys!(eventfd2, 0, 0)), 0, &itimerspec::zeroed(), 0)));
    t.say("short read", sys!(read, fd, &mut [0_u8; 4], 4));
    t.say("write", sys!(write, fd, &1_u64, 8));
}

fn signalfd(signals: &[i32], flags: i32) -> i32 {
    must(user_sys::signal::mask(SIG_BLOCK, signals).map(|_| 0));
    must(sys!(signalfd4, -1, &user_sys::signal::set(signals), 8, flags))
}

fn signalfd_reads(t: Transcript) {
    let fd = signalfd(&[SIGUSR1, SIGUSR2], libc::SFD_NONBLOCK);
    let pid = must(sys!(getpid));
    let mut info = signalfd_siginfo::zeroed();
    t.say("nothing", (sys!(read, fd, &mut info, 128), polled(fd)));
    must(sys!(kill, pid, SIGUSR1));
    t.say("pending", polled(fd));
    t.say("read", sys!(read, fd, &mut info, 128));
    t.say("number, code, sender", (info.ssi_signo, info.ssi_code, info.ssi_pid as i32 == pid));
    t.say("consumed", (sys!(read, fd, &mut info, 128), user_sys::signal::pending()));
    must(sys!(kill, pid, libc::SIGWINCH));
    t.say("others are not its own", polled(fd));
}

fn signalfd_many(t: Transcript) {
    let fd = signalfd(&[SIGUSR1, SIGUSR2], libc::SFD_NONBLOCK);
    let pid = must(sys!(getpid));
    must(sys!(kill, pid, SIGUSR2));
    must(sys!(kill, pid, SIGUSR1));
    let mut infos = [signalfd_siginfo::zeroed(), signalfd_siginfo::zeroed(), signalfd_siginfo::zeroed()];
    t.say("two in one read", sys!(read, fd, &mut infos, 3 * 128));
    t.say("lower number first", (infos[0].ssi_signo, infos[1].ssi_signo));
    t.say(
        "change the set",
        sys!(signalfd4, fd, &user_sys::signal::set(&[SIGUSR2]), 8, 0).map(|same| same as i32 == fd),
    );
    must(sys!(kill, pid, SIGUSR1));
    t.say("no longer its own", sys!(read, fd, &mut infos, 128));
    let blocking = signalfd(&[SIGUSR1], 0);
    let child = Child::spawn(|| {
        let mut info = signalfd_siginfo::zeroed();
        must(sys!(read, blocking, &mut info, 128));
        status(info.ssi_signo == SIGUSR1 as u32)
    });
    must(child.kill(SIGUSR1));
    t.say("wakes a reader", child.wait());
}

fn signalfd_errors(t: Transcript) {
    t.say("wrong size", ok(sys!(signalfd4, -1, &0_u64, 4, 0)));
    t.say("wrong pointer", ok(sys!(signalfd4, -1, 1, 8, 0)));
    t.say("unknown flag", ok(sys!(signalfd4, -1, &0_u64, 8, 1)));
    t.say("not a signalfd", ok(sys!(signalfd4, 0, &0_u64, 8, 0)));
    let fd = signalfd(&[SIGUSR1], libc::SFD_NONBLOCK);
    t.say("short read", sys!(read, fd, &mut [0_u8; 100], 100));
    t.say("old call", ok(sys!(signalfd, -1, &0_u64, 8)));
}

fn signalfd_wakes(t: Transcript) {
    let fd = signalfd(&[SIGUSR1], 0);
    let set = must(sys!(epoll_create1, 0));
    let event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 5 };
    must(sys!(epoll_ctl, set, libc::EPOLL_CTL_ADD, fd, &event));
    let mut events = [libc::epoll_event::zeroed(); 4];
    t.say("quiet", sys!(epoll_wait, set, &mut events, 4, 0));
    let parent = must(sys!(getpid));
    let child = Child::spawn(|| must(sys!(kill, parent, SIGUSR1)));
    t.say("who waits for many", sys!(epoll_wait, set, &mut events, 4, -1));
    t.say("data", events[0].u64);
    t.say("is ready", polled(fd));
    t.say("child", child.wait());
    let mut info = signalfd_siginfo::zeroed();
    must(sys!(read, fd, &mut info, 128));
    t.say("until it is read", sys!(epoll_wait, set, &mut events, 4, 0));
}

fn signalfd_tells(t: Transcript) {
    let fd = signalfd(&[libc::SIGCHLD, SIGUSR1, 44], 0);
    let mut info = signalfd_siginfo::zeroed();
    let child = Child::spawn(|| 7);
    let pid = child.pid();
    must(sys!(read, fd, &mut info, 128));
    t.say("child", (info.ssi_signo, info.ssi_code, info.ssi_status, info.ssi_pid as i32 == pid));
    t.say("its end", child.wait());
    let mut event = libc::sigevent::zeroed();
    event.sigev_signo = 44;
    event.sigev_value.sival_ptr = std::ptr::without_provenance_mut(1234);
    let mut id = -1_i32;
    must(sys!(timer_create, CLOCK_MONOTONIC, &event, &mut id));
    let spec = itimerspec { it_interval: timespec(0, 0), it_value: timespec(0, 1_000_000) };
    must(sys!(timer_settime, id, 0, &spec, 0));
    must(sys!(read, fd, &mut info, 128));
    t.say("timer", (info.ssi_signo, info.ssi_code, info.ssi_int, info.ssi_ptr));
    t.say("its id and overrun", (info.ssi_tid as i32 == id, info.ssi_overrun));
}

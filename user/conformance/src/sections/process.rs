//! Processes: fork(2), exit(2), wait4(2), waitid(2), process groups and sessions, pidfds.

use libc::{
    CLD_CONTINUED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, P_ALL, P_PGID, P_PID, P_PIDFD, SIGCHLD, SIGCONT,
    SIGKILL, SIGSTOP, SIGTERM, SIGUSR1, WCONTINUED, WEXITED, WNOHANG, WNOWAIT, WSTOPPED, WUNTRACED,
    siginfo_t,
};
use user_sys::child::{exit_now, in_child};
use user_sys::{Child, Ended, Errno, Handler, Zeroed, must, sys};

use crate::fixture::{close, file_with, pipe, read_text, status, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("process":
    exit_statuses, killed_by, ids, wait_errors, wait_nohang, wait_any, wait_group, stop_and_continue,
    continued_only_once, waitid_fields, waitid_nowait, waitid_errors, zombies, orphans, memory_is_copied,
    inherited_state, groups, group_errors, sessions, group_signals, sigchld_codes, sigchld_ignored,
    sigchld_no_stop, wait_interrupted, rusage_of_child, many_children, grandchildren, pidfd, pidfd_errors,
    exit_group_from_main, sibling_exit_signal, orphan_exit_signal,
);

fn exit_statuses(t: Transcript) {
    for code in [0, 1, 127, 255, 256, 511, -1] {
        t.say(&format!("exit {code}"), in_child(|| exit_now(code)));
    }
    t.say("raw exit", in_child(|| must(sys!(exit, 5))));
    t.say("raw exit_group", in_child(|| must(sys!(exit_group, 6))));
}

fn killed_by(t: Transcript) {
    for signal in (1..=31).chain([34, 64]) {
        if [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal) {
            continue;
        }
        let ended = in_child(|| {
            must(sys!(kill, must(sys!(getpid)), signal));
            0
        });
        t.say(&user_sys::signal_name(signal), ended);
    }
}

fn ids(t: Transcript) {
    let parent = must(sys!(getpid));
    let (reader, writer) = pipe(0);
    let child = Child::spawn(|| {
        must(write(writer, &must(sys!(getpid)).to_ne_bytes()));
        status(must(sys!(getppid)) == parent && must(sys!(gettid)) == must(sys!(getpid)))
    });
    let mut pid = [0_u8; 4];
    must(sys!(read, reader, &mut pid, 4));
    t.say("fork returns the child's number", i32::from_ne_bytes(pid) == child.pid());
    t.say("child knows its parent", child.wait());
    t.say("main thread's number is the process's", sys!(gettid) == sys!(getpid));
    t.say("numbers are positive", parent > 0);
}

fn wait4(pid: i32, options: i32) -> Result<(i32, Ended), Errno> {
    let mut status = 0;
    let pid = sys!(wait4, pid, &mut status, options, 0)?;
    Ok((pid as i32, Ended::of(status)))
}

fn wait_errors(t: Transcript) {
    t.say("no children", wait4(-1, 0).map(drop));
    t.say("not a child", wait4(1, 0).map(drop));
    t.say("no such group", wait4(-999_999, 0).map(drop));
    t.say("unknown option", wait4(-1, 0x1000).map(drop));
    t.say("smallest number", wait4(i32::MIN, 0).map(drop));
    let child = Child::spawn(|| 0);
    t.say("wrong status pointer", ok(sys!(wait4, child.pid(), 1, 0, 0)));
    std::mem::forget(child);
    t.say("it is reaped all the same", wait4(-1, 0).map(drop));
    let child = Child::spawn(|| 3);
    t.say("no status wanted", sys!(wait4, child.pid(), 0, 0, 0).map(|pid| pid as i32 == child.pid()));
    std::mem::forget(child);
}

fn wait_nohang(t: Transcript) {
    let (reader, writer) = pipe(0);
    let mut child = Child::spawn(|| {
        must(close(writer));
        status(read_text(reader, 1).is_ok())
    });
    t.say("running", child.wait_for(WNOHANG));
    must(close(writer));
    t.say("ended", child.wait_for(0));
    t.say("reaped", child.wait_for(WNOHANG));
}

fn wait_any(t: Transcript) {
    let mut children: Vec<i32> = Vec::new();
    for code in 1..=5 {
        let child = Child::spawn(|| code);
        children.push(child.pid());
        std::mem::forget(child);
    }
    let mut codes = Vec::new();
    while let Ok((pid, ended)) = wait4(-1, 0) {
        let place = children.iter().position(|&child| child == pid);
        codes.push(format!("{}: {ended}", place.map_or(-1, |at| at as i32)));
    }
    codes.sort_unstable();
    t.say("each once, with its own status", codes);
    t.say("then none", wait4(-1, 0).map(drop));
}

/// A child in a process group of its own, that waits for SIGKILL.
fn grouped() -> Child {
    let child = Child::spawn(|| must(sys!(pause)));
    must(sys!(setpgid, child.pid(), 0));
    child
}

fn wait_group(t: Transcript) {
    let other = grouped();
    let ours = Child::spawn(|| 7);
    must(other.kill(SIGKILL));
    t.say("own group", wait4(0, 0).map(|(pid, ended)| (pid == ours.pid(), ended)));
    t.say("own group, empty", wait4(0, 0).map(drop));
    t.say("other group", wait4(-other.pid(), 0).map(|(pid, ended)| (pid == other.pid(), ended)));
    t.say("other group, empty", wait4(-other.pid(), 0).map(drop));
    std::mem::forget((ours, other));
}

fn stop_and_continue(t: Transcript) {
    let mut child = Child::spawn(|| must(sys!(pause)));
    must(child.kill(SIGSTOP));
    t.say("stopped", child.wait_for(WUNTRACED));
    t.say("told once", child.wait_for(WUNTRACED | WNOHANG));
    t.say("not an end", child.wait_for(WNOHANG));
    must(child.kill(SIGCONT));
    t.say("continued", child.wait_for(WCONTINUED));
    t.say("told once too", child.wait_for(WCONTINUED | WNOHANG));
    must(child.kill(SIGSTOP));
    t.say("stopped again", child.wait_for(WUNTRACED));
    must(child.kill(SIGTERM));
    t.say("a stopped one does not take SIGTERM", child.wait_for(WNOHANG));
    must(child.kill(SIGCONT));
    t.say("until it goes on", child.wait_for(0));
    let mut child = Child::spawn(|| must(sys!(pause)));
    must(child.kill(SIGSTOP));
    t.say("another", child.wait_for(WUNTRACED));
    must(child.kill(SIGKILL));
    t.say("SIGKILL reaches a stopped one", child.wait_for(0));
}

fn continued_only_once(t: Transcript) {
    let mut child = Child::spawn(|| must(sys!(pause)));
    must(child.kill(SIGSTOP));
    must(child.wait_for(WUNTRACED).map(|_| 0));
    must(child.kill(SIGCONT));
    must(child.wait_for(WCONTINUED).map(|_| 0));
    must(child.kill(SIGCONT));
    t.say("SIGCONT to a running one", child.wait_for(WCONTINUED | WNOHANG));
}

/// waitid(2): si_code, si_status, and whether si_pid and si_signo are right.
fn waitid(kind: u32, id: i32, pid: i32, options: i32) -> Result<(i32, i32, bool), Errno> {
    let mut info = siginfo_t::zeroed();
    sys!(waitid, kind, id, &mut info, options, 0)?;
    // SAFETY: waitid fills the members that belong to SIGCHLD, or leaves zeros.
    let (si_pid, si_status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((info.si_code, si_status, si_pid == pid && info.si_signo == SIGCHLD))
}

fn waitid_fields(t: Transcript) {
    let child = Child::spawn(|| 300);
    t.say("exited", waitid(P_PID, child.pid(), child.pid(), WEXITED));
    std::mem::forget(child);
    let child = Child::spawn(|| must(sys!(pause)));
    let pid = child.pid();
    t.say("nothing yet", waitid(P_PID, pid, 0, WEXITED | WNOHANG).map(|(code, status, _)| (code, status)));
    must(child.kill(SIGSTOP));
    t.say("stopped", waitid(P_PID, pid, pid, WSTOPPED));
    must(child.kill(SIGCONT));
    t.say("continued", waitid(P_PID, pid, pid, WCONTINUED));
    must(child.kill(SIGTERM));
    t.say("killed", waitid(P_ALL, 0, pid, WEXITED));
    std::mem::forget(child);
    t.say("codes", (CLD_EXITED, CLD_KILLED, CLD_STOPPED, CLD_CONTINUED));
}

fn waitid_nowait(t: Transcript) {
    let child = Child::spawn(|| 9);
    t.say("looked at", waitid(P_PID, child.pid(), child.pid(), WEXITED | WNOWAIT));
    t.say("still there", waitid(P_PID, child.pid(), child.pid(), WEXITED | WNOWAIT));
    t.say("reaped", child.wait());
}

fn waitid_errors(t: Transcript) {
    t.say("no children", waitid(P_ALL, 0, 0, WEXITED).map(drop));
    t.say("no kind of change asked for", waitid(P_ALL, 0, 0, 0).map(drop));
    t.say("unknown kind", waitid(9, 0, 0, WEXITED).map(drop));
    t.say("group of negative number", waitid(P_PGID, -1, 0, WEXITED).map(drop));
    t.say("process zero", waitid(P_PID, 0, 0, WEXITED).map(drop));
    t.say("unknown option", waitid(P_ALL, 0, 0, WEXITED | 0x1000).map(drop));
}

fn zombies(t: Transcript) {
    let child = Child::spawn(|| 0);
    let pid = child.pid();
    must(sys!(waitid, P_PID, pid, 0, WEXITED | WNOWAIT, 0));
    t.say("signal 0", ok(sys!(kill, pid, 0)));
    t.say("SIGKILL", ok(sys!(kill, pid, SIGKILL)));
    t.say("group", sys!(getpgid, pid) == sys!(getpgrp));
    t.say("status stays", child.wait());
    t.say("signal 0 after the wait", ok(sys!(kill, pid, 0)));
    t.say("group after the wait", ok(sys!(getpgid, pid)));
}

fn orphans(t: Transcript) {
    must(sys!(prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    let (reader, writer) = pipe(0);
    let us = must(sys!(getpid));
    let middle = in_child(|| {
        let parent = must(sys!(getpid));
        let grandchild = Child::spawn(|| {
            while must(sys!(getppid)) == parent {
                must(sys!(sched_yield));
            }
            must(write(writer, if must(sys!(getppid)) == us { b"adopted" } else { b"by init" }));
            5
        });
        std::mem::forget(grandchild);
        0
    });
    t.say("middle", middle);
    t.say("orphan", read_text(reader, 10));
    t.say("its status comes to us", wait4(-1, 0).map(|(_, ended)| ended));
}

fn memory_is_copied(t: Transcript) {
    let mut value = 1_u64;
    let heap = vec![7_u8; 100_000];
    let changed = in_child(|| {
        let seen = std::hint::black_box(&mut value);
        *seen += 1;
        status(*seen == 2 && heap.iter().all(|&byte| byte == 7))
    });
    t.say("child", changed);
    t.say("parent's value", *std::hint::black_box(&value));
    let map = user_sys::Map::new(4);
    user_sys::map::poke(map.page(2), 1);
    let child = Child::spawn(|| {
        user_sys::map::poke(map.page(2), 2);
        must(sys!(pause))
    });
    user_sys::map::poke(map.page(2), 3);
    must(child.kill(SIGKILL));
    t.say("parent writes too", (child.wait(), user_sys::map::peek(map.page(2))));
}

fn inherited_state(t: Transcript) {
    must(Handler::install(SIGUSR1, 0, &[]));
    must(user_sys::signal::mask(libc::SIG_BLOCK, &[SIGTERM]).map(|_| 0));
    must(sys!(kill, must(sys!(getpid)), SIGTERM));
    must(sys!(alarm, 100));
    let child = in_child(|| {
        let masked = user_sys::signal::mask(libc::SIG_BLOCK, &[]) == Ok(user_sys::signal::set(&[SIGTERM]));
        let pending = user_sys::signal::pending() != 0;
        must(sys!(kill, must(sys!(getpid)), SIGUSR1));
        i32::from(masked) + 2 * i32::from(pending) + 4 * i32::from(Handler::count(SIGUSR1) == 1)
    });
    t.say("mask and handlers, not what is pending", child);
    t.say("alarm", {
        // SAFETY: the child only asks for its alarm and leaves.
        match unsafe { libc::fork() } {
            0 => exit_now(must(sys!(alarm, 0))),
            pid => Child::adopt(pid).wait(),
        }
    });
    t.say("umask", {
        must(sys!(umask, 0o17));
        in_child(|| must(sys!(umask, 0)))
    });
}

fn groups(t: Transcript) {
    let own = must(sys!(getpgrp));
    t.say("runner made us a leader", own == must(sys!(getpid)));
    t.say("child is in our group", in_child(|| status(must(sys!(getpgrp)) == own)));
    t.say(
        "child makes its own",
        in_child(|| {
            must(sys!(setpgid, 0, 0));
            status(sys!(getpgrp) == sys!(getpid))
        }),
    );
    let child = grouped();
    t.say("parent makes the child's", sys!(getpgid, child.pid()) == Ok(child.pid() as usize));
    let second = Child::spawn(|| must(sys!(pause)));
    t.say("second joins the first", ok(sys!(setpgid, second.pid(), child.pid())));
    t.say("its group", sys!(getpgid, second.pid()) == Ok(child.pid() as usize));
    t.say(
        "back to ours",
        (ok(sys!(setpgid, second.pid(), own)), sys!(getpgid, second.pid()) == Ok(own as usize)),
    );
}

fn group_errors(t: Transcript) {
    t.say("negative", ok(sys!(setpgid, 0, -1)));
    t.say("no such process", ok(sys!(setpgid, 999_999, 0)));
    t.say(
        "group of no process",
        in_child(|| sys!(setpgid, 0, 999_999).map_or_else(|errno| errno.into_raw(), |_| 0)),
    );
    t.say("of no process", ok(sys!(getpgid, 999_999)));
    t.say("of a negative number", ok(sys!(getpgid, -1)));
    let (reader, writer) = pipe(0);
    let leader = Child::spawn(|| {
        must(sys!(setsid));
        must(write(writer, b"x"));
        must(sys!(pause))
    });
    must(sys!(read, reader, &mut [0_u8], 1));
    t.say("a session's leader", ok(sys!(setpgid, leader.pid(), 0)));
    t.say(
        "join a group of another session",
        in_child(|| sys!(setpgid, 0, leader.pid()).map_or_else(|errno| errno.into_raw(), |_| 0)),
    );
}

fn sessions(t: Transcript) {
    t.say("a group's leader cannot", ok(sys!(setsid)));
    t.say("child's is ours", in_child(|| status(sys!(getsid, 0) == sys!(getsid, must(sys!(getppid))))));
    t.say(
        "new session",
        in_child(|| {
            let own = must(sys!(getpid)) as usize;
            let made = sys!(setsid) == Ok(own);
            status(made && sys!(getsid, 0) == Ok(own) && sys!(getpgrp) == Ok(own))
        }),
    );
    t.say(
        "twice",
        in_child(|| {
            must(sys!(setsid));
            sys!(setsid).map_or_else(|errno| errno.into_raw(), |_| 0)
        }),
    );
    t.say("of no process", ok(sys!(getsid, 999_999)));
}

fn group_signals(t: Transcript) {
    let first = grouped();
    let second = Child::spawn(|| must(sys!(pause)));
    must(sys!(setpgid, second.pid(), first.pid()));
    t.say("signal 0 to the group", ok(sys!(kill, -first.pid(), 0)));
    t.say("SIGTERM to the group", ok(sys!(kill, -first.pid(), SIGTERM)));
    t.say(
        "both",
        (second.wait(), {
            let group = first.pid();
            (first.wait(), ok(sys!(kill, -group, 0)))
        }),
    );
    t.say(
        "own group by 0",
        in_child(|| {
            must(sys!(setpgid, 0, 0));
            must(sys!(kill, 0, SIGTERM));
            0
        }),
    );
    t.say("no such group", ok(sys!(kill, -999_999, SIGTERM)));
}

fn sigchld_codes(t: Transcript) {
    must(Handler::install(SIGCHLD, 0, &[]));
    let child = Child::spawn(|| 1);
    let pid = child.pid();
    t.say("child", child.wait());
    t.say("exited", (Handler::count(SIGCHLD), Handler::code(), Handler::pid() == pid));
    let child = Child::spawn(|| must(sys!(pause)));
    must(child.kill(SIGSTOP));
    wait_until(2);
    t.say("stopped", Handler::code());
    must(child.kill(SIGCONT));
    wait_until(3);
    t.say("continued", Handler::code());
    must(child.kill(SIGKILL));
    wait_until(4);
    t.say("killed", Handler::code());
}

/// Waits until SIGCHLD has come so many times.
fn wait_until(count: usize) {
    while Handler::count(SIGCHLD) < count {
        must(sys!(sched_yield));
    }
}

fn sigchld_ignored(t: Transcript) {
    must(Handler::install_function(SIGCHLD, libc::SIG_IGN, 0, &[]));
    let child = Child::spawn(|| 1);
    t.say("ignored: wait blocks, then no children", wait4(child.pid(), 0).map(drop));
    std::mem::forget(child);
    must(Handler::install(SIGCHLD, libc::SA_NOCLDWAIT, &[]));
    let child = Child::spawn(|| 1);
    t.say("SA_NOCLDWAIT", wait4(child.pid(), 0).map(drop));
    std::mem::forget(child);
    t.say("the handler runs", Handler::count(SIGCHLD));
    must(Handler::install_function(SIGCHLD, libc::SIG_DFL, 0, &[]));
    t.say("default again", in_child(|| 4));
}

fn sigchld_no_stop(t: Transcript) {
    must(Handler::install(SIGCHLD, libc::SA_NOCLDSTOP, &[]));
    let mut child = Child::spawn(|| must(sys!(pause)));
    must(child.kill(SIGSTOP));
    t.say("stopped", child.wait_for(WUNTRACED));
    must(child.kill(SIGCONT));
    t.say("continued", child.wait_for(WCONTINUED));
    t.say("no signal for either", Handler::count(SIGCHLD));
    must(child.kill(SIGKILL));
    t.say("end", child.wait_for(0));
    t.say("signal for the end", Handler::count(SIGCHLD));
}

fn wait_interrupted(t: Transcript) {
    let child = Child::spawn(|| must(sys!(pause)));
    crate::fixture::repeat_alarm(10, 0);
    t.say("wait4", wait4(child.pid(), 0).map(drop));
    t.say("waitid", waitid(P_PID, child.pid(), 0, WEXITED).map(drop));
    crate::fixture::stop_alarm();
    must(Handler::install(SIGUSR1, libc::SA_RESTART, &[]));
    let parent = must(sys!(getpid));
    let helper = Child::spawn(|| {
        for _ in 0..20 {
            must(sys!(kill, parent, SIGUSR1));
            must(sys!(nanosleep, &user_sys::millis(2), 0));
        }
        must(child.kill(SIGTERM));
        0
    });
    t.say("restarted", wait4(child.pid(), 0).map(|(_, ended)| ended));
    t.say("signals came", Handler::count(SIGUSR1) > 0);
    std::mem::forget(child);
    t.say("helper", helper.wait());
}

fn rusage_of_child(t: Transcript) {
    let child = Child::spawn(|| {
        let start = crate::fixture::monotonic();
        while crate::fixture::monotonic() - start < 50_000_000 {}
        0
    });
    let mut usage = libc::rusage::zeroed();
    let mut word = 0;
    t.say("wait4", sys!(wait4, child.pid(), &mut word, 0, &mut usage).map(|pid| pid as i32 == child.pid()));
    std::mem::forget(child);
    t.say(
        "time was used",
        usage.ru_utime.tv_sec + usage.ru_stime.tv_sec > 0
            || usage.ru_utime.tv_usec + usage.ru_stime.tv_usec > 0,
    );
    t.say("memory was used", usage.ru_maxrss > 0);
    let mut children = libc::rusage::zeroed();
    t.say("of all children", ok(sys!(getrusage, libc::RUSAGE_CHILDREN, &mut children)));
    t.say("not less", children.ru_maxrss >= usage.ru_maxrss);
}

fn many_children(t: Transcript) {
    let children: Vec<Child> = (0..50).map(|code| Child::spawn(move || code)).collect();
    let right = children.into_iter().enumerate().filter(|_| true).map(|(code, child)| (code, child.wait()));
    t.say("statuses", right.filter(|(code, ended)| *ended == Ended::Exited(*code as i32)).count());
}

fn grandchildren(t: Transcript) {
    fn descend(depth: i32) -> i32 {
        if depth == 0 {
            return 1;
        }
        match in_child(|| descend(depth - 1)) {
            Ended::Exited(sum) => sum + 1,
            _ => 0,
        }
    }
    t.say("ten deep", descend(10));
    t.say("are not ours to wait for", wait4(-1, WNOHANG).map(drop));
}

fn pidfd(t: Transcript) {
    let file = file_with(c"file", b"x");
    let child = Child::spawn(|| must(sys!(pause)));
    let fd = must(sys!(pidfd_open, child.pid(), 0));
    t.say("cloexec", sys!(fcntl, fd, libc::F_GETFD));
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    t.say("running", sys!(poll, &mut entry, 1, 0));
    t.say("signal 0", ok(sys!(pidfd_send_signal, fd, 0, 0, 0)));
    t.say("SIGTERM", ok(sys!(pidfd_send_signal, fd, SIGTERM, 0, 0)));
    t.say("readable at the end", sys!(poll, &mut entry, 1, -1));
    t.say("waitid by it", waitid(P_PIDFD, fd, child.pid(), WEXITED));
    t.say("signal after the end", ok(sys!(pidfd_send_signal, fd, 0, 0, 0)));
    std::mem::forget(child);
    t.say("waitid on a file", waitid(P_PIDFD, file, 0, WEXITED).map(drop));
}

fn pidfd_errors(t: Transcript) {
    t.say("no such process", ok(sys!(pidfd_open, 999_999, 0)));
    t.say("zero", ok(sys!(pidfd_open, 0, 0)));
    t.say("negative", ok(sys!(pidfd_open, -1, 0)));
    t.say("unknown flag", ok(sys!(pidfd_open, must(sys!(getpid)), 1)));
    t.say("signal through a file", ok(sys!(pidfd_send_signal, file_with(c"file", b"x"), SIGTERM, 0, 0)));
    t.say("read", sys!(read, must(sys!(pidfd_open, must(sys!(getpid)), 0)), &mut [0_u8; 8], 8));
}

fn exit_group_from_main(t: Transcript) {
    let ended = in_child(|| {
        let worker = std::thread::spawn(|| must(sys!(pause)));
        let blocked = pipe(0);
        std::thread::spawn(move || read_text(blocked.0, 1));
        std::hint::black_box(&worker);
        exit_now(12)
    });
    t.say("ends threads that wait", ended);
    let ended = in_child(|| {
        std::thread::spawn(|| exit_now(13));
        must(sys!(pause))
    });
    t.say("by another thread", ended);
}

/// Makes a child that ends at once and asks for `SIGUSR1` to be sent then.
fn clone_with_usr1(flags: i32) {
    if must(sys!(clone, flags | SIGUSR1, 0, 0, 0, 0)) == 0 {
        exit_now(0);
    }
}

/// Waits until there are no children left.
fn wait_for_all() {
    while sys!(wait4, -1, 0, libc::__WALL, 0).is_ok() {}
}

fn sibling_exit_signal(t: Transcript) {
    must(Handler::install(SIGUSR1, 0, &[]));
    must(Handler::install(SIGCHLD, 0, &[]));
    clone_with_usr1(0);
    wait_for_all();
    t.say("a child's own", (Handler::count(SIGUSR1), Handler::count(SIGCHLD)));
    Handler::reset();
    let caller = Child::spawn(|| {
        clone_with_usr1(libc::CLONE_PARENT);
        0
    });
    std::mem::forget(caller);
    wait_for_all();
    t.say("a sibling's is the caller's", (Handler::count(SIGUSR1), Handler::count(SIGCHLD) > 0));
}

fn orphan_exit_signal(t: Transcript) {
    must(Handler::install(SIGUSR1, 0, &[]));
    must(sys!(prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    let (reader, writer) = pipe(0);
    let parent = Child::spawn(|| {
        must(close(writer));
        if must(sys!(clone, SIGUSR1, 0, 0, 0, 0)) == 0 {
            // Until the parent is gone and the reaper has closed the pipe.
            exit_now(status(read_text(reader, 1).is_ok()));
        }
        0
    });
    t.say("parent", parent.wait());
    must(close(writer));
    wait_for_all();
    t.say("an orphan's is SIGCHLD", Handler::count(SIGUSR1));
}

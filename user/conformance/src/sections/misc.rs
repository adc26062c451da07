//! The rest: uname(2), getrandom(2), prctl(2), prlimit(2), sysinfo(2), getrusage(2), ids, unknown calls, and
//! EFAULT from most calls.

use libc::{RLIMIT_DATA, RLIMIT_NOFILE, RLIMIT_STACK, rlimit, utsname};
use user_sys::child::in_child;
use user_sys::{Errno, Map, Res, Zeroed, must, sys};

use crate::fixture::{file_with, pipe};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("misc":
    system_name, random_bytes, names_and_flags, death_signal, capability_bounds, limits, limit_errors,
    system_information, usage, user_ids, groups, priorities, unknown_calls, old_calls, wrong_pointers,
    edges, extreme_lengths, scheduling, membarrier, host_name, closed_everywhere,
);

fn field(bytes: &[i8]) -> String {
    bytes.iter().take_while(|&&byte| byte != 0).map(|&byte| byte as u8 as char).collect()
}

fn system_name(t: Transcript) {
    let mut name = utsname::zeroed();
    t.say("uname", ok(sys!(uname, &mut name)));
    t.say("system", field(&name.sysname));
    t.say("machine", field(&name.machine));
    let release = field(&name.release);
    let major = release.split('.').next().and_then(|part| part.parse::<u32>().ok());
    t.say("release is at least 4", major.is_some_and(|major| major >= 4));
    t.say("version begins with #", field(&name.version).starts_with('#'));
    t.say("has a node name", !field(&name.nodename).is_empty());
    t.say("wrong pointer", ok(sys!(uname, 8)));
}

fn random_bytes(t: Transcript) {
    let (mut first, mut second) = ([0_u8; 32], [0_u8; 32]);
    t.say(
        "getrandom",
        (sys!(getrandom, &mut first, 32, 0), sys!(getrandom, &mut second, 32, libc::GRND_NONBLOCK)),
    );
    t.say("not the same twice", first != second);
    t.say("not zero", first.iter().any(|&byte| byte != 0));
    t.say("nothing", sys!(getrandom, &mut first, 0, 0));
    t.say("from the other pool", sys!(getrandom, &mut first, 8, libc::GRND_RANDOM));
    t.say("insecure", sys!(getrandom, &mut first, 8, libc::GRND_INSECURE));
    t.say("unknown flag", ok(sys!(getrandom, &mut first, 8, 0x100)));
    t.say("wrong pointer", ok(sys!(getrandom, 8, 8, 0)));
    t.say(
        "a child's differ",
        in_child(|| {
            let mut own = [0_u8; 32];
            must(sys!(getrandom, &mut own, 32, 0));
            i32::from(own == first)
        }),
    );
}

fn names_and_flags(t: Transcript) {
    let get = |option: i32| sys!(prctl, option, 0, 0, 0, 0);
    t.say("dumpable", get(libc::PR_GET_DUMPABLE));
    t.say("not dumpable", (ok(sys!(prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0)), get(libc::PR_GET_DUMPABLE)));
    t.say("dumpable, unknown value", ok(sys!(prctl, libc::PR_SET_DUMPABLE, 9, 0, 0, 0)));
    t.say(
        "no new privileges",
        (
            get(libc::PR_GET_NO_NEW_PRIVS),
            ok(sys!(prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
            get(libc::PR_GET_NO_NEW_PRIVS),
        ),
    );
    t.say(
        "keep capabilities",
        (
            get(libc::PR_GET_KEEPCAPS),
            ok(sys!(prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0)),
            get(libc::PR_GET_KEEPCAPS),
        ),
    );
    t.say("unknown option", ok(sys!(prctl, 0x7777, 0, 0, 0, 0)));
    t.say("name to a wrong pointer", ok(sys!(prctl, libc::PR_GET_NAME, 8, 0, 0, 0)));
    t.say("name from a wrong pointer", ok(sys!(prctl, libc::PR_SET_NAME, 8, 0, 0, 0)));
}

fn death_signal(t: Transcript) {
    let mut signal = -1_i32;
    t.say("none", (ok(sys!(prctl, libc::PR_GET_PDEATHSIG, &mut signal, 0, 0, 0)), signal));
    t.say("set", ok(sys!(prctl, libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0)));
    t.say("read back", (ok(sys!(prctl, libc::PR_GET_PDEATHSIG, &mut signal, 0, 0, 0)), signal));
    t.say("unknown signal", ok(sys!(prctl, libc::PR_SET_PDEATHSIG, 77, 0, 0, 0)));
    let (reader, writer) = pipe(0);
    must(sys!(prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    let middle = in_child(|| {
        let (ready, tell) = pipe(0);
        let grandchild = user_sys::Child::spawn(|| {
            must(sys!(prctl, libc::PR_SET_PDEATHSIG, libc::SIGUSR1, 0, 0, 0));
            must(crate::fixture::write(tell, b"x"));
            must(sys!(pause))
        });
        must(sys!(read, ready, &mut [0_u8], 1));
        must(crate::fixture::write(writer, b"ready"));
        std::mem::forget(grandchild);
        0
    });
    t.say("parent ends", (middle, crate::fixture::read_text(reader, 10)));
    let mut word = 0;
    must(sys!(wait4, -1, &mut word, 0, 0));
    t.say("its child", user_sys::Ended::of(word));
}

fn capability_bounds(t: Transcript) {
    let read = |number: i32| sys!(prctl, libc::PR_CAPBSET_READ, number, 0, 0, 0).map(|set| set <= 1);
    t.say("first", read(0));
    t.say("far past the last", read(63));
    t.say("beyond any", read(1000));
    let mut number = 0;
    while number < 64 && read(number).is_ok() {
        number += 1;
    }
    t.say("a last one is found", (30..64).contains(&number));
}

fn get_limit(resource: u32) -> Result<(u64, u64), Errno> {
    let mut limit = rlimit { rlim_cur: 0, rlim_max: 0 };
    sys!(prlimit64, 0, resource, 0, &mut limit)?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

fn limits(t: Transcript) {
    t.say("stack", get_limit(RLIMIT_STACK).map(|(soft, hard)| soft <= hard && soft >= 1 << 20));
    t.say("data", get_limit(RLIMIT_DATA).map(|(soft, hard)| soft <= hard));
    t.say("every resource", (0..16).all(|resource| get_limit(resource).is_ok()));
    let set = rlimit { rlim_cur: 11, rlim_max: 22 };
    let mut old = rlimit { rlim_cur: 0, rlim_max: 0 };
    t.say("set and get", {
        must(sys!(setrlimit, RLIMIT_NOFILE, &rlimit { rlim_cur: 44, rlim_max: 55 }));
        (ok(sys!(prlimit64, 0, RLIMIT_NOFILE, &set, &mut old)), old.rlim_cur, old.rlim_max)
    });
    t.say("now", get_limit(RLIMIT_NOFILE));
    t.say("by number", (ok(sys!(prlimit64, must(sys!(getpid)), RLIMIT_NOFILE, 0, &mut old)), old.rlim_cur));
}

fn limit_errors(t: Transcript) {
    let set = rlimit { rlim_cur: 10, rlim_max: 5 };
    t.say("soft above hard", ok(sys!(prlimit64, 0, RLIMIT_NOFILE, &set, 0)));
    t.say("unknown resource", ok(sys!(prlimit64, 0, 16, 0, 0)));
    t.say("no such process", ok(sys!(prlimit64, 999_999, RLIMIT_NOFILE, 0, 0)));
    t.say("wrong new", ok(sys!(prlimit64, 0, RLIMIT_NOFILE, 8, 0)));
    t.say("wrong old", ok(sys!(prlimit64, 0, RLIMIT_NOFILE, 0, 8)));
    t.say("nothing asked", ok(sys!(prlimit64, 0, RLIMIT_NOFILE, 0, 0)));
}

fn system_information(t: Transcript) {
    let mut info = libc::sysinfo::zeroed();
    t.say("sysinfo", ok(sys!(sysinfo, &mut info)));
    t.say("runs since", info.uptime > 0);
    t.say("memory", info.totalram > 0 && info.freeram <= info.totalram);
    t.say("unit", info.mem_unit >= 1);
    t.say("processes", info.procs >= 1);
    t.say("wrong pointer", ok(sys!(sysinfo, 8)));
}

fn usage(t: Transcript) {
    let mut usage = libc::rusage::zeroed();
    for (name, who) in
        [("self", libc::RUSAGE_SELF), ("children", libc::RUSAGE_CHILDREN), ("thread", libc::RUSAGE_THREAD)]
    {
        t.say(name, ok(sys!(getrusage, who, &mut usage)));
    }
    must(sys!(getrusage, libc::RUSAGE_SELF, &mut usage));
    t.say("largest size", usage.ru_maxrss > 0);
    t.say("faults", usage.ru_minflt > 0);
    t.say("unknown", ok(sys!(getrusage, 9, &mut usage)));
    t.say("wrong pointer", ok(sys!(getrusage, libc::RUSAGE_SELF, 8)));
}

fn user_ids(t: Transcript) {
    let (uid, gid) = (sys!(getuid), sys!(getgid));
    t.say("real and effective", (uid == sys!(geteuid), gid == sys!(getegid)));
    let mut three = [0_u32; 3];
    must(sys!(getresuid, &mut three[0], &mut three[1], &mut three[2]));
    t.say("three of the user", three.iter().all(|&id| Ok(id as usize) == uid));
    must(sys!(getresgid, &mut three[0], &mut three[1], &mut three[2]));
    t.say("three of the group", three.iter().all(|&id| Ok(id as usize) == gid));
    t.say(
        "set to the same",
        (ok(sys!(setuid, must(uid))), ok(sys!(setgid, must(gid))), ok(sys!(setresuid, -1, -1, -1))),
    );
    t.say("set to no user", ok(sys!(setuid, -1)));
    t.say("set to no group", ok(sys!(setgid, -1)));
    t.say("file system user", sys!(setfsuid, -1) == uid);
    t.say("wrong pointer", ok(sys!(getresuid, 8, 8, 8)));
}

fn groups(t: Transcript) {
    let mut list = [0_u32; 1024];
    let count = sys!(getgroups, 0, 0);
    t.say("count", count.is_ok());
    t.say("list", sys!(getgroups, 1024, &mut list) == count);
    t.say("negative", ok(sys!(getgroups, -1, &mut list)));
    t.say("too many to set", ok(sys!(setgroups, 70_000, &list)).is_err());
}

fn priorities(t: Transcript) {
    let lowered = |value: i32| ok(sys!(setpriority, libc::PRIO_PROCESS, 0, value));
    let told = || sys!(getpriority, libc::PRIO_PROCESS, 0);
    t.say("lowest, told as 20 minus the value", (lowered(19), told()));
    t.say("cut off at 19", (lowered(100), told()));
    t.say("child inherits", in_child(|| must(sys!(getpriority, libc::PRIO_PROCESS, 0))));
    t.say("unknown kind", ok(sys!(getpriority, 9, 0)));
    t.say("no such process", ok(sys!(getpriority, libc::PRIO_PROCESS, 999_999)));
}

/// A call by its number, without arguments.
fn bare(nr: usize) -> Res {
    // SAFETY: numbers without a call behind them, or calls that are gone from Linux: they touch nothing.
    unsafe { user_sys::call(nr, &[]) }
}

fn unknown_calls(t: Transcript) {
    for nr in [387, 400, 1000, 0xffff, 1 << 20] {
        t.say(&format!("number {nr}"), ok(bare(nr)));
    }
    t.say("negative", ok(bare(usize::MAX)));
    t.say("beyond 32 bits", ok(bare(1 << 40)));
    t.say("other registers survive", {
        let (before, mut after) = (0x1234_5678_9abc_def0_u64, 0_u64);
        // SAFETY: call 1000 does not exist; registers are declared.
        unsafe {
            std::arch::asm!(
                "syscall",
                "mov {0}, r10",
                inout(reg) after,
                inout("rax") 1000_u64 => _,
                in("r10") before,
                in("rdi") before,
                in("rsi") before,
                in("rdx") before,
                in("r8") before,
                in("r9") before,
                out("rcx") _,
                out("r11") _,
            );
        }
        after == before
    });
}

fn old_calls(t: Transcript) {
    for (name, nr) in [
        ("uselib", 134),
        ("_sysctl", 156),
        ("create_module", 174),
        ("get_kernel_syms", 177),
        ("query_module", 178),
        ("afs_syscall", 183),
        ("tuxcall", 184),
        ("security", 185),
        ("epoll_ctl_old", 214),
        ("vserver", 236),
    ] {
        t.say(name, ok(bare(nr)));
    }
}

fn wrong_pointers(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    must(sys!(lseek, fd, 0, 0));
    let (reader, writer) = pipe(0);
    must(crate::fixture::write(writer, b"something"));
    let socket = must(sys!(socket, libc::AF_INET, libc::SOCK_DGRAM, 0));
    let gone = Map::new(1);
    let nowhere = [
        ("null", 0_usize),
        ("unmapped", gone.end()),
        ("kernel's half", 0xffff_8000_0000_0000),
        ("not canonical", 0x8000_0000_0000),
        ("last byte", usize::MAX),
    ];
    for (place, at) in nowhere {
        let outcomes: Vec<String> = [
            ok(sys!(read, fd, at, 8)),
            ok(sys!(read, reader, at, 8)),
            ok(sys!(write, fd, at, 8)),
            ok(sys!(write, writer, at, 8)),
            ok(sys!(pread64, fd, at, 8, 0)),
            ok(sys!(readv, fd, at, 1)),
            ok(sys!(open, at, 0, 0)),
            ok(sys!(stat, at, at)),
            ok(sys!(fstat, fd, at)),
            ok(sys!(newfstatat, libc::AT_FDCWD, c"file", at, 0)),
            ok(sys!(statfs, c".", at)),
            ok(sys!(readlink, at, at, 8)),
            ok(sys!(getcwd, at, 4096)),
            ok(sys!(mkdir, at, 0)),
            ok(sys!(rename, c"file", at)),
            ok(sys!(pipe2, at, 0)),
            ok(sys!(poll, at, 1, 0)),
            ok(sys!(uname, at)),
            ok(sys!(nanosleep, at, 0)),
            ok(sys!(rt_sigpending, at, 8)),
            ok(sys!(getrandom, at, 8, 0)),
            ok(sys!(bind, socket, at, 16)),
            ok(sys!(sendto, socket, at, 8, 0, &crate::net::loopback(1), 16)),
            ok(sys!(epoll_ctl, must(sys!(epoll_create1, 0)), libc::EPOLL_CTL_ADD, reader, at)),
            ok(sys!(execve, at, at, at)),
            ok(sys!(sysinfo, at)),
        ]
        .iter()
        .map(|outcome| outcome.map_or_else(user_sys::errno_name, |()| "ok".to_owned()))
        .collect();
        let others: Vec<String> = outcomes
            .iter()
            .enumerate()
            .filter(|(_, outcome)| *outcome != "EFAULT")
            .map(|(index, outcome)| format!("{index}:{outcome}"))
            .collect();
        t.say(place, (outcomes.len(), others));
    }
}

fn edges(t: Transcript) {
    let map = Map::new(2);
    let fd = file_with(c"file", &[b'a'; 8192]);
    t.say("a name up to the last byte", {
        for (offset, byte) in c"file".to_bytes_with_nul().iter().enumerate() {
            user_sys::map::poke(map.end() - 5 + offset, *byte);
        }
        ok(sys!(open, map.end() - 5, 0, 0))
    });
    t.say("a name without an end", {
        user_sys::map::poke(map.end() - 1, b'x');
        ok(sys!(open, map.end() - 5, 0, 0))
    });
    t.say("a structure that crosses the end", ok(sys!(fstat, fd, map.end() - 100)));
    t.say("an array that crosses the end", ok(sys!(poll, map.end() - 12, 2, 0)));
    t.say("a read that crosses the end", sys!(pread64, fd, map.end() - 100, 200, 0));
    t.say("a write from a buffer that crosses the end", sys!(pwrite64, fd, map.end() - 100, 200, 0));
    must(sys!(mprotect, map.page(1), 4096, libc::PROT_READ));
    t.say("a structure that crosses into a read-only page", ok(sys!(fstat, fd, map.page(1) - 100)));
    t.say("a read that crosses into a read-only page", sys!(pread64, fd, map.page(1) - 100, 200, 0));
    t.say("not aligned", ok(sys!(fstat, fd, map.page(0) + 3)));
}

fn extreme_lengths(t: Transcript) {
    let map = Map::new(1);
    let (reader, writer) = pipe(libc::O_NONBLOCK);
    t.say("getcwd", ok(sys!(getcwd, map.start(), usize::MAX)));
    t.say("write", ok(sys!(write, writer, map.start(), usize::MAX)));
    t.say("read of an empty pipe", ok(sys!(read, reader, map.start(), usize::MAX)));
    t.say("poll", ok(sys!(poll, map.start(), usize::MAX, 0)));
    t.say("munmap", ok(sys!(munmap, map.start(), usize::MAX)));
    t.say("getgroups", ok(sys!(getgroups, i32::MIN, map.start())));
    t.say("select", ok(sys!(select, i32::MAX, 0, 0, 0, &mut [0_i64, 0])));
    t.say(
        "setsockopt",
        ok(sys!(
            setsockopt,
            must(sys!(socket, libc::AF_INET, libc::SOCK_STREAM, 0)),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            map.start(),
            i32::MAX
        )),
    );
    t.say("epoll_wait", ok(sys!(epoll_wait, must(sys!(epoll_create1, 0)), map.start(), i32::MAX, 0)));
}

fn scheduling(t: Transcript) {
    t.say("yield", ok(sys!(sched_yield)));
    t.say("policy", sys!(sched_getscheduler, 0));
    let mut parameter = libc::sched_param::zeroed();
    t.say("parameter", (ok(sys!(sched_getparam, 0, &mut parameter)), parameter.sched_priority));
    t.say("range of the normal policy", (sys!(sched_get_priority_min, 0), sys!(sched_get_priority_max, 0)));
    t.say("range of the first-in policy", (sys!(sched_get_priority_min, 1), sys!(sched_get_priority_max, 1)));
    t.say("range of no policy", ok(sys!(sched_get_priority_max, 77)));
    t.say("no such process", ok(sys!(sched_getscheduler, 999_999)));
}

fn membarrier(t: Transcript) {
    t.say("unknown command", ok(sys!(membarrier, 0x4000_0000, 0, 0)));
    t.say("unknown flag", ok(sys!(membarrier, 0, 77, 0)));
}

fn host_name(t: Transcript) {
    let mut name = utsname::zeroed();
    must(sys!(uname, &mut name));
    t.say("too long", ok(sys!(sethostname, &[0_u8; 100], 100)).is_err());
    t.say("nothing changed", {
        let mut after = utsname::zeroed();
        must(sys!(uname, &mut after));
        field(&name.nodename) == field(&after.nodename)
    });
}

fn closed_everywhere(t: Transcript) {
    let mut buffer = [0_u8; 256];
    let outcomes = [
        ok(sys!(read, 99, &mut buffer, 8)),
        ok(sys!(write, 99, &mut buffer, 8)),
        ok(sys!(fsync, 99)),
        ok(sys!(ioctl, 99, 0, 0)),
        ok(sys!(dup, 99)),
        ok(sys!(fchdir, 99)),
        ok(sys!(fchmod, 99, 0)),
        ok(sys!(fchown, 99, -1, -1)),
        ok(sys!(getdents64, 99, &mut buffer, 256)),
        ok(sys!(flock, 99, libc::LOCK_UN)),
        ok(sys!(listen, 99, 1)),
        ok(sys!(getsockname, 99, &mut buffer, &mut 16_u32)),
        ok(sys!(epoll_wait, 99, &mut buffer, 1, 0)),
        ok(sys!(timerfd_gettime, 99, &mut buffer)),
        ok(sys!(mmap, 0, 4096, libc::PROT_READ, libc::MAP_PRIVATE, 99, 0)),
        ok(sys!(fallocate, 99, 0, 0, 1)),
        ok(sys!(sendfile, 99, 0, 0, 1)),
        ok(sys!(fadvise64, 99, 0, 0, 0)),
        ok(sys!(fstatfs, 99, &mut buffer)),
        ok(sys!(ftruncate, 99, 0)),
    ];
    t.say("calls", outcomes.len());
    t.say("all EBADF", outcomes.iter().all(|outcome| *outcome == Err(Errno::EBADF)));
}

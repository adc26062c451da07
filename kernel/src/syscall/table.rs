//! The system-call table: one line per call, numbered as in Linux's `arch/x86/entry/syscalls/syscall_64.tbl`.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Caller, FromRegister};
use crate::arch::{Registers, UserContext};
use crate::errno::{Errno, SysResult};

/// `number => [async] family::handler(argument names);` for each call.
///
/// The names are documentation: their number says how many argument registers the handler takes, and its
/// signature what they are. Calls that never wait are performed by [`dispatch_now`], an ordinary function; the others, marked
/// `[async]`, by [`dispatch`]; [`may_wait`] says which it is.
macro_rules! system_calls {
    (@may_wait [async]) => { true };
    (@may_wait) => { false };
    // `dispatch` performs it.
    (@now $caller:ident [async] $family:ident::$handler:ident($($argument:ident),*)) => {
        Err(Errno::ENOSYS)
    };
    (@now $caller:ident $family:ident::$handler:ident($($argument:ident),*)) => {
        system_calls!(@call $caller $family::$handler($($argument),*))
    };
    (@wait $caller:ident [async] $family:ident::$handler:ident($($argument:ident),*)) => {
        system_calls!(@call $caller $family::$handler($($argument),*)).await
    };
    // `dispatch_now` performs it.
    (@wait $caller:ident $family:ident::$handler:ident($($argument:ident),*)) => {
        Err(Errno::ENOSYS)
    };
    (@call $caller:ident $family:ident::$handler:ident($($argument:ident),*)) => {{
        let mut registers = ArgumentRegisters::of($caller.context);
        $(let $argument = FromRegister::from_register(registers.next());)*
        let _ = &mut registers;
        super::$family::$handler($caller, $($argument),*)
    }};
    ($($number:literal => $([$mode:ident])? $family:ident::$handler:ident($($argument:ident),*);)*) => {
        /// Whether system call `number` may wait.
        #[inline]
        pub fn may_wait(number: u32) -> bool {
            const MAY_WAIT: [bool; NUMBERS] = {
                let mut table = [false; NUMBERS];
                $(table[$number] = system_calls!(@may_wait $([$mode])?);)*
                table
            };
            MAY_WAIT.get(number as usize).is_some_and(|&waits| waits)
        }

        /// Performs system call `number`, which never waits, for `caller`.
        #[inline(always)]
        pub fn dispatch_now(caller: &mut Caller<'_>, number: u32) -> SysResult {
            match number {
                $($number => system_calls!(@now caller $([$mode])? $family::$handler($($argument),*)),)*
                _ => Err(unknown(number)),
            }
        }

        /// Performs system call `number`, which may wait, for `caller`.
        pub async fn dispatch(caller: &mut Caller<'_>, number: u32) -> SysResult {
            match number {
                $($number => system_calls!(@wait caller $([$mode])? $family::$handler($($argument),*)),)*
                _ => Err(Errno::ENOSYS),
            }
        }
    };
}

/// The registers in which arguments come, in their order; read one by one, so that none is read for nothing.
struct ArgumentRegisters {
    registers: Registers,
    next: usize,
}

impl ArgumentRegisters {
    #[inline(always)]
    fn of(context: &UserContext) -> Self {
        Self { registers: context.registers, next: 0 }
    }

    #[inline(always)]
    fn next(&mut self) -> u64 {
        let r = &self.registers;
        let value = match self.next {
            0 => r.rdi,
            1 => r.rsi,
            2 => r.rdx,
            3 => r.r10,
            4 => r.r8,
            _ => r.r9,
        };
        self.next += 1;
        value
    }
}

/// Above the numbers of all calls.
const NUMBERS: usize = 512;

/// What the table lacks and a program asked for: one bit per number, so that each is logged once.
static MISSED: [AtomicU64; NUMBERS / 64] = [const { AtomicU64::new(0) }; NUMBERS / 64];

/// Logs a number that the table lacks, once per number.
#[cold]
fn unknown(number: u32) -> Errno {
    let seen = MISSED.get(number as usize / 64).is_some_and(|word| {
        let bit = 1 << (number % 64);
        word.fetch_or(bit, Ordering::Relaxed) & bit != 0
    });
    if !seen {
        log::info!("system call {number} ({}) is not there", name(number));
    }
    Errno::ENOSYS
}

/// The name of system call `number`.
pub fn name(number: u32) -> &'static str {
    syscalls::Sysno::new(number as usize).map_or("?", |call| call.name())
}

system_calls! {
    0 => [async] file::read(fd, buffer, count);
    1 => [async] file::write(fd, buffer, count);
    2 => [async] file::open(path, flags, mode);
    3 => fd::close(fd);
    4 => meta::stat(path, stat);
    5 => meta::fstat(fd, stat);
    6 => meta::lstat(path, stat);
    7 => [async] poll::poll(fds, count, timeout);
    8 => file::lseek(fd, offset, whence);
    9 => [async] memory::mmap(addr, length, prot, flags, fd, offset);
    10 => [async] memory::mprotect(addr, len, prot);
    11 => [async] memory::munmap(addr, length);
    12 => [async] memory::brk(addr);
    13 => signal::rt_sigaction(signal, new, old, size);
    14 => signal::rt_sigprocmask(how, set, old, size);
    15 => signal::rt_sigreturn();
    16 => file::ioctl(fd, request, argument);
    17 => [async] file::pread64(fd, buffer, count, offset);
    18 => [async] file::pwrite64(fd, buffer, count, offset);
    19 => [async] file::readv(fd, vector, count);
    20 => [async] file::writev(fd, vector, count);
    21 => meta::access(path, mode);
    22 => event::pipe(fds);
    23 => [async] poll::select(count, read, write, except, timeout);
    24 => [async] sched::sched_yield();
    25 => [async] memory::mremap(old_address, old_size, new_size, flags, new_address);
    26 => memory::msync(addr, length, flags);
    27 => [async] memory::mincore(addr, length, vec);
    28 => [async] memory::madvise(addr, length, advice);
    32 => fd::dup(fd);
    33 => fd::dup2(old, new);
    34 => [async] signal::pause();
    35 => [async] time::nanosleep(time, left);
    36 => itimer::getitimer(which, value);
    37 => itimer::alarm(seconds);
    38 => itimer::setitimer(which, new, old);
    39 => process::getpid();
    40 => [async] copy::sendfile(to, from, offset, count);
    41 => socket::socket(family, socket_type, protocol);
    42 => [async] socket::connect(fd, address, length);
    43 => [async] socket::accept(fd, address, length);
    44 => [async] socket::sendto(fd, buffer, length, flags, to, to_length);
    45 => [async] socket::recvfrom(fd, buffer, length, flags, from, from_length);
    46 => [async] socket::sendmsg(fd, message, flags);
    47 => [async] socket::recvmsg(fd, message, flags);
    48 => socket::shutdown(fd, how);
    49 => socket::bind(fd, address, length);
    50 => socket::listen(fd, backlog);
    51 => socket::getsockname(fd, address, length);
    52 => socket::getpeername(fd, address, length);
    53 => socket::socketpair(family, socket_type, protocol, numbers);
    54 => socket::setsockopt(fd, level, name, value, length);
    55 => socket::getsockopt(fd, level, name, value, length);
    56 => [async] process::clone(flags, stack, parent_tid, child_tid, tls);
    57 => [async] process::fork();
    58 => [async] process::vfork();
    59 => [async] process::execve(path, argv, envp);
    60 => process::exit(code);
    61 => [async] process::wait4(pid, status, options, usage);
    62 => signal::kill(pid, signal);
    63 => misc::uname(names);
    72 => [async] fd::fcntl(fd, command, argument);
    73 => [async] fd::flock(fd, operation);
    74 => file::fsync(fd);
    75 => file::fdatasync(fd);
    76 => file::truncate(path, size);
    77 => file::ftruncate(fd, size);
    78 => dir::getdents(fd, buffer, size);
    79 => dir::getcwd(buffer, size);
    80 => dir::chdir(path);
    81 => dir::fchdir(fd);
    82 => dir::rename(old, new);
    83 => dir::mkdir(path, mode);
    84 => dir::rmdir(path);
    85 => [async] file::creat(path, mode);
    86 => dir::link(old, new);
    87 => dir::unlink(path);
    88 => dir::symlink(target, path);
    89 => dir::readlink(path, buffer, size);
    90 => meta::chmod(path, mode);
    91 => meta::fchmod(fd, mode);
    92 => meta::chown(path, uid, gid);
    93 => meta::fchown(fd, uid, gid);
    94 => meta::lchown(path, uid, gid);
    95 => dir::umask(mask);
    96 => time::gettimeofday(time, zone);
    97 => resource::getrlimit(resource, limit);
    98 => resource::getrusage(who, usage);
    99 => resource::sysinfo(info);
    100 => resource::times(times);
    102 => credentials::getuid();
    103 => misc::syslog(action, buffer, len);
    104 => credentials::getgid();
    105 => credentials::setuid(uid);
    106 => credentials::setgid(gid);
    107 => credentials::geteuid();
    108 => credentials::getegid();
    109 => process::setpgid(pid, group);
    110 => process::getppid();
    111 => process::getpgrp();
    112 => process::setsid();
    113 => credentials::setreuid(uid, euid);
    114 => credentials::setregid(gid, egid);
    115 => credentials::getgroups(size, list);
    116 => credentials::setgroups(size, list);
    117 => credentials::setresuid(uid, euid, suid);
    118 => credentials::getresuid(uid, euid, suid);
    119 => credentials::setresgid(gid, egid, sgid);
    120 => credentials::getresgid(gid, egid, sgid);
    121 => process::getpgid(pid);
    122 => credentials::setfsuid(uid);
    123 => credentials::setfsgid(gid);
    124 => process::getsid(pid);
    125 => credentials::capget(header, data);
    126 => credentials::capset(header, data);
    127 => signal::rt_sigpending(set, size);
    128 => [async] signal::rt_sigtimedwait(set, info, timeout, size);
    129 => signal::rt_sigqueueinfo(pid, signal, info);
    130 => [async] signal::rt_sigsuspend(mask, size);
    131 => signal::sigaltstack(new, old);
    132 => meta::utime(path, times);
    133 => dir::mknod(path, mode, device);
    135 => prctl::personality(persona);
    137 => meta::statfs(path, statfs);
    138 => meta::fstatfs(fd, statfs);
    140 => sched::getpriority(which, who);
    141 => sched::setpriority(which, who, nice);
    142 => sched::sched_setparam(tid, priority);
    143 => sched::sched_getparam(tid, priority);
    144 => sched::sched_setscheduler(tid, policy, priority);
    145 => sched::sched_getscheduler(tid);
    146 => sched::sched_get_priority_max(policy);
    147 => sched::sched_get_priority_min(policy);
    148 => sched::sched_rr_get_interval(tid, interval);
    149 => [async] memory::mlock(addr, len);
    150 => memory::munlock(addr, len);
    151 => [async] memory::mlockall(flags);
    152 => memory::munlockall();
    157 => prctl::prctl(option, arg2, arg3, arg4, arg5);
    158 => prctl::arch_prctl(code, value);
    159 => time::adjtimex(timex);
    160 => resource::setrlimit(resource, limit);
    161 => dir::chroot(path);
    162 => file::sync();
    164 => time::settimeofday(time, zone);
    165 => dir::mount(source, target, fs_type, flags, data);
    166 => dir::umount2(target, flags);
    169 => misc::reboot(magic, magic2, command);
    170 => misc::sethostname(name, len);
    171 => misc::setdomainname(name, len);
    186 => process::gettid();
    187 => file::readahead(fd, offset, count);
    188 => meta::setxattr(path, name);
    189 => meta::lsetxattr(path, name);
    190 => meta::fsetxattr(fd, name);
    191 => meta::getxattr(path, name);
    192 => meta::lgetxattr(path, name);
    193 => meta::fgetxattr(fd, name);
    194 => meta::listxattr(path, list, size);
    195 => meta::llistxattr(path, list, size);
    196 => meta::flistxattr(fd, list, size);
    197 => meta::removexattr(path, name);
    198 => meta::lremovexattr(path, name);
    199 => meta::fremovexattr(fd, name);
    200 => signal::tkill(tid, signal);
    201 => time::time(seconds);
    202 => [async] futex::futex(address, operation, value, timeout_or_count, second, value3);
    203 => sched::sched_setaffinity(tid, size, mask);
    204 => sched::sched_getaffinity(tid, size, mask);
    213 => poll::epoll_create(size);
    217 => dir::getdents64(fd, buffer, size);
    218 => process::set_tid_address(address);
    221 => file::fadvise64(fd, offset, len, advice);
    222 => timer::timer_create(clock, event, created);
    223 => timer::timer_settime(id, flags, new, old);
    224 => timer::timer_gettime(id, current);
    225 => timer::timer_getoverrun(id);
    226 => timer::timer_delete(id);
    227 => time::clock_settime(clock, time);
    228 => time::clock_gettime(clock, time);
    229 => time::clock_getres(clock, resolution);
    230 => [async] time::clock_nanosleep(clock, flags, time, left);
    231 => process::exit_group(code);
    232 => [async] poll::epoll_wait(epoll, events, max, timeout);
    233 => poll::epoll_ctl(epoll, operation, fd, event);
    234 => signal::tgkill(pid, tid, signal);
    235 => meta::utimes(path, times);
    247 => [async] process::waitid(kind, id, info, options, usage);
    251 => sched::ioprio_set(which, who, priority);
    252 => sched::ioprio_get(which, who);
    257 => [async] file::openat(fd, path, flags, mode);
    258 => dir::mkdirat(fd, path, mode);
    259 => dir::mknodat(fd, path, mode, device);
    260 => meta::fchownat(fd, path, uid, gid, flags);
    261 => meta::futimesat(fd, path, times);
    262 => meta::newfstatat(fd, path, stat, flags);
    263 => dir::unlinkat(fd, path, flags);
    264 => dir::renameat(old_fd, old, new_fd, new);
    265 => dir::linkat(old_fd, old, new_fd, new, flags);
    266 => dir::symlinkat(target, fd, path);
    267 => dir::readlinkat(fd, path, buffer, size);
    268 => meta::fchmodat(fd, path, mode);
    269 => meta::faccessat(fd, path, mode);
    270 => [async] poll::pselect6(count, read, write, except, timeout, mask);
    271 => [async] poll::ppoll(fds, count, timeout, mask, mask_size);
    272 => [async] misc::unshare(flags);
    273 => process::set_robust_list(head, size);
    274 => process::get_robust_list(tid, head, size);
    275 => [async] splice::splice(from, from_offset, to, to_offset, count, flags);
    276 => [async] splice::tee(from, to, count, flags);
    277 => file::sync_file_range(fd, offset, len, flags);
    280 => meta::utimensat(fd, path, times, flags);
    281 => [async] poll::epoll_pwait(epoll, events, max, timeout, mask, mask_size);
    282 => event::signalfd(fd, mask, size);
    283 => event::timerfd_create(clock, flags);
    284 => event::eventfd(initial);
    285 => [async] file::fallocate(fd, mode, offset, len);
    286 => event::timerfd_settime(fd, flags, new, old);
    287 => event::timerfd_gettime(fd, current);
    288 => [async] socket::accept4(fd, address, length, flags);
    289 => event::signalfd4(fd, mask, size, flags);
    290 => event::eventfd2(initial, flags);
    291 => poll::epoll_create1(flags);
    292 => fd::dup3(old, new, flags);
    293 => event::pipe2(fds, flags);
    295 => [async] file::preadv(fd, vector, count, offset);
    296 => [async] file::pwritev(fd, vector, count, offset);
    297 => signal::rt_tgsigqueueinfo(pid, tid, signal, info);
    299 => [async] socket::recvmmsg(fd, messages, count, flags, timeout);
    302 => resource::prlimit64(pid, resource, new, old);
    305 => time::clock_adjtime(clock, timex);
    306 => file::syncfs(fd);
    307 => [async] socket::sendmmsg(fd, messages, count, flags);
    308 => misc::setns(fd, kind);
    309 => sched::getcpu(core, node);
    314 => sched::sched_setattr(tid, attr, flags);
    315 => sched::sched_getattr(tid, attr, size, flags);
    316 => dir::renameat2(old_fd, old, new_fd, new, flags);
    318 => [async] misc::getrandom(buffer, count, flags);
    319 => file::memfd_create(name, flags);
    322 => [async] process::execveat(directory, path, argv, envp, flags);
    324 => [async] misc::membarrier(command, flags);
    325 => [async] memory::mlock2(addr, len, flags);
    326 => [async] copy::copy_file_range(from, from_offset, to, to_offset, count, flags);
    327 => [async] file::preadv2(fd, vector, count, offset, high, flags);
    328 => [async] file::pwritev2(fd, vector, count, offset, high, flags);
    332 => meta::statx(fd, path, flags, mask, statx);
    424 => pidfd::pidfd_send_signal(fd, signal, info, flags);
    434 => pidfd::pidfd_open(pid, flags);
    435 => [async] process::clone3(arguments, size);
    436 => [async] fd::close_range(first, last, flags);
    437 => [async] file::openat2(fd, path, how, size);
    438 => pidfd::pidfd_getfd(fd, target, flags);
    439 => meta::faccessat2(fd, path, mode, flags);
    441 => [async] poll::epoll_pwait2(epoll, events, max, timeout, mask, mask_size);
}

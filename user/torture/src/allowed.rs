//! Which system calls `badptr` and `fuzz` may make with arguments that nobody chose.
//!
//! Three classes: calls that end the machine or the caller by design are never made; calls that reach beyond
//! the process (other processes, the host's settings, things that outlive it) only in a guest; and calls
//! aimed at a process only when that process is the caller. [`Sandbox`] takes away what the rest could spoil.

use user_sys::{Handler, Sysno, must, sys};

/// Calls that end the caller, or the machine, because that is what they are for.
const NEVER: &[Sysno] =
    &[Sysno::exit, Sysno::exit_group, Sysno::reboot, Sysno::kexec_load, Sysno::kexec_file_load];

/// Calls whose effect is not confined to the calling process: harmless in a guest.
const ONLY_IN_GUEST: &[Sysno] = &[
    Sysno::mount,
    Sysno::umount2,
    Sysno::pivot_root,
    Sysno::swapon,
    Sysno::swapoff,
    Sysno::sethostname,
    Sysno::setdomainname,
    Sysno::init_module,
    Sysno::finit_module,
    Sysno::delete_module,
    Sysno::settimeofday,
    Sysno::clock_settime,
    Sysno::adjtimex,
    Sysno::clock_adjtime,
    Sysno::iopl,
    Sysno::ioperm,
    Sysno::vhangup,
    Sysno::acct,
    Sysno::quotactl,
    Sysno::quotactl_fd,
    Sysno::syslog,
    Sysno::sync,
    Sysno::syncfs,
    Sysno::shmget,
    Sysno::msgget,
    Sysno::semget,
    Sysno::shmctl,
    Sysno::msgctl,
    Sysno::semctl,
    Sysno::mq_open,
    Sysno::mq_unlink,
    Sysno::add_key,
    Sysno::request_key,
    Sysno::keyctl,
    Sysno::bpf,
    Sysno::perf_event_open,
    Sysno::fsmount,
    Sysno::fsopen,
    Sysno::fsconfig,
    Sysno::fspick,
    Sysno::move_mount,
    Sysno::open_tree,
    Sysno::mount_setattr,
    Sysno::setuid,
    Sysno::setgid,
    Sysno::setreuid,
    Sysno::setregid,
    Sysno::setresuid,
    Sysno::setresgid,
    Sysno::setgroups,
    Sysno::setpriority,
    Sysno::nfsservctl,
    Sysno::lookup_dcookie,
    Sysno::fanotify_init,
];

/// Calls whose first argument names a process.
const AIMED: &[Sysno] = &[
    Sysno::kill,
    Sysno::tkill,
    Sysno::tgkill,
    Sysno::rt_sigqueueinfo,
    Sysno::rt_tgsigqueueinfo,
    Sysno::process_vm_readv,
    Sysno::process_vm_writev,
    Sysno::prlimit64,
    Sysno::setpgid,
    Sysno::sched_setscheduler,
    Sysno::sched_setparam,
    Sysno::sched_setattr,
    Sysno::sched_setaffinity,
    Sysno::migrate_pages,
    Sysno::move_pages,
    Sysno::kcmp,
    Sysno::pidfd_open,
];

/// Calls whose second argument names a process.
const AIMED_BY_SECOND: &[Sysno] = &[Sysno::ptrace, Sysno::ioprio_set];

/// Whether call number `nr` may be made with these arguments.
pub fn allowed(nr: usize, args: &[usize; 6], in_guest: bool) -> bool {
    let Some(call) = Sysno::new(nr) else { return true };
    if NEVER.contains(&call) || (!in_guest && ONLY_IN_GUEST.contains(&call)) {
        return false;
    }
    if AIMED.contains(&call) {
        return is_self_or_nobody(args[0]);
    }
    !AIMED_BY_SECOND.contains(&call) || is_self_or_nobody(args[1])
}

/// Whether this process number means the caller, its own group, or no process at all.
///
/// 0 is the caller or its group; numbers beyond the largest that Linux gives (2^22) and their negatives are
/// nobody.
fn is_self_or_nobody(pid: usize) -> bool {
    let pid = pid as i32;
    pid == 0 || pid.unsigned_abs() > 1 << 22
}

/// Takes away from the calling child what arbitrary calls could spoil.
///
/// Its own process group; standard descriptors that are a scratch file; no large files, no large address
/// space; SIGXFSZ ignored; a timer that interrupts what blocks.
#[derive(Debug)]
pub struct Sandbox;

/// The name of the only file, in the current directory, that calls are given.
pub const FILE: &std::ffi::CStr = c"torture-scratch";

impl Sandbox {
    /// Enters it. `interval` is the microseconds after which a blocked call is interrupted.
    pub fn enter(in_guest: bool, interval: i64) {
        let _ = sys!(setpgid, 0, 0);
        let limit = |resource: u32, value: u64| {
            let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
            let _ = sys!(prlimit64, 0, resource, &limit, 0);
        };
        limit(libc::RLIMIT_FSIZE, 1 << 20);
        limit(libc::RLIMIT_CORE, 0);
        if !in_guest {
            limit(libc::RLIMIT_AS, 1 << 30);
            limit(libc::RLIMIT_NOFILE, 256);
        }
        // An earlier child may have left it without rights, or as something else.
        let _ = sys!(unlink, FILE);
        let _ = sys!(rmdir, FILE);
        let file = must(sys!(open, FILE, libc::O_RDWR | libc::O_CREAT, 0o600));
        for standard in 0..3 {
            let _ = sys!(dup2, file, standard);
        }
        let _ = Handler::install_function(libc::SIGXFSZ, libc::SIG_IGN, 0, &[]);
        let _ = Handler::install_function(libc::SIGPIPE, libc::SIG_IGN, 0, &[]);
        let _ = Handler::install_function(libc::SIGALRM, interrupt as *const () as usize, 0, &[]);
        let _ = sys!(setitimer, libc::ITIMER_REAL, &[0_i64, interval, 0, interval], 0);
    }
}

/// Nothing but an EINTR for the call that blocks.
extern "C" fn interrupt(_signal: i32) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(call: Sysno, first: usize, second: usize, in_guest: bool) -> bool {
        allowed(call as usize, &[first, second, 0, 0, 0, 0], in_guest)
    }

    #[test]
    fn what_ends_the_machine_is_never_made() {
        assert!(!with(Sysno::reboot, 0, 0, true));
        assert!(!with(Sysno::exit_group, 0, 0, true));
    }

    #[test]
    fn what_reaches_further_needs_a_guest() {
        assert!(!with(Sysno::mount, 0, 0, false));
        assert!(with(Sysno::mount, 0, 0, true));
    }

    #[test]
    fn other_processes_are_out_of_reach() {
        for pid in [1, 2, 4096, usize::MAX, -4096_isize as usize, 1 << 32 | 1] {
            assert!(!with(Sysno::kill, pid, 9, true), "kill {pid:#x}");
        }
        assert!(with(Sysno::kill, 0, 0, true));
        assert!(with(Sysno::kill, i32::MIN as usize, 0, true));
        assert!(!with(Sysno::ptrace, 16, 1, true));
        assert!(with(Sysno::read, 1, 1, false));
    }

    #[test]
    fn numbers_without_a_call_are_free() {
        assert!(with_number(400) && with_number(100_000));
    }

    fn with_number(nr: usize) -> bool {
        allowed(nr, &[0; 6], false)
    }
}

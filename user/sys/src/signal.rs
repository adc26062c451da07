//! Signals: names, sets, handlers that record what they saw.
//!
//! [`Handler::install`] counts into statics of this module, because a handler has nothing else to reach.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

use crate::{Res, Zeroed, sys};

/// Names of signals 1 to 31.
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The first real-time signal of the kernel (the C library keeps two of them).
pub const KERNEL_RTMIN: i32 = 32;

/// The signal's symbolic name; real-time signals as the distance from the kernel's first one.
pub fn signal_name(signal: i32) -> String {
    match signal {
        1..=31 => NAMES[signal as usize - 1].to_owned(),
        32..=64 => format!("SIGRT{}", signal - KERNEL_RTMIN),
        _ => format!("signal {signal}"),
    }
}

/// The kernel's signal set with these members.
pub fn set(signals: &[i32]) -> u64 {
    signals.iter().map(|signal| 1 << (signal - 1)).sum()
}

/// rt_sigprocmask(2): changes the mask of this thread and returns the old one.
pub fn mask(how: i32, signals: &[i32]) -> Result<u64, crate::Errno> {
    let new = set(signals);
    let mut old = 0_u64;
    sys!(rt_sigprocmask, how, &new, &mut old, 8)?;
    Ok(old)
}

/// The signals pending for this thread.
pub fn pending() -> u64 {
    let mut pending = 0_u64;
    match sys!(rt_sigpending, &mut pending, 8) {
        Ok(_) => pending,
        Err(_) => u64::MAX,
    }
}

/// A case that repeats SIGALRM gives up its watchdog for it; after so many, what it waits for will not come.
const MANY_ALARMS: usize = 1000;

/// Exit status of a case that got a great many alarms.
pub const OVERDUE: i32 = 124;

static COUNT: [AtomicUsize; 65] = [const { AtomicUsize::new(0) }; 65];
static LAST_CODE: AtomicI32 = AtomicI32::new(0);
static LAST_PID: AtomicI32 = AtomicI32::new(0);
static LAST_ADDRESS: AtomicUsize = AtomicUsize::new(0);
static ORDER: AtomicUsize = AtomicUsize::new(0);

/// What the recording handler saw; the statics behind it belong to the process.
#[derive(Debug)]
pub struct Handler;

impl Handler {
    /// Installs the recording handler for `signal` with these `SA_` flags and mask (SA_SIGINFO is added).
    pub fn install(signal: i32, flags: i32, masked: &[i32]) -> Res {
        Self::install_function(signal, record as *const () as usize, flags | libc::SA_SIGINFO, masked)
    }

    /// Installs `function` (or SIG_DFL, SIG_IGN) for `signal` through the C library, which adds the restorer.
    pub fn install_function(signal: i32, function: usize, flags: i32, masked: &[i32]) -> Res {
        let mut action = libc::sigaction::zeroed();
        action.sa_sigaction = function;
        action.sa_flags = flags;
        for &other in masked {
            // SAFETY: the set is ours.
            unsafe { libc::sigaddset(&mut action.sa_mask, other) };
        }
        // SAFETY: `function` is a handler of the right type, and only touches atomics or jumps out on
        // purpose.
        match unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } {
            0 => Ok(0),
            _ => Err(crate::last_errno()),
        }
    }

    /// How often `signal` came.
    pub fn count(signal: i32) -> usize {
        COUNT[signal as usize].load(SeqCst)
    }

    /// `si_code` of the last signal.
    pub fn code() -> i32 {
        LAST_CODE.load(SeqCst)
    }

    /// `si_pid` of the last signal.
    pub fn pid() -> i32 {
        LAST_PID.load(SeqCst)
    }

    /// `si_addr` of the last signal: the same bytes as `si_value` for queued signals.
    pub fn address() -> usize {
        LAST_ADDRESS.load(SeqCst)
    }

    /// The last ten signals, two decimal digits each, oldest first.
    pub fn order() -> usize {
        ORDER.load(SeqCst)
    }

    /// Forgets everything.
    pub fn reset() {
        COUNT.iter().for_each(|count| count.store(0, SeqCst));
        ORDER.store(0, SeqCst);
    }
}

/// The handler: atomics only, so it may run at any point.
extern "C" fn record(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t to SA_SIGINFO handlers; which union member is meant is up to the
    // reader.
    let (code, pid, address) = unsafe { ((*info).si_code, (*info).si_pid(), (*info).si_addr() as usize) };
    LAST_CODE.store(code, SeqCst);
    LAST_PID.store(pid, SeqCst);
    LAST_ADDRESS.store(address, SeqCst);
    let order = ORDER.load(SeqCst) % 10_usize.pow(18);
    ORDER.store(order * 100 + signal as usize, SeqCst);
    let before = COUNT[signal as usize].fetch_add(1, SeqCst);
    if signal == libc::SIGALRM && before >= MANY_ALARMS {
        crate::child::exit_now(OVERDUE);
    }
}

/// Puts every signal back to its default action and unblocks all: programs inherit ignored signals and masks.
pub fn defaults() {
    for signal in 1..=64 {
        let _ = Handler::install_function(signal, libc::SIG_DFL, 0, &[]);
    }
    let _ = mask(libc::SIG_SETMASK, &[]);
}

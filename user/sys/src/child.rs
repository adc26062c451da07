//! Forked children under a watchdog, and what became of them.
//!
//! Whatever may hang, crash or spoil the process runs in a [`Child`]. SIGALRM ends it when it takes longer
//! than [`LIMIT`] seconds, so that a kernel which forgets a wake-up fails one case instead of stopping the
//! whole run.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::signal::signal_name;
use crate::{Errno, Res, sys};

/// Seconds that a child may take before SIGALRM ends it.
pub const LIMIT: u32 = 20;

/// Exit status of a child whose code panicked.
pub const PANICKED: i32 = 101;

/// What `wait4` reported of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It called exit with this status.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// This signal stopped it (WUNTRACED).
    Stopped(i32),
    /// SIGCONT made it go on (WCONTINUED).
    Continued,
    /// A status word that is none of these, in full.
    Odd(i32),
}

impl Ended {
    /// Decodes the status word of wait4(2).
    pub fn of(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self::Exited(libc::WEXITSTATUS(status))
        } else if libc::WIFSIGNALED(status) {
            Self::Killed(libc::WTERMSIG(status))
        } else if libc::WIFSTOPPED(status) {
            Self::Stopped(libc::WSTOPSIG(status))
        } else if libc::WIFCONTINUED(status) {
            Self::Continued
        } else {
            Self::Odd(status)
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited {status}"),
            Self::Killed(signal) => write!(f, "killed by {}", signal_name(*signal)),
            Self::Stopped(signal) => write!(f, "stopped by {}", signal_name(*signal)),
            Self::Continued => f.write_str("continued"),
            Self::Odd(status) => write!(f, "odd status {status:#x}"),
        }
    }
}

/// A forked child; it is killed and reaped when dropped before it was waited for.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    reaped: bool,
}

impl Child {
    /// Forks; the child runs `body` under the watchdog and exits with the status that it returns.
    ///
    /// # Panics
    /// When there is no memory or process number for a child.
    #[track_caller]
    pub fn spawn(body: impl FnOnce() -> i32) -> Self {
        match Self::try_spawn(body) {
            Ok(child) => child,
            Err(errno) => panic!("fork: {}", crate::errno_name(errno)),
        }
    }

    /// As [`Child::spawn`], with the errno when there is no child.
    pub fn try_spawn(body: impl FnOnce() -> i32) -> Result<Self, Errno> {
        // SAFETY: the child only runs `body` and leaves by _exit; these programs fork from one thread.
        match unsafe { libc::fork() } {
            -1 => Err(crate::last_errno()),
            0 => run_to_exit(body),
            pid => Ok(Self { pid, reaped: false }),
        }
    }

    /// Takes charge of a child that another call has made.
    pub fn adopt(pid: i32) -> Self {
        Self { pid, reaped: false }
    }

    /// The process number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal.
    pub fn kill(&self, signal: i32) -> Res {
        sys!(kill, self.pid, signal)
    }

    /// Waits until it has ended.
    pub fn wait(mut self) -> Ended {
        self.reaped = true;
        reap(self.pid)
    }

    /// Waits until it has ended, or kills it and its process group when that takes longer than so many
    /// seconds.
    ///
    /// The clock here is ours, not the child's alarm, which the child may have spent on something else.
    pub fn wait_at_most(mut self, seconds: u64) -> Option<Ended> {
        let start = std::time::Instant::now();
        let mut pause = 100_000;
        while start.elapsed().as_secs() < seconds {
            if let Ok(Some(ended)) = self.wait_for(libc::WNOHANG) {
                return Some(ended);
            }
            let _ = sys!(nanosleep, &crate::timespec(0, pause), 0);
            pause = (pause * 2).min(5_000_000);
        }
        let _ = sys!(kill, -self.pid, libc::SIGKILL);
        None
    }

    /// Waits with the given wait4 options; the errno when there is nothing to wait for.
    pub fn wait_for(&mut self, options: i32) -> Result<Option<Ended>, Errno> {
        let mut status = 0;
        let pid = sys!(wait4, self.pid, &mut status, options, 0)?;
        if pid == 0 {
            return Ok(None);
        }
        let ended = Ended::of(status);
        self.reaped = matches!(ended, Ended::Exited(_) | Ended::Killed(_));
        Ok(Some(ended))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.kill(libc::SIGKILL);
            reap(self.pid);
        }
    }
}

/// Forks, runs `body` in the child and tells how it ended.
#[track_caller]
pub fn in_child(body: impl FnOnce() -> i32) -> Ended {
    Child::spawn(body).wait()
}

/// Runs `body` under the watchdog, then ends the process.
fn run_to_exit(body: impl FnOnce() -> i32) -> ! {
    let _ = sys!(alarm, LIMIT);
    let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANICKED);
    exit_now(status)
}

/// Ends the process without running anything of the C library.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit runs no handlers and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Waits for exactly this child, however often signals interrupt.
fn reap(pid: i32) -> Ended {
    let mut status = 0;
    loop {
        match sys!(wait4, pid, &mut status, 0, 0) {
            Err(Errno::EINTR) => {}
            Err(errno) => panic!("wait4: {}", crate::errno_name(errno)),
            Ok(_) => return Ended::of(status),
        }
    }
}

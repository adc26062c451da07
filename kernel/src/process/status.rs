//! How a process ended or changed: the status of wait(2), in the encoding of `<sys/wait.h>`.

use super::signal::Signal;
use super::signal::info::{CLD_DUMPED, CLD_EXITED, CLD_KILLED};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It called exit_group(2), or its last thread exit(2), with this code.
    Exited(u8),
    /// A signal ended it.
    Killed(Signal),
    /// A signal ended it that would have it dump core.
    Dumped(Signal),
}

impl Default for ExitStatus {
    fn default() -> Self {
        Self::Exited(0)
    }
}

impl ExitStatus {
    /// The status word of wait4(2).
    pub fn wait_status(self) -> i32 {
        match self {
            Self::Exited(code) => i32::from(code) << 8,
            Self::Killed(signal) => signal.number(),
            Self::Dumped(signal) => signal.number() | 0x80,
        }
    }

    /// `si_code` and `si_status` of `SIGCHLD` and waitid(2).
    pub fn code_and_status(self) -> (i32, i32) {
        match self {
            Self::Exited(code) => (CLD_EXITED, i32::from(code)),
            Self::Killed(signal) => (CLD_KILLED, signal.number()),
            Self::Dumped(signal) => (CLD_DUMPED, signal.number()),
        }
    }

    /// What a shell would report as `$?`.
    pub fn shell_status(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) | Self::Dumped(signal) => 128 + signal.number() as u8,
        }
    }
}

/// The status word of a stopped process.
pub fn stopped_status(signal: Signal) -> i32 {
    signal.number() << 8 | 0x7f
}

/// The status word of one that goes on.
pub const CONTINUED_STATUS: i32 = 0xffff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_words_are_those_the_c_library_decodes() {
        assert!(libc::WIFEXITED(ExitStatus::Exited(7).wait_status()));
        assert_eq!(libc::WEXITSTATUS(ExitStatus::Exited(7).wait_status()), 7);
        let dumped = ExitStatus::Dumped(Signal::SEGV).wait_status();
        assert!(libc::WIFSIGNALED(dumped) && libc::WCOREDUMP(dumped));
        assert_eq!(libc::WTERMSIG(dumped), libc::SIGSEGV);
        let killed = ExitStatus::Killed(Signal::KILL).wait_status();
        assert!(libc::WIFSIGNALED(killed) && !libc::WCOREDUMP(killed));
        assert!(libc::WIFSTOPPED(stopped_status(Signal::TSTP)));
        assert_eq!(libc::WSTOPSIG(stopped_status(Signal::TSTP)), libc::SIGTSTP);
        assert!(libc::WIFCONTINUED(CONTINUED_STATUS));
        assert_eq!(ExitStatus::Killed(Signal::TERM).shell_status(), 143);
    }
}

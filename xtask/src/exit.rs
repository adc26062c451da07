//! How a guest ended, and the exit status that follows from it.
//!
//! The kernel writes the init program's status in decimal and a newline to the debug console (port 0xe9), which QEMU
//! puts into a file; then it writes one byte to isa-debug-exit (port 0xf4), and QEMU ends with twice that byte plus one.

use std::fmt;
use std::path::Path;
use std::process::ExitStatus;

/// QEMU's status after the byte 0x20: the guest ended as it should.
pub const QEMU_ENDED: i32 = 65;
/// After 0x21: the kernel panicked.
pub const QEMU_PANIC: i32 = 67;
/// After 0x22: an exception in the kernel that it does not handle.
pub const QEMU_EXCEPTION: i32 = 69;

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The init program ended with this status (128 plus the signal's number if it died of one).
    Program(u8),
    /// The kernel panicked.
    Panic,
    /// The kernel ran into a CPU exception.
    Exception,
    /// The time was over.
    Timeout,
    /// QEMU ended, but the kernel did not say why: a reset, a triple fault, `quit` at QEMU's monitor.
    Silent,
    /// QEMU itself failed.
    Qemu(ExitStatus),
}

impl Ending {
    /// Reads QEMU's exit status and the file behind the debug console.
    pub fn read(status: ExitStatus, console: &Path) -> Self {
        let said = std::fs::read_to_string(console).unwrap_or_default();
        let program = said.lines().last().and_then(|line| line.trim().parse::<u32>().ok());
        match (status.code(), program) {
            (Some(QEMU_ENDED), Some(program)) => Self::Program(program as u8),
            (Some(0) | Some(QEMU_ENDED), _) => Self::Silent,
            (Some(QEMU_PANIC), _) => Self::Panic,
            (Some(QEMU_EXCEPTION), _) => Self::Exception,
            _ => Self::Qemu(status),
        }
    }

    /// The exit status of `cargo xtask run`. Those of the kernel's own failures are beyond what shells use for signals.
    pub fn code(&self) -> u8 {
        match self {
            Self::Program(status) => *status,
            Self::Timeout => 124,
            Self::Panic => 250,
            Self::Exception => 251,
            Self::Silent => 252,
            Self::Qemu(_) => 253,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(status) => write!(f, "the program ended with status {status}"),
            Self::Panic => write!(f, "the kernel panicked (see the backtrace above)"),
            Self::Exception => {
                write!(f, "the kernel met a CPU exception that it does not handle (see above)")
            }
            Self::Timeout => write!(f, "the time is over; the guest was ended"),
            Self::Silent => {
                write!(
                    f,
                    "the guest was ended before its program: by ^A x or at the monitor, or by a reset (a triple fault)"
                )
            }
            Self::Qemu(status) => write!(f, "QEMU failed ({status})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn ending(code: i32, console: &str) -> Ending {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), console).unwrap();
        Ending::read(ExitStatus::from_raw(code << 8), file.path())
    }

    #[test]
    fn the_programs_status_counts_only_when_the_kernel_ended_well() {
        assert_eq!(ending(65, "7\n"), Ending::Program(7));
        assert_eq!(ending(65, "139\n"), Ending::Program(139));
        assert_eq!(ending(65, ""), Ending::Silent);
        assert_eq!(ending(67, "7\n"), Ending::Panic);
        assert_eq!(ending(69, ""), Ending::Exception);
        assert_eq!(ending(0, "7\n"), Ending::Silent);
        assert!(matches!(ending(1, ""), Ending::Qemu(_)));
    }

    #[test]
    fn failures_have_codes_of_their_own() {
        let endings = [Ending::Panic, Ending::Exception, Ending::Timeout, Ending::Silent];
        let codes: std::collections::BTreeSet<u8> = endings.iter().map(Ending::code).collect();
        assert_eq!(codes.len(), endings.len());
        assert!(!codes.contains(&0));
    }
}

//! What a signal says about itself: the kernel's part of `siginfo_t`.
//!
//! The layout is the ABI's (sigaction(2); Linux `include/uapi/asm-generic/siginfo.h`): signal, errno, code, and a union
//! that begins at offset 16. Programs see 128 bytes, of which only the first 48 ever carry anything.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Signal;

/// Bytes of `siginfo_t` as programs see it.
pub const SIGINFO_SIZE: usize = 128;

/// `si_code`: sent by kill(2).
pub const SI_USER: i32 = 0;
/// `si_code`: sent by the kernel.
pub const SI_KERNEL: i32 = 0x80;
/// `si_code`: sent by tkill(2) or tgkill(2).
pub const SI_TKILL: i32 = -6;

/// `si_code` of `SIGCHLD`: the child exited.
pub const CLD_EXITED: i32 = 1;
/// The child was killed.
pub const CLD_KILLED: i32 = 2;
/// The child was killed and dumped core.
pub const CLD_DUMPED: i32 = 3;
/// The child has stopped.
pub const CLD_STOPPED: i32 = 5;
/// The stopped child goes on.
pub const CLD_CONTINUED: i32 = 6;

/// The meaningful part of a `siginfo_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SignalInfo {
    number: i32,
    error: i32,
    code: i32,
    padding: i32,
    /// The union, in words; which words mean what depends on signal and code.
    fields: [u32; 8],
}

const fn low(value: u64) -> u32 {
    value as u32
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

impl SignalInfo {
    const fn new(signal: Signal, code: i32, fields: [u32; 8]) -> Self {
        Self { number: signal.number(), error: 0, code, padding: 0, fields }
    }

    /// From the kernel, without particulars.
    pub const fn kernel(signal: Signal) -> Self {
        Self::new(signal, SI_KERNEL, [0; 8])
    }

    /// From the process `pid` of user `uid`; `code` says by which call.
    pub const fn user(signal: Signal, code: i32, pid: u32, uid: u32) -> Self {
        Self::new(signal, code, [pid, uid, 0, 0, 0, 0, 0, 0])
    }

    /// An instruction at fault at or about `address`.
    pub const fn fault(signal: Signal, code: i32, address: u64) -> Self {
        Self::new(signal, code, [low(address), high(address), 0, 0, 0, 0, 0, 0])
    }

    /// `SIGCHLD` (or the exit signal chosen at clone): what became of child `pid`. The times are in clock ticks.
    pub const fn child(
        signal: Signal,
        code: i32,
        pid: u32,
        uid: u32,
        status: i32,
        user: u64,
        system: u64,
    ) -> Self {
        let fields = [pid, uid, status as u32, 0, low(user), high(user), low(system), high(system)];
        Self::new(signal, code, fields)
    }

    /// This, with `signal` as its number: the caller of rt_sigqueueinfo(2) fills in the rest.
    pub const fn with_signal(self, signal: Signal) -> Self {
        Self { number: signal.number(), ..self }
    }

    /// The signal.
    pub const fn signal(&self) -> Signal {
        match Signal::new(self.number) {
            Ok(signal) => signal,
            // Every constructor takes a `Signal`.
            Err(_) => Signal::KILL,
        }
    }

    /// `si_code`.
    pub const fn code(&self) -> i32 {
        self.code
    }

    /// Whether a program, not the kernel, is the sender.
    pub const fn is_from_user(&self) -> bool {
        self.code <= 0
    }

    /// The bytes of a `siginfo_t`.
    pub fn to_user(self) -> [u8; SIGINFO_SIZE] {
        let mut bytes = [0; SIGINFO_SIZE];
        bytes[..size_of::<Self>()].copy_from_slice(self.as_bytes());
        bytes
    }
}

/// What the tests look at.
#[cfg(test)]
impl SignalInfo {
    /// `si_pid`.
    pub const fn pid(&self) -> u32 {
        self.fields[0]
    }

    /// `si_addr`.
    pub const fn address(&self) -> u64 {
        self.fields[0] as u64 | (self.fields[1] as u64) << 32
    }

    /// `si_status`.
    pub const fn status(&self) -> i32 {
        self.fields[2] as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_c_library_looks_for_them() {
        let bytes = SignalInfo::child(Signal::CHLD, CLD_EXITED, 7, 1000, 3, 5, 6).to_user();
        let word = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4), word(8)), (17, 0, CLD_EXITED));
        assert_eq!((word(16), word(20), word(24), word(32), word(40)), (7, 1000, 3, 5, 6));

        let bytes = SignalInfo::fault(Signal::SEGV, 1, 0x1234_5678_9abc).to_user();
        assert_eq!(u64::from_le_bytes(bytes[16..24].try_into().unwrap()), 0x1234_5678_9abc);
    }

    #[test]
    fn who_sent_it_is_told_by_the_code() {
        assert!(SignalInfo::user(Signal::TERM, SI_USER, 1, 0).is_from_user());
        assert!(SignalInfo::user(Signal::TERM, SI_TKILL, 1, 0).is_from_user());
        assert!(!SignalInfo::kernel(Signal::TERM).is_from_user());
    }
}

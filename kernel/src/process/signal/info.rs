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

/// `si_code`: sent by a timer of timer_create(2).
pub const SI_TIMER: i32 = -2;
/// `si_code`: sent for input and output (`O_ASYNC`), without particulars.
const SI_SIGIO: i32 = -5;

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

/// Bytes of `struct signalfd_siginfo`.
pub const SIGNALFD_INFO_SIZE: usize = 128;

// Where its fields lie.
const PID: usize = 12;
const FD: usize = 20;
const TID: usize = 24;
const BAND: usize = 28;
const OVERRUN: usize = 32;
const STATUS: usize = 40;
/// `ssi_int`, which `ssi_ptr` follows.
const INT: usize = 44;
/// `ssi_utime`, which `ssi_stime` follows.
const TIMES: usize = 56;
const ADDRESS: usize = 72;
const CALL: usize = 84;
const CALL_ADDRESS: usize = 88;
const ARCHITECTURE: usize = 96;

/// What the union of a `siginfo_t` holds.
#[derive(Clone, Copy)]
enum Layout {
    /// Sender.
    User,
    /// Sender and a value.
    Queued,
    /// Timer, overrun, value.
    Timer,
    /// Address.
    Fault,
    /// Child, user, status, times.
    Child,
    /// Events and descriptor.
    Poll,
    /// Address and number of a system call.
    SystemCall,
}

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

    /// Expired: the timer `id`, for which the program chose `value`.
    pub const fn timer(signal: Signal, id: i32, value: u64) -> Self {
        Self::new(signal, SI_TIMER, [id as u32, 0, low(value), high(value), 0, 0, 0, 0])
    }

    /// This, of a timer, with the number of expirations that no signal of their own was sent for.
    pub const fn with_overrun(mut self, overrun: i32) -> Self {
        self.fields[1] = overrun as u32;
        self
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

    /// What the union holds, by `siginfo_layout` of Linux's `kernel/signal.c`.
    const fn layout(&self) -> Layout {
        match self.code {
            SI_TIMER => Layout::Timer,
            SI_SIGIO => Layout::Poll,
            SI_USER | SI_KERNEL.. => Layout::User,
            ..0 => Layout::Queued,
            _ => match self.signal() {
                Signal::ILL | Signal::FPE | Signal::SEGV | Signal::BUS | Signal::TRAP => Layout::Fault,
                Signal::CHLD => Layout::Child,
                Signal::SYS => Layout::SystemCall,
                Signal::IO => Layout::Poll,
                _ => Layout::User,
            },
        }
    }

    /// The bytes of a `struct signalfd_siginfo` (signalfd(2)).
    pub fn to_signalfd(self) -> [u8; SIGNALFD_INFO_SIZE] {
        let mut bytes = [0; SIGNALFD_INFO_SIZE];
        let mut put = |at: usize, words: &[u32]| {
            for (slot, word) in bytes[at..].chunks_exact_mut(4).zip(words) {
                slot.copy_from_slice(&word.to_ne_bytes());
            }
        };
        let fields = &self.fields;
        put(0, &[self.number as u32, self.error as u32, self.code as u32]);
        match self.layout() {
            Layout::User => put(PID, &fields[..2]),
            Layout::Queued => {
                put(PID, &fields[..2]);
                put(INT, &[fields[2], fields[2], fields[3]]);
            }
            Layout::Timer => {
                put(TID, &fields[..1]);
                put(OVERRUN, &fields[1..2]);
                put(INT, &[fields[2], fields[2], fields[3]]);
            }
            Layout::Fault => put(ADDRESS, &fields[..2]),
            Layout::Child => {
                put(PID, &fields[..2]);
                put(STATUS, &fields[2..3]);
                put(TIMES, &fields[4..]);
            }
            Layout::Poll => {
                put(BAND, &fields[..1]);
                put(FD, &fields[2..3]);
            }
            Layout::SystemCall => {
                put(CALL_ADDRESS, &fields[..2]);
                put(CALL, &fields[2..3]);
                put(ARCHITECTURE, &fields[3..4]);
            }
        }
        bytes
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
    fn a_signalfd_tells_the_fields_that_the_code_says_are_there() {
        let word = |bytes: &[u8; 128], at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let words = |info: SignalInfo, places: [usize; 4]| places.map(|at| word(&info.to_signalfd(), at));
        let user = SignalInfo::user(Signal::USR1, SI_USER, 7, 1000);
        assert_eq!(words(user, [0, 8, 12, 16]), [10, 0, 7, 1000]);
        let mut queued = SignalInfo::user(Signal::USR1, -1, 7, 1000);
        queued.fields[2] = 55;
        assert_eq!(words(queued, [12, 16, 44, 48]), [7, 1000, 55, 55]);
        let timer = SignalInfo::timer(Signal::ALRM, 3, 99 << 32 | 5).with_overrun(4);
        assert_eq!(words(timer, [24, 32, 48, 52]), [3, 4, 5, 99]);
        let child = SignalInfo::child(Signal::CHLD, CLD_EXITED, 7, 1000, 3, 5, 6);
        assert_eq!(
            (words(child, [12, 40, 56, 64]), words(child, [16, 44, 48, 24])),
            ([7, 3, 5, 6], [1000, 0, 0, 0])
        );
        let fault = SignalInfo::fault(Signal::SEGV, 1, 0x1234);
        assert_eq!(words(fault, [12, 24, 72, 76]), [0, 0, 0x1234, 0]);
    }

    #[test]
    fn who_sent_it_is_told_by_the_code() {
        assert!(SignalInfo::user(Signal::TERM, SI_USER, 1, 0).is_from_user());
        assert!(SignalInfo::user(Signal::TERM, SI_TKILL, 1, 0).is_from_user());
        assert!(!SignalInfo::kernel(Signal::TERM).is_from_user());
    }
}

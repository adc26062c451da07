//! Signal numbers and sets of them, as signal(7) lists them for x86-64.

use core::fmt;

use crate::errno::Errno;

/// A signal's number, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

/// What a signal does to a process that has no handler for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// Ends the process.
    Terminate,
    /// Ends the process, whose status says that it dumped core.
    Core,
    /// Nothing.
    Ignore,
    /// Stops the process.
    Stop,
    /// Lets a stopped process go on.
    Continue,
}

macro_rules! signals {
    ($($name:ident = $number:literal),* $(,)?) => {
        #[allow(missing_docs, reason = "the names are signal(7)'s, without the prefix")]
        #[allow(dead_code, reason = "the table is the ABI's, whole, whether or not the kernel raises each signal")]
        impl Signal {
            $(pub const $name: Self = Self($number);)*
        }

        impl fmt::Debug for Signal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($number => f.write_str(concat!("SIG", stringify!($name))),)*
                    number => write!(f, "SIG{number}"),
                }
            }
        }
    };
}

signals! {
    HUP = 1, INT = 2, QUIT = 3, ILL = 4, TRAP = 5, ABRT = 6, BUS = 7, FPE = 8, KILL = 9, USR1 = 10, SEGV = 11,
    USR2 = 12, PIPE = 13, ALRM = 14, TERM = 15, STKFLT = 16, CHLD = 17, CONT = 18, STOP = 19, TSTP = 20,
    TTIN = 21, TTOU = 22, URG = 23, XCPU = 24, XFSZ = 25, VTALRM = 26, PROF = 27, WINCH = 28, IO = 29,
    PWR = 30, SYS = 31,
}

/// The first real-time signal: from here on signals queue.
const FIRST_REAL_TIME: u8 = 32;
/// The last signal.
const LAST: u8 = 64;

impl Signal {
    /// The signal of that number.
    ///
    /// # Errors
    /// `EINVAL` when there is none; 0, which only probes, is none.
    pub const fn new(number: i32) -> Result<Self, Errno> {
        if number >= 1 && number <= LAST as i32 { Ok(Self(number as u8)) } else { Err(Errno::EINVAL) }
    }

    /// Its number.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }

    /// Its place in a table of all signals.
    pub const fn index(self) -> usize {
        self.0 as usize - 1
    }

    /// Whether several instances of it queue up.
    pub const fn is_real_time(self) -> bool {
        self.0 >= FIRST_REAL_TIME
    }

    /// What it does when there is no handler.
    pub const fn default_action(self) -> DefaultAction {
        match self {
            Self::CHLD | Self::URG | Self::WINCH => DefaultAction::Ignore,
            Self::CONT => DefaultAction::Continue,
            Self::STOP | Self::TSTP | Self::TTIN | Self::TTOU => DefaultAction::Stop,
            Self::QUIT
            | Self::ILL
            | Self::TRAP
            | Self::ABRT
            | Self::BUS
            | Self::FPE
            | Self::SEGV
            | Self::XCPU
            | Self::XFSZ
            | Self::SYS => DefaultAction::Core,
            _ => DefaultAction::Terminate,
        }
    }
}

/// A set of signals: `sigset_t` of the kernel, 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SignalSet(u64);

impl SignalSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);
    /// `SIGKILL` and `SIGSTOP`, which nobody can block, catch or ignore.
    pub const UNBLOCKABLE: Self = Self::of(&[Signal::KILL, Signal::STOP]);
    /// Those that stop a process by default.
    pub const STOPS: Self = Self::of(&[Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU]);
    /// Those that the thread's own instructions cause: delivered before all others.
    pub const SYNCHRONOUS: Self =
        Self::of(&[Signal::SEGV, Signal::BUS, Signal::ILL, Signal::TRAP, Signal::FPE, Signal::SYS]);

    /// The set of `signals`.
    pub const fn of(signals: &[Signal]) -> Self {
        let (mut bits, mut index) = (0, 0);
        while index < signals.len() {
            bits |= 1 << signals[index].index();
            index += 1;
        }
        Self(bits)
    }

    /// The set whose member `n` is bit `n - 1`, as programs pass it.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The set as programs see it.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `signal` is a member.
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & 1 << signal.index() != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds `signal`.
    pub const fn insert(&mut self, signal: Signal) {
        self.0 |= 1 << signal.index();
    }

    /// Takes `signal` out.
    pub const fn remove(&mut self, signal: Signal) {
        self.0 &= !(1 << signal.index());
    }

    /// The members of either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The members of both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members that `other` lacks.
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The lowest member.
    pub const fn first(self) -> Option<Signal> {
        if self.0 == 0 { None } else { Some(Signal(self.0.trailing_zeros() as u8 + 1)) }
    }
}

impl fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = *self;
        let members = core::iter::from_fn(|| rest.first().inspect(|&signal| rest.remove(signal)));
        f.debug_set().entries(members).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_one_to_64_are_no_signals() {
        assert_eq!(Signal::new(0), Err(Errno::EINVAL));
        assert_eq!(Signal::new(65), Err(Errno::EINVAL));
        assert_eq!(Signal::new(-1), Err(Errno::EINVAL));
        assert_eq!(Signal::new(9), Ok(Signal::KILL));
        assert!(Signal::new(64).unwrap().is_real_time());
    }

    #[test]
    fn sets_number_their_members_from_bit_zero() {
        let mut set = SignalSet::of(&[Signal::HUP, Signal::SYS]);
        assert_eq!(set.bits(), 0x4000_0001);
        assert_eq!(set.first(), Some(Signal::HUP));
        set.remove(Signal::HUP);
        assert_eq!(set.first(), Some(Signal::SYS));
        set.insert(Signal::new(64).unwrap());
        assert_eq!(set.bits() >> 63, 1);
        assert_eq!(format!("{set:?}"), "{SIGSYS, SIG64}");
        assert_eq!(set.minus(set), SignalSet::EMPTY);
        assert_eq!(SignalSet::EMPTY.first(), None);
    }
}

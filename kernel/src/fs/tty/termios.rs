//! Terminal settings: termios(3), with the numbers of the kernel ABI (`asm-generic/termbits.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// `c_iflag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Input: u32 {
        /// Strip the eighth bit.
        const ISTRIP = 0o40;
        /// NL becomes CR.
        const INLCR = 0o100;
        /// CR is dropped.
        const IGNCR = 0o200;
        /// CR becomes NL.
        const ICRNL = 0o400;
        /// STOP and START hold and release the output.
        const IXON = 0o2000;
        /// Any character releases it.
        const IXANY = 0o4000;
        /// Erasing takes whole UTF-8 characters.
        const IUTF8 = 0o40_000;
        /// Others are kept for those who ask for them.
        const _ = !0;
    }

    /// `c_oflag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Output: u32 {
        /// Output is processed at all.
        const OPOST = 0o1;
        /// NL becomes CR NL.
        const ONLCR = 0o4;
        /// CR becomes NL.
        const OCRNL = 0o10;
        /// Others are kept for those who ask for them.
        const _ = !0;
    }

    /// `c_lflag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Local: u32 {
        /// INTR, QUIT and SUSP send signals.
        const ISIG = 0o1;
        /// Input comes in lines that can be edited.
        const ICANON = 0o2;
        /// Input is echoed.
        const ECHO = 0o10;
        /// ERASE takes the character off the screen.
        const ECHOE = 0o20;
        /// KILL is followed by a new line, unless `ECHOKE`.
        const ECHOK = 0o40;
        /// NL is echoed even without `ECHO`.
        const ECHONL = 0o100;
        /// Signals leave the queues alone.
        const NOFLSH = 0o200;
        /// Background output stops its group.
        const TOSTOP = 0o400;
        /// Control characters are echoed as `^X`.
        const ECHOCTL = 0o1000;
        /// KILL takes the line off the screen.
        const ECHOKE = 0o4000;
        /// WERASE, REPRINT and LNEXT work.
        const IEXTEN = 0o100_000;
        /// Others are kept for those who ask for them.
        const _ = !0;
    }
}

/// Indices of the control characters.
pub mod control {
    #![allow(missing_docs, reason = "the names are termios(3)'s")]
    pub const VINTR: usize = 0;
    pub const VQUIT: usize = 1;
    pub const VERASE: usize = 2;
    pub const VKILL: usize = 3;
    pub const VEOF: usize = 4;
    pub const VTIME: usize = 5;
    pub const VMIN: usize = 6;
    pub const VSTART: usize = 8;
    pub const VSTOP: usize = 9;
    pub const VSUSP: usize = 10;
    pub const VEOL: usize = 11;
    pub const VREPRINT: usize = 12;
    pub const VWERASE: usize = 14;
    pub const VLNEXT: usize = 15;
    pub const VEOL2: usize = 16;
}

/// `struct termios` of the kernel ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    input: u32,
    output: u32,
    /// `c_cflag`: speed and framing; kept, without effect.
    pub hardware: u32,
    local: u32,
    /// `c_line`: the line discipline's number.
    pub line: u8,
    /// `c_cc`: the control characters.
    pub control: [u8; 19],
}

/// 38,400 baud, eight bits, receiver on: what Linux's console has.
const HARDWARE: u32 = 0o17 | 0o60 | 0o200;

impl Default for Termios {
    fn default() -> Self {
        let local = Local::ISIG | Local::ICANON | Local::ECHO | Local::ECHOE | Local::ECHOK;
        let mut control = [0; 19];
        // ^C ^\ DEL ^U ^D, then time 0, minimum 1, ^Q ^S ^Z, ^R, ^O, ^W, ^V.
        control[..11].copy_from_slice(&[3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26]);
        control[12..16].copy_from_slice(&[18, 15, 23, 22]);
        Self {
            input: (Input::ICRNL | Input::IXON).bits(),
            output: (Output::OPOST | Output::ONLCR).bits(),
            hardware: HARDWARE,
            local: (local | Local::ECHOCTL | Local::ECHOKE | Local::IEXTEN).bits(),
            line: 0,
            control,
        }
    }
}

impl Termios {
    /// `c_iflag`.
    pub fn input(&self) -> Input {
        Input::from_bits_retain(self.input)
    }

    /// `c_oflag`.
    pub fn output(&self) -> Output {
        Output::from_bits_retain(self.output)
    }

    /// `c_lflag`.
    pub fn local(&self) -> Local {
        Local::from_bits_retain(self.local)
    }

    /// Turns flags of `c_lflag` off.
    pub fn without(mut self, flags: Local) -> Self {
        self.local &= !flags.bits();
        self
    }

    /// Whether `byte` is the control character at `index`; a character of 0 is switched off.
    pub fn is(&self, byte: u8, index: usize) -> bool {
        byte != 0 && self.control[index] == byte
    }
}

/// `struct winsize` (ioctl_tty(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WindowSize {
    /// Rows of characters.
    pub rows: u16,
    /// Columns of characters.
    pub columns: u16,
    /// Width in pixels, 0 where that means nothing.
    pub width: u16,
    /// Height in pixels, likewise.
    pub height: u16,
}

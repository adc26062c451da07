//! Registers (8254x 13.4) and their bits, as the manual names them. All are 32 bits wide.

/// The size of the register window (8254x 4.1): 128 KiB.
pub const WINDOW: usize = 0x2_0000;
/// The base address register of the window.
pub const BAR: u8 = 0;

/// Device control (8254x 13.4.1).
pub const CTRL: usize = 0x0000;
/// Device status (8254x 13.4.2).
pub const STATUS: usize = 0x0008;
/// EEPROM read (8254x 13.4.4).
pub const EERD: usize = 0x0014;
/// Interrupt causes; reading clears them, and deasserts the line (8254x 13.4.17).
pub const ICR: usize = 0x00c0;
/// The least time between interrupts, in units of 256 ns (8254x 13.4.18).
pub const ITR: usize = 0x00c4;
/// Interrupt mask, set (8254x 13.4.20).
pub const IMS: usize = 0x00d0;
/// Interrupt mask, clear (8254x 13.4.21).
pub const IMC: usize = 0x00d8;
/// Receive control (8254x 13.4.22).
pub const RCTL: usize = 0x0100;
/// Transmit control (8254x 13.4.33).
pub const TCTL: usize = 0x0400;
/// Gaps between frames (8254x 13.4.34).
pub const TIPG: usize = 0x0410;
/// The receive ring: base, length in bytes, head, tail (8254x 13.4.25 to 13.4.29).
pub const RDBAL: usize = 0x2800;
/// See [`RDBAL`].
pub const RDBAH: usize = 0x2804;
/// See [`RDBAL`].
pub const RDLEN: usize = 0x2808;
/// See [`RDBAL`].
pub const RDH: usize = 0x2810;
/// See [`RDBAL`].
pub const RDT: usize = 0x2818;
/// Delay of the receive interrupt (8254x 13.4.30).
pub const RDTR: usize = 0x2820;
/// The transmit ring: base, length in bytes, head, tail (8254x 13.4.36 to 13.4.40).
pub const TDBAL: usize = 0x3800;
/// See [`TDBAL`].
pub const TDBAH: usize = 0x3804;
/// See [`TDBAL`].
pub const TDLEN: usize = 0x3808;
/// See [`TDBAL`].
pub const TDH: usize = 0x3810;
/// See [`TDBAL`].
pub const TDT: usize = 0x3818;
/// Receive checksum control (8254x 13.4.47).
pub const RXCSUM: usize = 0x5000;
/// Multicast table, 128 registers (8254x 13.5.1).
pub const MTA: usize = 0x5200;
/// The number of registers of [`MTA`].
pub const MTA_COUNT: usize = 128;
/// The first address filter: low and high half (8254x 13.5.2, 13.5.3).
pub const RAL0: usize = 0x5400;
/// See [`RAL0`].
pub const RAH0: usize = 0x5404;

/// Bits of [`CTRL`].
pub mod ctrl {
    /// Holds the link in reset, where it is not copper.
    pub const LRST: u32 = 1 << 3;
    /// Detects the speed by itself.
    pub const ASDE: u32 = 1 << 5;
    /// Brings the link up.
    pub const SLU: u32 = 1 << 6;
    /// Takes the signal-loss pin for its opposite.
    pub const ILOS: u32 = 1 << 7;
    /// Resets the device, and clears itself.
    pub const RST: u32 = 1 << 26;
    /// Takes VLAN tags out of frames.
    pub const VME: u32 = 1 << 30;
    /// Holds the PHY in reset.
    pub const PHY_RST: u32 = 1 << 31;
}

/// Bits of [`STATUS`].
pub mod status {
    /// The link is up.
    pub const LU: u32 = 1 << 1;
    /// What is read when there is no device any more.
    pub const GONE: u32 = u32::MAX;
}

/// Bits of [`EERD`], as of the 82540 and 82545.
pub mod eerd {
    /// Starts a read.
    pub const START: u32 = 1 << 0;
    /// The read is done.
    pub const DONE: u32 = 1 << 4;
    /// Where the word's number is.
    pub const ADDRESS_SHIFT: u32 = 8;
    /// Where the word is.
    pub const DATA_SHIFT: u32 = 16;
}

/// Bits of [`ICR`], [`IMS`] and [`IMC`].
pub mod interrupt {
    /// A transmit descriptor was written back.
    pub const TXDW: u32 = 1 << 0;
    /// The link changed.
    pub const LSC: u32 = 1 << 2;
    /// Few receive descriptors are left.
    pub const RXDMT0: u32 = 1 << 4;
    /// No receive descriptor was left.
    pub const RXO: u32 = 1 << 6;
    /// Frames were received.
    pub const RXT0: u32 = 1 << 7;
    /// All that concerns received frames.
    pub const RECEIVE: u32 = RXDMT0 | RXO | RXT0;
}

/// Bits of [`RCTL`]. Buffers have 2048 bytes, and longer frames are not accepted, with all others zero.
pub mod rctl {
    /// Receives.
    pub const EN: u32 = 1 << 1;
    /// Accepts all multicast frames.
    pub const MPE: u32 = 1 << 4;
    /// Accepts broadcast frames.
    pub const BAM: u32 = 1 << 15;
    /// Strips the frame check sequence.
    pub const SECRC: u32 = 1 << 26;
}

/// Bits of [`TCTL`].
pub mod tctl {
    /// Transmits.
    pub const EN: u32 = 1 << 1;
    /// Pads short frames.
    pub const PSP: u32 = 1 << 3;
    /// Sixteen attempts after collisions.
    pub const CT: u32 = 0x0f << 4;
    /// The collision distance for full duplex.
    pub const COLD: u32 = 0x40 << 12;
}

/// The value of [`TIPG`] for copper: IPGT 10, IPGR1 8, IPGR2 6 (8254x 13.4.34, table 13-77).
pub const TIPG_COPPER: u32 = 10 | 8 << 10 | 6 << 20;

/// Bits of [`RXCSUM`].
pub mod rxcsum {
    /// Verifies the checksum of the IP header.
    pub const IPOFLD: u32 = 1 << 8;
    /// Verifies the checksum of TCP and UDP.
    pub const TUOFLD: u32 = 1 << 9;
}

/// Bits of [`RAH0`].
pub mod rah {
    /// The filter is valid.
    pub const AV: u32 = 1 << 31;
}

//! What a driver may touch.
//!
//! A driver in nrk knows no kernel. It is handed its hardware as a [`PciDevice`]: a handful of trait objects that the
//! kernel implements in ring 0, a user-space network stack implements in ring 3, and `fake` (a feature) implements
//! on the host. The same driver crate therefore runs in all three places.
//!
//! - [`mmio`]: a window of device registers, [`Mmio`], in memory or in I/O ports.
//! - [`dma`]: memory that the device reads and writes, [`Dma`]; [`pool`]: packet buffers cut from it, [`Buffer`],
//!   which travel up the network stack as a [`Frame`] and return to their pool when dropped.
//! - [`pci`]: one function's configuration space, [`PciConfig`]: base addresses, capabilities, MSI and MSI-X.
//! - [`irq`]: how a driver asks for an interrupt, [`Irq`].
//! - [`clock`]: time for deadlines, [`Clock`]. Nothing here waits without one.
//! - [`nic`]: what a network driver gives back, [`Nic`], and the [`Driver`](nic::Driver) entry by which it is found.
//!
//! All `unsafe` that a driver needs lives here; the driver crates deny it.

#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

pub mod clock;
pub mod dma;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod irq;
pub mod mmio;
pub mod nic;
pub mod pci;
pub mod pool;

pub use clock::Clock;
pub use dma::{BusAddress, Dma, DmaAllocator};
pub use irq::{Irq, Message};
pub use mmio::{Mmio, Window};
pub use nic::{MacAddress, Nic};
pub use pci::{PciConfig, PciDevice};
pub use pool::{Buffer, Frame, Pool};

/// The width of one access to registers or configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    One = 1,
    /// 16 bits.
    Two = 2,
    /// 32 bits.
    Four = 4,
    /// 64 bits.
    Eight = 8,
}

impl Width {
    /// The number of bytes.
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// A value of this width with every bit set: what a bus answers where no device does.
    pub const fn all_ones(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::Width;

    #[test]
    fn all_ones_fill_exactly_the_width() {
        assert_eq!(Width::One.all_ones(), 0xff);
        assert_eq!(Width::Two.all_ones(), 0xffff);
        assert_eq!(Width::Four.all_ones(), 0xffff_ffff);
        assert_eq!(Width::Eight.all_ones(), u64::MAX);
    }
}

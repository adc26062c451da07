//! One PCI function, as its driver sees it.
//!
//! [`PciConfig`] is the function's configuration space, and [`PciDevice`] the whole of what a driver is started with.
//! Finding functions on the bus, and giving addresses to those that firmware left without, is the kernel's part.
//!
//! Neighbours: [`bar`] decodes base address registers, [`capability`] walks the capability list, [`msi`] programs MSI and
//! MSI-X. Source throughout: PCI Local Bus Specification 3.0, chapter 6.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use bitflags::bitflags;

use crate::Width;
use crate::clock::Clock;
use crate::dma::DmaAllocator;
use crate::irq::Irq;
use crate::mmio::Mmio;

pub mod bar;
pub mod capability;
pub mod msi;

pub use bar::Bar;

/// The standard registers (6.1, figure 6-1).
mod register {
    pub const VENDOR: u16 = 0x00;
    pub const DEVICE: u16 = 0x02;
    pub const COMMAND: u16 = 0x04;
    pub const STATUS: u16 = 0x06;
    pub const BASE_ADDRESS: u16 = 0x10;
    pub const CAPABILITIES: u16 = 0x34;
}

bitflags! {
    /// The command register (6.2.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Command: u16 {
        /// The function answers in I/O space.
        const IO = 1 << 0;
        /// The function answers in memory space.
        const MEMORY = 1 << 1;
        /// The function may read and write memory, and send messages.
        const BUS_MASTER = 1 << 2;
        /// The function does not assert its interrupt pin.
        const NO_INTX = 1 << 10;
        /// Bits that are not ours are kept as they are.
        const _ = !0;
    }
}

/// The configuration space of one function. Offsets are bytes, aligned to the width of the access; values are
/// little-endian. Where there is no register, reads give all ones and writes have no effect.
pub trait PciConfig: Send {
    /// Reads a register; `width` is at most four bytes.
    fn read(&self, offset: u16, width: Width) -> u32;

    /// Writes a register; `width` is at most four bytes.
    fn write(&self, offset: u16, width: Width, value: u32);

    /// Reads 8 bits.
    fn read_u8(&self, offset: u16) -> u8 {
        self.read(offset, Width::One) as u8
    }

    /// Reads 16 bits.
    fn read_u16(&self, offset: u16) -> u16 {
        self.read(offset, Width::Two) as u16
    }

    /// Reads 32 bits.
    fn read_u32(&self, offset: u16) -> u32 {
        self.read(offset, Width::Four)
    }

    /// Writes 8 bits.
    fn write_u8(&self, offset: u16, value: u8) {
        self.write(offset, Width::One, value.into());
    }

    /// Writes 16 bits.
    fn write_u16(&self, offset: u16, value: u16) {
        self.write(offset, Width::Two, value.into());
    }

    /// Writes 32 bits.
    fn write_u32(&self, offset: u16, value: u32) {
        self.write(offset, Width::Four, value);
    }
}

/// Maps base address registers for the driver.
pub trait BarMapper: Send {
    /// Makes the registers of base address register `index`, decoded as `bar`, accessible.
    fn map(&self, index: u8, bar: Bar) -> Result<Arc<dyn Mmio>, PciError>;
}

/// Who made a function, and which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PciId {
    /// The vendor, as the PCI SIG numbers them.
    pub vendor: u16,
    /// The device, as the vendor numbers them.
    pub device: u16,
}

impl PciId {
    /// Reads it from the function.
    pub fn of(config: &dyn PciConfig) -> Self {
        Self { vendor: config.read_u16(register::VENDOR), device: config.read_u16(register::DEVICE) }
    }
}

/// What is wrong with a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciError {
    /// Base address register `0` does not exist, or is malformed.
    BadBar(u8),
    /// Base address register `0` has no address: nobody assigned one.
    Unassigned(u8),
    /// Base address register `0` could not be mapped.
    Unmappable(u8),
    /// A capability that the driver needs is missing, or points outside of its registers.
    BadCapability,
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadBar(index) => write!(f, "PCI base address register {index} is missing or malformed"),
            Self::Unassigned(index) => write!(f, "PCI base address register {index} has no address"),
            Self::Unmappable(index) => write!(f, "PCI base address register {index} cannot be mapped"),
            Self::BadCapability => f.write_str("a PCI capability is missing or malformed"),
        }
    }
}

/// Everything that a driver of a PCI function is given.
pub struct PciDevice {
    /// The function's configuration space.
    pub config: Box<dyn PciConfig>,
    /// Access to its registers.
    pub bars: Box<dyn BarMapper>,
    /// Memory for it, near it.
    pub dma: Arc<dyn DmaAllocator>,
    /// Interrupts from it.
    pub irq: Box<dyn Irq>,
    /// Time to wait for it.
    pub clock: Arc<dyn Clock>,
}

impl PciDevice {
    /// Decodes and maps base address register `index`.
    pub fn map_bar(&self, index: u8) -> Result<Arc<dyn Mmio>, PciError> {
        let bar = Bar::read(&*self.config, index)?.ok_or(PciError::BadBar(index))?;
        if bar.address() == 0 {
            return Err(PciError::Unassigned(index));
        }
        self.bars.map(index, bar)
    }

    /// Sets `on` and clears `off` in the command register.
    pub fn command(&self, on: Command, off: Command) {
        let old = Command::from_bits_retain(self.config.read_u16(register::COMMAND));
        self.config.write_u16(register::COMMAND, ((old - off) | on).bits());
    }

    /// Lets the function answer, and use its pin, but not reach memory: whatever state it was left in, it does no harm
    /// there before its reset.
    pub fn enable_registers(&self) {
        self.command(Command::MEMORY | Command::IO, Command::BUS_MASTER | Command::NO_INTX);
    }

    /// Lets the function reach memory, and send messages.
    pub fn enable_bus_master(&self) {
        self.command(Command::BUS_MASTER, Command::empty());
    }

    /// Cuts the function off from memory, whatever state it is in (6.2.2), and from interrupts. Its DMA memory may
    /// then be freed.
    pub fn quiesce(&self) {
        self.command(Command::NO_INTX, Command::BUS_MASTER);
        msi::disable(&*self.config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeConfig, FakePci};

    #[test]
    fn enabling_and_quiescing_touch_only_their_bits() {
        let pci = FakePci::new(PciId { vendor: 0x1af4, device: 0x1041 });
        pci.config.write_u16(register::COMMAND, 0x0140);
        let device = pci.device();
        device.enable_registers();
        assert_eq!(pci.config.read_u16(register::COMMAND), 0x0143);
        device.enable_bus_master();
        assert_eq!(pci.config.read_u16(register::COMMAND), 0x0147);
        device.quiesce();
        assert_eq!(pci.config.read_u16(register::COMMAND), 0x0543);
    }

    #[test]
    fn the_identity_is_read_from_the_function() {
        let id = PciId { vendor: 0x8086, device: 0x100e };
        assert_eq!(PciId::of(&FakeConfig::new(id)), id);
    }

    #[test]
    fn a_register_without_address_is_not_mapped() {
        let pci = FakePci::new(PciId { vendor: 1, device: 1 });
        pci.config.add_memory_bar(0, 0, 0x1000);
        assert_eq!(pci.device().map_bar(0).err(), Some(PciError::Unassigned(0)));
        assert_eq!(pci.device().map_bar(1).err(), Some(PciError::BadBar(1)));
    }
}

//! The registers, in two windows, and the commands.
//!
//! All are 32 bits wide, 8 bytes apart. The first window ("PT", pass-through) has what is used all the time, the
//! second ("VD", virtual device) has the rest, and traps to the hypervisor.

use alloc::sync::Arc;

use hw::nic::{MacAddress, StartError};
use hw::{BusAddress, Mmio, PciDevice};

/// The base address registers of the two windows.
const PT_BAR: u8 = 0;
const VD_BAR: u8 = 1;
/// The size of each.
const WINDOW: usize = 4096;

/// The first window.
pub mod pt {
    /// Interrupt mask of vector 0; one register for each vector.
    pub const IMR: usize = 0x000;
    /// The index behind the last transmit descriptor that was filled.
    pub const TXPROD: usize = 0x600;
    /// The index behind the last receive descriptor that was filled.
    pub const RXPROD: usize = 0x800;
    /// The distance of registers of the same kind.
    pub const STRIDE: usize = 8;
}

/// The second window.
pub mod vd {
    /// The revisions of the device, a bit each; the one to use is written.
    pub const VRRS: usize = 0x00;
    /// The versions of the pass-through interface, in the same way.
    pub const UVRS: usize = 0x08;
    /// The address of the shared area, low half.
    pub const DSAL: usize = 0x10;
    /// The address of the shared area, high half.
    pub const DSAH: usize = 0x18;
    /// A command; its result is read here, too.
    pub const CMD: usize = 0x20;
    /// The address of the station, first four bytes.
    pub const MACL: usize = 0x28;
    /// The address of the station, last two bytes.
    pub const MACH: usize = 0x30;
    /// Whether the line is asserted; reading deasserts it.
    pub const ICR: usize = 0x38;
    /// Writing events here clears them.
    pub const ECR: usize = 0x40;
}

/// The first revision of both interfaces, which all devices speak.
const REVISION_1: u32 = 1;

/// Commands. Those from 0xf00d0000 on have a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Command {
    /// Starts the device with what the shared area says. The result is zero on success.
    Activate = 0xcafe_0000,
    /// Stops the device.
    Quiesce = 0xcafe_0001,
    /// Resets the device.
    Reset = 0xcafe_0002,
    /// Updates the status of each queue in the shared area.
    GetQueueStatus = 0xf00d_0000,
    /// Bit 0 tells whether the link is up.
    GetLink = 0xf00d_0002,
    /// The device's own address, first four bytes.
    GetPermanentMacLow = 0xf00d_0003,
    /// The device's own address, last two bytes.
    GetPermanentMacHigh = 0xf00d_0004,
    /// How the device wants to interrupt: bits 2 and 3 are zero when it masks a vector by itself.
    GetInterruptConfiguration = 0xf00d_0008,
}

/// Both windows. Dropping them stops the device, so that its memory may be freed afterwards.
pub struct Registers {
    /// The function.
    pub device: PciDevice,
    pt: Arc<dyn Mmio>,
    vd: Arc<dyn Mmio>,
}

impl Registers {
    /// Maps the registers, resets the device and agrees on the revision.
    pub fn new(device: PciDevice) -> Result<Self, StartError> {
        device.enable_registers();
        let (pt, vd) = (device.map_bar(PT_BAR)?, device.map_bar(VD_BAR)?);
        if pt.size() < WINDOW || vd.size() < WINDOW {
            return Err(StartError::BadValue("size of a register window"));
        }
        let registers = Self { device, pt, vd };
        registers.reset();
        let revisions = (registers.vd.read_u32(vd::VRRS), registers.vd.read_u32(vd::UVRS));
        if revisions == (u32::MAX, u32::MAX) || revisions.0 & revisions.1 & REVISION_1 == 0 {
            return Err(StartError::Unsupported("a device without revision 1"));
        }
        registers.vd.write_u32(vd::VRRS, REVISION_1);
        registers.vd.write_u32(vd::UVRS, REVISION_1);
        registers.device.enable_bus_master();
        Ok(registers)
    }

    /// Gives a command, whose result, if any, comes back.
    pub fn command(&self, command: Command) -> u32 {
        self.vd.write_u32(vd::CMD, command as u32);
        self.vd.read_u32(vd::CMD)
    }

    /// The device's own address.
    pub fn permanent_mac(&self) -> MacAddress {
        let [a, b, c, d] = self.command(Command::GetPermanentMacLow).to_le_bytes();
        let [e, f, ..] = self.command(Command::GetPermanentMacHigh).to_le_bytes();
        MacAddress([a, b, c, d, e, f])
    }

    /// Sets the address for which frames are accepted, and starts the device with the shared area at `shared`.
    pub fn activate(&self, mac: MacAddress, shared: BusAddress) -> Result<(), StartError> {
        let [a, b, c, d, e, f] = mac.0;
        self.vd.write_u32(vd::MACL, u32::from_le_bytes([a, b, c, d]));
        self.vd.write_u32(vd::MACH, u32::from_le_bytes([e, f, 0, 0]));
        self.vd.write_u32(vd::DSAL, shared.0 as u32);
        self.vd.write_u32(vd::DSAH, (shared.0 >> 32) as u32);
        match self.command(Command::Activate) {
            0 => Ok(()),
            _ => Err(StartError::Unsupported("the device refuses its configuration")),
        }
    }

    /// Whether the link is up.
    pub fn link_up(&self) -> bool {
        self.command(Command::GetLink) & 1 != 0
    }

    /// Whether the device does not answer any more.
    pub fn is_gone(&self) -> bool {
        self.vd.read_u32(vd::VRRS) == u32::MAX
    }

    /// Whether the line was asserted; it no longer is.
    pub fn take_line(&self) -> bool {
        self.vd.read_u32(vd::ICR) & 1 != 0
    }

    /// Clears events.
    pub fn clear_events(&self, events: u32) {
        self.vd.write_u32(vd::ECR, events);
    }

    /// Masks or unmasks a vector.
    pub fn mask(&self, vector: u8, masked: bool) {
        self.pt.write_u32(pt::IMR + usize::from(vector) * pt::STRIDE, masked.into());
    }

    /// Tells the device up to where transmit descriptors are filled.
    pub fn transmit_filled(&self, index: usize) {
        self.pt.write_u32(pt::TXPROD, index as u32);
    }

    /// Tells the device up to where receive descriptors are filled.
    pub fn receive_filled(&self, index: usize) {
        self.pt.write_u32(pt::RXPROD, index as u32);
    }

    fn reset(&self) {
        self.vd.write_u32(vd::CMD, Command::Quiesce as u32);
        self.vd.write_u32(vd::CMD, Command::Reset as u32);
    }

    /// Stops the device for good: it neither touches memory nor interrupts any more.
    pub fn stop(&self) {
        self.reset();
        self.vd.write_u32(vd::DSAL, 0);
        self.vd.write_u32(vd::DSAH, 0);
        self.device.quiesce();
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        self.stop();
    }
}

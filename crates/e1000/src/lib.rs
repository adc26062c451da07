//! Driver for Intel's 8254x gigabit Ethernet controllers: the 82540EM, which QEMU and VirtualBox model as "e1000", and
//! its close relatives 82545EM (VMware) and 82544GC.
//!
//! Sections cited as "8254x" are those of the PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
//! Manual, Intel 317453.
//!
//! - [`registers`]: the device's registers and their bits.
//! - [`descriptor`]: the formats of the descriptors in both rings.
//! - [`receive`] and [`transmit`]: the two rings with their buffers.
//! - [`device`]: reset, addresses, interrupts; all of it as a [`Nic`].
//!
//! Whether a descriptor is done is told by the descriptor in memory, so a frame costs no register access; a batch of frames
//! costs one in each direction (the tail), and an interrupt costs three.

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

use alloc::boxed::Box;

use hw::nic::{Driver, Nic, StartError};
use hw::pci::{PciDevice, PciId};

pub mod descriptor;
pub mod device;
#[cfg(test)]
mod fake;
pub mod receive;
pub mod registers;
pub mod transmit;

pub use device::E1000;

/// The driver's entry in the kernel's list.
pub const DRIVER: Driver = Driver { name: "e1000", matches, start };

const INTEL: u16 = 0x8086;
/// 8254x 5.2: 82544GC, 82540EM and 82545EM, all with copper.
const DEVICES: [u16; 3] = [0x100c, 0x100e, 0x100f];

fn matches(id: PciId) -> bool {
    id.vendor == INTEL && DEVICES.contains(&id.device)
}

fn start(device: PciDevice) -> Result<Box<dyn Nic>, StartError> {
    Ok(Box::new(E1000::start(device)?))
}

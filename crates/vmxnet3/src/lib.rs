//! Driver for VMware's paravirtual network interface, vmxnet3, which QEMU models, too.
//!
//! There is no manual. The interface is the one that VMware published with its own drivers (`vmxnet3_defs.h` and
//! `upt1_defs.h` in Linux and FreeBSD), whose names are kept here, checked against QEMU's `hw/net/vmxnet3.c`.
//!
//! How it works: the driver lays out an area in memory, [`shared`], that describes it and its queues, tells the device
//! where that is, and activates it. There are command rings, which the driver fills, and completion rings,
//! which the device fills; both mark an entry as filled by a generation bit that flips with every round, so that no
//! index has to be exchanged ([`ring`]).
//!
//! - [`registers`]: the registers in two windows, and the commands.
//! - [`descriptor`]: the formats of the entries of the four rings.
//! - [`receive`] and [`transmit`]: the two queues with their buffers.
//! - [`interrupts`]: vectors, masks, and which is for what.
//! - [`device`]: all of it as a [`Nic`].

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
pub mod interrupts;
pub mod receive;
pub mod registers;
pub mod ring;
pub mod shared;
pub mod transmit;

pub use device::Vmxnet3;

/// The driver's entry in the kernel's list.
pub const DRIVER: Driver = Driver { name: "vmxnet3", matches, start };

const VMWARE: u16 = 0x15ad;
const VMXNET3: u16 = 0x07b0;

fn matches(id: PciId) -> bool {
    id == PciId { vendor: VMWARE, device: VMXNET3 }
}

fn start(device: PciDevice) -> Result<Box<dyn Nic>, StartError> {
    Ok(Box::new(Vmxnet3::start(device)?))
}

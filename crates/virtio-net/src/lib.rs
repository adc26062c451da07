//! Driver for the virtio network device on PCI.
//!
//! Speaks virtio 1.x, to modern devices and to transitional ones (through their modern interface). Sections cited as
//! "VIRTIO" are those of the Virtual I/O Device specification, version 1.2.
//!
//! - [`spec`]: the numbers of the specification.
//! - [`transport`]: the device as a PCI function: status, features, queue addresses, notification, interrupts.
//! - [`queue`]: the split virtqueue, which distrusts what the device writes.
//! - [`header`]: what stands before each frame.
//! - [`receive`] and [`transmit`]: the two queues with their buffers.
//! - [`device`]: all of it as a [`Nic`].
//!
//! One descriptor carries one whole frame with its header, so there are no chains. A received frame costs no register
//! access; a batch of sent frames costs one, and none when the device says that it is at work already (event index).
//!
//! One queue pair is used. A pair is a receive and a transmit queue that share nothing with another pair but the
//! transport, so that more of them need a control queue (VIRTIO 5.1.6.5.5), and no change to these types.

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

use alloc::boxed::Box;

use hw::nic::{Driver, Nic, StartError};
use hw::pci::{PciDevice, PciId};

pub mod device;
#[cfg(test)]
mod fake;
pub mod header;
pub mod queue;
pub mod receive;
pub mod spec;
pub mod transmit;
pub mod transport;

pub use device::VirtioNet;

/// The driver's entry in the kernel's list.
pub const DRIVER: Driver = Driver { name: "virtio-net", matches, start };

fn matches(id: PciId) -> bool {
    id.vendor == spec::VENDOR && matches!(id.device, spec::DEVICE_MODERN | spec::DEVICE_TRANSITIONAL)
}

fn start(device: PciDevice) -> Result<Box<dyn Nic>, StartError> {
    Ok(Box::new(VirtioNet::start(device)?))
}

//! Devices: found on the PCI bus, handed to the portable drivers of `crates/`.
//!
//! A driver is told its hardware through the traits of `crates/hw`; [`pci`] walks the bus, [`hardware`] implements the
//! traits. Which driver is used is decided by what the bus shows.

mod hardware;
mod pci;

use alloc::vec::Vec;

use hw::nic::{Driver, Nic};

use crate::arch::interrupts::Source;

/// The network drivers, in the order in which they are asked.
static NETWORK_DRIVERS: &[&Driver] = &[&virtio_net::DRIVER, &e1000::DRIVER, &vmxnet3::DRIVER];

/// A network interface that has been started, and the interrupts that it reports by.
pub struct NetworkDevice {
    /// The driver's side.
    pub nic: alloc::boxed::Box<dyn Nic>,
    /// Its interrupts.
    pub interrupts: &'static Source,
}

/// Starts every network device on the bus, in the order of their addresses. One that fails is reported and left out.
pub fn start_network() -> Vec<NetworkDevice> {
    let mut started = Vec::new();
    for address in pci::functions() {
        let id = pci::id(address);
        let Some(driver) = NETWORK_DRIVERS.iter().find(|driver| (driver.matches)(id)) else { continue };
        let Some((device, interrupts)) = hardware::device(address) else {
            log::error!("{address} ({}): too many devices", driver.name);
            continue;
        };
        match (driver.start)(device) {
            Ok(nic) => {
                log::info!("{address}: {} {}", driver.name, nic.mac());
                started.push(NetworkDevice { nic, interrupts });
            }
            Err(error) => log::error!("{address}: {} does not start: {error}", driver.name),
        }
    }
    started
}

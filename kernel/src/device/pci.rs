//! The PCI bus: which functions there are (PCI Local Bus Specification 3.0, section 6.2; bridges: PCI-to-PCI Bridge
//! Architecture Specification 1.2, section 3.2).

use alloc::vec::Vec;

use hw::PciConfig;
use hw::pci::PciId;

use crate::arch::pci::{Address, Config};

const HEADER_TYPE: u16 = 0x0e;
const SECONDARY_BUS: u16 = 0x19;
const CLASS: u16 = 0x0a;
const MULTIFUNCTION: u8 = 1 << 7;
const PCI_BRIDGE: u16 = 0x0604;
/// What a function that is not there answers.
const NOBODY: u16 = 0xffff;

/// Vendor and device of the function at `address`.
pub fn id(address: Address) -> PciId {
    PciId::of(&Config::new(address))
}

/// Every function that can be reached from bus 0, in ascending order.
pub fn functions() -> Vec<Address> {
    let (mut found, mut buses) = (Vec::new(), alloc::vec![0u8]);
    let mut next = 0;
    while let Some(&bus) = buses.get(next) {
        next += 1;
        for device in 0..32 {
            for function in functions_of(bus, device) {
                found.push(function);
                // A bridge whose bus was seen already would lead in a circle.
                if let Some(behind) = bridge(function).filter(|behind| !buses.contains(behind)) {
                    buses.push(behind);
                }
            }
        }
    }
    found.sort_unstable();
    found
}

fn functions_of(bus: u8, device: u8) -> impl Iterator<Item = Address> {
    let first = Config::new(Address { bus, device, function: 0 });
    let count = match PciId::of(&first).vendor {
        NOBODY => 0,
        _ if first.read_u8(HEADER_TYPE) & MULTIFUNCTION != 0 => 8,
        _ => 1,
    };
    let addresses = (0..count).map(move |function| Address { bus, device, function });
    addresses.filter(|&address| id(address).vendor != NOBODY)
}

/// The bus behind a bridge.
fn bridge(address: Address) -> Option<u8> {
    let config = Config::new(address);
    (config.read_u16(CLASS) == PCI_BRIDGE).then(|| config.read_u8(SECONDARY_BUS))
}

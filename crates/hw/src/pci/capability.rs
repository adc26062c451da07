//! The capability list (6.7): what a function has beyond the standard registers.
//!
//! The list is a chain of offsets that the device supplies, so the walk is bounded: a chain that loops ends.

use super::{PciConfig, register};

/// Capabilities start behind the standard registers, are aligned to four bytes, and have at least four.
const FIRST: u8 = 0x40;
const MOST: usize = (256 - FIRST as usize) / 4;
/// The bit of the status register that says that there is a list (6.2.3).
const STATUS_LIST: u16 = 1 << 4;

/// Message-signalled interrupts.
pub const MSI: u8 = 0x05;
/// What a vendor chose to describe; virtio uses it.
pub const VENDOR: u8 = 0x09;
/// Message-signalled interrupts from a table.
pub const MSI_X: u8 = 0x11;

/// One entry of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Which capability it is.
    pub id: u8,
    /// Where it starts in configuration space.
    pub offset: u16,
}

/// Walks the list.
pub fn list(config: &dyn PciConfig) -> impl Iterator<Item = Capability> + '_ {
    let has_list = config.read_u16(register::STATUS) & STATUS_LIST != 0;
    let mut next = if has_list { config.read_u8(register::CAPABILITIES) & !3 } else { 0 };
    core::iter::from_fn(move || {
        if next < FIRST {
            return None;
        }
        let offset = u16::from(next);
        next = config.read_u8(offset + 1) & !3;
        Some(Capability { id: config.read_u8(offset), offset })
    })
    .take(MOST)
}

/// The first capability of a kind.
pub fn find(config: &dyn PciConfig, id: u8) -> Option<Capability> {
    list(config).find(|capability| capability.id == id)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::fake::FakeConfig;
    use crate::pci::PciId;

    fn config() -> FakeConfig {
        FakeConfig::new(PciId { vendor: 1, device: 1 })
    }

    #[test]
    fn the_list_is_walked_in_order() {
        let config = config();
        config.add_capability(0x98, &[MSI_X, 0, 0, 0]);
        config.add_capability(0x40, &[VENDOR, 0, 0, 0]);
        let found: Vec<_> = list(&config).map(|capability| (capability.id, capability.offset)).collect();
        assert_eq!(found, [(VENDOR, 0x40), (MSI_X, 0x98)]);
        assert_eq!(find(&config, MSI), None);
    }

    #[test]
    fn without_the_status_bit_there_is_no_list() {
        let config = config();
        config.add_capability(0x40, &[MSI, 0, 0, 0]);
        config.write_u16(register::STATUS, 0);
        assert_eq!(list(&config).count(), 0);
    }

    #[test]
    fn a_list_that_loops_ends() {
        let config = config();
        config.add_capability(0x40, &[VENDOR, 0, 0, 0]);
        config.write_u8(0x41, 0x40);
        assert_eq!(list(&config).count(), MOST);
    }

    #[test]
    fn a_pointer_into_the_standard_registers_ends_the_list() {
        let config = config();
        config.add_capability(0x40, &[VENDOR, 0, 0, 0]);
        config.write_u8(0x41, 0x10);
        assert_eq!(list(&config).count(), 1);
    }
}

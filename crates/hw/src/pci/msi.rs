//! Message-signalled interrupts (6.8): instead of asserting a pin, the device writes a word to an address.
//!
//! MSI has one message in configuration space; MSI-X has a table of them in one of the device's memory windows, each
//! of which can be masked.

use super::capability::{self, Capability};
use super::{Command, PciConfig, PciDevice, PciError};
use crate::irq::Message;
use crate::mmio::{Mmio, Window};

/// Message control, at offset 2 in both (6.8.1.3, 6.8.2.3).
const CONTROL: u16 = 2;
const MSI_ENABLE: u16 = 1 << 0;
const MSI_COUNT: u16 = 7 << 4;
const MSI_WIDE: u16 = 1 << 7;

/// Has the function send `message` for all that it has to report. False when it cannot do MSI.
pub fn enable_msi(device: &PciDevice, message: Message) -> bool {
    let config = &*device.config;
    let Some(Capability { offset, .. }) = capability::find(config, capability::MSI) else { return false };
    let control = config.read_u16(offset + CONTROL);
    let data = message.data as u16;
    config.write_u32(offset + 4, message.address as u32);
    if control & MSI_WIDE != 0 {
        config.write_u32(offset + 8, (message.address >> 32) as u32);
        config.write_u16(offset + 12, data);
    } else if message.address >> 32 == 0 {
        config.write_u16(offset + 8, data);
    } else {
        return false;
    }
    config.write_u16(offset + CONTROL, control & !MSI_COUNT | MSI_ENABLE);
    device.command(Command::NO_INTX, Command::empty());
    true
}

/// MSI-X: the bits of message control, and the location of the table, at offset 4 (6.8.2.4).
const MSIX_SIZE: u16 = 0x7ff;
const MSIX_MASK_ALL: u16 = 1 << 14;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_TABLE: u16 = 4;
/// An entry (6.8.2.6 to 6.8.2.9): address, upper address, data, control.
const ENTRY_SIZE: usize = 16;
const ENTRY_DATA: usize = 8;
const ENTRY_CONTROL: usize = 12;
const ENTRY_MASKED: u32 = 1;

/// The MSI-X table of a function. All of its entries are masked until they are set.
pub struct MsixTable {
    table: Window,
    capability: u16,
    entries: u16,
}

impl MsixTable {
    /// Finds and maps the table, and masks it. `None` when the function has none.
    pub fn new(device: &PciDevice) -> Result<Option<Self>, PciError> {
        let config = &*device.config;
        let Some(Capability { offset, .. }) = capability::find(config, capability::MSI_X) else {
            return Ok(None);
        };
        let entries = (config.read_u16(offset + CONTROL) & MSIX_SIZE) + 1;
        let location = config.read_u32(offset + MSIX_TABLE);
        let registers = device.map_bar(location as u8 & 7)?;
        let table = Window::new(registers, (location & !7) as usize, usize::from(entries) * ENTRY_SIZE)
            .ok_or(PciError::BadCapability)?;
        let table = Self { table, capability: offset, entries };
        (0..entries).for_each(|entry| table.mask(entry));
        Ok(Some(table))
    }

    /// The number of entries.
    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Has the device send `message` for what it reports under `entry`. An entry that does not exist is ignored.
    pub fn set(&self, entry: u16, message: Message) {
        let base = usize::from(entry) * ENTRY_SIZE;
        self.mask(entry);
        self.table.write_u32(base, message.address as u32);
        self.table.write_u32(base + 4, (message.address >> 32) as u32);
        self.table.write_u32(base + ENTRY_DATA, message.data);
        self.table.write_u32(base + ENTRY_CONTROL, 0);
    }

    /// Keeps the device from sending the message of `entry`.
    pub fn mask(&self, entry: u16) {
        self.table.write_u32(usize::from(entry) * ENTRY_SIZE + ENTRY_CONTROL, ENTRY_MASKED);
    }

    /// Turns MSI-X on, and the pin off.
    pub fn enable(&self, device: &PciDevice) {
        let control = device.config.read_u16(self.capability + CONTROL);
        device.config.write_u16(self.capability + CONTROL, control & !MSIX_MASK_ALL | MSIX_ENABLE);
        device.command(Command::NO_INTX, Command::empty());
    }
}

/// Turns both kinds off.
pub fn disable(config: &dyn PciConfig) {
    for (id, enable) in [(capability::MSI, MSI_ENABLE), (capability::MSI_X, MSIX_ENABLE)] {
        if let Some(Capability { offset, .. }) = capability::find(config, id) {
            let control = config.read_u16(offset + CONTROL);
            config.write_u16(offset + CONTROL, control & !enable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakePci;
    use crate::pci::PciId;

    const MESSAGE: Message = Message { address: 0x1_fee0_1000, data: 0x41 };

    fn pci() -> FakePci {
        FakePci::new(PciId { vendor: 1, device: 1 })
    }

    #[test]
    fn a_64_bit_msi_gets_the_whole_address() {
        let pci = pci();
        pci.config.add_capability(0x50, &[capability::MSI, 0, 0x86, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(enable_msi(&pci.device(), MESSAGE));
        assert_eq!(pci.config.read_u32(0x54), 0xfee0_1000);
        assert_eq!(pci.config.read_u32(0x58), 1);
        assert_eq!(pci.config.read_u16(0x5c), 0x41);
        assert_eq!(pci.config.read_u16(0x52), 0x87);
        assert_eq!(pci.config.read_u16(4) & 0x400, 0x400);
        disable(&pci.config);
        assert_eq!(pci.config.read_u16(0x52), 0x86);
    }

    #[test]
    fn a_32_bit_msi_cannot_reach_a_64_bit_address() {
        let pci = pci();
        pci.config.add_capability(0x50, &[capability::MSI, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(!enable_msi(&pci.device(), MESSAGE));
        assert!(enable_msi(&pci.device(), Message { address: 0xfee0_0000, data: 7 }));
        assert_eq!(pci.config.read_u16(0x58), 7);
    }

    #[test]
    fn without_the_capability_there_is_no_msi() {
        assert!(!enable_msi(&pci().device(), MESSAGE));
        assert!(MsixTable::new(&pci().device()).unwrap().is_none());
    }

    #[test]
    fn table_entries_are_masked_until_set() {
        let pci = pci();
        pci.config.add_memory_bar(1, 0xfe00_0000, 0x1000);
        pci.config.add_capability(0x60, &[capability::MSI_X, 0, 2, 0, 0x01, 0x08, 0, 0, 0, 0, 0, 0]);
        let device = pci.device();
        let table = MsixTable::new(&device).unwrap().unwrap();
        assert_eq!(table.entries(), 3);
        table.set(1, MESSAGE);
        table.enable(&device);
        let registers = device.map_bar(1).unwrap();
        assert_eq!(registers.read_u32(0x80c), 1);
        assert_eq!(registers.read_u32(0x81c), 0);
        assert_eq!((registers.read_u32(0x810), registers.read_u32(0x814)), (0xfee0_1000, 1));
        assert_eq!(registers.read_u32(0x818), 0x41);
        assert_eq!(pci.config.read_u16(0x62), 0x8002);
        disable(&pci.config);
        assert_eq!(pci.config.read_u16(0x62), 2);
    }

    #[test]
    fn a_table_outside_of_its_window_is_an_error() {
        let pci = pci();
        pci.config.add_memory_bar(1, 0xfe00_0000, 0x1000);
        pci.config.add_capability(0x60, &[capability::MSI_X, 0, 0xff, 7, 0x01, 0x08, 0, 0, 0, 0, 0, 0]);
        assert_eq!(MsixTable::new(&pci.device()).err(), Some(PciError::BadCapability));
        pci.config.write_u32(0x64, 0x0000_0807);
        assert_eq!(MsixTable::new(&pci.device()).err(), Some(PciError::BadBar(7)));
    }
}

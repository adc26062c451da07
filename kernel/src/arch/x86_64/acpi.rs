//! ACPI: the static tables that say which cores, memory nodes, timers and interrupt controllers there are.
//!
//! Read once at boot into [`Tables`], without allocation (ACPI specification 6.5, section 5.2). A table that is missing, cut short
//! or has a wrong checksum is left out; the kernel then does without what it describes. No AML is interpreted.

use crate::arch::MAX_CORES;
use crate::memory::PhysAddr;

/// A core, as the MADT lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// Identifier of its local APIC.
    pub apic_id: u32,
    /// Its NUMA node (SRAT), 0 where that is not said.
    pub node: u32,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its registers.
    pub address: PhysAddr,
    /// The global system interrupt of its first input.
    pub first_interrupt: u32,
}

/// A legacy interrupt that is wired differently from its number (MADT, interrupt source override).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// The legacy line.
    pub isa: u8,
    /// The global system interrupt it arrives at.
    pub interrupt: u32,
    /// Polarity and trigger mode, as the MADT encodes them (MPS INTI flags).
    pub flags: u16,
}

/// Memory of a NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeMemory {
    /// First byte.
    pub start: PhysAddr,
    /// Bytes.
    pub len: usize,
    /// The node (proximity domain).
    pub node: u32,
}

/// What the tables say.
#[derive(Default, Debug)]
pub struct Tables {
    /// Cores that can run.
    pub cores: heapless::Vec<Core, MAX_CORES>,
    /// Memory by node; empty on a machine without nodes.
    pub memory: heapless::Vec<NodeMemory, 32>,
    /// Interrupt controllers.
    pub io_apics: heapless::Vec<IoApic, 8>,
    /// Rewired legacy interrupts.
    pub overrides: heapless::Vec<Override, 16>,
    /// Registers of the HPET.
    pub hpet: Option<PhysAddr>,
    /// PCI configuration space, memory-mapped: address of bus 0 of segment 0, and its last bus.
    pub pci_config: Option<(PhysAddr, u8)>,
    /// Number of tables that were found.
    pub count: usize,
}

/// Physical memory as the parser sees it: `len` bytes at an address, if they can be read.
pub trait PhysicalMemory {
    /// The bytes.
    fn bytes(&self, at: PhysAddr, len: usize) -> Option<&[u8]>;
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}

fn checksum_is_right(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// Length of the header that every table begins with.
const HEADER: usize = 36;
/// No table that we read is longer.
const MAX_TABLE: usize = 1 << 20;

impl Tables {
    /// Reads the tables that the root pointer (RSDP) at `rsdp` leads to.
    pub fn read(memory: &dyn PhysicalMemory, rsdp: PhysAddr) -> Self {
        let mut tables = Self::default();
        let Some((root, entry_size)) = root_table(memory, rsdp) else {
            log::warn!("acpi: no root table at {rsdp:?}");
            return tables;
        };
        for entry in root[HEADER..].chunks_exact(entry_size) {
            let address = if entry_size == 8 { u64_at(entry, 0) } else { u32_at(entry, 0).map(u64::from) };
            if let Some(table) = address.and_then(|address| table(memory, PhysAddr::new(address))) {
                tables.count += 1;
                tables.read_table(table);
            }
        }
        tables
    }

    fn read_table(&mut self, table: &[u8]) {
        match &table[..4] {
            b"APIC" => self.read_madt(table),
            b"SRAT" => self.read_srat(table),
            b"HPET" => self.hpet = u64_at(table, 44).map(PhysAddr::new),
            b"MCFG" => self.read_mcfg(table),
            _ => {}
        }
    }

    /// Lists longer than we keep lose their ends, here and below: fewer cores or controllers, nothing worse.
    fn read_madt(&mut self, table: &[u8]) {
        for entry in entries(table, 44) {
            // Bit 0 of the flags: enabled; bit 1: can be brought online, which nrk does not do.
            let core = match entry[0] {
                0 => u32_at(entry, 4).filter(|flags| flags & 1 != 0).map(|_| u32::from(entry[3])),
                9 => u32_at(entry, 8).filter(|flags| flags & 1 != 0).and_then(|_| u32_at(entry, 4)),
                _ => None,
            };
            if let Some(apic_id) = core {
                let _ = self.cores.push(Core { apic_id, node: 0 });
            }
            if let (1, Some(address), Some(first_interrupt)) = (entry[0], u32_at(entry, 4), u32_at(entry, 8))
            {
                let address = PhysAddr::new(u64::from(address));
                let _ = self.io_apics.push(IoApic { address, first_interrupt });
            }
            if let (2, Some(interrupt), Some(flags)) = (entry[0], u32_at(entry, 4), u16_at(entry, 8)) {
                let _ = self.overrides.push(Override { isa: entry[3], interrupt, flags });
            }
        }
    }

    fn read_srat(&mut self, table: &[u8]) {
        for entry in entries(table, 48) {
            match entry[0] {
                0 if u32_at(entry, 4).is_some_and(|flags| flags & 1 != 0) && entry.len() >= 16 => {
                    let node = u32::from_le_bytes([entry[2], entry[9], entry[10], entry[11]]);
                    self.set_node(u32::from(entry[3]), node);
                }
                1 if u32_at(entry, 28).is_some_and(|flags| flags & 1 != 0) => {
                    if let (Some(node), Some(start), Some(len)) =
                        (u32_at(entry, 2), u64_at(entry, 8), u64_at(entry, 16))
                    {
                        let _ = self.memory.push(NodeMemory {
                            start: PhysAddr::new(start),
                            len: len as usize,
                            node,
                        });
                    }
                }
                2 if u32_at(entry, 12).is_some_and(|flags| flags & 1 != 0) => {
                    if let (Some(node), Some(apic_id)) = (u32_at(entry, 4), u32_at(entry, 8)) {
                        self.set_node(apic_id, node);
                    }
                }
                _ => {}
            }
        }
    }

    /// The SRAT may precede the MADT, so a core it names is made if it is not there yet... it always follows in practice, and a
    /// core that only the SRAT knows cannot run.
    fn set_node(&mut self, apic_id: u32, node: u32) {
        if let Some(core) = self.cores.iter_mut().find(|core| core.apic_id == apic_id) {
            core.node = node;
        }
    }

    fn read_mcfg(&mut self, table: &[u8]) {
        let segment_0 =
            table.get(44..).unwrap_or(&[]).chunks_exact(16).find(|entry| u16_at(entry, 8) == Some(0));
        if let Some(entry) = segment_0 {
            // Only a window that begins at bus 0 is of use.
            self.pci_config =
                u64_at(entry, 0).filter(|_| entry[10] == 0).map(|a| (PhysAddr::new(a), entry[11]));
        }
    }
}

/// The entries of a table that is a list of (type, length, ...) from `start` on; a malformed length ends it.
fn entries(table: &[u8], start: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = table.get(start..).unwrap_or(&[]);
    core::iter::from_fn(move || {
        let len = usize::from(*rest.get(1)?);
        // The shortest entry that anyone reads by index has four bytes.
        let (entry, after) = rest.split_at_checked(len).filter(|_| len >= 4)?;
        rest = after;
        Some(entry)
    })
}

/// The XSDT, or the RSDT of an ACPI 1.0 machine, with the size of its entries.
fn root_table(memory: &dyn PhysicalMemory, rsdp: PhysAddr) -> Option<(&[u8], usize)> {
    let first = memory.bytes(rsdp, 20)?;
    if &first[..8] != b"RSD PTR " || !checksum_is_right(first) {
        return None;
    }
    if first[15] >= 2 {
        let xsdt = u64_at(memory.bytes(rsdp, 36)?, 24)?;
        if let Some(table) = table(memory, PhysAddr::new(xsdt)).filter(|_| xsdt != 0) {
            return Some((table, 8));
        }
    }
    Some((table(memory, PhysAddr::new(u64::from(u32_at(first, 16)?)))?, 4))
}

/// The table at `at`, whole, if its length and checksum are right.
fn table(memory: &dyn PhysicalMemory, at: PhysAddr) -> Option<&[u8]> {
    let len = u32_at(memory.bytes(at, HEADER)?, 4)? as usize;
    if !(HEADER..=MAX_TABLE).contains(&len) {
        return None;
    }
    memory.bytes(at, len).filter(|bytes| checksum_is_right(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A machine whose memory begins at 0x1000 with what is given.
    struct Memory(Vec<u8>);

    impl PhysicalMemory for Memory {
        fn bytes(&self, at: PhysAddr, len: usize) -> Option<&[u8]> {
            let start = at.as_usize().checked_sub(0x1000)?;
            self.0.get(start..start.checked_add(len)?)
        }
    }

    fn seal(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        bytes[at] = bytes.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b));
    }

    fn make_table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut table = vec![0; HEADER];
        table[..4].copy_from_slice(signature);
        table.extend_from_slice(body);
        let len = table.len() as u32;
        table[4..8].copy_from_slice(&len.to_le_bytes());
        seal(&mut table, 9);
        table
    }

    fn machine(tables: &[Vec<u8>]) -> Memory {
        let mut memory = vec![0; 64];
        let mut addresses = Vec::new();
        for table in tables {
            addresses.extend_from_slice(&(0x1000 + memory.len() as u64).to_le_bytes());
            memory.extend_from_slice(table);
        }
        let xsdt = 0x1000 + memory.len() as u64;
        memory.extend(make_table(b"XSDT", &addresses));
        memory[..8].copy_from_slice(b"RSD PTR ");
        memory[15] = 2;
        memory[24..32].copy_from_slice(&xsdt.to_le_bytes());
        seal(&mut memory[..20], 8);
        Memory(memory)
    }

    fn madt() -> Vec<u8> {
        let mut body = vec![0; 8];
        body.extend([0, 8, 0, 0, 1, 0, 0, 0]);
        body.extend([0, 8, 1, 2, 1, 0, 0, 0]);
        body.extend([0, 8, 2, 3, 0, 0, 0, 0]);
        body.extend([1, 12, 0, 0, 0x00, 0x00, 0xc0, 0xfe, 0, 0, 0, 0]);
        body.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
        make_table(b"APIC", &body)
    }

    fn srat() -> Vec<u8> {
        let mut body = vec![0; 12];
        body.extend([0, 16, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut memory = [0u8; 40];
        memory[..2].copy_from_slice(&[1, 40]);
        memory[2] = 1;
        memory[8..16].copy_from_slice(&0x4000_0000_u64.to_le_bytes());
        memory[16..24].copy_from_slice(&0x1000_u64.to_le_bytes());
        memory[28] = 1;
        body.extend(memory);
        make_table(b"SRAT", &body)
    }

    #[test]
    fn cores_nodes_and_controllers_are_found() {
        let tables = Tables::read(&machine(&[madt(), srat()]), PhysAddr::new(0x1000));
        let cores = [Core { apic_id: 0, node: 0 }, Core { apic_id: 2, node: 1 }];
        assert_eq!(tables.cores[..], cores);
        assert_eq!(tables.io_apics[0].address, PhysAddr::new(0xfec0_0000));
        assert_eq!(tables.overrides[0], Override { isa: 0, interrupt: 2, flags: 0 });
        assert_eq!(tables.memory[0].node, 1);
        assert_eq!(tables.count, 2);
    }

    #[test]
    fn a_table_with_a_wrong_checksum_is_left_out() {
        let mut bad = madt();
        bad[40] ^= 1;
        let tables = Tables::read(&machine(&[bad]), PhysAddr::new(0x1000));
        assert_eq!((tables.count, tables.cores.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn damaged_tables_never_panic(at in 36usize..300, with: u8, cut in 0usize..400) {
            let mut damaged = madt();
            let len = damaged.len();
            damaged[at % len] = with;
            seal(&mut damaged, 9);
            let mut memory = machine(&[damaged, srat()]);
            Tables::read(&memory, PhysAddr::new(0x1000));
            memory.0.truncate(cut);
            Tables::read(&memory, PhysAddr::new(0x1000));
        }
    }
}

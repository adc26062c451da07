//! From the first instruction to Rust code at its final address.
//!
//! [`pvh`] is the entry that QEMU, Cloud Hypervisor and Firecracker jump to; it ends in
//! [`start`](super::start()) with a [`BootInfo`], which is all that the rest of the kernel sees of the boot protocol.

mod image;
mod pvh;
mod tables;

pub use tables::{map_mmio, root, take_over};

use crate::memory::PhysAddr;

/// What a range of physical memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Free for use.
    Usable,
    /// ACPI tables: readable, not free.
    Acpi,
    /// Anything else.
    Reserved,
}

/// A range of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte.
    pub start: PhysAddr,
    /// Bytes.
    pub len: usize,
    /// What it is.
    pub kind: MemoryKind,
}

impl MemoryRange {
    /// One past the last byte.
    pub fn end(&self) -> PhysAddr {
        self.start + self.len
    }
}

/// Most ranges that are kept of the firmware's memory map.
pub const MAX_RANGES: usize = 64;

/// What the boot loader hands over.
pub struct BootInfo {
    /// The memory map, as the firmware gives it.
    pub memory: heapless::Vec<MemoryRange, MAX_RANGES>,
    /// The kernel command line.
    pub command_line: &'static [u8],
    /// The initramfs: where it lies in physical memory.
    pub initramfs: Option<MemoryRange>,
    /// The ACPI root pointer (RSDP), if the loader gives it.
    pub rsdp: Option<PhysAddr>,
}

//! The kernel image: its sections, and where it lies in physical memory.

use crate::arch::x86_64::layout::KERNEL_BASE;
use crate::memory::{PhysAddr, VirtAddr};

unsafe extern "C" {
    static __image_start: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static __image_end: u8;
}

/// A part of the image with permissions of its own.
pub struct Section {
    /// First byte.
    pub start: VirtAddr,
    /// One past the last.
    pub end: VirtAddr,
    /// Whether the kernel writes to it.
    pub writable: bool,
    /// Whether the kernel runs it.
    pub executable: bool,
}

fn address(symbol: *const u8) -> VirtAddr {
    VirtAddr::new(symbol as u64)
}

/// The image's parts: text, read-only data, data with bss and stacks.
pub fn sections() -> [Section; 3] {
    let section = |start, end, writable, executable| Section {
        start: address(start),
        end: address(end),
        writable,
        executable,
    };
    [
        section(&raw const __text_start, &raw const __text_end, false, true),
        section(&raw const __rodata_start, &raw const __rodata_end, false, false),
        section(&raw const __data_start, &raw const __data_end, true, false),
    ]
}

/// The physical memory that the image occupies: first byte and length.
pub fn extent() -> (PhysAddr, usize) {
    let (start, end) = (address(&raw const __image_start), address(&raw const __image_end));
    (to_phys(start), end - start)
}

/// The physical address of an address in the image.
pub fn to_phys(address: VirtAddr) -> PhysAddr {
    PhysAddr::new(address.as_u64() - KERNEL_BASE)
}

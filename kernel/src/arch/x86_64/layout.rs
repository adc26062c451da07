//! Where things lie in the kernel's half of the address space.

/// All physical memory, in order: physical address `p` is at `DIRECT_MAP + p`.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Device registers, uncached: physical address `p` is at `MMIO_MAP + p`, once mapped.
pub const MMIO_MAP: u64 = 0xffff_c000_0000_0000;
/// The kernel image: physical address `p` of the image is at `KERNEL_BASE + p`.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

//! Windows of device registers.
//!
//! [`Mmio`] is what a driver sees. [`MmioRegion`] maps it to memory, [`PortRegion`] to x86 I/O ports, and a test's fake
//! device to its own code. [`Window`] cuts a part out of a region, for devices (virtio) that say in a capability where
//! in a base address register their structures lie.
//!
//! An access that is outside of its window, or not aligned to its own width, behaves as on a bus where nobody answers:
//! reads give all ones, writes vanish. Offsets may thus come from the device itself without harm.

use alloc::sync::Arc;
use core::ptr::NonNull;

use crate::Width;

/// A bounds-checked window of device registers. Offsets are bytes from its start; values are little-endian.
pub trait Mmio: Send + Sync {
    /// The size of the window in bytes.
    fn size(&self) -> usize;

    /// Reads one register; all ones where there is none.
    fn read(&self, offset: usize, width: Width) -> u64;

    /// Writes one register; without effect where there is none.
    fn write(&self, offset: usize, width: Width, value: u64);

    /// Reads 8 bits.
    fn read_u8(&self, offset: usize) -> u8 {
        self.read(offset, Width::One) as u8
    }

    /// Reads 16 bits.
    fn read_u16(&self, offset: usize) -> u16 {
        self.read(offset, Width::Two) as u16
    }

    /// Reads 32 bits.
    fn read_u32(&self, offset: usize) -> u32 {
        self.read(offset, Width::Four) as u32
    }

    /// Reads 64 bits in one access. Few devices allow it; see their manual.
    fn read_u64(&self, offset: usize) -> u64 {
        self.read(offset, Width::Eight)
    }

    /// Writes 8 bits.
    fn write_u8(&self, offset: usize, value: u8) {
        self.write(offset, Width::One, value.into());
    }

    /// Writes 16 bits.
    fn write_u16(&self, offset: usize, value: u16) {
        self.write(offset, Width::Two, value.into());
    }

    /// Writes 32 bits.
    fn write_u32(&self, offset: usize, value: u32) {
        self.write(offset, Width::Four, value.into());
    }

    /// Writes 64 bits in one access. Few devices allow it; see their manual.
    fn write_u64(&self, offset: usize, value: u64) {
        self.write(offset, Width::Eight, value);
    }
}

/// Whether an access lies inside `size` bytes and is aligned to its width.
fn is_inside(size: usize, offset: usize, width: Width) -> bool {
    let bytes = width.bytes();
    offset.is_multiple_of(bytes) && offset.checked_add(bytes).is_some_and(|end| end <= size)
}

/// Registers mapped into memory.
#[derive(Debug)]
pub struct MmioRegion {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: the region is device memory that any core may access; each access is one volatile instruction.
unsafe impl Send for MmioRegion {}
// SAFETY: as for Send; what an interleaving of accesses means is up to the device, not to Rust's memory.
unsafe impl Sync for MmioRegion {}

impl MmioRegion {
    /// Describes registers at `base`, which must be aligned to 8 bytes.
    ///
    /// # Safety
    /// `base..base + size` is mapped, uncached, as long as the value lives, and holds device registers only: no Rust
    /// object lies there.
    pub unsafe fn new(base: NonNull<u8>, size: usize) -> Self {
        assert!(base.as_ptr().addr().is_multiple_of(8), "registers start at a multiple of 8 bytes");
        Self { base, size }
    }
}

impl Mmio for MmioRegion {
    fn size(&self) -> usize {
        self.size
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        if !is_inside(self.size, offset, width) {
            return width.all_ones();
        }
        // SAFETY: inside of the region and aligned, both just checked; the region is mapped (see `new`).
        unsafe {
            let register = self.base.as_ptr().add(offset);
            match width {
                Width::One => register.read_volatile().into(),
                Width::Two => register.cast::<u16>().read_volatile().into(),
                Width::Four => register.cast::<u32>().read_volatile().into(),
                Width::Eight => register.cast::<u64>().read_volatile(),
            }
        }
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        if !is_inside(self.size, offset, width) {
            return;
        }
        // SAFETY: inside of the region and aligned, both just checked; the region is mapped (see `new`).
        unsafe {
            let register = self.base.as_ptr().add(offset);
            match width {
                Width::One => register.write_volatile(value as u8),
                Width::Two => register.cast::<u16>().write_volatile(value as u16),
                Width::Four => register.cast::<u32>().write_volatile(value as u32),
                Width::Eight => register.cast::<u64>().write_volatile(value),
            }
        }
    }
}

/// Registers in x86 I/O ports. There are no 64-bit port accesses: such reads give all ones.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
pub struct PortRegion {
    base: u16,
    size: u16,
}

#[cfg(target_arch = "x86_64")]
impl PortRegion {
    /// Describes the ports `base..base + size`, cut at the last port there is.
    ///
    /// # Safety
    /// The ports belong to one device, whose registers cannot break memory safety, and the processor may use them
    /// (ring 0, or an I/O permission map).
    pub unsafe fn new(base: u16, size: u16) -> Self {
        Self { base, size: size.min((0x1_0000 - u32::from(base)).min(0xffff) as u16) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Mmio for PortRegion {
    fn size(&self) -> usize {
        self.size.into()
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        use core::arch::asm;
        if !is_inside(self.size(), offset, width) {
            return width.all_ones();
        }
        let port = self.base + offset as u16;
        // SAFETY: the port is one of ours, just checked; see `new`.
        unsafe {
            match width {
                Width::One => {
                    let value: u8;
                    asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
                    value.into()
                }
                Width::Two => {
                    let value: u16;
                    asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags));
                    value.into()
                }
                Width::Four => {
                    let value: u32;
                    asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags));
                    value.into()
                }
                Width::Eight => width.all_ones(),
            }
        }
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        use core::arch::asm;
        if !is_inside(self.size(), offset, width) {
            return;
        }
        let port = self.base + offset as u16;
        // SAFETY: the port is one of ours, just checked; see `new`. Not `nomem`: a write may start a DMA transfer, so
        // stores before it must not be moved behind it.
        unsafe {
            match width {
                Width::One => {
                    asm!("out dx, al", in("dx") port, in("al") value as u8, options(nostack, preserves_flags))
                }
                Width::Two => {
                    asm!("out dx, ax", in("dx") port, in("ax") value as u16, options(nostack, preserves_flags));
                }
                Width::Four => {
                    asm!("out dx, eax", in("dx") port, in("eax") value as u32, options(nostack, preserves_flags));
                }
                Width::Eight => {}
            }
        }
    }
}

/// A part of a region.
#[derive(Clone)]
pub struct Window {
    region: Arc<dyn Mmio>,
    start: usize,
    size: usize,
}

impl Window {
    /// Cuts `size` bytes at `start` out of a region; `None` when they do not lie inside.
    pub fn new(region: Arc<dyn Mmio>, start: usize, size: usize) -> Option<Self> {
        let end = start.checked_add(size)?;
        (end <= region.size()).then_some(Self { region, start, size })
    }
}

impl Mmio for Window {
    fn size(&self) -> usize {
        self.size
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        if !is_inside(self.size, offset, width) {
            return width.all_ones();
        }
        self.region.read(self.start + offset, width)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        if is_inside(self.size, offset, width) {
            self.region.write(self.start + offset, width, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;

    use super::*;

    /// A region over leaked memory, which is as good as registers.
    fn region(words: usize) -> MmioRegion {
        let memory = Box::leak(alloc::vec![0u64; words].into_boxed_slice());
        // SAFETY: leaked, so mapped for ever and owned by nobody else.
        unsafe { MmioRegion::new(NonNull::from(memory).cast(), words * 8) }
    }

    #[test]
    fn each_width_reads_what_was_written() {
        let region = region(2);
        region.write_u64(0, 0x8877_6655_4433_2211);
        assert_eq!(region.read_u8(3), 0x44);
        assert_eq!(region.read_u16(2), 0x4433);
        assert_eq!(region.read_u32(4), 0x8877_6655);
        region.write_u8(0, 0xaa);
        region.write_u16(2, 0xbbbb);
        region.write_u32(4, 0xcccc_cccc);
        assert_eq!(region.read_u64(0), 0xcccc_cccc_bbbb_22aa);
    }

    #[test]
    fn outside_of_the_region_reads_are_all_ones_and_writes_vanish() {
        let region = region(1);
        for offset in [5, 6, 8, usize::MAX - 1, usize::MAX] {
            region.write_u32(offset, 7);
            assert_eq!(region.read_u32(offset), u32::MAX, "offset {offset}");
        }
        assert_eq!(region.read_u64(0), 0);
    }

    #[test]
    fn misaligned_accesses_reach_nothing() {
        let region = region(2);
        region.write_u32(2, 7);
        assert_eq!(region.read_u64(0), 0);
        assert_eq!(region.read_u16(1), u16::MAX);
    }

    #[test]
    fn a_window_is_confined_to_its_part() {
        let region: Arc<dyn Mmio> = Arc::new(region(4));
        let window = Window::new(region.clone(), 8, 8).unwrap();
        window.write_u32(4, 5);
        window.write_u32(8, 6);
        assert_eq!((region.read_u32(12), region.read_u32(16)), (5, 0));
        assert_eq!(window.read_u32(8), u32::MAX);
        assert!(Window::new(region.clone(), 24, 16).is_none());
        assert!(Window::new(region, usize::MAX, 2).is_none());
    }
}

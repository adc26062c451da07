//! Memory that a device reads and writes.
//!
//! A [`DmaAllocator`] gives [`Dma`]: page-aligned, physically contiguous, zeroed, with the address by which the device
//! knows it. It returns to where it came from when dropped; a driver therefore stops its device first.
//!
//! Rings, which both sides use at the same time, are accessed with [`Dma::read`] and [`Dma::write`]: one volatile access
//! each, ordered by `core::sync::atomic::fence`. Payload, which one side owns at a time, is accessed as a slice. A device
//! that writes to payload after it gave it back is outside of what a language can promise (an IOMMU is the
//! remedy); drivers copy and check each length and index once before they rely on it.

use alloc::sync::Arc;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

/// The size and alignment to which allocations are rounded, in bytes.
pub const PAGE_SIZE: usize = 4096;

/// An address as a device uses it on its bus. Equal to the physical address only where no IOMMU is in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusAddress(pub u64);

impl BusAddress {
    /// The address `bytes` further on.
    pub const fn add(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes as u64))
    }
}

/// There is no contiguous memory of the wanted size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// Where DMA memory comes from. One that serves a certain device takes it from that device's NUMA node.
pub trait DmaAllocator: Send + Sync {
    /// Gives at least `length` bytes: zeroed, contiguous on the bus, aligned to [`PAGE_SIZE`].
    fn allocate(&self, length: usize) -> Result<Dma, NoMemory>;
}

/// Where DMA memory goes when it is dropped.
pub trait DmaRelease: Send + Sync {
    /// Takes back what was passed to [`Dma::from_raw_parts`].
    fn release(&self, memory: NonNull<u8>, bus: BusAddress, length: usize);
}

mod sealed {
    pub trait Sealed {}
}

/// An integer that rings are made of; in memory it is little-endian.
pub trait Word: sealed::Sealed + Copy {
    #[doc(hidden)]
    fn little_endian_to_native(self) -> Self;
    #[doc(hidden)]
    fn native_to_little_endian(self) -> Self;
}

macro_rules! word {
    ($($type:ty),*) => {$(
        impl sealed::Sealed for $type {}
        impl Word for $type {
            fn little_endian_to_native(self) -> Self {
                Self::from_le(self)
            }
            fn native_to_little_endian(self) -> Self {
                self.to_le()
            }
        }
    )*};
}
word!(u8, u16, u32, u64);

/// A piece of memory shared with a device.
pub struct Dma {
    memory: NonNull<u8>,
    bus: BusAddress,
    length: usize,
    owner: Arc<dyn DmaRelease>,
}

// SAFETY: the memory belongs to this value alone (see `from_raw_parts`), and the owner is Send and Sync.
unsafe impl Send for Dma {}
// SAFETY: through a shared reference memory is only read.
unsafe impl Sync for Dma {}

impl Dma {
    /// Makes a piece of DMA memory from its parts; `owner` gets them back in the end.
    ///
    /// # Safety
    /// `memory..memory + length` is initialised memory, aligned to [`PAGE_SIZE`], contiguous on the bus from `bus` on,
    /// cache-coherent with the device, and used by nothing else until `owner` has it back.
    pub unsafe fn from_raw_parts(
        memory: NonNull<u8>,
        bus: BusAddress,
        length: usize,
        owner: Arc<dyn DmaRelease>,
    ) -> Self {
        assert!(memory.as_ptr().addr().is_multiple_of(PAGE_SIZE), "DMA memory starts on a page");
        Self { memory, bus, length, owner }
    }

    /// The size in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The device's address of the first byte.
    pub fn bus(&self) -> BusAddress {
        self.bus
    }

    /// Reads one word that the device may write at any time.
    ///
    /// # Panics
    /// As slices do, when `offset` is out of bounds; also when it is not aligned. Drivers compute offsets themselves.
    #[inline]
    pub fn read<W: Word>(&self, offset: usize) -> W {
        // SAFETY: `word` checked bounds and alignment; all bit patterns are valid words.
        unsafe { self.word::<W>(offset).read_volatile() }.little_endian_to_native()
    }

    /// Writes one word that the device may read at any time.
    ///
    /// # Panics
    /// As [`read`](Self::read) does.
    #[inline]
    pub fn write<W: Word>(&mut self, offset: usize, value: W) {
        // SAFETY: `word` checked bounds and alignment; `&mut self` keeps all Rust references out.
        unsafe { self.word::<W>(offset).write_volatile(value.native_to_little_endian()) }
    }

    /// Bytes that the device does not own now.
    ///
    /// # Panics
    /// As slices do, when the range is out of bounds.
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        // SAFETY: the memory is initialised and ours (see `from_raw_parts`), and `&self` keeps writers out.
        let all = unsafe { core::slice::from_raw_parts(self.memory.as_ptr(), self.length) };
        &all[range]
    }

    /// Bytes that the device does not own now, to be changed.
    ///
    /// # Panics
    /// As slices do, when the range is out of bounds.
    pub fn slice_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        // SAFETY: as for `slice`; `&mut self` makes it the only reference.
        let all = unsafe { core::slice::from_raw_parts_mut(self.memory.as_ptr(), self.length) };
        &mut all[range]
    }

    #[inline]
    fn word<W: Word>(&self, offset: usize) -> *mut W {
        let bytes = size_of::<W>();
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.length);
        assert!(inside && offset.is_multiple_of(bytes), "no word at this offset of DMA memory");
        // SAFETY: in bounds, just checked.
        unsafe { self.memory.as_ptr().add(offset).cast() }
    }

    /// The first byte, for [`Pool`](crate::Pool), which hands out disjoint parts.
    pub(crate) fn memory(&self) -> NonNull<u8> {
        self.memory
    }
}

impl Drop for Dma {
    fn drop(&mut self) {
        self.owner.release(self.memory, self.bus, self.length);
    }
}

impl fmt::Debug for Dma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dma({:#x}, {} bytes)", self.bus.0, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeMemory;

    #[test]
    fn memory_is_zeroed_page_aligned_and_at_least_as_long() {
        let memory = FakeMemory::new().allocate(5000).unwrap();
        assert!(memory.length() >= 5000);
        assert_eq!(memory.bus().0 % PAGE_SIZE as u64, 0);
        assert!(memory.slice(0..5000).iter().all(|&byte| byte == 0));
    }

    #[test]
    fn words_are_little_endian() {
        let mut memory = FakeMemory::new().allocate(16).unwrap();
        memory.write::<u64>(8, 0x1122_3344_5566_7788);
        assert_eq!(memory.slice(8..10), [0x88, 0x77]);
        assert_eq!(memory.read::<u16>(10), 0x5566);
        memory.slice_mut(0..4).copy_from_slice(&[1, 0, 0, 0]);
        assert_eq!(memory.read::<u32>(0), 1);
    }

    #[test]
    #[should_panic(expected = "no word at this offset")]
    fn a_word_beyond_the_end_is_refused() {
        let memory = FakeMemory::new().allocate(PAGE_SIZE).unwrap();
        memory.read::<u32>(memory.length() - 2);
    }

    #[test]
    fn dropping_gives_the_memory_back() {
        let source = FakeMemory::new();
        let memory = source.allocate(1).unwrap();
        assert_eq!(source.live(), 1);
        drop(memory);
        assert_eq!(source.live(), 0);
    }
}

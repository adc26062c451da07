//! Physical frames.
//!
//! A [`Frame`] is a counted handle of 4 KiB of physical memory: cloning it shares the frame, and the last one dropped
//! frees it. It keeps whatever maps or uses the frame honest, copy-on-write and shared mappings above all: a page-table
//! entry holds one count. A [`FrameRange`] is contiguous memory with one owner (DMA, kernel stacks).
//!
//! Below: [`metadata`] (16 bytes for each frame, out of band), [`buddy`] (blocks of one node), [`allocator`] (nodes, caches per
//! core, the reserve) and [`boot`] (taking memory over). Neighbours: `heap.rs` gets its slabs here, `arch::paging` its tables.

mod allocator;
mod boot;
mod buddy;
mod metadata;

use core::mem::ManuallyDrop;
use core::num::NonZeroU32;
use core::ptr;
use core::slice;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use super::{PAGE_SIZE, PhysAddr};
use crate::arch;
use crate::errno::Errno;
use crate::uaccess::{ReadBuf, WriteBuf};

#[cfg(target_os = "none")]
pub use allocator::set_node;
pub use allocator::{OutOfMemory, Purpose, admit, statistics};
pub use boot::{MemoryRange, init};

pub(super) use allocator::{allocate, allocate_block, free, free_block};
pub(super) use boot::address_of;
pub(super) use metadata::{FrameNumber, Metadata, MetadataMap, NONE, Sections};

impl From<OutOfMemory> for Errno {
    fn from(_: OutOfMemory) -> Self {
        Self::ENOMEM
    }
}

/// An owner's handle of one frame of 4 KiB.
///
/// The bytes may be changed by other owners and by user programs at any time, so they are only ever copied in and out.
#[derive(PartialEq, Eq)]
pub struct Frame(NonZeroU32);

impl Frame {
    /// A frame of zeroes, for what a program can make grow.
    ///
    /// # Errors
    /// [`OutOfMemory`] when only the reserve is left.
    pub fn zeroed() -> Result<Self, OutOfMemory> {
        Self::zeroed_for(Purpose::User)
    }

    /// A frame of zeroes.
    ///
    /// # Errors
    /// [`OutOfMemory`], by purpose.
    pub fn zeroed_for(purpose: Purpose) -> Result<Self, OutOfMemory> {
        let frame = Self::allocate(purpose)?;
        // SAFETY: the frame is ours alone, and mapped.
        unsafe { arch::paging::clear_page(frame.bytes()) };
        Ok(frame)
    }

    /// A frame that holds what its last user left: for callers that overwrite all of it.
    ///
    /// # Errors
    /// [`OutOfMemory`] when only the reserve is left.
    pub fn uninit() -> Result<Self, OutOfMemory> {
        Self::allocate(Purpose::User)
    }

    fn allocate(purpose: Purpose) -> Result<Self, OutOfMemory> {
        let number = allocator::allocate(purpose)?;
        // Frame 0 is never handed out.
        let frame = NonZeroU32::new(number).map(Self).ok_or(OutOfMemory)?;
        frame.references().store(1, Ordering::Relaxed);
        Ok(frame)
    }

    /// Where it is.
    pub fn phys(&self) -> PhysAddr {
        address_of(self.0.get())
    }

    /// Whether this is the only handle.
    pub fn is_unique(&self) -> bool {
        self.references().load(Ordering::Acquire) == 1
    }

    fn references(&self) -> &AtomicU32 {
        &Sections.metadata(self.0.get()).references
    }

    /// Copies bytes from `offset` on into `out`.
    ///
    /// # Panics
    /// If the range leaves the frame.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        let source = self.range(offset, out.len());
        // SAFETY: `range` checked that the source lies in the frame, which `out`, a unique borrow, does not overlap.
        unsafe { ptr::copy_nonoverlapping(source, out.as_mut_ptr(), out.len()) };
    }

    /// Stores `data` at `offset`.
    ///
    /// # Panics
    /// If the range leaves the frame.
    pub fn write(&self, offset: usize, data: &[u8]) {
        let target = self.range(offset, data.len());
        // SAFETY: `range` checked that the target lies in the frame; no reference into a frame outlives a call here.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), target, data.len()) };
    }

    /// Stores `len` zeroes at `offset`.
    ///
    /// # Panics
    /// If the range leaves the frame.
    pub fn clear(&self, offset: usize, len: usize) {
        let target = self.range(offset, len);
        // SAFETY: `range` checked that the target lies in the frame; no reference into a frame outlives a call here.
        unsafe { ptr::write_bytes(target, 0, len) };
    }

    /// Appends `len` bytes at `offset` to `buf`; returns how many were taken.
    ///
    /// # Panics
    /// If the range leaves the frame.
    pub fn read_to(&self, offset: usize, len: usize, buf: &mut ReadBuf<'_>) -> usize {
        let source = self.range(offset, len);
        // SAFETY: `range` checked the bounds. The slice lives for one copy, which tolerates that the bytes change.
        buf.push(unsafe { slice::from_raw_parts(source, len) })
    }

    /// Stores up to `len` bytes of `buf` at `offset`; returns how many.
    ///
    /// # Panics
    /// If the range leaves the frame.
    pub fn write_from(&self, offset: usize, len: usize, buf: &mut WriteBuf<'_>) -> usize {
        let target = self.range(offset, len);
        // SAFETY: `range` checked the bounds. The slice lives for one copy, which tolerates that the bytes change.
        buf.pull(unsafe { slice::from_raw_parts_mut(target, len) })
    }

    /// Becomes a copy of `other`.
    pub fn copy_from(&self, other: &Self) {
        if self != other {
            // SAFETY: both are whole frames, and not the same.
            unsafe { arch::paging::copy_page(self.bytes(), other.bytes()) };
        }
    }

    /// Gives the handle away as a number: a page-table entry holds it.
    pub fn into_phys(self) -> PhysAddr {
        let phys = self.phys();
        core::mem::forget(self);
        phys
    }

    /// The handle that [`into_phys`](Self::into_phys) gave away.
    ///
    /// # Safety
    /// `phys` came from `into_phys`, and each such number becomes a handle at most once.
    ///
    /// # Panics
    /// If `phys` is zero: no frame is.
    pub unsafe fn from_phys(phys: PhysAddr) -> Self {
        let number = NonZeroU32::new((phys.as_u64() / PAGE_SIZE as u64) as FrameNumber);
        Self(number.expect("frame 0 is never handed out"))
    }

    /// Adds one to the frame's word for its owner; page tables count their entries in it.
    pub fn add_note(&self, change: i32) -> u32 {
        let note = &Sections.metadata(self.0.get()).next;
        // Only the table's owner counts, so load and store need not be one.
        let count = note.load(Ordering::Relaxed).wrapping_add(change as u32);
        note.store(count, Ordering::Relaxed);
        count
    }

    /// Sets the frame's word for its owner.
    pub fn set_note(&self, note: u32) {
        Sections.metadata(self.0.get()).next.store(note, Ordering::Relaxed);
    }

    /// Gives up this handle's count. Returns whether it was the last, so that the frame is to be freed.
    fn let_go(&self) -> bool {
        let last = self.references().fetch_sub(1, Ordering::Release) == 1;
        if last {
            fence(Ordering::Acquire);
        }
        last
    }

    fn bytes(&self) -> *mut u8 {
        arch::phys_to_virt(self.phys())
    }

    fn range(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= PAGE_SIZE && len <= PAGE_SIZE - offset, "{offset}+{len} leaves the frame");
        self.bytes().wrapping_add(offset)
    }
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        // Each handle takes at least four bytes somewhere, so 2^32 of them do not fit beside the frames they name.
        self.references().fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if self.let_go() {
            allocator::free(self.0.get());
        }
    }
}

/// Drops many frames, at less cost than one by one.
pub fn drop_frames(frames: impl IntoIterator<Item = Frame>) {
    let frames = frames.into_iter().map(ManuallyDrop::new);
    allocator::free_many(frames.filter(|frame| frame.let_go()).map(|frame| frame.0.get()));
}

impl core::fmt::Debug for Frame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Frame({:#x})", self.phys())
    }
}

/// Contiguous frames with one owner, freed when dropped: memory for devices, stacks of cores.
#[derive(Debug)]
pub struct FrameRange {
    first: FrameNumber,
    count: FrameNumber,
}

/// Takes `pages` frames in a row for the kernel, the first aligned to `align` bytes (a power of two). Contents are undefined.
///
/// # Errors
/// [`OutOfMemory`] when there is no such range, or none can be (`pages` is 0, or more than 1 GiB).
pub fn allocate_contiguous(pages: usize, align: usize) -> Result<FrameRange, OutOfMemory> {
    let count = FrameNumber::try_from(pages).map_err(|_| OutOfMemory)?;
    let align_order = align.next_power_of_two().trailing_zeros().saturating_sub(PAGE_SIZE.trailing_zeros());
    if count == 0 || count > 1 << 18 || align_order > 18 {
        return Err(OutOfMemory);
    }
    let first = allocator::allocate_run(count, align_order as u8, Purpose::Kernel)?;
    Ok(FrameRange { first, count })
}

impl FrameRange {
    /// Where it begins.
    pub fn phys(&self) -> PhysAddr {
        address_of(self.first)
    }

    /// Bytes.
    pub fn size(&self) -> usize {
        self.count as usize * PAGE_SIZE
    }

    /// The first byte, in the map of all physical memory.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        arch::phys_to_virt(self.phys())
    }

    /// Fills it with zeroes.
    pub fn clear(&mut self) {
        // SAFETY: the memory is ours alone, and mapped.
        unsafe { ptr::write_bytes(self.as_mut_ptr(), 0, self.size()) };
    }
}

impl Drop for FrameRange {
    fn drop(&mut self) {
        allocator::free_run(self.first..self.first + self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zeroed_frame_is_zero_whoever_used_it_before() {
        for _ in 0..200 {
            let frame = Frame::zeroed().unwrap();
            let mut bytes = [1; PAGE_SIZE];
            frame.read(0, &mut bytes);
            assert!(bytes.iter().all(|&byte| byte == 0));
            frame.write(0, &[0xff; PAGE_SIZE]);
        }
    }

    #[test]
    fn clones_share_and_the_last_frees() {
        let frame = Frame::zeroed().unwrap();
        let other = frame.clone();
        assert!(!frame.is_unique());
        other.write(100, b"shared");
        drop(other);
        assert!(frame.is_unique());
        let mut bytes = [0; 6];
        frame.read(100, &mut bytes);
        assert_eq!(&bytes, b"shared");
    }

    #[test]
    fn copies_are_independent() {
        let (a, b) = (Frame::zeroed().unwrap(), Frame::uninit().unwrap());
        a.write(PAGE_SIZE - 2, b"xy");
        b.copy_from(&a);
        a.clear(PAGE_SIZE - 2, 2);
        let mut bytes = [0; 2];
        b.read(PAGE_SIZE - 2, &mut bytes);
        assert_eq!(&bytes, b"xy");
        assert_ne!(a.phys(), b.phys());
    }

    #[test]
    fn transfers_go_through_buffers() {
        let frame = Frame::zeroed().unwrap();
        let mut source = WriteBuf::kernel(b"hello");
        assert_eq!(frame.write_from(10, 3, &mut source), 3);
        assert_eq!(frame.write_from(13, 100, &mut source), 2);
        let mut bytes = [0; 5];
        assert_eq!(frame.read_to(10, 100, &mut ReadBuf::kernel(&mut bytes)), 5);
        assert_eq!(&bytes, b"hello");
    }

    #[test]
    #[should_panic(expected = "leaves the frame")]
    fn an_access_past_the_end_is_a_bug() {
        Frame::zeroed().unwrap().write(PAGE_SIZE - 1, b"ab");
    }

    #[test]
    fn contiguous_memory_is_aligned_and_reused() {
        let mut range = allocate_contiguous(5, 16 << 10).unwrap();
        assert!(range.phys().is_aligned(16 << 10));
        assert_eq!(range.size(), 5 * PAGE_SIZE);
        range.clear();
        assert_eq!(allocate_contiguous(0, 4096).unwrap_err(), OutOfMemory);
        assert_eq!(allocate_contiguous(usize::MAX, 4096).unwrap_err(), OutOfMemory);
    }

    #[test]
    fn many_threads_never_get_the_same_frame() {
        let worker = |id: u64| {
            move || {
                for _ in 0..50 {
                    let frames: Vec<_> = (0..100).map(|_| Frame::uninit().unwrap()).collect();
                    frames.iter().for_each(|frame| frame.write(8, &id.to_le_bytes()));
                    for frame in frames {
                        let mut bytes = [0; 8];
                        frame.read(8, &mut bytes);
                        assert_eq!(u64::from_le_bytes(bytes), id);
                    }
                }
            }
        };
        let threads: Vec<_> = (0..4).map(|id| std::thread::spawn(worker(id))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

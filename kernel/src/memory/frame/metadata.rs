//! Out-of-band state of frames: 16 bytes for each 4 KiB of memory, found from the frame's number.
//!
//! Physical memory is cut into *sections* of 128 MiB; a static table holds where the metadata of each section lies. Nothing is
//! written when memory is added: the metadata of a frame is meaningful only once the frame was the head of a block that the
//! buddy allocator made, and whoever makes a block writes its head first. So adding a gibibyte costs a few dozen stores.

use core::ops::Range;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::super::{PAGE_SIZE, PhysAddr};
use crate::arch;
use crate::sync::SpinLock;

/// Number of a frame: its physical address divided by the size of a page.
pub type FrameNumber = u32;

/// No frame: ends a list.
pub const NONE: FrameNumber = u32::MAX;

/// Frames of a section, as a power of two.
const SECTION_SHIFT: u32 = 15;
/// Sections that the table has room for: 1 TiB of physical addresses.
const SECTIONS: usize = 8192;
/// First frame number past what the table covers.
pub const FRAME_LIMIT: u64 = (SECTIONS as u64) << SECTION_SHIFT;

/// What is known of one frame.
#[derive(Default)]
#[repr(C, align(16))]
pub struct Metadata {
    /// Owners of an allocated frame.
    pub references: AtomicU32,
    /// For the head of a block, see [`BlockState`].
    state: AtomicU32,
    /// Next free block of the same order; of an allocated frame, a word for its owner (page tables, slabs).
    pub next: AtomicU32,
    /// Previous free block of the same order; of an allocated frame, another word for its owner.
    pub previous: AtomicU32,
}

/// State of a block, kept in the metadata of its first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockState {
    /// Whether it waits in a free list.
    pub free: bool,
    /// Its order: `1 << order` frames.
    pub order: u8,
    /// Node whose allocator it belongs to.
    pub node: u8,
    /// If the memory was added in a block that begins here: its order. Blocks never merge beyond it.
    pub top: Option<u8>,
}

impl Metadata {
    /// The state of the block whose head this is.
    pub fn state(&self) -> BlockState {
        let [order, free, node, top] = self.state.load(Ordering::Relaxed).to_le_bytes();
        BlockState { free: free != 0, order, node, top: top.checked_sub(1) }
    }

    /// Stores the state of the block whose head this is.
    pub fn set_state(&self, state: BlockState) {
        let top = state.top.map_or(0, |top| top + 1);
        let word = u32::from_le_bytes([state.order, u8::from(state.free), state.node, top]);
        self.state.store(word, Ordering::Relaxed);
    }
}

/// Finds the metadata of frames.
pub trait MetadataMap {
    /// The metadata of `frame`, which must be in memory that was given to this map.
    fn metadata(&self, frame: FrameNumber) -> &Metadata;
}

/// The metadata of the machine's memory.
pub struct Sections;

/// For each section, where the metadata of its first frame is, or would be if the section began with memory.
static TABLE: [AtomicPtr<Metadata>; SECTIONS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; SECTIONS];

/// The ranges of frames that have metadata.
static EXTENTS: SpinLock<heapless::Vec<Range<u64>, 32>> = SpinLock::new(heapless::Vec::new());

impl MetadataMap for Sections {
    fn metadata(&self, frame: FrameNumber) -> &'static Metadata {
        let base = TABLE[(frame >> SECTION_SHIFT) as usize].load(Ordering::Relaxed);
        assert!(!base.is_null(), "frame {frame:#x} is not memory");
        let index = (frame & ((1 << SECTION_SHIFT) - 1)) as usize;
        // SAFETY: `cover` stored a base from which every frame of the section that is memory has its metadata, in memory
        // that was set aside for good; all fields are atomic, so any bit pattern is a value.
        unsafe { &*base.wrapping_add(index) }
    }
}

/// The sections that the frames of `range` lie in.
pub fn sections_of(range: &Range<u64>) -> Range<usize> {
    (range.start >> SECTION_SHIFT) as usize
        ..(((range.end + (1 << SECTION_SHIFT) - 1) >> SECTION_SHIFT) as usize).min(SECTIONS)
}

/// Frame numbers of section `section`.
pub fn frames_of_section(section: usize) -> Range<u64> {
    (section as u64) << SECTION_SHIFT..(section as u64 + 1) << SECTION_SHIFT
}

/// Whether the metadata of `section` has its place.
pub fn is_covered(section: usize) -> bool {
    TABLE.get(section).is_some_and(|base| !base.load(Ordering::Relaxed).is_null())
}

/// Frames that the metadata of `frames` takes.
pub fn frames_needed(frames: &Range<u64>) -> u64 {
    ((frames.end - frames.start) * size_of::<Metadata>() as u64).div_ceil(PAGE_SIZE as u64)
}

/// Uses the memory from frame `place` on for the metadata of `frames`, in all `sections`.
///
/// # Safety
/// `frames_needed(frames)` frames from `place` on are unused memory, set aside for good.
pub unsafe fn cover(sections: Range<usize>, frames: &Range<u64>, place: u64) {
    // When the list is full, the extent is forgotten: then what was reserved there is never released.
    let _ = EXTENTS.lock().push(frames.clone());
    let first = arch::phys_to_virt(PhysAddr::new(place * PAGE_SIZE as u64)).cast::<Metadata>();
    for section in sections {
        let offset = frames_of_section(section).start as isize - frames.start as isize;
        TABLE[section].store(first.wrapping_offset(offset), Ordering::Relaxed);
    }
}

//! Memory: addresses, physical frames, the kernel heap, and address spaces.

mod addr;
mod frame;
mod heap;
mod shared;
mod space;
pub mod vdso;

pub use addr::{LARGE_PAGE_SIZE, PAGE_SIZE, PhysAddr, USER_END, VirtAddr, page_round_up};
pub use frame::{
    Frame, FrameRange, MemoryRange, OutOfMemory, Purpose, admit, allocate_contiguous, drop_frames, init,
    release_reserved, set_node, statistics,
};
pub use heap::slab_pages;
pub use space::{
    Access, AddressSpace, Advice, Fault, LockMode, MapError, MapFlags, MapRequest, Region, RemapFlags,
    SpaceLimits, SpaceStatistics,
};

pub use crate::replicated::address_space::{Backing, MappingName, Protection, VmaFlags};

/// Bytes of memory in all.
pub fn total_bytes() -> u64 {
    statistics().total * PAGE_SIZE as u64
}

//! Memory: addresses, physical frames, the kernel heap, and address spaces.

#[deny(unsafe_code)]
mod addr;
mod frame;
mod heap;
#[deny(unsafe_code)]
mod mappers;
#[deny(unsafe_code)]
mod shared;
#[deny(unsafe_code)]
mod space;
#[deny(unsafe_code)]
pub mod vdso;

pub use addr::{LARGE_PAGE_SIZE, PAGE_SIZE, PhysAddr, USER_END, VirtAddr, page_round_up};
pub use frame::{Frame, OutOfMemory, Purpose, admit, drop_frames, statistics};
#[cfg(target_os = "none")]
pub use frame::{FrameRange, MemoryRange, allocate_contiguous, init, set_node};
pub use heap::slab_pages;
pub use mappers::Mappers;
pub use space::{
    Access, AddressSpace, Advice, Fault, LockMode, MapError, MapFlags, MapRequest, Region, RemapFlags,
    SpaceLimits, SpaceStatistics, Turn, advised_range,
};

pub use crate::replicated::address_space::{Backing, MappingName, Protection, VmaFlags};

/// Bytes of memory in all.
pub fn total_bytes() -> u64 {
    statistics().total * PAGE_SIZE as u64
}

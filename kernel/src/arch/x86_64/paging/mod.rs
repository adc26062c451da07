//! Page tables: the 4-level format, walked in software through the map of all physical memory.
//!
//! [`PageTable`] is the root of one address space: its user half belongs to the space, its kernel half (entries 256 to
//! 511) is shared by all and copied from [`kernel_root`]. An entry owns one count of the frame that it maps, and each table counts
//! its entries that are in use, so that a table that becomes empty goes away. Whatever takes a translation away returns a
//! [`Flush`] and gives the frames back in a [`Retired`], to be dropped after the flush.
//!
//! Neighbours: `replicated/address_space` decides what is mapped; `memory/frame` gives the frames.

mod active;
mod contents;
mod entry;
mod flush;
mod table;

use core::sync::atomic::{AtomicU64, Ordering};

use crate::memory::PhysAddr;

pub use active::load;
pub use contents::{clear_page, copy_page};
pub use entry::Attributes;
pub use flush::{CoreSet, Flush};
pub use table::{PageTable, Reserve, Retired};

static KERNEL_ROOT: AtomicU64 = AtomicU64::new(0);

/// Says where the kernel's own root table is: called once at boot, when all entries of its kernel half are there. They
/// never change afterwards (what they lead to may).
pub fn set_kernel_root(root: PhysAddr) {
    KERNEL_ROOT.store(root.as_u64(), Ordering::Release);
}

/// The kernel's own root table, without a user half; `None` on a host.
pub fn kernel_root() -> Option<PhysAddr> {
    match KERNEL_ROOT.load(Ordering::Acquire) {
        0 => None,
        root => Some(PhysAddr::new(root)),
    }
}

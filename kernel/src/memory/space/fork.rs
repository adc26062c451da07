//! fork(2): a copy of an address space, made in pieces.
//!
//! Private pages are shared until one of the two writes. The space's lock is let go between pieces: other threads of the parent go on
//! meanwhile, and what they write to pages that are not shared yet, the child sees, as on Linux.

use alloc::sync::Arc;

use super::{AddressSpace, Layout};
use crate::memory::{OutOfMemory, VirtAddr};
use crate::replicated::address_space::VmaFlags;

/// A copy that is being made.
pub struct Fork<'a> {
    parent: &'a AddressSpace,
    child: Arc<AddressSpace>,
    at: VirtAddr,
}

impl AddressSpace {
    /// Begins a child's copy: with the areas, without pages. While pages are copied, nobody may change the areas.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn begin_fork(&self) -> Result<Fork<'_>, OutOfMemory> {
        let child = Self::new()?;
        let state = self.lock();
        // Before pages are copied: an object that loses some meanwhile looks at the child, too.
        for area in state.mappings.areas().iter() {
            child.note_mapper(&area.backing)?;
        }
        // Lock order: the parent, then the child, which nobody else has yet.
        let mut copy = child.lock();
        state.mappings.share_areas(&mut copy.mappings)?;
        copy.layout = Layout { default_flags: VmaFlags::empty(), ..state.layout };
        copy.limits = state.limits;
        copy.peak_mapped = copy.mappings.areas().totals().mapped;
        drop(copy);
        drop(state);
        Ok(Fork { parent: self, child, at: VirtAddr::default() })
    }
}

impl Fork<'_> {
    /// Copies a piece. Whether there are more.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn step(&mut self) -> Result<bool, OutOfMemory> {
        let mut state = self.parent.lock();
        let mut copy = self.child.lock();
        let (flush, next) = state.mappings.share_pages(&mut copy.mappings, self.at);
        copy.note_peak();
        drop(copy);
        flush.perform(&self.parent.cores);
        let next = next?;
        self.at = next.unwrap_or(self.at);
        Ok(next.is_some())
    }

    /// The copy, once there is no more to do.
    pub fn finish(self) -> Arc<AddressSpace> {
        self.child
    }
}

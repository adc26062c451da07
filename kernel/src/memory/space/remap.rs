//! mremap(2): mappings that shrink, grow and move with what they hold.

use core::ops::Range;

use super::map::{fixed_range, named_range};
use super::{AddressSpace, MapError, MapRequest, State, pages};
use crate::memory::{PAGE_SIZE, Purpose, VirtAddr, page_round_up};
use crate::replicated::Operation;
use crate::replicated::address_space::{Flag, Map, Relocate, Vma, VmaFlags};

bitflags::bitflags! {
    /// `MREMAP_*` of mremap(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RemapFlags: u32 {
        /// `MREMAP_MAYMOVE`
        const MAYMOVE = 1;
        /// `MREMAP_FIXED`
        const FIXED = 2;
        /// `MREMAP_DONTUNMAP`
        const DONTUNMAP = 4;
    }
}

/// What mremap(2) is asked for, as far as the arguments alone can be judged.
struct Request {
    /// The old place; empty for another mapping of the same shared object.
    old: Range<VirtAddr>,
    /// Bytes from now on.
    new_len: usize,
    /// Where it has to go.
    target: Option<VirtAddr>,
    flags: RemapFlags,
}

impl Request {
    fn new(
        old: VirtAddr,
        old_len: usize,
        new_len: usize,
        flags: RemapFlags,
        new: VirtAddr,
    ) -> Result<Self, MapError> {
        let new_len = page_round_up(new_len).filter(|&len| len > 0).ok_or(MapError::Invalid)?;
        let old = named_range(old, old_len).map_err(|_| MapError::Invalid)?;
        let mut request = Self { old, new_len, target: None, flags };
        let resized = request.old_len() != new_len;
        if request.must_move() && !flags.contains(RemapFlags::MAYMOVE)
            || flags.contains(RemapFlags::DONTUNMAP) && resized
        {
            return Err(MapError::Invalid);
        }
        if flags.contains(RemapFlags::FIXED) {
            let target = named_range(new, new_len).map_err(|_| MapError::Invalid)?;
            if target.start < request.old.end && request.old.start < target.end {
                return Err(MapError::Invalid);
            }
            request.target = Some(target.start);
        }
        Ok(request)
    }

    fn old_len(&self) -> usize {
        self.old.end - self.old.start
    }

    fn must_move(&self) -> bool {
        self.flags.intersects(RemapFlags::FIXED | RemapFlags::DONTUNMAP)
    }

    fn only_shrinks(&self) -> bool {
        !self.must_move() && !self.old.is_empty() && self.new_len <= self.old_len()
    }

    /// Pages that become free where the mapping was.
    fn freed_pages(&self) -> usize {
        if self.flags.contains(RemapFlags::DONTUNMAP) { 0 } else { pages(self.old_len()) }
    }
}

impl AddressSpace {
    /// mremap(2): returns where the mapping is now.
    ///
    /// # Errors
    /// As mremap(2); [`MapError::NotMapped`] is `EFAULT` there.
    pub fn remap(
        &self,
        old: VirtAddr,
        old_len: usize,
        new_len: usize,
        flags: RemapFlags,
        new: VirtAddr,
    ) -> Result<VirtAddr, MapError> {
        let request = Request::new(old, old_len, new_len, flags, new)?;
        let (start, locked) = self.perform_remap(&mut self.lock(), &request)?;
        if locked {
            self.populate(start..start + request.new_len);
        }
        Ok(start)
    }

    /// Returns where the mapping is now, and whether its pages are to be locked at once.
    fn perform_remap(&self, state: &mut State, request: &Request) -> Result<(VirtAddr, bool), MapError> {
        state.mappings.prepare()?;
        let start = request.old.start;
        let area = state.mappings.areas().find(start).ok_or(MapError::NotMapped)?.clone();
        let locked = area.flags & (VmaFlags::LOCKED | VmaFlags::LOCK_ON_FAULT) == VmaFlags::LOCKED;
        if request.old.is_empty() && !area.flags.contains(VmaFlags::SHARED) {
            return Err(MapError::Invalid);
        }
        if request.only_shrinks() {
            self.unmap_pages(state, start + request.new_len, request.old.end);
            return Ok((start, false));
        }
        if request.old.end > area.end {
            return Err(MapError::NotMapped);
        }
        if !request.must_move() && grow_in_place(state, &area, request)? {
            return Ok((start, locked));
        }
        if !request.flags.contains(RemapFlags::MAYMOVE) {
            return Err(MapError::OutOfMemory);
        }
        Ok((self.move_mapping(state, area, request)?, locked))
    }

    /// Moves a part of `area` to where it has to go, or where there is room.
    fn move_mapping(
        &self,
        state: &mut State,
        mut area: Vma,
        request: &Request,
    ) -> Result<VirtAddr, MapError> {
        let old = &request.old;
        let wish = MapRequest::anonymous(request.new_len, area.protection);
        let wish = request.target.map_or(wish.clone(), |target| wish.at(target));
        let start = state.place(&wish, request.new_len)?;
        let placed = start..start + request.new_len;
        if old.start > area.start {
            area = area.split_off(old.start);
        }
        (area.start, area.end) = (placed.start, placed.end);
        let replaced = state.replaced_pages(&placed);
        state.check(&area, replaced + request.freed_pages())?;
        if area.flags.contains(VmaFlags::LOCKED) {
            state.check_locked(area.pages().saturating_sub(request.freed_pages()))?;
        }
        if replaced > 0 {
            self.unmap_pages(state, placed.start, placed.end);
        }
        Map(area).apply(&mut state.mappings).map_err(|_| MapError::Exists)?;
        let kept = request.old_len().min(request.new_len);
        self.relocate(state, old.start..old.start + kept, start)?;
        if request.flags.contains(RemapFlags::DONTUNMAP) {
            // What stays behind is as new.
            let left = Flag { range: old.clone(), set: VmaFlags::empty(), clear: VmaFlags::LOCKED };
            left.apply(&mut state.mappings);
        } else if !old.is_empty() {
            self.unmap_pages(state, old.start, old.end);
        }
        Ok(start)
    }

    /// Moves the pages that are in `from` to `to`. Tables come from the kernel's reserve: as many become free as are needed, and
    /// there is no way back from half of a move.
    fn relocate(&self, state: &mut State, from: Range<VirtAddr>, to: VirtAddr) -> Result<(), MapError> {
        let mut present = state.mappings.tables().next_page(from.clone());
        while let Some(page) = present {
            state.mappings.prepare_install(Purpose::Kernel)?;
            let target = to + (page - from.start);
            let removed = Relocate { from: page, to: target }.apply(&mut state.mappings);
            removed.flush.perform(&self.cores);
            drop(removed.retired);
            present = state.mappings.tables().next_page(page + PAGE_SIZE..from.end);
        }
        Ok(())
    }
}

/// Makes the end of `area` go on as far as `request` asks, if the request names that end and nothing is behind it.
fn grow_in_place(state: &mut State, area: &Vma, request: &Request) -> Result<bool, MapError> {
    let Ok(grown) = fixed_range(request.old.start, request.new_len) else { return Ok(false) };
    let added = request.old.end..grown.end;
    let at_the_end = request.old.end == area.end && !request.old.is_empty();
    if !at_the_end || !state.mappings.areas().overlapping(&added).is_empty() {
        return Ok(false);
    }
    let mut tail = area.clone();
    tail.end = added.end;
    let tail = tail.split_off(area.end);
    state.check(&tail, 0)?;
    if tail.flags.contains(VmaFlags::LOCKED) {
        state.check_locked(tail.pages())?;
    }
    Map(tail).apply(&mut state.mappings).map_err(|_| MapError::Exists)?;
    Ok(true)
}

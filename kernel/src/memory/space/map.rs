//! Where mappings go: mmap(2), munmap(2) and mprotect(2).

use core::ops::Range;

use super::{AddressSpace, MapError, MapFlags, MapRequest, State, pages};
use crate::memory::shared::SharedMemory;
use crate::memory::{Access, PAGE_SIZE, USER_END, VirtAddr, page_round_up, statistics};
use crate::replicated::Operation;
use crate::replicated::address_space::{Backing, Map, Protect, Protection, Vma, VmaFlags};

/// Lowest address that is mapped without `FIXED`: Linux's `vm.mmap_min_addr`.
const MMAP_MIN: VirtAddr = VirtAddr::new(0x1_0000);
/// First address past the 2 GiB of `MAP_32BIT`.
const LOW_END: VirtAddr = VirtAddr::new(0x8000_0000);
/// Bytes that are paged in at a time.
pub(super) const POPULATE_BATCH: usize = 64 * PAGE_SIZE;
/// The gap that is left for the stack is between these.
const STACK_GAP: Range<u64> = 128 << 20..(USER_END as u64 / 6) * 5;

/// Where mappings without a wish go downwards from, below a stack that may get `stack_limit` bytes.
pub(super) fn mmap_base(stack_top: VirtAddr, stack_limit: u64) -> VirtAddr {
    let gap = stack_limit.clamp(STACK_GAP.start, STACK_GAP.end);
    VirtAddr::new(stack_top.as_u64() - gap).align_down(PAGE_SIZE)
}

impl State {
    /// Whether `added` pages more may be mapped (`RLIMIT_AS`).
    pub(super) fn check_mapped(&self, added: usize) -> Result<(), MapError> {
        let bytes = (self.mappings.areas().totals().mapped + added).saturating_mul(PAGE_SIZE) as u64;
        if bytes > self.limits.address_space { Err(MapError::OutOfMemory) } else { Ok(()) }
    }

    /// Whether `added` pages more of private writable memory may be mapped (`RLIMIT_DATA`).
    fn check_data(&self, added: usize) -> Result<(), MapError> {
        let bytes = (self.mappings.areas().totals().data + added).saturating_mul(PAGE_SIZE) as u64;
        if bytes > self.limits.data { Err(MapError::OutOfMemory) } else { Ok(()) }
    }

    /// Whether `added` pages more may be locked (`RLIMIT_MEMLOCK`).
    pub(super) fn check_locked(&self, added: usize) -> Result<(), MapError> {
        let bytes = (self.mappings.areas().totals().locked + added).saturating_mul(PAGE_SIZE) as u64;
        match self.limits.locked {
            0 => Err(MapError::MayNotLock),
            limit if bytes > limit => Err(MapError::TooMuchLocked),
            _ => Ok(()),
        }
    }

    /// Whether `area` may be mapped, when `replaced` pages go for it.
    pub(super) fn check(&self, area: &Vma, replaced: usize) -> Result<(), MapError> {
        let added = area.pages().saturating_sub(replaced);
        self.check_mapped(added)?;
        if area.is_data() {
            self.check_data(added)?;
            // What could never be there at once is refused, unless the program says that it does not mean it.
            let promised = !area.flags.contains(VmaFlags::NO_RESERVE);
            if promised && area.pages() as u64 > statistics().total {
                return Err(MapError::OutOfMemory);
            }
        }
        Ok(())
    }

    /// Where `request` goes.
    pub(super) fn place(&self, request: &MapRequest, len: usize) -> Result<VirtAddr, MapError> {
        let areas = self.mappings.areas();
        let fixed = MapFlags::FIXED | MapFlags::FIXED_NOREPLACE;
        if request.flags.intersects(fixed) {
            return fixed_range(request.hint, len).map(|range| range.start);
        }
        let hint = VirtAddr::new(page_round_up(request.hint.as_usize()).unwrap_or(0) as u64);
        let end =
            if request.flags.contains(MapFlags::LOW_2GIB) { LOW_END } else { VirtAddr::new(USER_END as u64) };
        if hint >= MMAP_MIN
            && hint.checked_add(len).is_some_and(|hint_end| hint_end <= end)
            && areas.overlapping(&(hint..hint + len)).is_empty()
        {
            return Ok(hint);
        }
        let base = self.layout.mmap_base.min(end);
        areas
            .gap_below(len, MMAP_MIN, base, PAGE_SIZE)
            .or_else(|| areas.gap_below(len, MMAP_MIN, end, PAGE_SIZE))
            .ok_or(MapError::OutOfMemory)
    }
}

/// The range of `len` bytes at exactly `address`.
pub(super) fn fixed_range(address: VirtAddr, len: usize) -> Result<Range<VirtAddr>, MapError> {
    if !address.is_aligned(PAGE_SIZE) {
        return Err(MapError::Invalid);
    }
    let end =
        address.checked_add(len).filter(|end| end.as_usize() <= USER_END).ok_or(MapError::OutOfMemory)?;
    Ok(address..end)
}

/// A range that a call names: whole pages in the user half, not empty.
pub(super) fn named_range(address: VirtAddr, len: usize) -> Result<Range<VirtAddr>, MapError> {
    let len = page_round_up(len).ok_or(MapError::OutOfMemory)?;
    fixed_range(address, len)
}

impl AddressSpace {
    /// Maps memory; returns where. Nothing is paged in.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map(&self, request: MapRequest) -> Result<VirtAddr, MapError> {
        self.map_area(request).map(|(range, _)| range.start)
    }

    /// mmap(2): maps memory; returns where, and whether it is to be paged in.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map_area(&self, request: MapRequest) -> Result<(Range<VirtAddr>, bool), MapError> {
        let len = page_round_up(request.len).ok_or(MapError::OutOfMemory)?;
        if len == 0 {
            return Err(MapError::Invalid);
        }
        let mut area = request.area(len);
        if area.flags.contains(VmaFlags::SHARED) && matches!(area.backing, Backing::Anonymous) {
            area.backing = SharedMemory::backing(len)?;
        }
        let (range, locked) = self.insert(&mut self.lock(), &request, area, len)?;
        let wanted = request.flags & (MapFlags::POPULATE | MapFlags::NONBLOCK) == MapFlags::POPULATE;
        Ok((range, locked || wanted))
    }

    /// Finds a place for `area` and maps it there. Returns where, and whether its pages are to be locked at once.
    pub(super) fn insert(
        &self,
        state: &mut State,
        request: &MapRequest,
        mut area: Vma,
        len: usize,
    ) -> Result<(Range<VirtAddr>, bool), MapError> {
        let replaced = state.place_area(request, &mut area, len)?;
        let range = area.range();
        state.mappings.prepare()?;
        self.note_mapper(&area.backing)?;
        if replaced > 0 {
            self.unmap_pages(state, range.start, range.end);
        }
        let locked = area.flags.contains(VmaFlags::LOCKED) && !area.flags.contains(VmaFlags::LOCK_ON_FAULT);
        Map(area).apply(&mut state.mappings).map_err(|_| MapError::Exists)?;
        state.peak_mapped = state.peak_mapped.max(state.mappings.areas().totals().mapped);
        Ok((range, locked))
    }

    /// Where `request` is going to replace what is there, if it may be mapped at all: pages that the caller can take out beforehand,
    /// piece by piece, with [`empty`](Self::empty). The caller has the right to change areas.
    ///
    /// # Errors
    /// As [`map_area`](Self::map_area).
    pub fn replaced_by(&self, request: &MapRequest) -> Result<Option<Range<VirtAddr>>, MapError> {
        if !request.flags.contains(MapFlags::FIXED) {
            return Ok(None);
        }
        let len = page_round_up(request.len).ok_or(MapError::OutOfMemory)?;
        let mut area = request.area(len);
        let replaced = self.lock().place_area(request, &mut area, len)?;
        Ok((replaced > 0).then(|| area.range()))
    }

    /// Takes the pages in a range out that is going to be unmapped or mapped anew; the areas stay until then.
    pub fn empty(&self, range: Range<VirtAddr>) {
        self.discard(&mut self.lock(), range, true);
    }

    /// munmap(2).
    ///
    /// # Errors
    /// [`MapError::Invalid`] for a range that is not whole pages of the user half; out of memory when an area must be cut.
    pub fn unmap(&self, address: VirtAddr, len: usize) -> Result<(), MapError> {
        let range = named_range(address, len).map_err(|_| MapError::Invalid)?;
        if range.is_empty() {
            return Err(MapError::Invalid);
        }
        let mut state = self.lock();
        state.mappings.prepare()?;
        self.unmap_pages(&mut state, range.start, range.end);
        Ok(())
    }

    /// mprotect(2). Up to a gap in the range, or an area that does not allow it, it is done.
    ///
    /// # Errors
    /// As mprotect(2).
    pub fn protect(&self, address: VirtAddr, len: usize, protection: Protection) -> Result<(), MapError> {
        let range = named_range(address, len)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        state.mappings.prepare()?;
        let covered = range.start..state.mappings.areas().covered_from(&range);
        let allowed = range.start..state.check_protect(&covered, protection)?;
        let done = allowed.end;
        if !allowed.is_empty() {
            Protect { range: allowed, protection }.apply(&mut state.mappings).perform(&self.cores);
        }
        match done {
            end if end < covered.end => Err(MapError::NotPermitted),
            end if end < range.end => Err(MapError::NotMapped),
            _ => Ok(()),
        }
    }

    /// Pages in all of `range`, as far as it can be had: for locked memory, which promises no more.
    pub(super) fn populate(&self, mut range: Range<VirtAddr>) {
        while let Some(next) = self.populate_some(&range) {
            range.start = next;
        }
    }

    /// Pages in the first pages of `range`. Says from where to go on; `None` at the end, and where a page cannot be had.
    pub fn populate_some(&self, range: &Range<VirtAddr>) -> Option<VirtAddr> {
        let mut at = range.start;
        let end = range.end.min(at.checked_add(POPULATE_BATCH)?);
        while at < end {
            let access = match self.lock().mappings.areas().find(at) {
                // A shared page is not dirtied for nothing.
                Some(area) if area.allows(Access::Write) && !area.flags.contains(VmaFlags::SHARED) => {
                    Access::Write
                }
                _ => Access::Read,
            };
            self.fault(at, access).ok()?;
            at = at + PAGE_SIZE;
        }
        (at < range.end).then_some(at)
    }
}

impl State {
    /// Finds a place for `area` and checks that it may be mapped there. Returns how many pages it replaces.
    fn place_area(&self, request: &MapRequest, area: &mut Vma, len: usize) -> Result<usize, MapError> {
        let start = self.place(request, len)?;
        (area.start, area.end) = (start, start + len);
        area.flags |= self.layout.default_flags;
        if area.flags.contains(VmaFlags::LOCKED) {
            self.check_locked(pages(len))?;
        }
        let replaced = self.replaced_pages(&area.range());
        if replaced > 0 && request.flags.contains(MapFlags::FIXED_NOREPLACE) {
            return Err(MapError::Exists);
        }
        self.check(area, replaced)?;
        Ok(replaced)
    }

    /// Pages of `range` that are mapped.
    pub(super) fn replaced_pages(&self, range: &Range<VirtAddr>) -> usize {
        let part = |area: &Vma| pages(area.end.min(range.end) - area.start.max(range.start));
        self.mappings.areas().overlapping(range).iter().map(part).sum()
    }

    /// How far areas in `covered` may have `protection`: the end of `covered`, or the start of an area that may not.
    fn check_protect(&self, covered: &Range<VirtAddr>, protection: Protection) -> Result<VirtAddr, MapError> {
        let mut added_data = 0;
        for area in self.mappings.areas().overlapping(covered) {
            let part = area.start.max(covered.start)..area.end.min(covered.end);
            if !area.maximum.contains(protection) {
                return Ok(part.start);
            }
            let becomes_data = Vma { protection, ..area.clone() }.is_data() && !area.is_data();
            added_data += if becomes_data { pages(part.end - part.start) } else { 0 };
        }
        self.check_data(added_data)?;
        Ok(covered.end)
    }
}

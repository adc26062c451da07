//! The two areas that every program has: the heap of brk(2), and the main stack.

use core::ops::Range;

use super::map::mmap_base;
use super::{AddressSpace, Layout, MapError, MapFlags, MapRequest, State};
use crate::memory::{PAGE_SIZE, USER_END, VirtAddr, page_round_up};
use crate::replicated::address_space::{Protection, VmaFlags};

/// Bytes of stack mapped from the start.
const INITIAL_STACK: usize = 132 << 10;
/// Random bits, in pages, of the top of the stack and of the place of mappings, and of the heap.
const STACK_RANDOM_PAGES: u64 = 1 << 14;
const MMAP_RANDOM_PAGES: u64 = 1 << 28;

impl AddressSpace {
    /// Says where the heap of brk(2) begins: behind the program's data. It is empty.
    pub fn set_brk_start(&self, start: VirtAddr) {
        let mut state = self.lock();
        let start = start.align_down(PAGE_SIZE) + if start.page_offset() == 0 { 0 } else { PAGE_SIZE };
        (state.layout.brk_start, state.layout.brk_end) = (start, start);
    }

    /// What brk(2) to `end` takes away from the heap, in whole pages: for [`empty`](Self::empty), beforehand.
    pub fn cut_off_by_brk(&self, end: VirtAddr) -> Option<Range<VirtAddr>> {
        let state = self.lock();
        let Layout { brk_start, brk_end, .. } = state.layout;
        let up = |at: VirtAddr| page_round_up(at.as_usize()).map(|at| VirtAddr::new(at as u64));
        let (kept, mapped) = (up(end)?, up(brk_end)?);
        (end >= brk_start && kept < mapped).then_some(kept..mapped)
    }

    /// brk(2): moves the end of the heap. Returns where it is now, which is where it was if it cannot be moved, and what is to be locked.
    pub fn brk(&self, end: VirtAddr) -> (VirtAddr, Option<Range<VirtAddr>>) {
        let mut state = self.lock();
        let Layout { brk_start, brk_end: before, .. } = state.layout;
        if end < brk_start || end.as_usize() > USER_END {
            return (before, None);
        }
        let Ok(locked) = self.move_brk(&mut state, before, end) else { return (before, None) };
        state.layout.brk_end = end;
        (end, locked)
    }

    /// Maps or unmaps what lies between two ends of the heap. Returns what has to be locked.
    fn move_brk(
        &self,
        state: &mut State,
        before: VirtAddr,
        end: VirtAddr,
    ) -> Result<Option<Range<VirtAddr>>, MapError> {
        let up = |at: VirtAddr| {
            page_round_up(at.as_usize()).map(|at| VirtAddr::new(at as u64)).ok_or(MapError::OutOfMemory)
        };
        let (mapped, wanted) = (up(before)?, up(end)?);
        if wanted < mapped {
            state.mappings.prepare()?;
            self.unmap_pages(state, wanted, mapped);
        } else if wanted > mapped {
            let len = wanted - mapped;
            let request = MapRequest::anonymous(len, Protection::READ | Protection::WRITE);
            let request = MapRequest { hint: mapped, ..request }.with(MapFlags::FIXED_NOREPLACE);
            let (added, locked) = self.insert(state, &request, request.area(len), len)?;
            return Ok(locked.then_some(added));
        }
        Ok(None)
    }

    /// Maps the main stack, and says where other mappings go: below what the stack may grow to. Returns the first address past
    /// the stack. `seed` moves the stack and the mappings by a random amount.
    ///
    /// # Errors
    /// [`MapError::OutOfMemory`].
    pub fn map_stack(&self, executable: bool, seed: u64) -> Result<VirtAddr, MapError> {
        let shift = |pages: u64, bits: u64| (bits % pages) as usize * PAGE_SIZE;
        let top = VirtAddr::new((USER_END - shift(STACK_RANDOM_PAGES, seed)) as u64);
        let limit = {
            let mut state = self.lock();
            let limit = state.limits.stack;
            let base = mmap_base(top, limit);
            state.layout.stack_top = top;
            state.layout.mmap_base =
                VirtAddr::new((base.as_usize() - shift(MMAP_RANDOM_PAGES, seed >> 32)) as u64);
            limit
        };
        let size = INITIAL_STACK.min(limit.max(PAGE_SIZE as u64) as usize & !(PAGE_SIZE - 1));
        let mut prot = Protection::READ | Protection::WRITE;
        prot.set(Protection::EXEC, executable);
        let request = MapRequest::anonymous(size, prot).at(VirtAddr::new((top.as_usize() - size) as u64));
        self.map(request.with(MapFlags::GROWSDOWN))?;
        Ok(top)
    }

    /// The first address of the area that `address` lies in, if that grows downwards.
    pub fn growing_area_at(&self, address: VirtAddr) -> Option<VirtAddr> {
        let state = self.lock();
        let area = state.mappings.areas().find(address)?;
        area.flags.contains(VmaFlags::GROWS_DOWN).then_some(area.start)
    }
}

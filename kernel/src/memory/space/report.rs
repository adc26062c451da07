//! What /proc tells of an address space: maps, smaps, statm and the lines of status.

use alloc::sync::Arc;

use super::AddressSpace;
use crate::arch::paging::Attributes;
use crate::memory::{PAGE_SIZE, VirtAddr};
use crate::replicated::address_space::{Backing, MappingName, Protection, Vma, VmaFlags};

/// One line of /proc/PID/maps, and what smaps adds.
#[derive(Clone, Debug)]
pub struct Region {
    /// First address.
    pub start: VirtAddr,
    /// First address past it.
    pub end: VirtAddr,
    /// What is allowed.
    pub protection: Protection,
    /// Properties; `SHARED` above all.
    pub flags: VmaFlags,
    /// Offset in the object, in bytes; 0 for anonymous memory.
    pub offset: u64,
    /// The object's name, or `[heap]`, `[stack]`; `None` for other anonymous memory.
    pub name: Option<Arc<MappingName>>,
    /// Whether it is the heap of brk(2).
    pub is_heap: bool,
    /// Whether it is the main stack.
    pub is_stack: bool,
    /// Pages that are there: private memory.
    pub anonymous: usize,
    /// Pages that are there: of the object.
    pub object: usize,
    /// Pages used since they came in.
    pub referenced: usize,
}

/// Sizes of an address space, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceStatistics {
    /// Mapped (`VmSize`).
    pub mapped: usize,
    /// Most that were mapped at once (`VmPeak`).
    pub peak_mapped: usize,
    /// Private memory that is there (`RssAnon`).
    pub resident_anonymous: usize,
    /// Pages of objects that are there (`RssFile` and `RssShmem`).
    pub resident_object: usize,
    /// Most that were there at once (`VmHWM`; `ru_maxrss`).
    pub peak_resident: usize,
    /// Private and writable (`VmData`).
    pub data: usize,
    /// Of the main stack (`VmStk`).
    pub stack: usize,
    /// Executable and not writable (`VmExe` and `VmLib`).
    pub text: usize,
    /// Locked (`VmLck`).
    pub locked: usize,
}

impl AddressSpace {
    /// The first area that ends above `at`, its pages not counted.
    pub fn region_from(&self, at: VirtAddr) -> Option<Region> {
        let state = self.lock();
        let area = state.mappings.areas().find_from(at)?;
        let mut region = Region::of(area);
        region.is_heap = area.start < state.layout.brk_end
            && state.layout.brk_start < area.end
            && matches!(area.backing, Backing::Anonymous);
        region.is_stack = area.end == state.layout.stack_top;
        Some(region)
    }

    /// Counts what is there of `region` from `from` on, as far as one piece goes. Says where to go on, if there is more.
    pub fn count_pages(&self, region: &mut Region, from: VirtAddr) -> Option<VirtAddr> {
        /// Bytes of which the pages are counted under one lock, and as many that are not there before them.
        const COUNTED: usize = 512 * PAGE_SIZE;
        let state = self.lock();
        let tables = state.mappings.tables();
        let from = tables.next_page(from..region.end)?;
        let end = if region.end - from > COUNTED { from + COUNTED } else { region.end };
        tables.visit(from..end, |_, entry| region.count(entry.attributes()));
        (end < region.end).then_some(end)
    }

    /// The first address and the one past the last.
    pub fn bounds(&self) -> (VirtAddr, VirtAddr) {
        let state = self.lock();
        let mut areas = state.mappings.areas().iter();
        let first = areas.next();
        let last = areas.next_back().or(first);
        (
            first.map_or_else(VirtAddr::default, |area| area.start),
            last.map_or_else(VirtAddr::default, |area| area.end),
        )
    }

    /// All areas, in ascending order; with `count_pages`, what is there of each.
    #[cfg(test)]
    pub fn regions(&self, count_pages: bool) -> Result<alloc::vec::Vec<Region>, crate::memory::OutOfMemory> {
        let (mut regions, mut at) = (alloc::vec::Vec::new(), VirtAddr::default());
        while let Some(mut region) = self.region_from(at) {
            at = region.end;
            let mut from = Some(region.start).filter(|_| count_pages);
            while let Some(more) = from {
                from = self.count_pages(&mut region, more);
            }
            regions.push(region);
        }
        Ok(regions)
    }

    /// Sizes.
    pub fn statistics(&self) -> SpaceStatistics {
        let state = self.lock();
        let (areas, resident) = (state.mappings.areas(), state.mappings.resident());
        let totals = areas.totals();
        let sum =
            |counts: &dyn Fn(&Vma) -> bool| areas.iter().filter(|area| counts(area)).map(Vma::pages).sum();
        SpaceStatistics {
            mapped: totals.mapped,
            peak_mapped: state.peak_mapped,
            resident_anonymous: resident.anonymous,
            resident_object: resident.object,
            peak_resident: state.peak_resident,
            data: totals.data,
            stack: sum(&|area| area.end == state.layout.stack_top),
            text: sum(&|area| area.protection & (Protection::EXEC | Protection::WRITE) == Protection::EXEC),
            locked: totals.locked,
        }
    }
}

impl Region {
    fn of(area: &Vma) -> Self {
        let (offset, name) = match &area.backing {
            Backing::Anonymous => (0, None),
            Backing::File { offset, name, .. } => (*offset, name.clone()),
        };
        Self {
            start: area.start,
            end: area.end,
            protection: area.protection,
            flags: area.flags,
            offset,
            name,
            is_heap: false,
            is_stack: false,
            anonymous: 0,
            object: 0,
            referenced: 0,
        }
    }

    fn count(&mut self, attributes: Attributes) {
        let object = attributes.contains(Attributes::OBJECT);
        *if object { &mut self.object } else { &mut self.anonymous } += 1;
        self.referenced += usize::from(attributes.contains(Attributes::ACCESSED));
    }
}

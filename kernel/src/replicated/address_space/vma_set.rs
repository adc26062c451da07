//! The areas of an address space, in ascending order and disjoint. Neighbours that can be one, are.
//!
//! They lie in one array: most spaces have some dozens, a lookup is a binary search in a few cache lines, and the search
//! for a gap walks them in order. Room for new ones is made before an operation ([`VmaSet::reserve`]).

use alloc::vec::Vec;
use core::ops::Range;

use super::vma::Vma;
use crate::memory::{OutOfMemory, VirtAddr};

/// Most areas of a space: Linux's default of `vm.max_map_count`.
pub const MAX_AREAS: usize = 65_530;

/// Most areas that one call adds, if only for a while: cutting at both ends of a range adds two, and mremap(2) unmaps
/// twice and maps once.
const AREAS_PER_CALL: usize = 5;

/// Sums over all areas, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Mapped.
    pub mapped: usize,
    /// Private and writable.
    pub data: usize,
    /// Locked.
    pub locked: usize,
}

/// The areas of an address space.
#[derive(Default)]
pub struct VmaSet {
    areas: Vec<Vma>,
    totals: Totals,
}

impl VmaSet {
    /// Makes room for all operations of one call.
    ///
    /// # Errors
    /// [`OutOfMemory`], also beyond [`MAX_AREAS`].
    pub fn reserve(&mut self) -> Result<(), OutOfMemory> {
        if self.areas.len() + AREAS_PER_CALL > MAX_AREAS {
            return Err(OutOfMemory);
        }
        self.areas.try_reserve(AREAS_PER_CALL).map_err(|_| OutOfMemory)
    }

    /// As many areas, all of them, as `other` has: before they are inserted one by one.
    pub fn reserve_as(&mut self, other: &Self) -> Result<(), OutOfMemory> {
        self.areas.try_reserve(other.areas.len()).map_err(|_| OutOfMemory)
    }

    /// Sums over all areas.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// All areas.
    pub fn iter(&self) -> core::slice::Iter<'_, Vma> {
        self.areas.iter()
    }

    /// The area that `address` lies in.
    pub fn find(&self, address: VirtAddr) -> Option<&Vma> {
        self.areas.get(self.index_of(address)).filter(|area| area.start <= address)
    }

    /// The first area that ends above `address`: the one that it lies in, or the next.
    pub fn find_from(&self, address: VirtAddr) -> Option<&Vma> {
        self.areas.get(self.index_of(address))
    }

    /// The last area that ends at or below `address`.
    pub fn find_below(&self, address: VirtAddr) -> Option<&Vma> {
        self.areas[..self.index_of(address)].last()
    }

    /// The areas that overlap `range`.
    pub fn overlapping(&self, range: &Range<VirtAddr>) -> &[Vma] {
        let first = self.index_of(range.start);
        let count = self.areas[first..].partition_point(|area| area.start < range.end);
        &self.areas[first..first + count]
    }

    /// Whether areas cover all of `range`.
    pub fn covers(&self, range: &Range<VirtAddr>) -> bool {
        self.covered_from(range) == range.end
    }

    /// How far areas cover `range` without a gap, from its start.
    pub fn covered_from(&self, range: &Range<VirtAddr>) -> VirtAddr {
        let mut at = range.start;
        for area in self.overlapping(range) {
            if area.start > at {
                break;
            }
            at = area.end;
        }
        at.min(range.end).max(range.start)
    }

    /// Adds an area where nothing is.
    pub fn insert(&mut self, area: Vma) {
        let mut index = self.index_of(area.start);
        debug_assert!(self.areas.get(index).is_none_or(|next| next.start >= area.end));
        self.count(&area, 1);
        if index > 0 && self.areas[index - 1].merges_with(&area) {
            index -= 1;
            self.areas[index].end = area.end;
        } else {
            self.areas.insert(index, area);
        }
        self.merge_with_next(index);
    }

    /// Takes the areas, or parts of areas, in `range` out.
    pub fn remove(&mut self, range: &Range<VirtAddr>) {
        for index in self.isolate(range) {
            self.totals = self.totals.changed(&self.areas[index], -1);
        }
        let gone = self.isolated(range);
        self.areas.drain(gone);
    }

    /// Applies `change` to the areas, or parts of areas, in `range`. It may change anything but the addresses.
    pub fn update(&mut self, range: &Range<VirtAddr>, mut change: impl FnMut(&mut Vma)) {
        let changed = self.isolate(range);
        for index in changed.clone() {
            self.totals = self.totals.changed(&self.areas[index], -1);
            change(&mut self.areas[index]);
            self.totals = self.totals.changed(&self.areas[index], 1);
        }
        // From behind, since merging shifts what follows.
        for index in (changed.start.saturating_sub(1)..changed.end).rev() {
            self.merge_with_next(index);
        }
    }

    /// Lets the area that begins at `start` begin at `lower`, where nothing is in between.
    pub fn grow_down(&mut self, start: VirtAddr, lower: VirtAddr) {
        let index = self.index_of(start);
        let Some(area) = self.areas.get_mut(index).filter(|area| area.start == start) else { return };
        let before = area.clone();
        area.start = lower;
        let after = area.clone();
        self.totals = self.totals.changed(&before, -1).changed(&after, 1);
    }

    /// The highest gap of `len` bytes below `limit` and at or above `floor`: its first address. `align` is a power of two.
    pub fn gap_below(&self, len: usize, floor: VirtAddr, limit: VirtAddr, align: usize) -> Option<VirtAddr> {
        let fits = |low: VirtAddr, high: VirtAddr| {
            let start = VirtAddr::new(high.as_u64().checked_sub(len as u64)?).align_down(align);
            (start >= low.max(floor)).then_some(start)
        };
        let mut high = limit;
        for area in self.areas[..self.areas.partition_point(|area| area.start < limit)].iter().rev() {
            if let Some(start) = fits(area.end, high) {
                return Some(start);
            }
            high = high.min(area.start);
            if high <= floor {
                return None;
            }
        }
        fits(floor, high)
    }

    /// Index of the first area that ends above `address`.
    fn index_of(&self, address: VirtAddr) -> usize {
        self.areas.partition_point(|area| area.end <= address)
    }

    /// Cuts areas so that none crosses the ends of `range`; the indices of those inside.
    fn isolate(&mut self, range: &Range<VirtAddr>) -> Range<usize> {
        for edge in [range.start, range.end] {
            let index = self.index_of(edge);
            if let Some(area) = self.areas.get_mut(index).filter(|area| area.start < edge) {
                let upper = area.split_off(edge);
                self.areas.insert(index + 1, upper);
            }
        }
        self.isolated(range)
    }

    fn isolated(&self, range: &Range<VirtAddr>) -> Range<usize> {
        self.index_of(range.start)..self.areas.partition_point(|area| area.start < range.end)
    }

    fn merge_with_next(&mut self, index: usize) {
        if let [area, next, ..] = &mut self.areas[index..]
            && area.merges_with(next)
        {
            area.end = next.end;
            self.areas.remove(index + 1);
        }
    }

    fn count(&mut self, area: &Vma, sign: isize) {
        self.totals = self.totals.changed(area, sign);
    }
}

impl Totals {
    /// With the pages of `area` added (`sign` 1) or taken off (-1).
    fn changed(self, area: &Vma, sign: isize) -> Self {
        let pages = |counts: bool| if counts { area.pages() as isize * sign } else { 0 } as usize;
        Self {
            mapped: self.mapped.wrapping_add(pages(true)),
            data: self.data.wrapping_add(pages(area.is_data())),
            locked: self.locked.wrapping_add(pages(area.flags.contains(super::vma::VmaFlags::LOCKED))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vma::{Backing, Protection, VmaFlags};
    use super::*;
    use crate::memory::PAGE_SIZE;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const PAGES: usize = 48;

    fn page(number: usize) -> VirtAddr {
        VirtAddr::new((number * PAGE_SIZE) as u64)
    }

    fn area(range: &Range<usize>, prot: u8, locked: bool) -> Vma {
        let mut flags = VmaFlags::empty();
        flags.set(VmaFlags::LOCKED, locked);
        Vma {
            start: page(range.start),
            end: page(range.end),
            protection: Protection::from_bits(prot).unwrap(),
            maximum: Protection::all(),
            flags,
            backing: Backing::Anonymous,
        }
    }

    type Model = BTreeMap<usize, (u8, bool)>;

    fn check(set: &VmaSet, model: &Model) {
        let mut seen = Model::new();
        for area in set.iter() {
            let locked = area.flags.contains(VmaFlags::LOCKED);
            for number in area.start.as_usize() / PAGE_SIZE..area.end.as_usize() / PAGE_SIZE {
                assert!(seen.insert(number, (area.protection.bits(), locked)).is_none(), "areas overlap");
            }
        }
        assert_eq!(&seen, model);
        assert!(
            set.areas.is_sorted_by(|a, b| a.end <= b.start) && set.iter().all(|area| area.start < area.end)
        );
        assert!(!set.areas.windows(2).any(|w| w[0].merges_with(&w[1])));
        let count = |counts: fn(&(u8, bool)) -> bool| model.values().filter(|page| counts(page)).count();
        let expected =
            Totals { mapped: model.len(), data: count(|page| page.0 & 2 != 0), locked: count(|page| page.1) };
        assert_eq!(set.totals(), expected);
    }

    /// The highest free run, found page by page.
    fn gap(model: &Model, len: usize, floor: usize, limit: usize) -> Option<usize> {
        (floor..=limit.checked_sub(len)?)
            .rev()
            .find(|&at| (at..at + len).all(|page| !model.contains_key(&page)))
    }

    proptest! {
        #[test]
        fn behaves_as_a_map_from_pages_to_properties(
            steps in proptest::collection::vec(
                (0u8..4, 0..PAGES, 1usize..10, 0u8..4, any::<bool>()), 1..80),
            (len, floor) in (1usize..12, 0usize..8),
        ) {
            let (mut set, mut model) = (VmaSet::default(), Model::new());
            for (kind, start, length, prot, locked) in steps {
                let range = start..(start + length).min(PAGES);
                let bytes = page(range.start)..page(range.end);
                match kind {
                    0 | 1 => {
                        set.reserve().unwrap();
                        set.remove(&bytes);
                        set.insert(area(&range, prot, locked));
                        range.for_each(|number| _ = model.insert(number, (prot, locked)));
                    }
                    2 => {
                        set.remove(&bytes);
                        model.retain(|number, _| !range.contains(number));
                    }
                    _ => {
                        set.update(&bytes, |area| area.protection = Protection::from_bits(prot).unwrap());
                        model.range_mut(range).for_each(|(_, page)| page.0 = prot);
                    }
                }
                check(&set, &model);
                let covered = (start..PAGES).take_while(|number| model.contains_key(number)).count();
                prop_assert_eq!(set.covered_from(&(page(start)..page(PAGES))), page(start + covered));
                prop_assert_eq!(set.find(page(start)).is_some(), model.contains_key(&start));
                let found = set.gap_below(len * PAGE_SIZE, page(floor), page(start), PAGE_SIZE);
                prop_assert_eq!(found, gap(&model, len, floor, start).map(page));
            }
        }
    }

    #[test]
    fn a_stack_that_grows_is_counted() {
        let mut set = VmaSet::default();
        set.insert(area(&(10..12), 3, false));
        set.grow_down(page(10), page(4));
        assert_eq!((set.totals().mapped, set.find(page(4)).map(Vma::pages)), (8, Some(8)));
        set.grow_down(page(5), page(1));
        assert_eq!(set.totals().mapped, 8, "no area begins there");
    }
}

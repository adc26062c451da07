//! The operations that change an address space.

use alloc::sync::Arc;
use core::ops::Range;

use super::{Attributes, Fault, Flush, Frame, Mappings, PhysAddr, Protection, VirtAddr, Vma, VmaFlags};
use crate::arch::paging::Retired;
use crate::fs::PageSource;
use crate::memory::{PAGE_SIZE, USER_END};
use crate::replicated::Operation;

/// Adds an area. Its range is free: the policy has seen to it.
pub struct Map(pub Vma);

impl Operation<Mappings> for Map {
    /// The area back, if the range is not free.
    type Response = Result<(), Vma>;

    fn apply(self, data: &mut Mappings) -> Self::Response {
        let free = data.areas.overlapping(&self.0.range()).is_empty();
        if !free {
            return Err(self.0);
        }
        data.areas.insert(self.0);
        Ok(())
    }
}

/// What an operation took out: to be dropped after the flush.
pub struct Removed {
    /// How far it came. The caller goes on from here if that is not the end.
    pub done: VirtAddr,
    /// The frames.
    pub retired: Retired,
    /// What the cores must forget.
    pub flush: Flush,
}

impl Mappings {
    fn remove_pages(&mut self, range: &Range<VirtAddr>, copies: bool) -> Removed {
        let mut retired = Retired::new();
        let resident = &mut self.resident;
        let goes = |attributes: Attributes| {
            let goes = copies || attributes.contains(Attributes::OBJECT);
            *resident.of(attributes) -= usize::from(goes);
            goes
        };
        let (done, flush) = self.tables.remove(range.clone(), &mut retired, goes);
        Removed { done, retired, flush }
    }
}

/// Removes areas and pages in a range, from its start, as far as one batch of frames goes.
pub struct Unmap(pub Range<VirtAddr>);

impl Operation<Mappings> for Unmap {
    type Response = Removed;

    fn apply(self, data: &mut Mappings) -> Removed {
        let removed = data.remove_pages(&self.0, true);
        if removed.done > self.0.start {
            data.areas.remove(&(self.0.start..removed.done));
        }
        removed
    }
}

/// Removes pages in a range, not the areas, as far as one batch of frames goes: the next access finds them as new.
pub struct Discard {
    /// The addresses.
    pub range: Range<VirtAddr>,
    /// Whether private pages go as well, or only those of objects.
    pub copies: bool,
}

impl Operation<Mappings> for Discard {
    type Response = Removed;

    fn apply(self, data: &mut Mappings) -> Removed {
        data.remove_pages(&self.range, self.copies)
    }
}

/// Sets the protection of a range that areas cover.
pub struct Protect {
    /// The pages.
    pub range: Range<VirtAddr>,
    /// What is allowed from now on.
    pub protection: Protection,
}

impl Operation<Mappings> for Protect {
    type Response = Flush;

    fn apply(self, data: &mut Mappings) -> Flush {
        data.areas.update(&self.range, |area| area.protection = self.protection);
        let mut flush = Flush::NONE;
        for area in data.areas.overlapping(&self.range) {
            let part = area.start.max(self.range.start)..area.end.min(self.range.end);
            let narrowed = data.tables.protect(part, |_, before| {
                // Leave to write comes by a fault, which knows whether the frame is shared.
                let kept = before & (Attributes::ACCESSED | Attributes::DIRTY);
                area.attributes(before.contains(Attributes::WRITE), before.contains(Attributes::OBJECT))
                    | kept
            });
            flush = flush.and(narrowed);
        }
        flush
    }
}

/// Where the contents of a private frame come from.
pub enum Origin<'a> {
    /// Zeroes.
    Anonymous,
    /// A private copy of page `.1` of an object.
    Copied(&'a Arc<dyn PageSource>, u64),
}

/// Puts a private frame at an address after a fault, unless something is there or the area is another by now: then the program
/// faults again, or goes on.
pub struct Install<'a> {
    /// The page.
    pub address: VirtAddr,
    /// What to put there.
    pub frame: Frame,
    /// What it holds.
    pub origin: Origin<'a>,
}

impl Operation<Mappings> for Install<'_> {
    /// Whether it was put there.
    type Response = bool;

    fn apply(self, data: &mut Mappings) -> bool {
        let Some(area) = data.areas.find(self.address) else { return false };
        let same = |source: &Arc<dyn PageSource>, index| {
            area.object_page(self.address)
                .is_some_and(|(object, at)| Arc::ptr_eq(object, source) && at == index)
        };
        let valid = match self.origin {
            Origin::Anonymous => area.object_page(self.address).is_none(),
            Origin::Copied(source, index) => same(source, index) && !area.flags.contains(VmaFlags::SHARED),
        };
        let attributes = area.attributes(true, false);
        let installed =
            valid && data.tables.install(self.address, self.frame, attributes, &mut data.reserve).is_ok();
        data.resident.anonymous += usize::from(installed);
        installed
    }
}

/// Puts pages of an object at the addresses from `first` on after a fault on one of them: those of `frames` that are
/// there, where nothing is yet. All lie in one page table. As [`Install`], if the area still is what it was.
pub struct InstallRun<'a> {
    /// The first page.
    pub first: VirtAddr,
    /// What to put there; what was put is taken out.
    pub frames: &'a mut [Option<Frame>],
    /// The object.
    pub source: &'a Arc<dyn PageSource>,
    /// Number of the first page in it.
    pub index: u64,
}

impl Operation<Mappings> for InstallRun<'_> {
    type Response = ();

    fn apply(self, data: &mut Mappings) {
        let Some(area) = data.areas.find(self.first) else { return };
        let room = (area.end - self.first) / PAGE_SIZE;
        let same = area
            .object_page(self.first)
            .is_some_and(|(object, at)| Arc::ptr_eq(object, self.source) && at == self.index);
        if !same {
            return;
        }
        let count = self.frames.len().min(room);
        let attributes = area.attributes(area.flags.contains(VmaFlags::SHARED), true);
        let frames = &mut self.frames[..count];
        data.resident.object += data.tables.install_run(self.first, frames, attributes, &mut data.reserve);
    }
}

/// Puts a private copy in the place of the frame at `old`, if that is still there: copy on write.
pub struct Replace {
    /// The page.
    pub address: VirtAddr,
    /// Where the frame is that was copied.
    pub old: PhysAddr,
    /// The copy.
    pub frame: Frame,
}

impl Operation<Mappings> for Replace {
    /// The frame that was there, to be dropped after the flush.
    type Response = Option<(Frame, Flush)>;

    fn apply(self, data: &mut Mappings) -> Self::Response {
        let area = data.areas.find(self.address).filter(|area| !area.flags.contains(VmaFlags::SHARED))?;
        let before = data.tables.entry(self.address)?.attributes();
        let attributes = area.attributes(true, false);
        let replaced = data.tables.replace(self.address, self.old, self.frame, attributes).ok()?;
        *data.resident.of(before) -= 1;
        *data.resident.of(attributes) += 1;
        Some(replaced)
    }
}

/// Allows stores to the frame that is at `address`, if it still is the one at `old` and no child was forked since the
/// plan. A core that remembers less faults, and goes on: no flush.
pub struct Upgrade {
    /// The page.
    pub address: VirtAddr,
    /// Where its frame is.
    pub old: PhysAddr,
    /// Forks until the plan was made.
    pub forks: u64,
}

impl Operation<Mappings> for Upgrade {
    type Response = ();

    fn apply(self, data: &mut Mappings) {
        let Some(area) = data.areas.find(self.address).filter(|_| self.forks == data.forks) else { return };
        let same = data.tables.entry(self.address).is_some_and(|entry| entry.phys() == self.old);
        if same {
            let page = self.address..self.address + PAGE_SIZE;
            let widened = data.tables.protect(page, |_, before| {
                area.attributes(true, before.contains(Attributes::OBJECT)) | before & Attributes::ACCESSED
            });
            widened.ignore();
        }
    }
}

/// Lets the area that begins at `start` begin at `lower`: a stack grows.
pub struct Grow {
    /// First address now.
    pub start: VirtAddr,
    /// First address from now on.
    pub lower: VirtAddr,
}

impl Operation<Mappings> for Grow {
    type Response = Result<(), Fault>;

    fn apply(self, data: &mut Mappings) -> Self::Response {
        if self.lower >= self.start || !data.areas.overlapping(&(self.lower..self.start)).is_empty() {
            return Err(Fault::NotMapped);
        }
        data.areas.grow_down(self.start, self.lower);
        Ok(())
    }
}

/// Sets and clears flags of the areas in a range.
pub struct Flag {
    /// The pages.
    pub range: Range<VirtAddr>,
    /// Flags to set.
    pub set: VmaFlags,
    /// Flags to clear.
    pub clear: VmaFlags,
}

impl Operation<Mappings> for Flag {
    type Response = ();

    fn apply(self, data: &mut Mappings) {
        data.areas.update(&self.range, |area| area.flags = (area.flags - self.clear) | self.set);
    }
}

/// Moves the page at `from`, if there is one, to `to`, where nothing is: mremap(2), page by page.
pub struct Relocate {
    /// Where it is.
    pub from: VirtAddr,
    /// Where it goes.
    pub to: VirtAddr,
}

impl Operation<Mappings> for Relocate {
    type Response = Removed;

    fn apply(self, data: &mut Mappings) -> Removed {
        let mut retired = Retired::new();
        debug_assert!(self.to.as_usize() < USER_END);
        let flush = data.tables.relocate(self.from, self.to, &mut data.reserve, &mut retired);
        Removed { done: self.from + PAGE_SIZE, retired, flush }
    }
}

//! The tables of one address space.

use core::convert::Infallible;
use core::mem::ManuallyDrop;
use core::ops::{ControlFlow, Range};

use super::entry::{Attributes, Entry, Slot};
use super::flush::Flush;
use super::kernel_root;
use crate::arch;
use crate::memory::{Frame, OutOfMemory, PAGE_SIZE, PhysAddr, Purpose, VirtAddr};

const ENTRIES: usize = 512;
/// Level of the root; the tables of level 1 map base pages.
const ROOT: u32 = 4;
/// First entry of the root that belongs to the kernel.
const KERNEL_HALF: usize = ENTRIES / 2;
/// What an entry that leads to a table allows: everything; the last level decides.
const LINK: Attributes = Attributes::PRESENT.union(Attributes::WRITE).union(Attributes::USER);

/// Tables on the way to a page, the root not counted.
const TABLES_PER_PAGE: usize = 3;

/// Frames that an operation took out of the tables, pages and emptied tables alike. Dropped after the flush.
pub type Retired = heapless::Vec<Frame, 124>;

/// Empty tables put aside, so that a page can be installed without allocating.
#[derive(Default)]
pub struct Reserve(heapless::Vec<Frame, TABLES_PER_PAGE>);

impl Reserve {
    /// Tops the reserve up: enough for any one page.
    ///
    /// # Errors
    /// [`OutOfMemory`]; what is there stays.
    pub fn fill(&mut self, purpose: Purpose) -> Result<(), OutOfMemory> {
        while !self.0.is_full() {
            let table = empty_table(purpose)?;
            // Not full, so there is room.
            let _ = self.0.push(table);
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Frame> {
        self.0.pop()
    }
}

fn empty_table(purpose: Purpose) -> Result<Frame, OutOfMemory> {
    let table = Frame::zeroed_for(purpose)?;
    table.set_note(0);
    Ok(table)
}

/// One table.
#[repr(C, align(4096))]
struct Table([Slot; ENTRIES]);

/// The table at `phys`.
///
/// # Safety
/// There is a table, and it stays for as long as the result is used.
unsafe fn table_at<'a>(phys: PhysAddr) -> &'a Table {
    // SAFETY: the caller vouches for the table; its slots are atomic, so any bit pattern is a value.
    unsafe { &*arch::phys_to_virt(phys).cast::<Table>() }
}

/// Bytes that one entry of a table of `level` spans.
const fn span(level: u32) -> usize {
    PAGE_SIZE << (9 * (level - 1))
}

fn index(address: VirtAddr, level: u32) -> usize {
    address.as_usize() / span(level) % ENTRIES
}

/// First address past the entry of `level` that `address` lies in.
fn entry_end(address: VirtAddr, level: u32) -> VirtAddr {
    address.align_down(span(level)) + span(level)
}

/// The page tables of one address space.
pub struct PageTable {
    root: Frame,
}

impl PageTable {
    /// Tables that map nothing but the kernel.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new() -> Result<Self, OutOfMemory> {
        let tables = Self { root: empty_table(Purpose::User)? };
        if let Some(kernel) = kernel_root() {
            // SAFETY: the kernel's root is never freed.
            let kernel = unsafe { table_at(kernel) };
            let pairs = tables.root().0.iter().zip(&kernel.0).skip(KERNEL_HALF);
            pairs.for_each(|(to, from)| to.store(from.load()));
        }
        Ok(tables)
    }

    /// Where the root is: what CR3 takes.
    pub fn root_phys(&self) -> PhysAddr {
        self.root.phys()
    }

    /// The entry of the page at `address`, if it maps or holds one.
    pub fn entry(&self, address: VirtAddr) -> Option<Entry> {
        let (table, level) = self.lowest(address);
        let entry = table.0[index(address, level)].load();
        (level == 1 && !entry.is_empty()).then_some(entry)
    }

    /// The frame of the page at `address`, shared, and its attributes.
    pub fn frame(&self, address: VirtAddr) -> Option<(Frame, Attributes)> {
        let entry = self.entry(address)?;
        Some((share(entry), entry.attributes()))
    }

    /// Whether the entry of the page at `address` is the only owner of its frame.
    pub fn owns_alone(&self, address: VirtAddr) -> bool {
        self.entry(address).is_some_and(|entry| ManuallyDrop::new(own(entry)).is_unique())
    }

    /// The first page in `range` that is mapped or held.
    pub fn next_page(&self, range: Range<VirtAddr>) -> Option<VirtAddr> {
        self.visit_slots(range, |address, _| ControlFlow::Break(address)).break_value()
    }

    /// Maps `frame` at `address`, where nothing is. Missing tables come from `reserve`, which must be full.
    ///
    /// # Errors
    /// The frame, when something is there or the reserve has run out.
    pub fn install(
        &mut self,
        address: VirtAddr,
        frame: Frame,
        attributes: Attributes,
        reserve: &mut Reserve,
    ) -> Result<(), Frame> {
        let Ok(table) = self.leaf_table(address, || reserve.take().ok_or(OutOfMemory)) else {
            return Err(frame);
        };
        let slot = &table.slots().0[index(address, 1)];
        if !slot.load().is_empty() {
            return Err(frame);
        }
        slot.store(Entry::new(frame.into_phys(), attributes));
        table.count(1);
        Ok(())
    }

    /// Maps the frames that are in `frames` at `first` and the pages that follow, all in one table of level 1, where nothing is.
    /// Returns how many. `reserve` must be full.
    pub fn install_run(
        &mut self,
        first: VirtAddr,
        frames: &mut [Option<Frame>],
        attributes: Attributes,
        reserve: &mut Reserve,
    ) -> usize {
        let Ok(table) = self.leaf_table(first, || reserve.take().ok_or(OutOfMemory)) else { return 0 };
        let mut installed = 0;
        for (slot, frame) in table.slots().0[index(first, 1)..].iter().zip(frames) {
            if slot.load().is_empty()
                && let Some(frame) = frame.take()
            {
                slot.store(Entry::new(frame.into_phys(), attributes));
                installed += 1;
            }
        }
        table.count(installed as i32);
        installed
    }

    /// Puts `frame` in the place of the page at `address`, if that still is the frame at `old`.
    ///
    /// # Errors
    /// The frame, when it is not.
    pub fn replace(
        &mut self,
        address: VirtAddr,
        old: PhysAddr,
        frame: Frame,
        attributes: Attributes,
    ) -> Result<(Frame, Flush), Frame> {
        let (table, level) = self.lowest(address);
        let slot = &table.0[index(address, level)];
        let entry = slot.load();
        if level != 1 || entry.is_empty() || entry.phys() != old {
            return Err(frame);
        }
        let before = slot.replace(Entry::new(frame.into_phys(), attributes));
        Ok((own(before), Flush::page(address)))
    }

    /// Gives each page in `range` the attributes that `change` makes of its own.
    pub fn protect(
        &mut self,
        range: Range<VirtAddr>,
        mut change: impl FnMut(VirtAddr, Attributes) -> Attributes,
    ) -> Flush {
        let mut flush = Flush::NONE;
        let ControlFlow::Continue(()) = self.visit_slots(range, |address, slot| -> ControlFlow<Infallible> {
            let entry = slot.load();
            let attributes = change(address, entry.attributes());
            if attributes != entry.attributes() {
                slot.store(entry.with(attributes));
                flush = core::mem::take(&mut flush).and(Flush::page(address));
            }
            ControlFlow::Continue(())
        });
        flush
    }

    /// Calls `look` for each page in `range` that is mapped or held.
    pub fn visit(&self, range: Range<VirtAddr>, mut look: impl FnMut(VirtAddr, Entry)) {
        let ControlFlow::Continue(()) = self.visit_slots(range, |address, slot| -> ControlFlow<Infallible> {
            look(address, slot.load());
            ControlFlow::Continue(())
        });
    }

    /// Takes pages of `range` out, from its start, as many as `retired` has room for; `goes` says of each, by its attributes, whether.
    /// Returns how far it came: `range.end` when all are out.
    pub fn remove(
        &mut self,
        range: Range<VirtAddr>,
        retired: &mut Retired,
        mut goes: impl FnMut(Attributes) -> bool,
    ) -> (VirtAddr, Flush) {
        let (mut at, mut flush) = (range.start, Flush::NONE);
        while at < range.end {
            let (_, level) = self.lowest(at);
            let end = entry_end(at, level.max(2)).min(range.end);
            if level == 1 {
                let (mut removed, mut last) = (0, None);
                let stopped = self.visit_slots(at..end, |address, slot| {
                    // Room must remain for the tables that become empty.
                    if retired.len() + TABLES_PER_PAGE >= retired.capacity() {
                        return ControlFlow::Break(address);
                    }
                    if !goes(slot.load().attributes()) {
                        return ControlFlow::Continue(());
                    }
                    let entry = slot.replace(Entry::EMPTY);
                    let _ = retired.push(own(entry));
                    (removed, last) =
                        (removed + 1, Some((last.map_or(address, |(first, _)| first), address)));
                    ControlFlow::Continue(())
                });
                if let Some((first, last)) = last {
                    flush = flush.and(Flush::page(first)).and(Flush::page(last));
                    self.uncount(at, removed, retired);
                }
                if let ControlFlow::Break(address) = stopped {
                    return (address, flush);
                }
            }
            at = end;
        }
        (range.end, flush)
    }

    /// Moves the page at `from` to `to`, where nothing is. Does nothing if there is no page. Missing tables come from `reserve`,
    /// which must be full; an emptied table goes to `retired`, which must have room for three.
    pub fn relocate(
        &mut self,
        from: VirtAddr,
        to: VirtAddr,
        reserve: &mut Reserve,
        retired: &mut Retired,
    ) -> Flush {
        let (table, level) = self.lowest(from);
        let entry = if level == 1 { table.0[index(from, 1)].replace(Entry::EMPTY) } else { Entry::EMPTY };
        if entry.is_empty() {
            return Flush::NONE;
        }
        self.uncount(from, 1, retired);
        if let Err(frame) = self.install(to, own(entry), entry.attributes(), reserve) {
            // Only when the caller broke the rules: better a lost page than two owners.
            let _ = retired.push(frame);
        }
        Flush::page(from)
    }

    /// Shares the pages of `range` with `child`, at the same addresses, as many as `budget` has, which is used up: `sharing` says with
    /// which attributes, for both, or `None` to leave the page out. `child` is new: nothing is mapped there in `range`. Returns where
    /// to go on, if not all are done.
    ///
    /// # Errors
    /// [`OutOfMemory`] for a table of the child. The flush, of what was narrowed here, is due in any case.
    pub fn share_into(
        &mut self,
        child: &mut Self,
        range: Range<VirtAddr>,
        budget: &mut usize,
        mut sharing: impl FnMut(Attributes) -> Option<Attributes>,
    ) -> (Flush, Result<Option<VirtAddr>, OutOfMemory>) {
        let mut flush = Flush::NONE;
        let mut target: Option<(VirtAddr, Counted)> = None;
        let result = self.visit_slots(range, |address, slot| {
            let entry = slot.load();
            let Some(attributes) = sharing(entry.attributes()) else { return ControlFlow::Continue(()) };
            if *budget == 0 {
                return ControlFlow::Break(Ok(Some(address)));
            }
            let base = address.align_down(span(2));
            let table = match &target {
                Some((at, table)) if *at == base => table,
                _ => match child.leaf_table(address, || empty_table(Purpose::User)) {
                    Ok(table) => &target.insert((base, table)).1,
                    Err(error) => return ControlFlow::Break(Err(error)),
                },
            };
            if attributes != entry.attributes() {
                slot.store(entry.with(attributes));
                flush = core::mem::take(&mut flush).and(Flush::page(address));
            }
            table.slots().0[index(address, 1)].store(Entry::new(share(entry).into_phys(), attributes));
            table.count(1);
            *budget -= 1;
            ControlFlow::Continue(())
        });
        (flush, result.break_value().unwrap_or(Ok(None)))
    }

    fn root(&self) -> &Table {
        // SAFETY: the root lives as long as `self`.
        unsafe { table_at(self.root.phys()) }
    }

    /// The lowest table on the way to `address`, and its level.
    fn lowest(&self, address: VirtAddr) -> (&Table, u32) {
        let (mut table, mut level) = (self.root(), ROOT);
        while level > 1 {
            let entry = table.0[index(address, level)].load();
            if entry.is_empty() {
                break;
            }
            // SAFETY: above level 1 a user entry that is not empty leads to a table; tables go away only through `&mut self`.
            table = unsafe { table_at(entry.phys()) };
            level -= 1;
        }
        (table, level)
    }

    /// The table of level 1 for `address`; missing ones come from `new`.
    fn leaf_table(
        &mut self,
        address: VirtAddr,
        mut new: impl FnMut() -> Result<Frame, OutOfMemory>,
    ) -> Result<Counted, OutOfMemory> {
        let mut table = Counted::of(self.root.phys());
        for level in (2..=ROOT).rev() {
            let slot = &table.slots().0[index(address, level)];
            let mut entry = slot.load();
            if entry.is_empty() {
                entry = Entry::new(new()?.into_phys(), LINK);
                slot.store(entry);
                table.count(1);
            }
            table = Counted::of(entry.phys());
        }
        Ok(table)
    }

    /// Takes `removed` entries off the count of the table of level 1 at `address`; tables that become empty are retired.
    fn uncount(&mut self, address: VirtAddr, removed: i32, retired: &mut Retired) {
        let mut path = [self.root.phys(); ROOT as usize + 1];
        for level in (1..ROOT).rev() {
            let above = path[level as usize + 1];
            path[level as usize] = Counted::of(above).slots().0[index(address, level + 1)].load().phys();
        }
        let mut removed = removed;
        for level in 1..ROOT {
            if Counted::of(path[level as usize]).count(-removed) != 0 {
                return;
            }
            let above = Counted::of(path[level as usize + 1]);
            let entry = above.slots().0[index(address, level + 1)].replace(Entry::EMPTY);
            let _ = retired.push(own(entry));
            removed = 1;
        }
        Counted::of(path[ROOT as usize]).count(-removed);
    }

    /// Calls `visit` for each slot of level 1 in `range` that is not empty, in ascending order, until it breaks off.
    fn visit_slots<B>(
        &self,
        range: Range<VirtAddr>,
        mut visit: impl FnMut(VirtAddr, &Slot) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut at = range.start.align_down(PAGE_SIZE);
        while at < range.end {
            let (table, level) = self.lowest(at);
            let end = entry_end(at, level.max(2));
            if level == 1 {
                let last = end.min(range.end);
                let first = at;
                for (step, slot) in table.0[index(at, 1)..].iter().enumerate() {
                    let address = first + step * PAGE_SIZE;
                    if address >= last {
                        break;
                    }
                    if !slot.load().is_empty() {
                        visit(address, slot)?;
                    }
                }
            }
            at = end;
        }
        ControlFlow::Continue(())
    }
}

impl Drop for PageTable {
    /// Frees pages and tables. No processor may use the tables any more.
    fn drop(&mut self) {
        self.root().0[..KERNEL_HALF].iter().for_each(|slot| free_below(slot, ROOT - 1));
    }
}

/// Frees what a slot of a table of level `level + 1` leads to: a page, or a table with all that is below.
fn free_below(slot: &Slot, level: u32) {
    let entry = slot.replace(Entry::EMPTY);
    if entry.is_empty() {
        return;
    }
    if level > 0 {
        let table = Counted::of(entry.phys());
        table.slots().0.iter().for_each(|slot| free_below(slot, level - 1));
    }
    drop(own(entry));
}

/// The handle that an entry holds: for who has just taken the entry out of the tables, or does not drop the handle.
fn own(entry: Entry) -> Frame {
    // SAFETY: each entry came from `into_phys`; callers are as the comment above demands.
    unsafe { Frame::from_phys(entry.phys()) }
}

/// Another handle of the frame of an entry that stays.
fn share(entry: Entry) -> Frame {
    Frame::clone(&ManuallyDrop::new(own(entry)))
}

/// A table, with the count of its entries in use, which is its frame's note. The handle belongs to the entry that leads here.
struct Counted(ManuallyDrop<Frame>);

impl Counted {
    /// The table at `phys`, which an entry owns (or the root's owner). It is used while that holds: under `&mut` of
    /// the [`PageTable`], or in its drop.
    fn of(phys: PhysAddr) -> Self {
        // SAFETY: the handle is never dropped: it stays with the entry.
        Self(ManuallyDrop::new(unsafe { Frame::from_phys(phys) }))
    }

    fn slots(&self) -> &Table {
        // SAFETY: see `of`.
        unsafe { table_at(self.0.phys()) }
    }

    /// Adds to the count; returns the new one.
    fn count(&self, change: i32) -> u32 {
        self.0.add_note(change)
    }
}

#[cfg(test)]
mod tests;

//! The kernel's own page tables.
//!
//! [`take_over`] replaces the boot tables by the final ones: the image with write xor execute and without its guard pages,
//! all memory in the direct map (large pages, never executable), and a window for device registers. Nothing is mapped in
//! the user half. Address spaces copy the upper half of this root, so its top level never changes afterwards.

use super::image;
use super::{BootInfo, MAX_RANGES, MemoryKind, MemoryRange};
use crate::arch::x86_64::cpu;
use crate::arch::x86_64::layout::{DIRECT_MAP, KERNEL_BASE, MMIO_MAP};
use crate::memory::{LARGE_PAGE_SIZE, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::sync::SpinLock;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const HUGE_PAGE_SIZE: usize = 1 << 30;
/// Everything below belongs to the firmware and the boot loader.
const LOW_MEMORY: u64 = 1 << 20;

/// One page of a page table (SDM volume 3, section 4.5).
#[repr(C, align(4096))]
struct Table([u64; 512]);

static ROOT: SpinLock<Table> = SpinLock::new(Table([0; 512]));
static DIRECT: SpinLock<Table> = SpinLock::new(Table([0; 512]));
static MMIO_TOP: SpinLock<Table> = SpinLock::new(Table([0; 512]));
static MMIO: SpinLock<Table> = SpinLock::new(Table([0; 512]));

fn phys_of(table: &SpinLock<Table>) -> u64 {
    image::to_phys(VirtAddr::new(table.data_ptr() as u64)).as_u64()
}

/// Hands out pages of one range, front first, before the frame allocator exists.
struct EarlyPages {
    next: PhysAddr,
    end: PhysAddr,
}

impl EarlyPages {
    fn take(&mut self) -> u64 {
        assert!(self.next < self.end, "no memory below 1 GiB for the kernel's page tables");
        let page = self.next;
        self.next = page + PAGE_SIZE;
        // SAFETY: the page is free memory below 1 GiB, which the boot tables map in the direct map.
        unsafe { ((DIRECT_MAP + page.as_u64()) as *mut Table).write_bytes(0, 1) };
        page.as_u64()
    }
}

/// The table to which `entry` points, made if it is not there. Both lie in memory that the boot tables map.
fn next_table(entry: &mut u64, pages: &mut EarlyPages) -> &'static mut Table {
    if *entry & PRESENT == 0 {
        *entry = pages.take() | PRESENT | WRITABLE;
    }
    // SAFETY: the entry points to a table that `EarlyPages` made; boot code is alone and keeps one path at a time.
    unsafe { &mut *((DIRECT_MAP + (*entry & ADDRESS)) as *mut Table) }
}

/// Ends the boot tables' reign. Returns the memory that is free from now on.
pub fn take_over(info: &BootInfo) -> heapless::Vec<MemoryRange, MAX_RANGES> {
    let mut free = free_ranges(info);
    let reach = |r: &MemoryRange| (HUGE_PAGE_SIZE as u64).saturating_sub(r.start.as_u64()).min(r.len as u64);
    let largest = free.iter_mut().max_by_key(|r| reach(r)).filter(|r| reach(r) > 0);
    let early = largest.expect("the memory map has no free memory below 1 GiB");
    build(info, early);
    free
}

/// Builds and loads the final tables, with pages from the front of `early`, which shrinks.
fn build(info: &BootInfo, early: &mut MemoryRange) {
    let mut pages =
        EarlyPages { next: early.start, end: early.end().min(PhysAddr::new(HUGE_PAGE_SIZE as u64)) };
    map_memory(info, &mut pages);
    let mut root = ROOT.lock();
    root.0[256] = phys_of(&DIRECT) | PRESENT | WRITABLE;
    root.0[384] = phys_of(&MMIO_TOP) | PRESENT | WRITABLE;
    MMIO_TOP.lock().0[0] = phys_of(&MMIO) | PRESENT | WRITABLE;
    map_image(&mut root, &mut pages);
    cpu::load_root(PhysAddr::new(phys_of(&ROOT)));
    *early = MemoryRange { start: pages.next, len: early.end() - pages.next, kind: MemoryKind::Usable };
}

/// The physical address of the kernel's root table.
pub fn root() -> PhysAddr {
    PhysAddr::new(phys_of(&ROOT))
}

/// Maps all memory that is not reserved, and the initramfs, into the direct map.
fn map_memory(info: &BootInfo, pages: &mut EarlyPages) {
    let mut direct = DIRECT.lock();
    let flags = PRESENT | WRITABLE | LARGE | GLOBAL | NO_EXECUTE;
    let low = MemoryRange { start: PhysAddr::new(0), len: LOW_MEMORY as usize, kind: MemoryKind::Reserved };
    let mapped = info.memory.iter().filter(|r| r.kind != MemoryKind::Reserved);
    for range in mapped.chain(info.initramfs.iter()).chain([&low]) {
        let end = range.end().as_u64();
        let mut at = range.start.align_down(LARGE_PAGE_SIZE).as_u64();
        while at < end {
            let huge = cpu::features().huge_pages
                && at.is_multiple_of(HUGE_PAGE_SIZE as u64)
                && end - at >= HUGE_PAGE_SIZE as u64;
            let Some(top) = direct.0.get_mut((at >> 30) as usize) else { break };
            if *top & LARGE != 0 || huge && *top == 0 {
                *top = (at & !(HUGE_PAGE_SIZE as u64 - 1)) | flags;
                at = (at & !(HUGE_PAGE_SIZE as u64 - 1)) + HUGE_PAGE_SIZE as u64;
            } else {
                next_table(top, pages).0[(at >> 21) as usize % 512] = at | flags;
                at += LARGE_PAGE_SIZE as u64;
            }
        }
    }
}

/// Maps the image page by page, each section with its permissions, the stacks' guard pages not at all.
fn map_image(root: &mut Table, pages: &mut EarlyPages) {
    let guards = crate::arch::x86_64::stacks::guard_pages();
    for section in image::sections() {
        let mut flags = PRESENT | GLOBAL;
        flags |= if section.writable { WRITABLE } else { 0 };
        flags |= if section.executable { 0 } else { NO_EXECUTE };
        for at in (section.start.as_u64()..section.end.as_u64()).step_by(PAGE_SIZE) {
            if guards.iter().any(|guard| guard.as_u64() == at) {
                continue;
            }
            let level3 = next_table(&mut root.0[(at >> 39) as usize % 512], pages);
            let level2 = next_table(&mut level3.0[(at >> 30) as usize % 512], pages);
            let level1 = next_table(&mut level2.0[(at >> 21) as usize % 512], pages);
            level1.0[(at >> 12) as usize % 512] = (at - KERNEL_BASE) | flags;
        }
    }
}

/// The usable ranges, in whole pages, without low memory, the image and the initramfs.
fn free_ranges(info: &BootInfo) -> heapless::Vec<MemoryRange, MAX_RANGES> {
    let (image, image_len) = image::extent();
    let taken = |start, len| MemoryRange { start, len, kind: MemoryKind::Reserved };
    let holes =
        [Some(taken(PhysAddr::new(0), LOW_MEMORY as usize)), Some(taken(image, image_len)), info.initramfs];
    let mut free = heapless::Vec::new();
    for range in info.memory.iter().filter(|r| r.kind == MemoryKind::Usable) {
        let mut start = range.start.as_u64().next_multiple_of(PAGE_SIZE as u64);
        let end = range.end().align_down(PAGE_SIZE).as_u64();
        while start < end {
            // The hole that begins next at or after `start`, or that covers it.
            let next = holes.iter().flatten().filter(|h| h.end().as_u64() > start && h.start.as_u64() < end);
            let next = next.min_by_key(|h| h.start);
            let stop = next.map_or(end, |h| h.start.align_down(PAGE_SIZE).as_u64().max(start));
            if stop > start {
                let len = (stop - start) as usize;
                let _ = free.push(MemoryRange { start: PhysAddr::new(start), len, kind: MemoryKind::Usable });
            }
            start = next.map_or(end, |h| h.end().as_u64().next_multiple_of(PAGE_SIZE as u64));
        }
    }
    free
}

/// Maps `len` bytes of device registers at `phys`, uncached. Returns their virtual address; `None` when the window (1 GiB, in
/// pieces of 2 MiB) is full.
pub fn map_mmio(phys: PhysAddr, len: usize) -> Option<VirtAddr> {
    let first = phys.align_down(LARGE_PAGE_SIZE).as_u64();
    let count = ((phys.as_u64() - first) as usize + len).div_ceil(LARGE_PAGE_SIZE);
    let flags = PRESENT | WRITABLE | LARGE | GLOBAL | NO_EXECUTE | CACHE_DISABLE | WRITE_THROUGH;
    let wanted = |slot: usize| (first + (slot * LARGE_PAGE_SIZE) as u64) | flags;
    // The processor may have set the accessed and dirty bits.
    let same = |entry: u64, slot: usize| entry & !0x60 == wanted(slot);
    let mut table = MMIO.lock();
    let fits = |table: &Table, at: usize| {
        let run = &table.0[at..at + count];
        run.iter().enumerate().all(|(i, &e)| same(e, i)) || run.iter().all(|&e| e == 0)
    };
    let start = (0..=512usize.checked_sub(count)?).find(|&at| fits(&table, at))?;
    for slot in 0..count {
        table.0[start + slot] = wanted(slot);
    }
    Some(VirtAddr::new(MMIO_MAP) + start * LARGE_PAGE_SIZE + (phys.as_u64() - first) as usize)
}

//! Takes over physical memory at boot.

use core::ops::Range;

use super::allocator::{self, MAX_NODES};
use super::metadata::{self, FRAME_LIMIT, FrameNumber};
use crate::memory::{PAGE_SIZE, PhysAddr};

/// A range of usable physical memory, in bytes, and the node it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte.
    pub start: u64,
    /// First byte past it.
    pub end: u64,
    /// NUMA node.
    pub node: u8,
}

/// Most pieces that usable memory falls into; what lies beyond is left out, and logged.
const MAX_PIECES: usize = 128;

type Pieces = heapless::Vec<(Range<u64>, u8), MAX_PIECES>;

/// Hands memory to the frame allocator: all of `usable` but what `reserved` names (the kernel, the initramfs, tables of the
/// firmware). All of it must be mapped (`arch::phys_to_virt`). Time goes by the number of ranges, not by their size.
///
/// The first page is never handed out.
pub fn init(usable: &[MemoryRange], reserved: &[Range<u64>]) {
    let mut pieces = Pieces::new();
    for range in usable {
        cut(range, reserved, &mut pieces);
    }
    // The largest first: it gives the place for the metadata of the sections that it lies in.
    pieces.sort_unstable_by_key(|(frames, _)| core::cmp::Reverse(frames.end - frames.start));
    for (frames, node) in pieces {
        let frames = place_metadata(frames, usable);
        if !frames.is_empty() {
            allocator::add(node, frames.start as FrameNumber..frames.end as FrameNumber);
        }
    }
}

/// The whole pages in a range of bytes, page 0 and what no table reaches left out.
fn whole_frames(start: u64, end: u64) -> Range<u64> {
    let page = PAGE_SIZE as u64;
    start.div_ceil(page).max(1)..(end / page).min(FRAME_LIMIT)
}

/// Adds what `reserved` leaves of `range` to `pieces`, in whole frames.
fn cut(range: &MemoryRange, reserved: &[Range<u64>], pieces: &mut Pieces) {
    let node = if usize::from(range.node) < MAX_NODES { range.node } else { 0 };
    let mut start = range.start;
    while start < range.end {
        let inside = reserved.iter().filter(|r| r.start <= start && start < r.end).map(|r| r.end).max();
        if let Some(end) = inside {
            start = end;
            continue;
        }
        let next = reserved.iter().map(|r| r.start).filter(|&at| at > start).min();
        let end = next.unwrap_or(range.end).min(range.end);
        let frames = whole_frames(start, end);
        if !frames.is_empty() && pieces.push((frames, node)).is_err() {
            log::warn!("memory map has too many pieces: {start:#x}..{end:#x} is not used");
        }
        start = end;
    }
}

/// Finds the metadata of the sections that `frames` lies in a place, if they have none yet: at the end of `frames`
/// itself. Returns what is left. Frames without metadata are left out.
fn place_metadata(frames: Range<u64>, usable: &[MemoryRange]) -> Range<u64> {
    let sections = metadata::sections_of(&frames);
    // Covered sections are at the edges, if anywhere: a larger piece shares them.
    let first = sections.clone().find(|&section| !metadata::is_covered(section));
    let last = sections.clone().rfind(|&section| !metadata::is_covered(section));
    let (Some(first), Some(last)) = (first, last) else { return frames };
    let extent = extent(first..last + 1, usable);
    let needed = metadata::frames_needed(&extent);
    if needed > frames.end - frames.start {
        log::warn!("{frames:x?}: too small for the metadata of its section, not used");
        return uncovered_removed(frames, first, last);
    }
    let rest = frames.start..frames.end - needed;
    // SAFETY: these frames are usable memory, and no longer part of the piece, so nobody else gets them.
    unsafe { metadata::cover(first..last + 1, &extent, rest.end) };
    rest
}

/// All memory in `sections`, as one range: that reserved now may be released later.
fn extent(sections: Range<usize>, usable: &[MemoryRange]) -> Range<u64> {
    let all =
        metadata::frames_of_section(sections.start).start..metadata::frames_of_section(sections.end - 1).end;
    let inside = usable.iter().map(|range| whole_frames(range.start, range.end)).filter_map(|frames| {
        let clipped = frames.start.max(all.start)..frames.end.min(all.end);
        (!clipped.is_empty()).then_some(clipped)
    });
    inside.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(all)
}

/// The part of `frames` outside sections `first` to `last`: before them, or else behind.
fn uncovered_removed(frames: Range<u64>, first: usize, last: usize) -> Range<u64> {
    let before = frames.start..metadata::frames_of_section(first).start;
    if before.is_empty() { metadata::frames_of_section(last).end..frames.end } else { before }
}

/// The physical address of a frame.
pub fn address_of(frame: FrameNumber) -> PhysAddr {
    PhysAddr::new(u64::from(frame) * PAGE_SIZE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces_of(usable: &[MemoryRange], reserved: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut pieces = Pieces::new();
        usable.iter().for_each(|range| cut(range, reserved, &mut pieces));
        pieces.into_iter().map(|(frames, _)| frames).collect()
    }

    #[test]
    fn reserved_ranges_are_cut_out_to_whole_pages() {
        let usable = [
            MemoryRange { start: 0, end: 0x9_fc00, node: 0 },
            MemoryRange { start: 0x10_0000, end: 0x80_0000, node: 1 },
        ];
        let reserved = [0x20_0800..0x30_0001, 0x28_0000..0x38_0000, 0x7f_f000..0x90_0000];
        assert_eq!(pieces_of(&usable, &reserved), [1..0x9f, 0x100..0x200, 0x380..0x7ff]);
    }

    #[test]
    fn a_fully_reserved_range_gives_nothing() {
        let usable = [MemoryRange { start: 0x1000, end: 0x5000, node: 0 }];
        assert_eq!(pieces_of(&usable, core::slice::from_ref(&(0..0x10_0000))), []);
        assert_eq!(pieces_of(&usable, core::slice::from_ref(&(0x1001..0x4fff))), []);
    }

    #[test]
    fn metadata_covers_reserved_memory_between_usable_ranges() {
        let usable = [
            MemoryRange { start: 0x1000, end: 0x9_f000, node: 0 },
            MemoryRange { start: 0x10_0000, end: 0x40_0000, node: 0 },
        ];
        assert_eq!(extent(0..1, &usable), 1..0x400);
    }
}

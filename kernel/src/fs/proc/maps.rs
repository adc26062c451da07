//! /proc/PID/{maps,smaps,smaps_rollup}: proc(5).

use core::fmt::Write;

use super::task::Task;
use crate::errno::Errno;
use crate::fs::DeviceNumber;
use crate::fs::pseudo::Text;
use crate::memory::{PAGE_SIZE, Protection, Region, VmaFlags};

const PAGE_KIB: usize = PAGE_SIZE / 1024;

/// One line for each mapping.
pub fn maps(task: &Task, text: &mut Text) -> Result<(), Errno> {
    let regions = task.inspect()?.space().regions(false)?;
    regions.iter().try_for_each(|region| line(text, region))
}

fn line(text: &mut Text, region: &Region) -> Result<(), Errno> {
    let letter = |set: Protection, letter: char| if region.protection.contains(set) { letter } else { '-' };
    let (r, w, x) =
        (letter(Protection::READ, 'r'), letter(Protection::WRITE, 'w'), letter(Protection::EXEC, 'x'));
    let shared = if region.flags.contains(VmaFlags::SHARED) { 's' } else { 'p' };
    let (device, inode) = region.name.as_ref().map_or((0, 0), |name| (name.device, name.inode));
    let device = DeviceNumber(device);
    let before = text.len();
    write!(text, "{:08x}-{:08x} {r}{w}{x}{shared} ", region.start.as_u64(), region.end.as_u64())?;
    write!(text, "{:08x} {:02x}:{:02x} {inode} ", region.offset, device.major(), device.minor())?;
    let name = match &region.name {
        Some(name) => &name.path[..],
        None if region.is_heap => b"[heap]",
        None if region.is_stack => b"[stack]",
        None => return text.push(b"\n"),
    };
    // Names begin in one column.
    while text.len() - before < 73 {
        text.push(b" ")?;
    }
    text.push(name)?;
    text.push(b"\n")
}

/// The same with sizes.
pub fn smaps(task: &Task, text: &mut Text) -> Result<(), Errno> {
    let regions = task.inspect()?.space().regions(true)?;
    for region in &regions {
        line(text, region)?;
        let size = (region.end - region.start) / 1024;
        writeln!(
            text,
            "Size:           {size:>8} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB"
        )?;
        sizes(text, Sizes::of(region))?;
        writeln!(text, "VmFlags: rd")?;
    }
    Ok(())
}

/// The sums.
pub fn smaps_rollup(task: &Task, text: &mut Text) -> Result<(), Errno> {
    let regions = task.inspect()?.space().regions(true)?;
    let (start, end) = match (regions.first(), regions.last()) {
        (Some(first), Some(last)) => (first.start.as_u64(), last.end.as_u64()),
        _ => (0, 0),
    };
    writeln!(text, "{start:08x}-{end:08x} ---p 00000000 00:00 0                          [rollup]")?;
    let sum = regions.iter().map(Sizes::of).fold(Sizes::default(), Sizes::plus);
    sizes(text, sum)
}

/// Pages that are there.
#[derive(Clone, Copy, Default)]
struct Sizes {
    anonymous: usize,
    object: usize,
    referenced: usize,
    locked: usize,
}

impl Sizes {
    fn of(region: &Region) -> Self {
        let resident = region.anonymous + region.object;
        Self {
            anonymous: region.anonymous,
            object: region.object,
            referenced: region.referenced,
            locked: if region.flags.contains(VmaFlags::LOCKED) { resident } else { 0 },
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            anonymous: self.anonymous + other.anonymous,
            object: self.object + other.object,
            referenced: self.referenced + other.referenced,
            locked: self.locked + other.locked,
        }
    }
}

/// Who shares a page is not counted: private memory is taken as the process's alone, that of files as shared.
fn sizes(text: &mut Text, sizes: Sizes) -> Result<(), Errno> {
    let resident = sizes.anonymous + sizes.object;
    let rows = [
        ("Rss", resident),
        ("Pss", resident),
        ("Shared_Clean", sizes.object),
        ("Shared_Dirty", 0),
        ("Private_Clean", 0),
        ("Private_Dirty", sizes.anonymous),
        ("Referenced", sizes.referenced),
        ("Anonymous", sizes.anonymous),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", sizes.locked),
    ];
    for (name, pages) in rows {
        writeln!(text, "{:<15} {:>8} kB", alloc::format!("{name}:"), pages * PAGE_KIB)?;
    }
    Ok(())
}

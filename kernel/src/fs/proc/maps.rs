//! /proc/PID/{maps,smaps,smaps_rollup}: proc(5).

use core::fmt::Write;

use super::task::Task;
use crate::errno::Errno;
use crate::fs::DeviceNumber;
use crate::fs::pseudo::{Cursor, Text};
use crate::memory::{PAGE_SIZE, Protection, Region, VirtAddr, VmaFlags};

const PAGE_KIB: usize = PAGE_SIZE / 1024;

/// One line for each mapping.
pub fn maps(task: &Task, cursor: &mut Cursor, text: &mut Text) -> Result<bool, Errno> {
    let Some(region) = task.inspect()?.space().region_from(VirtAddr::new(cursor.at)) else {
        return Ok(false);
    };
    cursor.at = region.end.as_u64();
    line(text, &region).map(|()| true)
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

/// The next mapping, once its pages are counted; they are, as far as one step goes.
fn count(task: &Task, cursor: &mut Cursor) -> Result<Counted, Errno> {
    let space = task.inspect()?.space();
    let Some(mut region) = space.region_from(VirtAddr::new(cursor.at)) else { return Ok(Counted::End) };
    let [anonymous, object, referenced, locked] = cursor.sums;
    let from = region.start.max(VirtAddr::new(cursor.within));
    (region.anonymous, region.object, region.referenced) = (anonymous, object, referenced);
    let more = space.count_pages(&mut region, from);
    cursor.sums = [region.anonymous, region.object, region.referenced, locked];
    cursor.within = more.unwrap_or_default().as_u64();
    if more.is_none() {
        cursor.at = region.end.as_u64();
    }
    Ok(if more.is_some() { Counted::Some } else { Counted::All(region) })
}

/// What [`count`] has come to.
enum Counted {
    Some,
    All(Region),
    End,
}

/// The same with sizes.
pub fn smaps(task: &Task, cursor: &mut Cursor, text: &mut Text) -> Result<bool, Errno> {
    let region = match count(task, cursor)? {
        Counted::Some => return Ok(true),
        Counted::End => return Ok(false),
        Counted::All(region) => region,
    };
    cursor.sums = [0; 4];
    line(text, &region)?;
    let size = (region.end - region.start) / 1024;
    writeln!(text, "Size:           {size:>8} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB")?;
    sizes(text, Sizes::of(&region))?;
    writeln!(text, "VmFlags: rd")?;
    Ok(true)
}

/// The sums.
pub fn smaps_rollup(task: &Task, cursor: &mut Cursor, text: &mut Text) -> Result<bool, Errno> {
    let before = cursor.sums;
    match count(task, cursor)? {
        Counted::Some => Ok(true),
        Counted::All(region) => {
            let resident = |sums: [usize; 4]| sums[0] + sums[1];
            let added = resident(cursor.sums) - resident(before);
            cursor.sums[3] += if region.flags.contains(VmaFlags::LOCKED) { added } else { 0 };
            Ok(true)
        }
        Counted::End => {
            let (start, end) = task.inspect()?.space().bounds();
            let (start, end) = (start.as_u64(), end.as_u64());
            writeln!(text, "{start:08x}-{end:08x} ---p 00000000 00:00 0                          [rollup]")?;
            let [anonymous, object, referenced, locked] = cursor.sums;
            sizes(text, Sizes { anonymous, object, referenced, locked })?;
            Ok(false)
        }
    }
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
        let width = 14_usize.saturating_sub(name.len());
        writeln!(text, "{name}:{:width$} {:>8} kB", "", pages * PAGE_KIB)?;
    }
    Ok(())
}

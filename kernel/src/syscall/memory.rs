//! Memory: mmap(2), munmap(2), mprotect(2), mremap(2), brk(2), madvise(2), mlock(2) and their families.
//!
//! The handlers decode flags and find files; the work is done by `memory/space`.

use alloc::sync::Arc;
use core::ops::Range;

use super::Caller;
use crate::errno::{Errno, SysResult};
use crate::fs::memfs::{SEAL_FUTURE_WRITE, SEAL_WRITE};
use crate::fs::{DeviceNumber, OpenFile, Stat};
use crate::memory::{
    Access, AddressSpace, Advice, Backing, LockMode, MapError, MapFlags, MapRequest, MappingName, PAGE_SIZE,
    Protection, RemapFlags, VirtAddr, advised_range, page_round_up,
};
use crate::process::Thread;
use crate::process::memory::turn;
use crate::process::pace::Pace;
use crate::uaccess::{is_user_range, write_bytes};

/// The type of a mapping is in the lowest four bits of the flags.
const MAP_TYPE: u32 = 0xf;
const MAP_SHARED_VALIDATE: u32 = 0x3;
const MAP_HUGETLB: u32 = 0x4_0000;
const PROT_SEM: u32 = 8;
const PROT_GROWSDOWN: u32 = 0x0100_0000;

/// Calls `act` with one piece of `range` after the other, and pauses between them.
async fn in_pieces(
    c: &Caller<'_>,
    mut range: Range<VirtAddr>,
    mut act: impl FnMut(VirtAddr, usize) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut pace = Pace::new(c.thread);
    loop {
        let end = c.space.piece(&range);
        act(range.start, end - range.start)?;
        if end >= range.end {
            return Ok(());
        }
        range.start = end;
        pace.pause().await?;
    }
}

/// Takes the pages of `range` out, which is going to be unmapped, so that little is left to do then.
async fn empty(c: &Caller<'_>, range: Range<VirtAddr>) -> Result<(), Errno> {
    in_pieces(c, range, |at, len| {
        c.space.empty(at..at + len);
        Ok(())
    })
    .await
}

/// Pages in what can be had of `range`: `MAP_POPULATE`, mlock(2).
async fn populate(c: &Caller<'_>, mut range: Range<VirtAddr>) -> Result<(), Errno> {
    let mut pace = Pace::new(c.thread);
    while let Some(next) = c.space.populate_some(&range) {
        range.start = next;
        pace.pause().await?;
    }
    Ok(())
}

/// mmap(2)
pub async fn mmap(
    c: &mut Caller<'_>,
    address: VirtAddr,
    len: usize,
    prot: u32,
    flags: u32,
    fd: i32,
    offset: u64,
) -> SysResult {
    if !offset.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    let anonymous = flags & MapFlags::ANONYMOUS.bits() != 0;
    let file = if anonymous { None } else { Some(c.thread.files().get(fd)?) };
    let mut request = decode(address, len, prot, flags, offset)?;
    if let Some(file) = file {
        attach(&mut request, c.thread, &file, offset)?;
    }
    let (range, wanted) = {
        let _turn = turn(c.thread, &c.space).await?;
        if let Some(replaced) = c.space.replaced_by(&request)? {
            empty(c, replaced).await?;
        }
        c.space.map_area(request)?
    };
    let start = range.start.as_usize();
    if wanted {
        populate(c, range).await?;
    }
    Ok(start)
}

/// The request that the arguments of mmap(2) make, all but the file.
fn decode(address: VirtAddr, len: usize, prot: u32, flags: u32, offset: u64) -> Result<MapRequest, Errno> {
    let rounded = page_round_up(len).ok_or(Errno::ENOMEM)?;
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    if !is_user_range(VirtAddr::default(), rounded) {
        return Err(Errno::ENOMEM);
    }
    offset.checked_add(rounded as u64).filter(|&end| end <= i64::MAX as u64).ok_or(Errno::EOVERFLOW)?;
    let kind = match flags & MAP_TYPE {
        1 => MapFlags::SHARED,
        2 => MapFlags::PRIVATE,
        MAP_SHARED_VALIDATE if flags & MapFlags::ANONYMOUS.bits() == 0 => {
            if MapFlags::from_bits(flags & !MAP_TYPE).is_none() {
                return Err(Errno::EOPNOTSUPP);
            }
            MapFlags::SHARED
        }
        _ => return Err(Errno::EINVAL),
    };
    if flags & MAP_HUGETLB != 0 {
        // As on a machine on which none are set aside.
        return Err(Errno::ENOMEM);
    }
    // Other flags that are not known have no effect, as on Linux.
    let flags = MapFlags::from_bits_truncate(flags & !MAP_TYPE) | kind;
    if flags.contains(MapFlags::GROWSDOWN) && !flags.contains(MapFlags::PRIVATE | MapFlags::ANONYMOUS) {
        return Err(Errno::EINVAL);
    }
    let prot = Protection::from_bits_truncate(prot as u8);
    Ok(MapRequest { hint: address, flags, ..MapRequest::anonymous(len, prot) })
}

/// Makes `file` the backing of `request`, if it was opened for that.
fn attach(request: &mut MapRequest, thread: &Thread, file: &Arc<OpenFile>, offset: u64) -> Result<(), Errno> {
    let open = file.flags();
    if !open.readable() {
        return Err(Errno::EACCES);
    }
    if request.flags.contains(MapFlags::SHARED) {
        let sealed = file.file.seals().is_some_and(|seals| seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0);
        let wants_write = request.prot.contains(Protection::WRITE);
        match (wants_write, open.writable(), sealed) {
            (true, false, _) => return Err(Errno::EACCES),
            (true, true, true) => return Err(Errno::EPERM),
            _ => {}
        }
        if !open.writable() || sealed {
            request.max_prot -= Protection::WRITE;
        }
    }
    let stat = file.stat();
    if is_zero_device(&stat) {
        return Ok(());
    }
    let source = file.file.pages().ok_or(Errno::ENODEV)?;
    request.backing = Backing::File { source, offset, name: Some(name_of(thread, file, &stat)?) };
    Ok(())
}

/// Whether it is /dev/zero: to map that is to map anonymous memory (mmap(2), null(4)).
fn is_zero_device(stat: &Stat) -> bool {
    const S_IFMT: u32 = 0o170_000;
    const S_IFCHR: u32 = 0o020_000;
    stat.mode & S_IFMT == S_IFCHR && stat.special_device == DeviceNumber::new(1, 5).0
}

/// What /proc/PID/maps calls a mapping of `file`.
fn name_of(thread: &Thread, file: &OpenFile, stat: &Stat) -> Result<Arc<MappingName>, Errno> {
    let path = match file.location() {
        Some(location) => location.display_path(&thread.fs().root())?,
        None => file.file.class().as_bytes().to_vec(),
    };
    Ok(Arc::new(MappingName { path, device: stat.device, inode: stat.inode }))
}

/// munmap(2)
pub async fn munmap(c: &mut Caller<'_>, address: VirtAddr, len: usize) -> SysResult {
    // Empty, and wrong, ranges are left to the first piece.
    let range = whole_pages(address, len).unwrap_or(address..address);
    let _turn = turn(c.thread, &c.space).await?;
    if range.is_empty() {
        c.space.unmap(address, len)?;
    } else {
        in_pieces(c, range, |at, len| Ok(c.space.unmap(at, len)?)).await?;
    }
    Ok(0)
}

/// The pages of a range that a call can go through in pieces; `None` for one to which it has to say no.
fn whole_pages(address: VirtAddr, len: usize) -> Option<Range<VirtAddr>> {
    let len = page_round_up(len)?;
    (address.is_aligned(PAGE_SIZE) && is_user_range(address, len)).then(|| address..address + len)
}

/// mprotect(2)
pub async fn mprotect(c: &mut Caller<'_>, address: VirtAddr, len: usize, prot: u32) -> SysResult {
    let _turn = turn(c.thread, &c.space).await?;
    match whole_pages(address, len) {
        Some(range) if !range.is_empty() && prot & PROT_GROWSDOWN == 0 => {
            in_pieces(c, range, |at, len| protect(&c.space, at, len, prot).map(drop)).await?;
            Ok(0)
        }
        _ => protect(&c.space, address, len, prot),
    }
}

fn protect(space: &AddressSpace, mut address: VirtAddr, mut len: usize, prot: u32) -> SysResult {
    let bits = prot & !(PROT_SEM | PROT_GROWSDOWN);
    let protection = u8::try_from(bits).ok().and_then(Protection::from_bits).ok_or(Errno::EINVAL)?;
    if !address.is_aligned(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    if prot & PROT_GROWSDOWN != 0 && len > 0 {
        let start = space.growing_area_at(address).ok_or(Errno::EINVAL)?;
        len = len.checked_add(address - start).ok_or(Errno::ENOMEM)?;
        address = start;
    }
    space.protect(address, len, protection)?;
    Ok(0)
}

/// brk(2): as the system call has it, the end of the heap after the call.
pub async fn brk(c: &mut Caller<'_>, end: VirtAddr) -> SysResult {
    let (end, locked) = {
        let _turn = turn(c.thread, &c.space).await?;
        if let Some(cut_off) = c.space.cut_off_by_brk(end) {
            empty(c, cut_off).await?;
        }
        c.space.brk(end)
    };
    if let Some(added) = locked {
        populate(c, added).await?;
    }
    Ok(end.as_usize())
}

/// mremap(2)
pub async fn mremap(
    c: &mut Caller<'_>,
    old: VirtAddr,
    old_len: usize,
    new_len: usize,
    flags: u32,
    new: VirtAddr,
) -> SysResult {
    let flags = RemapFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let _turn = turn(c.thread, &c.space).await?;
    match c.space.remap(old, old_len, new_len, flags, new) {
        Ok(address) => Ok(address.as_usize()),
        Err(MapError::NotMapped) => Err(Errno::EFAULT),
        Err(error) => Err(error.into()),
    }
}

/// msync(2)
pub fn msync(c: &mut Caller<'_>, address: VirtAddr, len: usize, flags: u32) -> SysResult {
    const ASYNC: u32 = 1;
    const INVALIDATE: u32 = 2;
    const SYNC: u32 = 4;
    let both = ASYNC | SYNC;
    if flags & !(both | INVALIDATE) != 0 || flags & both == both || !address.is_aligned(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    c.space.sync(address, len, flags & INVALIDATE != 0)?;
    Ok(0)
}

/// mincore(2)
pub async fn mincore(c: &mut Caller<'_>, address: VirtAddr, len: usize, vec: VirtAddr) -> SysResult {
    if !address.is_aligned(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    if !is_user_range(address, len) {
        return Err(Errno::ENOMEM);
    }
    let (space, pages) = (&c.space, len.div_ceil(PAGE_SIZE));
    if !is_user_range(vec, pages) {
        return Err(Errno::EFAULT);
    }
    let (mut chunk, mut pace) = ([0; 256], Pace::new(c.thread));
    for first in (0..pages).step_by(chunk.len()) {
        let part = &mut chunk[..(pages - first).min(256)];
        space.resident_pages(address + first * PAGE_SIZE, part)?;
        write_bytes(space, vec + first, part)?;
        pace.pause().await?;
    }
    Ok(0)
}

/// madvise(2)
pub async fn madvise(c: &mut Caller<'_>, address: VirtAddr, len: usize, advice: i32) -> SysResult {
    let advice = Advice::from_number(advice).ok_or(Errno::EINVAL)?;
    let range = advised_range(address, len)?;
    match advice {
        Advice::Populate(access) => page_in(c, range, access).await?,
        Advice::Discard { .. } if !range.is_empty() => {
            // As on Linux, what is mapped is advised also if there are gaps, and the gaps are told at the end.
            let mut gaps = false;
            let discard = |at, len| match c.space.advise(at, len, advice) {
                Err(MapError::NotMapped) => {
                    gaps = true;
                    Ok(())
                }
                done => Ok(done?),
            };
            in_pieces(c, range, discard).await?;
            if gaps {
                return Err(Errno::ENOMEM);
            }
        }
        _ => c.space.advise(address, len, advice)?,
    }
    Ok(0)
}

/// Pages in all of `range` (`ENOMEM` where a page cannot be had).
async fn page_in(c: &Caller<'_>, mut range: Range<VirtAddr>, access: Access) -> Result<(), Errno> {
    let mut pace = Pace::new(c.thread);
    while let Some(next) = c.space.page_in_some(&range, access)? {
        range.start = next;
        pace.pause().await?;
    }
    Ok(())
}

/// mlock(2)
pub async fn mlock(c: &mut Caller<'_>, address: VirtAddr, len: usize) -> SysResult {
    lock(c, address, len, LockMode::Now).await
}

async fn lock(c: &Caller<'_>, address: VirtAddr, len: usize, mode: LockMode) -> SysResult {
    let range = {
        let _turn = turn(c.thread, &c.space).await?;
        c.space.lock_memory(address, len, mode)?
    };
    populate(c, range).await?;
    Ok(0)
}

/// mlock2(2)
pub async fn mlock2(c: &mut Caller<'_>, address: VirtAddr, len: usize, flags: u32) -> SysResult {
    const ONFAULT: u32 = 1;
    let mode = match flags {
        0 => LockMode::Now,
        ONFAULT => LockMode::OnFault,
        _ => return Err(Errno::EINVAL),
    };
    lock(c, address, len, mode).await
}

/// munlock(2)
pub fn munlock(c: &mut Caller<'_>, address: VirtAddr, len: usize) -> SysResult {
    c.space.unlock_memory(address, len)?;
    Ok(0)
}

/// mlockall(2)
pub async fn mlockall(c: &mut Caller<'_>, flags: u32) -> SysResult {
    let (current, future) = lock_all_modes(flags).ok_or(Errno::EINVAL)?;
    c.space.lock_all(current, future)?;
    if current == Some(LockMode::Now) {
        let mut at = VirtAddr::default();
        while let Some(area) = c.space.next_area(at) {
            at = area.end;
            populate(c, area).await?;
        }
    }
    Ok(0)
}

/// What mlockall(2) is to lock now, and what from now on.
fn lock_all_modes(flags: u32) -> Option<(Option<LockMode>, Option<LockMode>)> {
    const CURRENT: u32 = 1;
    const FUTURE: u32 = 2;
    const ONFAULT: u32 = 4;
    if flags & !(CURRENT | FUTURE | ONFAULT) != 0 || flags & (CURRENT | FUTURE) == 0 {
        return None;
    }
    let mode = if flags & ONFAULT != 0 { LockMode::OnFault } else { LockMode::Now };
    let of = |flag| (flags & flag != 0).then_some(mode);
    Some((of(CURRENT), of(FUTURE)))
}

/// munlockall(2)
pub fn munlockall(c: &mut Caller<'_>) -> SysResult {
    c.space.lock_all(None, None)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE_ANONYMOUS: u32 = 0x22;

    fn error(len: usize, flags: u32, offset: u64) -> Errno {
        decode(VirtAddr::default(), len, 3, flags, offset).err().unwrap()
    }

    #[test]
    fn bad_arguments_of_mmap_get_the_errors_of_linux() {
        assert_eq!(error(0, PRIVATE_ANONYMOUS, 0), Errno::EINVAL);
        assert_eq!(error(usize::MAX, PRIVATE_ANONYMOUS, 0), Errno::ENOMEM);
        assert_eq!(error(usize::MAX - 4095, PRIVATE_ANONYMOUS, 0), Errno::ENOMEM);
        assert_eq!(error(4096, PRIVATE_ANONYMOUS, u64::MAX - 4095), Errno::EOVERFLOW);
        assert_eq!(error(4096, 0x20, 0), Errno::EINVAL, "neither shared nor private");
        assert_eq!(error(4096, 0x23, 0), Errno::EINVAL, "validated flags need a file");
        assert_eq!(error(4096, 0x8_0003, 0), Errno::EOPNOTSUPP, "MAP_SYNC");
        assert_eq!(error(4096, PRIVATE_ANONYMOUS | MAP_HUGETLB, 0), Errno::ENOMEM);
        assert_eq!(error(4096, 0x121, 0), Errno::EINVAL, "a shared stack");
    }

    #[test]
    fn flags_without_effect_are_accepted() {
        let request = decode(VirtAddr::new(4096), 1, 0xf, PRIVATE_ANONYMOUS | 0x0400_0000, 0).unwrap();
        assert_eq!(request.prot, Protection::all());
        assert_eq!(request.flags, MapFlags::PRIVATE | MapFlags::ANONYMOUS);
    }

    #[test]
    fn mprotect_refuses_what_it_does_not_know() {
        let space = AddressSpace::new().unwrap();
        let stack = space.map_stack(false, 0).unwrap();
        let page = VirtAddr::new(stack.as_u64() - 4096);
        assert_eq!(protect(&space, page, 4096, 0x10), Err(Errno::EINVAL));
        assert_eq!(protect(&space, page, 4096, 0x100), Err(Errno::EINVAL));
        assert_eq!(protect(&space, page + 1, 4096, 1), Err(Errno::EINVAL));
        assert_eq!(protect(&space, page, 4096, 7 | PROT_GROWSDOWN), Ok(0));
        assert!(space.regions(false).unwrap().iter().all(|region| region.protection == Protection::all()));
        let other = space.map(MapRequest::anonymous(4096, Protection::READ)).unwrap();
        assert_eq!(protect(&space, other, 4096, 3 | PROT_GROWSDOWN), Err(Errno::EINVAL));
    }

    #[test]
    fn only_the_zero_device_is_anonymous_memory() {
        let device =
            |mode, minor| Stat { mode, special_device: DeviceNumber::new(1, minor).0, ..Stat::default() };
        assert!(is_zero_device(&device(0o020_666, 5)));
        assert!(!is_zero_device(&device(0o020_666, 3)));
        assert!(!is_zero_device(&device(0o060_666, 5)));
    }

    #[test]
    fn modes_of_mlockall() {
        assert_eq!(lock_all_modes(0), None);
        assert_eq!(lock_all_modes(4), None);
        assert_eq!(lock_all_modes(8), None);
        assert_eq!(lock_all_modes(1), Some((Some(LockMode::Now), None)));
        assert_eq!(lock_all_modes(6), Some((None, Some(LockMode::OnFault))));
    }
}

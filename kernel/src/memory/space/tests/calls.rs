//! mmap, munmap, mprotect, mremap, brk, madvise, mlock, mincore as their man pages have them.

use super::*;
use crate::memory::{LockMode, MapError};

const PAGE: usize = PAGE_SIZE;

fn remap(
    space: &AddressSpace,
    old: VirtAddr,
    pages: [usize; 2],
    flags: RemapFlags,
) -> Result<VirtAddr, MapError> {
    space.remap(old, pages[0] * PAGE, pages[1] * PAGE, flags, VirtAddr::default())
}

#[test]
fn mappings_go_down_from_below_the_stack_and_join() {
    let space = space();
    let top = space.map_stack(false, 7 << 40 | 3).unwrap();
    let first = map(&space, 2, RW);
    let second = map(&space, 1, RW);
    assert_eq!(second + PAGE, first);
    assert!(top - first >= 128 << 20);
    let (start, count, prot) = areas(&space)[0];
    assert_eq!((start, count, prot), (second, 3, RW));
    map(&space, 1, READ);
    assert_eq!(areas(&space).len(), 3, "another protection is another area");
}

#[test]
fn a_hint_is_followed_if_the_place_is_free() {
    let space = space();
    let wish = |hint| MapRequest { hint, ..MapRequest::anonymous(PAGE, RW) };
    assert_eq!(space.map(wish(at(0x50_0000_0001))), Ok(at(0x50_0000_1000)));
    assert_ne!(space.map(wish(at(0x50_0000_1000))), Ok(at(0x50_0000_1000)));
    assert!(space.map(wish(at(0x1000))).unwrap() > at(0x10_0000), "too low");
    assert!(space.map(wish(at(u64::MAX))).is_ok());
}

#[test]
fn fixed_mappings_replace_or_refuse() {
    let space = space();
    let start = map(&space, 4, RW);
    space.write_initial(start + PAGE, b"old").unwrap();
    let request = MapRequest::anonymous(2 * PAGE, READ);
    let refusing = MapRequest { hint: start + PAGE, ..request.clone() }.with(MapFlags::FIXED_NOREPLACE);
    assert_eq!(space.map(refusing), Err(MapError::Exists));
    assert_eq!(space.map(request.clone().at(start + PAGE)), Ok(start + PAGE));
    assert_eq!(areas(&space), [(start, 1, RW), (start + PAGE, 2, READ), (start + 3 * PAGE, 1, RW)]);
    assert_eq!(read(&space, start + PAGE), Ok(0));
    assert_eq!(space.map(request.clone().at(start + 1)), Err(MapError::Invalid));
    assert_eq!(space.map(request.clone().at(at(USER_END as u64 - PAGE as u64))), Err(MapError::OutOfMemory));
    assert_eq!(space.map(request.at(at(u64::MAX - 4095))), Err(MapError::OutOfMemory));
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let space = space();
    assert_eq!(space.map(MapRequest::anonymous(0, RW)), Err(MapError::Invalid));
    assert_eq!(space.map(MapRequest::anonymous(usize::MAX, RW)), Err(MapError::OutOfMemory));
    assert_eq!(space.map(MapRequest::anonymous(1 << 47, READ)), Err(MapError::OutOfMemory));
    assert_eq!(
        space.map(MapRequest::anonymous(1 << 40, RW)),
        Err(MapError::OutOfMemory),
        "never there at once"
    );
    assert!(space.map(MapRequest::anonymous(1 << 40, RW).with(MapFlags::NORESERVE)).is_ok());
    assert!(space.map(MapRequest::anonymous(1 << 40, Protection::empty())).is_ok());
    assert_eq!(space.unmap(at(0x1001), PAGE), Err(MapError::Invalid));
    assert_eq!(space.unmap(at(0x1000), 0), Err(MapError::Invalid));
    assert_eq!(space.unmap(at(0x1000), usize::MAX), Err(MapError::Invalid));
    assert_eq!(space.unmap(at(0x1000), PAGE), Ok(()), "nothing there: nothing to do");
}

#[test]
fn low_mappings_stay_low() {
    let space = space();
    let request = MapRequest::anonymous(1 << 30, READ).with(MapFlags::LOW_2GIB);
    assert!(space.map(request.clone()).unwrap() + (1 << 30) <= at(1 << 31));
    assert_eq!(space.map(request), Err(MapError::OutOfMemory), "64 KiB at the bottom stay free");
}

#[test]
fn limits_are_kept() {
    let space = space();
    space.set_limits(SpaceLimits { address_space: 64 << 12, data: 8 << 12, ..NO_LIMITS });
    let data = map(&space, 8, RW);
    assert_eq!(space.map(MapRequest::anonymous(1, RW)), Err(MapError::OutOfMemory));
    let text = map(&space, 56, READ);
    assert_eq!(space.map(MapRequest::anonymous(1, READ)), Err(MapError::OutOfMemory));
    assert_eq!(space.protect(text, PAGE, RW), Err(MapError::OutOfMemory));
    assert_eq!(remap(&space, text, [56, 57], RemapFlags::MAYMOVE), Err(MapError::OutOfMemory));
    assert_eq!(space.map(MapRequest::anonymous(PAGE, READ).at(data)), Ok(data), "in place of another page");
}

#[test]
fn population_brings_pages_in() {
    let (space, source) = (space(), TestFile::new(4));
    let with = |request: MapRequest, flags| space.map_area(request.with(flags)).unwrap();
    let (large, wanted) = with(MapRequest::anonymous(500 * PAGE, RW), MapFlags::POPULATE);
    assert_eq!((wanted, space.statistics().resident_anonymous), (true, 0));
    assert_eq!(space.populate_some(&large), Some(large.start + 64 * PAGE));
    assert_eq!(space.statistics().resident_anonymous, 64);
    space.populate(large.clone());
    assert_eq!(space.statistics().resident_anonymous, 500);
    let (mapped, _) = with(file(&source, 0, 9, READ), MapFlags::POPULATE);
    space.populate(mapped.clone());
    assert_eq!(space.statistics().resident_object, 4, "what lies past the end cannot be had");
    assert_eq!(space.page_in_some(&mapped, Access::Read), Err(MapError::NotMapped));
    assert_eq!(space.page_in_some(&(mapped.start..mapped.start + 4 * PAGE), Access::Read), Ok(None));
    assert!(!with(MapRequest::anonymous(PAGE, READ), MapFlags::POPULATE | MapFlags::NONBLOCK).1);
}

#[test]
fn mprotect_goes_as_far_as_it_can() {
    let (space, source) = (space(), TestFile::new(2));
    let base = at(0x10_0000_0000);
    space.map(MapRequest::anonymous(2 * PAGE, RW).at(base)).unwrap();
    space
        .map(
            MapRequest { max_prot: READ, ..file(&source, 0, 2, READ) }
                .with(MapFlags::SHARED)
                .at(base + 2 * PAGE),
        )
        .unwrap();
    assert_eq!(space.protect(base + PAGE, 2 * PAGE, RW | Protection::EXEC), Err(MapError::NotPermitted));
    assert_eq!(areas(&space)[1], (base + PAGE, 1, RW | Protection::EXEC));
    assert_eq!(space.protect(base, 5 * PAGE, READ), Err(MapError::NotMapped), "a gap at the end");
    assert_eq!(areas(&space), [(base, 2, READ), (base + 2 * PAGE, 2, READ)]);
    assert_eq!(space.protect(base + 2 * PAGE, PAGE, RW), Err(MapError::NotPermitted));
    assert_eq!(space.protect(at(0x1000), PAGE, READ), Err(MapError::NotMapped));
    assert_eq!(space.protect(base, 0, READ), Ok(()));
}

#[test]
fn mremap_shrinks_grows_and_moves() {
    let space = space();
    let base = at(0x10_0000_0000);
    space.map(MapRequest::anonymous(4 * PAGE, RW).at(base)).unwrap();
    (0..4).for_each(|page| space.write_initial(base + page * PAGE, &[page as u8 + 1]).unwrap());
    assert_eq!(remap(&space, base, [4, 3], RemapFlags::empty()), Ok(base));
    assert_eq!(areas(&space), [(base, 3, RW)]);
    assert_eq!(remap(&space, base, [3, 5], RemapFlags::empty()), Ok(base));
    assert_eq!(read(&space, base + 3 * PAGE), Ok(0));
    space.map(MapRequest::anonymous(PAGE, READ).at(base + 5 * PAGE)).unwrap();
    assert_eq!(remap(&space, base, [5, 6], RemapFlags::empty()), Err(MapError::OutOfMemory));
    let moved = remap(&space, base, [5, 600], RemapFlags::MAYMOVE).unwrap();
    (0..3).for_each(|page| assert_eq!(read(&space, moved + page * PAGE), Ok(page as u8 + 1)));
    assert_eq!((read(&space, base), read(&space, moved + 599 * PAGE)), (Err(Fault::NotMapped), Ok(0)));
    let target = at(0x20_0000_0000);
    space.map(MapRequest::anonymous(2 * PAGE, READ).at(target)).unwrap();
    let fixed = RemapFlags::MAYMOVE | RemapFlags::FIXED;
    assert_eq!(space.remap(moved + PAGE, PAGE, PAGE, fixed, target), Ok(target));
    assert_eq!((read(&space, target), read(&space, target + PAGE)), (Ok(2), Ok(0)));
    assert_eq!(read(&space, moved + PAGE), Err(Fault::NotMapped));
}

#[test]
fn mremap_refuses_what_makes_no_sense() {
    let (space, source) = (space(), TestFile::new(1));
    let start = map(&space, 2, RW);
    let fixed = RemapFlags::MAYMOVE | RemapFlags::FIXED;
    assert_eq!(remap(&space, start + 1, [1, 1], RemapFlags::MAYMOVE), Err(MapError::Invalid));
    assert_eq!(remap(&space, start, [1, 0], RemapFlags::MAYMOVE), Err(MapError::Invalid));
    assert_eq!(remap(&space, at(0x1000), [1, 2], RemapFlags::MAYMOVE), Err(MapError::NotMapped));
    assert_eq!(remap(&space, start, [3, 9], RemapFlags::MAYMOVE), Err(MapError::NotMapped));
    assert_eq!(remap(&space, start, [0, 1], RemapFlags::MAYMOVE), Err(MapError::Invalid), "private");
    assert_eq!(space.remap(start, PAGE, PAGE, RemapFlags::FIXED, start + 8 * PAGE), Err(MapError::Invalid));
    assert_eq!(space.remap(start, 2 * PAGE, PAGE, fixed, start + PAGE), Err(MapError::Invalid), "overlap");
    let shared = space.map(file(&source, 0, 1, RW).with(MapFlags::SHARED)).unwrap();
    let twin = remap(&space, shared, [0, 1], RemapFlags::MAYMOVE).unwrap();
    space.write_initial(twin, b"2").unwrap();
    assert_eq!((read(&space, shared), twin == shared), (Ok(b'2'), false));
}

#[test]
fn mremap_may_leave_the_area_behind() {
    let space = space();
    let start = map(&space, 1, RW);
    space.write_initial(start, b"x").unwrap();
    let moved = remap(&space, start, [1, 1], RemapFlags::MAYMOVE | RemapFlags::DONTUNMAP).unwrap();
    assert_eq!((read(&space, moved), read(&space, start)), (Ok(b'x'), Ok(0)));
}

#[test]
fn brk_moves_the_end_of_the_heap() {
    let space = space();
    space.set_brk_start(at(0x40_0123));
    let start = at(0x40_1000);
    assert_eq!(space.brk(at(0)).0, start);
    assert_eq!(space.brk(start + 100).0, start + 100);
    space.write_initial(start + 99, b"h").unwrap();
    assert_eq!(space.brk(start + 3 * PAGE).0, start + 3 * PAGE);
    let region = &space.regions(false).unwrap()[0];
    assert!(region.is_heap && region.end == start + 3 * PAGE);
    assert_eq!(space.brk(start + PAGE).0, start + PAGE);
    assert_eq!(read(&space, start + 99), Ok(b'h'));
    assert_eq!(read(&space, start + PAGE), Err(Fault::NotMapped));
    space.map(MapRequest::anonymous(PAGE, RW).at(start + 4 * PAGE)).unwrap();
    assert_eq!(space.brk(start + 5 * PAGE).0, start + PAGE, "something is in the way");
    assert_eq!(space.brk(at(u64::MAX)).0, start + PAGE);
}

#[test]
fn advice_discards_or_is_refused() {
    let (space, source) = (space(), TestFile::new(1));
    let start = map(&space, 3, RW);
    (0..3).for_each(|page| space.write_initial(start + page * PAGE, b"d").unwrap());
    let advise = |from: VirtAddr, pages: usize, number| {
        space.advise(from, pages * PAGE, Advice::from_number(number).unwrap())
    };
    assert_eq!(advise(start, 1, 4), Ok(()));
    assert_eq!((read(&space, start), read(&space, start + PAGE)), (Ok(0), Ok(b'd')));
    assert_eq!(advise(start + PAGE, 1, 8), Ok(()));
    assert_eq!(read(&space, start + PAGE), Ok(0));
    assert_eq!(advise(start + 2 * PAGE, 2, 4), Err(MapError::NotMapped));
    assert_eq!(read(&space, start + 2 * PAGE), Ok(0), "what is mapped was advised");
    let mapped = space.map(file(&source, 0, 1, RW)).unwrap();
    space.write_initial(mapped, b"p").unwrap();
    assert_eq!(advise(mapped, 1, 8), Err(MapError::Invalid), "MADV_FREE of a file");
    assert_eq!(advise(mapped, 1, 4), Ok(()));
    assert_eq!(read(&space, mapped), Ok(1), "the file's again");
    space.lock_memory(start, PAGE, LockMode::Now).unwrap();
    assert_eq!(advise(start, 1, 4), Err(MapError::Invalid));
    assert_eq!((Advice::from_number(14), Advice::from_number(-1)), (None, None));
    assert_eq!(advise(start, 3, 23), Ok(()));
    assert_eq!(advise(mapped + PAGE, 0, 0), Ok(()));
}

#[test]
fn locking_counts_and_is_limited() {
    let space = space();
    space.set_limits(SpaceLimits { locked: 4 << 12, ..NO_LIMITS });
    let start = map(&space, 6, RW);
    let touched = start..start + 2 * PAGE;
    assert_eq!(space.lock_memory(start + 1, PAGE, LockMode::Now), Ok(touched), "two pages are touched");
    assert_eq!(space.statistics().locked, 2);
    assert!(space.lock_memory(start, 4 * PAGE, LockMode::OnFault).unwrap().is_empty());
    assert_eq!((space.statistics().locked, space.statistics().resident_anonymous), (4, 0));
    assert_eq!(space.lock_memory(start, 5 * PAGE, LockMode::Now), Err(MapError::OutOfMemory));
    let locked = MapRequest::anonymous(PAGE, RW).with(MapFlags::LOCKED);
    assert_eq!(space.map(locked.clone()), Err(MapError::TooMuchLocked));
    assert_eq!(space.unlock_memory(start, 3 * PAGE), Ok(()));
    assert!(space.map(locked.clone()).is_ok());
    assert_eq!(space.lock_all(None, None), Ok(()));
    assert_eq!(space.statistics().locked, 0);
    assert_eq!(space.lock_all(None, Some(LockMode::Now)), Ok(()));
    assert_eq!(space.statistics().locked, 0);
    map(&space, 2, READ);
    assert_eq!(space.statistics().locked, 2);
    space.set_limits(SpaceLimits { locked: 0, ..NO_LIMITS });
    assert_eq!(space.map(locked), Err(MapError::MayNotLock));
    assert_eq!(fork(&space).statistics().locked, 0, "children inherit no locks");
}

#[test]
fn residency_and_synchronisation() {
    let (space, source) = (space(), TestFile::new(1));
    let base = at(0x10_0000_0000);
    space.map(MapRequest::anonymous(3 * PAGE, RW).at(base)).unwrap();
    space.map(file(&source, 0, 1, READ).at(base + 3 * PAGE)).unwrap();
    space.write_initial(base + PAGE, b"r").unwrap();
    let mut found = [9; 4];
    assert_eq!(space.resident_pages(base, &mut found), Ok(()));
    assert_eq!(found, [0, 1, 0, 1]);
    assert_eq!(space.resident_pages(base, &mut [0; 5]), Err(MapError::NotMapped));
    assert_eq!(space.sync(base, 4 * PAGE, true), Ok(()));
    assert_eq!(space.sync(base, 5 * PAGE, false), Err(MapError::NotMapped));
    space.lock_memory(base, PAGE, LockMode::OnFault).unwrap();
    assert_eq!(space.sync(base, PAGE, true), Err(MapError::Busy));
}

#[test]
fn a_large_space_is_unmapped_in_batches() {
    let space = space();
    let start = map(&space, 3000, RW);
    for page in (0..3000).step_by(3) {
        space.write_initial(start + page * PAGE, b"b").unwrap();
    }
    assert_eq!(space.statistics().resident_anonymous, 1000);
    space.unmap(start + PAGE, 2998 * PAGE).unwrap();
    assert_eq!(areas(&space), [(start, 1, RW), (start + 2999 * PAGE, 1, RW)]);
    assert_eq!(space.statistics().resident_anonymous, 1);
    while space.clear_some() {}
    assert_eq!((areas(&space), space.statistics().resident_anonymous), (Vec::new(), 0));
}

#[test]
fn what_proc_shows_of_pages() {
    let (space, source) = (space(), TestFile::new(20));
    let text = space.map(file(&source, 0, 20, READ | Protection::EXEC)).unwrap();
    let data = space.map(file(&source, 0, 2, RW)).unwrap();
    space.fault(text, Access::Execute).unwrap();
    space.write_initial(data, b"d").unwrap();
    let regions = space.regions(true).unwrap();
    let (of_data, of_text) = (&regions[0], &regions[1]);
    assert_eq!((of_text.anonymous, of_data.anonymous, of_data.object), (0, 1, 0));
    assert!(of_text.object >= 1 && of_text.offset == 0);
    let statistics = space.statistics();
    assert_eq!((statistics.text, statistics.data, statistics.mapped), (20, 2, 22));
    assert_eq!(statistics.peak_resident, statistics.resident_anonymous + statistics.resident_object);
}

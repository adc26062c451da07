//! Demand paging, copy on write, fork, stacks.

use super::*;

#[test]
fn anonymous_memory_is_zero_and_keeps_what_is_written() {
    let space = space();
    let start = map(&space, 3, RW);
    assert_eq!(read(&space, start + 5000), Ok(0));
    space.write_initial(start + 4090, b"across pages").unwrap();
    let mut bytes = [0; 12];
    space.read_at(start + 4090, &mut bytes).unwrap();
    assert_eq!(&bytes, b"across pages");
    assert_eq!(space.statistics().resident_anonymous, 2);
    space.unmap(start, 3 * PAGE_SIZE).unwrap();
    assert_eq!(read(&space, start), Err(Fault::NotMapped));
    assert_eq!(space.statistics().resident_anonymous, 0);
}

#[test]
fn what_is_not_allowed_faults() {
    let space = space();
    let none = map(&space, 1, Protection::empty());
    let readable = map(&space, 1, READ);
    let executable = map(&space, 1, Protection::EXEC);
    assert_eq!(space.fault(none, Access::Read), Err(Fault::NotPermitted));
    assert_eq!(space.fault(readable, Access::Read), Ok(()));
    assert_eq!(space.fault(readable, Access::Write), Err(Fault::NotPermitted));
    assert_eq!(space.fault(readable, Access::Execute), Err(Fault::NotPermitted));
    assert_eq!(space.fault(executable, Access::Execute), Ok(()));
    assert_eq!(space.fault(executable, Access::Read), Ok(()), "x86 can read what it can execute");
    assert_eq!(space.fault(at(0), Access::Read), Err(Fault::NotMapped));
    assert_eq!(space.fault(at(USER_END as u64), Access::Read), Err(Fault::NotMapped));
    assert_eq!(space.fault(at(u64::MAX), Access::Write), Err(Fault::NotMapped));
}

#[test]
fn protecting_takes_access_away_and_gives_it_back() {
    let space = space();
    let start = map(&space, 1, RW);
    space.write_initial(start, b"x").unwrap();
    space.protect(start, PAGE_SIZE, Protection::empty()).unwrap();
    assert_eq!(read(&space, start), Err(Fault::NotPermitted));
    let held = space.lock().mappings.tables().entry(start).unwrap();
    assert!(!held.attributes().contains(crate::arch::paging::Attributes::PRESENT));
    space.protect(start, PAGE_SIZE, RW).unwrap();
    assert_eq!(read(&space, start), Ok(b'x'));
    space.write_initial(start, b"y").unwrap();
    assert_eq!(read(&space, start), Ok(b'y'));
}

#[test]
fn a_private_file_mapping_reads_the_file_and_writes_to_itself() {
    let (space, source) = (space(), TestFile::new(3));
    let start = space.map(file(&source, 0, 4, RW)).unwrap();
    assert_eq!(read(&space, start + PAGE_SIZE), Ok(2));
    source.0[1].write(0, &[9]);
    assert_eq!(read(&space, start + PAGE_SIZE), Ok(9), "not written here: still the file's");
    space.write_initial(start + PAGE_SIZE, b"w").unwrap();
    space.write_initial(start + 2 * PAGE_SIZE, b"v").unwrap();
    assert_eq!((source.byte(1), source.byte(2)), (9, 3));
    assert_eq!(read(&space, start + PAGE_SIZE), Ok(b'w'));
    assert_eq!(space.fault(start + 3 * PAGE_SIZE, Access::Read), Err(Fault::PastEnd));
    assert_eq!(space.fault(start + 3 * PAGE_SIZE, Access::Write), Err(Fault::PastEnd));
}

#[test]
fn a_shared_file_mapping_is_the_file() {
    let (space, source) = (space(), TestFile::new(2));
    let start = space.map(file(&source, 1, 1, RW).with(MapFlags::SHARED)).unwrap();
    space.write_initial(start, b"s").unwrap();
    assert_eq!(source.byte(1), b's');
    space.protect(start, PAGE_SIZE, READ).unwrap();
    space.protect(start, PAGE_SIZE, RW).unwrap();
    space.write_initial(start, b"t").unwrap();
    assert_eq!(source.byte(1), b't');
    assert_eq!(space.statistics().resident_object, 1);
    assert!(space.shared_page(start).is_some_and(|(_, index)| index == 1));
}

#[test]
fn one_fault_maps_the_neighbours_in_the_area() {
    let (space, source) = (space(), TestFile::new(64));
    let request = file(&source, 2, 40, READ).at(at(0x10_0003_0000 - 5 * 4096));
    let start = space.map(request).unwrap();
    space.fault(at(0x10_0003_0000), Access::Read).unwrap();
    assert_eq!(space.statistics().resident_object, 16);
    space.fault(at(0x10_0003_0000 - 4096), Access::Read).unwrap();
    assert_eq!(space.statistics().resident_object, 21, "five pages of the area lie in the window before");
    (0..40).for_each(|page| assert_eq!(read(&space, start + page * PAGE_SIZE), Ok(page as u8 + 3)));
    drop(space);
    assert!(source.0.iter().all(Frame::is_unique), "no count is left behind");
}

#[test]
fn fork_shares_until_one_writes() {
    let parent = space();
    let start = map(&parent, 2, RW);
    parent.write_initial(start, b"p").unwrap();
    let frame = parent.lock().mappings.tables().frame(start).unwrap().0;
    let child = fork(&parent);
    assert_eq!(child.lock().mappings.tables().frame(start).unwrap().0, frame);
    child.write_initial(start, b"c").unwrap();
    assert_eq!((read(&parent, start), read(&child, start)), (Ok(b'p'), Ok(b'c')));
    drop(child);
    let phys = frame.phys();
    drop(frame);
    parent.write_initial(start, b"q").unwrap();
    let entry = parent.lock().mappings.tables().entry(start).unwrap();
    assert_eq!(entry.phys(), phys, "alone again, it is written in place");
}

#[test]
fn children_share_shared_memory_and_miss_what_is_not_for_them() {
    let parent = space();
    let shared = parent.map(MapRequest::anonymous(PAGE_SIZE, RW).with(MapFlags::SHARED)).unwrap();
    let (wiped, kept_back) = (map(&parent, 1, RW), map(&parent, 1, READ | Protection::EXEC));
    parent.write_initial(wiped, b"w").unwrap();
    parent.advise(wiped, PAGE_SIZE, Advice::from_number(18).unwrap()).unwrap();
    parent.advise(kept_back, PAGE_SIZE, Advice::from_number(10).unwrap()).unwrap();
    let child = fork(&parent);
    child.write_initial(shared, b"s").unwrap();
    assert_eq!(read(&parent, shared), Ok(b's'));
    assert_eq!((read(&child, wiped), read(&parent, wiped)), (Ok(0), Ok(b'w')));
    assert_eq!(read(&child, kept_back), Err(Fault::NotMapped));
}

#[test]
fn a_large_space_is_forked_in_pieces() {
    let parent = space();
    let start = map(&parent, 5000, RW);
    (0..5000).for_each(|page| parent.write_initial(start + page * PAGE_SIZE, &[page as u8]).unwrap());
    let mut fork = parent.begin_fork().unwrap();
    assert_eq!(fork.step(), Ok(true));
    // What is not shared yet is seen as it then is.
    parent.write_initial(start, &[99]).unwrap();
    parent.write_initial(start + 4999 * PAGE_SIZE, &[99]).unwrap();
    while fork.step() == Ok(true) {}
    let child = fork.finish();
    assert_eq!((read(&child, start), read(&child, start + 4999 * PAGE_SIZE)), (Ok(0), Ok(99)));
    assert_eq!(child.statistics().resident_anonymous, 5000);
    assert_eq!(child.statistics().peak_resident, 5000);
}

#[test]
fn the_stack_grows_to_its_limit() {
    let space = space();
    space.set_limits(SpaceLimits { stack: 1 << 20, ..NO_LIMITS });
    let top = space.map_stack(false, 12345).unwrap();
    let below = |bytes: usize| at(top.as_u64() - bytes as u64);
    space.write_initial(below(512 << 10), b"deep").unwrap();
    assert_eq!(space.statistics().stack, 128);
    space.write_initial(below(1 << 20), b"deepest").unwrap();
    assert_eq!(space.fault(below((1 << 20) + 1), Access::Write), Err(Fault::NotMapped));
    let region = space.regions(true).unwrap().pop().unwrap();
    assert!(region.is_stack && region.anonymous == 2);
}

#[test]
fn the_stack_keeps_its_distance() {
    let space = space();
    let top = space.map_stack(false, 0).unwrap();
    let neighbour = at(top.as_u64() - (2 << 20));
    space.map(MapRequest::anonymous(PAGE_SIZE, RW).at(neighbour)).unwrap();
    let gap = 256 * PAGE_SIZE;
    assert_eq!(space.fault(neighbour + (PAGE_SIZE + gap - 1), Access::Write), Err(Fault::NotMapped));
    assert_eq!(space.fault(neighbour + (PAGE_SIZE + gap), Access::Write), Ok(()));
}

#[test]
fn threads_that_fault_together_agree() {
    let space = space();
    let start = map(&space, 64, RW);
    let thread = |id: usize| {
        let space = space.clone();
        std::thread::spawn(move || {
            for page in 0..64 {
                space.write_initial(start + page * PAGE_SIZE + id, &[id as u8 + 1]).unwrap();
            }
        })
    };
    let threads: Vec<_> = (0..4).map(thread).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for page in 0..64 {
        let mut bytes = [0; 4];
        space.read_at(start + page * PAGE_SIZE, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
    }
    assert_eq!(space.statistics().resident_anonymous, 64);
}

#[test]
fn the_active_space_is_kept_until_another_takes_its_place() {
    let (first, second) = (space(), space());
    first.activate();
    first.activate();
    assert_eq!((Arc::strong_count(&first), first.cores.bits().count_ones()), (2, 1));
    second.activate();
    assert_eq!((Arc::strong_count(&first), first.cores.bits()), (1, 0));
    assert_eq!(Arc::strong_count(&second), 2);
    AddressSpace::deactivate();
    assert_eq!((Arc::strong_count(&second), second.cores.bits()), (1, 0));
}

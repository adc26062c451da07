//! Files that lose pages while they are mapped.

use super::*;
use crate::fs::fixture::Fixture;
use crate::fs::{File, OpenFlags};

struct Mapped {
    file: Arc<dyn File>,
    space: Arc<AddressSpace>,
    shared: VirtAddr,
    private: VirtAddr,
}

/// A file of four pages, page `n` of which begins with byte `n + 1`, mapped twice from its second page on, all touched. Of the private
/// mapping the first and last pages are copies.
fn mapped() -> Mapped {
    let files = Fixture::new();
    let file = files.open("/file", OpenFlags::CREAT | OpenFlags::RDWR).unwrap().file.clone();
    file.truncate(4 * PAGE_SIZE as u64).unwrap();
    for page in 0..4_u8 {
        let mut byte = crate::uaccess::WriteBuf::kernel(core::slice::from_ref(&[1, 2, 3, 4][page as usize]));
        file.write(u64::from(page) * PAGE_SIZE as u64, &mut byte).unwrap();
    }
    let space = space();
    let request = |prot| MapRequest::file(file.pages().unwrap(), PAGE_SIZE as u64, None, 3 * PAGE_SIZE, prot);
    let shared = space.map(request(RW).with(MapFlags::SHARED)).unwrap();
    let private = space.map(request(RW)).unwrap();
    for page in 0..3 {
        assert_eq!(read(&space, shared + page * PAGE_SIZE), Ok(page as u8 + 2));
        assert_eq!(read(&space, private + page * PAGE_SIZE), Ok(page as u8 + 2));
    }
    space.write_initial(private, b"a").unwrap();
    space.write_initial(private + 2 * PAGE_SIZE, b"c").unwrap();
    Mapped { file, space, shared, private }
}

fn bytes(space: &AddressSpace, start: VirtAddr) -> [Result<u8, Fault>; 3] {
    [0, 1, 2].map(|page| read(space, start + page * PAGE_SIZE))
}

#[test]
fn pages_past_the_end_are_gone_copies_included() {
    let Mapped { file, space, shared, private } = mapped();
    let child = fork(&space);
    file.truncate(2 * PAGE_SIZE as u64 + 5).unwrap();
    for space in [&space, &child] {
        assert_eq!(bytes(space, shared), [Ok(2), Ok(3), Err(Fault::PastEnd)]);
        assert_eq!(bytes(space, private), [Ok(b'a'), Ok(3), Err(Fault::PastEnd)]);
    }
    file.truncate(0).unwrap();
    assert_eq!(bytes(&space, private), [Err(Fault::PastEnd); 3]);
    file.truncate(4 * PAGE_SIZE as u64).unwrap();
    assert_eq!((bytes(&space, shared), bytes(&child, private)), ([Ok(0); 3], [Ok(0); 3]));
    assert_eq!(space.statistics().resident_anonymous, 0);
}

#[test]
fn a_hole_reads_as_zeroes_where_there_is_no_copy() {
    let Mapped { file, space, shared, private } = mapped();
    file.allocate(3, PAGE_SIZE as u64, 2 * PAGE_SIZE as u64 + 1).unwrap();
    // The page of which only the first byte is in the hole stays.
    assert_eq!(bytes(&space, shared), [Ok(0), Ok(0), Ok(0)]);
    assert_eq!(bytes(&space, private), [Ok(b'a'), Ok(0), Ok(b'c')]);
    space.write_initial(shared + PAGE_SIZE, &[7]).unwrap();
    assert_eq!(read(&space, private + PAGE_SIZE), Ok(7), "it is the file's page again");
}

#[test]
fn nothing_is_held_by_a_file_for_spaces_that_are_gone() {
    let Mapped { file, space, .. } = mapped();
    let source = file.pages().unwrap();
    for _ in 0..100 {
        drop(fork(&space));
    }
    let weak = Arc::downgrade(&space);
    drop(space);
    assert_eq!(weak.strong_count(), 0);
    source.mappers().unwrap().unmap(source.clone(), 0..1, true);
}

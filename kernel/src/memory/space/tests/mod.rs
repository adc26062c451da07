//! What a program sees of an address space, with the page tables walked in software.

mod calls;
mod faults;
mod model;
mod truncation;

use super::*;
use crate::fs::PageSource;
use crate::memory::{Access, Fault, Frame, Protection};

const READ: Protection = Protection::READ;
const RW: Protection = Protection::READ.union(Protection::WRITE);

const NO_LIMITS: SpaceLimits =
    SpaceLimits { address_space: u64::MAX, data: u64::MAX, stack: u64::MAX, locked: u64::MAX };

fn space() -> Arc<AddressSpace> {
    AddressSpace::new().unwrap()
}

fn fork(space: &AddressSpace) -> Arc<AddressSpace> {
    let mut fork = space.begin_fork().unwrap();
    while fork.step().unwrap() {}
    fork.finish()
}

fn at(address: u64) -> VirtAddr {
    VirtAddr::new(address)
}

fn read(space: &AddressSpace, address: VirtAddr) -> Result<u8, Fault> {
    let mut byte = [0];
    space.read_at(address, &mut byte).map(|()| byte[0])
}

fn map(space: &AddressSpace, pages: usize, prot: Protection) -> VirtAddr {
    space.map(MapRequest::anonymous(pages * PAGE_SIZE, prot)).unwrap()
}

/// The areas as `(start, pages, protection)`.
fn areas(space: &AddressSpace) -> Vec<(VirtAddr, usize, Protection)> {
    let regions = space.regions(false).unwrap();
    regions.iter().map(|region| (region.start, pages(region.end - region.start), region.protection)).collect()
}

/// A file whose pages are all there; page `n` begins with byte `n + 1`.
struct TestFile(Vec<Frame>);

impl TestFile {
    fn new(pages: u8) -> Arc<Self> {
        let page = |index| {
            let frame = Frame::zeroed().unwrap();
            frame.write(0, &[index + 1]);
            frame
        };
        Arc::new(Self((0..pages).map(page).collect()))
    }

    fn byte(&self, page: usize) -> u8 {
        let mut byte = [0];
        self.0[page].read(0, &mut byte);
        byte[0]
    }
}

impl PageSource for TestFile {
    fn page(&self, index: u64, _write: bool) -> Result<Option<Frame>, OutOfMemory> {
        Ok(self.0.get(index as usize).cloned())
    }

    fn pages_present(&self, first: u64, frames: &mut [Option<Frame>]) {
        for (index, frame) in (first as usize..).zip(frames) {
            *frame = self.0.get(index).cloned();
        }
    }
}

fn file(source: &Arc<TestFile>, offset: usize, pages: usize, prot: Protection) -> MapRequest {
    let offset = (offset * PAGE_SIZE) as u64;
    MapRequest::file(source.clone(), offset, None, pages * PAGE_SIZE, prot)
}

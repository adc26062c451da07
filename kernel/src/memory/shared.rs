//! Shared anonymous memory: what a process shares with the children that it forks (`MAP_SHARED | MAP_ANONYMOUS`).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use super::{Frame, MapError, OutOfMemory, PAGE_SIZE, Purpose, admit};
use crate::fs::PageSource;
use crate::replicated::address_space::{Backing, MappingName};
use crate::sched::leftovers::leave;
use crate::sync::SpinLock;

/// Pages of a chunk: neighbours are found together.
const CHUNK: u64 = 64;

type Chunk = [Option<Frame>; CHUNK as usize];

/// Memory that several address spaces map. Pages come into being when they are first touched.
pub struct SharedMemory {
    pages: u64,
    chunks: SpinLock<BTreeMap<u64, Box<Chunk>>>,
}

impl SharedMemory {
    /// `len` bytes of zeroes.
    pub fn new(len: usize) -> Self {
        Self { pages: len.div_ceil(PAGE_SIZE) as u64, chunks: SpinLock::new(BTreeMap::new()) }
    }

    /// The backing of a shared anonymous mapping of `len` bytes, named as Linux names it.
    pub(super) fn backing(len: usize) -> Result<Backing, MapError> {
        // The objects below are small; a program that makes many is stopped here.
        admit(Purpose::User)?;
        let name = MappingName { path: b"/dev/zero (deleted)".to_vec(), device: 1, inode: 0 };
        Ok(Backing::File { source: Arc::new(Self::new(len)), offset: 0, name: Some(Arc::new(name)) })
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        leave(core::mem::take(self.chunks.get_mut()));
    }
}

impl PageSource for SharedMemory {
    fn page(&self, index: u64, _write: bool) -> Result<Option<Frame>, OutOfMemory> {
        if index >= self.pages {
            return Ok(None);
        }
        let mut chunks = self.chunks.lock();
        if let Some(frame) = chunks.get(&(index / CHUNK)).and_then(|chunk| chunk[slot(index)].clone()) {
            return Ok(Some(frame));
        }
        // First the frame, which is refused below the watermark; so there is memory for the chunk.
        let frame = Frame::zeroed()?;
        let chunk = chunks.entry(index / CHUNK).or_insert_with(|| Box::new([const { None }; CHUNK as usize]));
        chunk[slot(index)] = Some(frame.clone());
        Ok(Some(frame))
    }

    fn pages_present(&self, first: u64, frames: &mut [Option<Frame>]) {
        let chunks = self.chunks.lock();
        for (index, frame) in (first..).zip(frames) {
            *frame = chunks.get(&(index / CHUNK)).and_then(|chunk| chunk[slot(index)].clone());
        }
    }
}

fn slot(index: u64) -> usize {
    (index % CHUNK) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_the_same_for_all_and_zero_at_first() {
        let memory = SharedMemory::new(100 * PAGE_SIZE + 1);
        let frame = memory.page(70, false).unwrap().unwrap();
        let mut bytes = [1; 4];
        frame.read(0, &mut bytes);
        assert_eq!(bytes, [0; 4]);
        assert_eq!(memory.page(70, true).unwrap().unwrap().phys(), frame.phys());
        assert!(memory.page(100, false).unwrap().is_some());
        assert!(memory.page(101, true).unwrap().is_none());
    }

    #[test]
    fn only_what_is_there_is_present() {
        let memory = SharedMemory::new(200 * PAGE_SIZE);
        let frame = memory.page(64, true).unwrap().unwrap();
        let mut found = [const { None }; 3];
        memory.pages_present(63, &mut found);
        assert_eq!(found, [None, Some(frame), None]);
    }
}

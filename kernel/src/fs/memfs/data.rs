//! The bytes of a regular file: a size, and frames for the pages that are not holes.
//!
//! Pages are found through chunks of 64, in a tree by chunk number: a file may be sparse and huge, and
//! writing or reading on touches a chunk for 64 pages. The frames themselves may also be mapped into address spaces.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use super::Budget;
use crate::errno::Errno;
use crate::memory::{Frame, OutOfMemory, PAGE_SIZE, statistics};
use crate::sched::leftovers::leave;
use crate::uaccess::{ReadBuf, WriteBuf};

const CHUNK: u64 = 64;
const PAGE: u64 = PAGE_SIZE as u64;

/// Most bytes that one call moves under the lock of an inode; the system call comes again for more.
pub const TRANSFER_MAX: usize = 128 << 10;

/// The largest size of a file.
pub const SIZE_MAX: u64 = i64::MAX as u64;

struct Chunk {
    present: u64,
    frames: [Option<Frame>; CHUNK as usize],
}

/// A sparse array of frames.
#[derive(Default)]
struct Pages {
    chunks: BTreeMap<u64, Box<Chunk>>,
    count: u64,
}

impl Drop for Pages {
    fn drop(&mut self) {
        leave(core::mem::take(&mut self.chunks));
    }
}

impl Pages {
    fn get(&self, index: u64) -> Option<&Frame> {
        self.chunks.get(&(index / CHUNK))?.frames[(index % CHUNK) as usize].as_ref()
    }

    fn insert(&mut self, index: u64, frame: Frame) {
        let chunk = self
            .chunks
            .entry(index / CHUNK)
            .or_insert_with(|| Box::new(Chunk { present: 0, frames: [const { None }; CHUNK as usize] }));
        let slot = index % CHUNK;
        if chunk.frames[slot as usize].replace(frame).is_none() {
            chunk.present |= 1 << slot;
            self.count += 1;
        }
    }

    /// Removes the pages `first..end`; returns how many there were.
    fn remove(&mut self, first: u64, end: u64) -> u64 {
        if first >= end {
            return 0;
        }
        let before = self.count;
        // Whole chunks inside the range go at once, the two at its edges page by page.
        let mut inside = self.chunks.split_off(&first.div_ceil(CHUNK));
        let mut beyond = inside.split_off(&(end / CHUNK).max(first.div_ceil(CHUNK)));
        self.count -= inside.values().map(|chunk| u64::from(chunk.present.count_ones())).sum::<u64>();
        leave(inside);
        self.chunks.append(&mut beyond);
        for edge in [first / CHUNK, end / CHUNK] {
            let start = edge * CHUNK;
            self.remove_from_chunk(edge, first.saturating_sub(start), end.saturating_sub(start).min(CHUNK));
        }
        before - self.count
    }

    fn remove_from_chunk(&mut self, number: u64, first: u64, end: u64) {
        let Some(chunk) = self.chunks.get_mut(&number) else { return };
        for slot in first..end {
            if chunk.frames[slot as usize].take().is_some() {
                chunk.present &= !(1 << slot);
                self.count -= 1;
            }
        }
        if chunk.present == 0 {
            self.chunks.remove(&number);
        }
    }

    /// The first page at or after `from` that is there.
    fn next_present(&self, from: u64) -> Option<u64> {
        self.chunks.range(from / CHUNK..).find_map(|(&number, chunk)| {
            let skip = from.saturating_sub(number * CHUNK);
            let rest = chunk.present >> skip << skip;
            (rest != 0).then(|| number * CHUNK + u64::from(rest.trailing_zeros()))
        })
    }

    /// The first page at or after `from` that is a hole.
    fn next_absent(&self, from: u64) -> u64 {
        let mut at = from;
        while let Some(chunk) = self.chunks.get(&(at / CHUNK)) {
            let absent = !chunk.present >> (at % CHUNK);
            if absent != 0 {
                return at + u64::from(absent.trailing_zeros());
            }
            at = (at / CHUNK + 1) * CHUNK;
        }
        at
    }
}

/// The content of a regular file.
#[derive(Default)]
pub struct Data {
    size: u64,
    pages: Pages,
}

impl Data {
    /// Bytes, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Frames held.
    pub fn page_count(&self) -> u64 {
        self.pages.count
    }

    /// Copies bytes from `offset` on to `buf`; short at the end, at a fault and at [`TRANSFER_MAX`].
    pub fn read(&self, offset: u64, buf: &mut ReadBuf<'_>) -> usize {
        let wanted = buf.remaining().min(TRANSFER_MAX) as u64;
        let end = self.size.min(offset.saturating_add(wanted));
        let mut at = offset;
        while at < end {
            let within = at % PAGE;
            let len = (PAGE - within).min(end - at) as usize;
            let moved = match self.pages.get(at / PAGE) {
                Some(frame) => frame.read_to(within as usize, len, buf),
                None => buf.push_zeroes(len),
            };
            at += moved as u64;
            if moved < len {
                break;
            }
        }
        at.saturating_sub(offset) as usize
    }

    /// Copies bytes of `buf` to `offset` on, and extends the file as needed; short at a fault, at [`TRANSFER_MAX`] and
    /// where memory ends.
    ///
    /// # Errors
    /// `ENOSPC` when memory is short for the very first byte; `EFBIG` at [`SIZE_MAX`].
    pub fn write(&mut self, budget: &Budget, offset: u64, buf: &mut WriteBuf<'_>) -> Result<usize, Errno> {
        let wanted = buf.remaining().min(TRANSFER_MAX) as u64;
        if wanted > 0 && offset >= SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        let end = SIZE_MAX.min(offset.saturating_add(wanted));
        let mut at = offset;
        while at < end {
            let within = at % PAGE;
            let len = (PAGE - within).min(end - at) as usize;
            let moved = match self.write_page(budget, at / PAGE, within as usize, len, buf) {
                Err(error) if at == offset => return Err(error),
                result => result.unwrap_or(0),
            };
            at += moved as u64;
            if moved < len {
                break;
            }
        }
        if at > offset {
            self.size = self.size.max(at);
        }
        Ok((at - offset) as usize)
    }

    fn write_page(
        &mut self,
        budget: &Budget,
        index: u64,
        within: usize,
        len: usize,
        buf: &mut WriteBuf<'_>,
    ) -> Result<usize, Errno> {
        if let Some(frame) = self.pages.get(index) {
            return Ok(frame.write_from(within, len, buf));
        }
        // A page that is written whole need not be cleared first.
        let whole = len == PAGE_SIZE;
        let frame = if whole { budget.uninit_frame() } else { budget.frame() }?;
        let moved = frame.write_from(within, len, buf);
        if whole && moved < PAGE_SIZE {
            frame.clear(moved, PAGE_SIZE - moved);
        }
        match moved {
            0 => budget.give_pages(1),
            _ => self.pages.insert(index, frame),
        }
        Ok(moved)
    }

    /// The frame of page `index`, if it is there. `None` for a hole and past the end.
    pub fn page(&self, index: u64) -> Option<&Frame> {
        self.pages.get(index)
    }

    /// Whether page `index` lies, with a byte at least, before the end.
    pub fn has_page(&self, index: u64) -> bool {
        index < self.size.div_ceil(PAGE)
    }

    /// The frame of page `index`, made if it is a hole.
    pub fn page_or_fill(&mut self, budget: &Budget, index: u64) -> Result<Frame, OutOfMemory> {
        if let Some(frame) = self.pages.get(index) {
            return Ok(frame.clone());
        }
        let frame = budget.frame().map_err(|_| OutOfMemory)?;
        self.pages.insert(index, frame.clone());
        Ok(frame)
    }

    /// Puts `frame` at page `index`, for which the caller has charged the budget, and extends the file to `size` at least.
    pub fn install(&mut self, index: u64, frame: Frame, size: u64) {
        self.pages.insert(index, frame);
        self.size = self.size.max(size);
    }

    /// Cuts or extends the file.
    pub fn truncate(&mut self, budget: &Budget, size: u64) {
        if size <= self.size {
            // Pages past the end go too: fallocate can have reserved some.
            self.clear(budget, size, SIZE_MAX + 1);
        }
        self.size = size;
    }

    /// Makes bytes `from..to` read as zeroes, and gives the pages inside back.
    pub fn clear(&mut self, budget: &Budget, from: u64, to: u64) {
        let (first, last) = (from.div_ceil(PAGE), to / PAGE);
        let (head, tail) = (from % PAGE, to % PAGE);
        if from / PAGE == last {
            return self.zero(last, head, tail);
        }
        if head > 0 {
            self.zero(from / PAGE, head, PAGE);
        }
        self.zero(last, 0, tail);
        budget.give_pages(self.pages.remove(first, last));
    }

    fn zero(&mut self, index: u64, from: u64, to: u64) {
        if let Some(frame) = self.pages.get(index)
            && from < to
        {
            frame.clear(from as usize, (to - from) as usize);
        }
    }

    /// Whether the holes of `from..to` can be filled, as far as one can tell without doing it.
    ///
    /// # Errors
    /// `ENOSPC` when memory is short.
    pub fn may_reserve(&self, budget: &Budget, from: u64, to: u64) -> Result<(), Errno> {
        let free = budget.free_pages().min(statistics().free);
        let wanted = to.div_ceil(PAGE) - from / PAGE;
        if wanted > free.saturating_add(self.pages.count) { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Fills the holes of `from..to`, all or none; extends the file to `to` with `extend`.
    ///
    /// # Errors
    /// `ENOSPC` when memory is short.
    pub fn reserve(&mut self, budget: &Budget, from: u64, to: u64, extend: bool) -> Result<(), Errno> {
        self.may_reserve(budget, from, to)?;
        let (first, end) = (from / PAGE, to.div_ceil(PAGE));
        let mut made = alloc::vec::Vec::new();
        let mut index = self.pages.next_absent(first);
        while index < end {
            let room = made.try_reserve(1).map_err(|_| Errno::ENOSPC);
            match room.and_then(|()| budget.frame()) {
                Ok(frame) => made.push((index, frame)),
                Err(error) => {
                    budget.give_pages(made.len() as u64);
                    return Err(error);
                }
            }
            index = self.pages.next_absent(index + 1);
        }
        made.into_iter().for_each(|(index, frame)| self.pages.insert(index, frame));
        if extend {
            self.size = self.size.max(to);
        }
        Ok(())
    }

    /// The first byte at or after `offset` that is data, or with `hole` that is in a hole (`SEEK_DATA`, `SEEK_HOLE`; the end is a hole).
    ///
    /// # Errors
    /// `ENXIO` at or past the end, and when no data follows.
    pub fn seek(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        if offset >= self.size {
            return Err(Errno::ENXIO);
        }
        let found = match hole {
            true => Some(self.pages.next_absent(offset / PAGE) * PAGE),
            false => self.pages.next_present(offset / PAGE).map(|index| index * PAGE),
        };
        match found.map(|at| at.max(offset)) {
            Some(at) if hole => Ok(at.min(self.size)),
            Some(at) if at < self.size => Ok(at),
            _ => Err(Errno::ENXIO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, usize, u8),
        Truncate(u64),
        Clear(u64, u64),
        Reserve(u64, u64),
        Fill(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Around the edges of pages and of the first chunks.
        let at = prop_oneof![0..3 * PAGE, (CHUNK - 2) * PAGE..(CHUNK + 2) * PAGE, Just(5 * CHUNK * PAGE)];
        prop_oneof![
            4 => (at.clone(), 0..3 * PAGE_SIZE, any::<u8>()).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
            1 => at.clone().prop_map(Step::Truncate),
            1 => (at.clone(), 0..2 * CHUNK * PAGE).prop_map(|(at, len)| Step::Clear(at, at + len)),
            1 => (at.clone(), 1..2 * PAGE).prop_map(|(at, len)| Step::Reserve(at, at + len)),
            1 => at.prop_map(|at| Step::Fill(at / PAGE)),
        ]
    }

    fn content(data: &Data) -> Vec<u8> {
        let mut out = vec![0xff; data.size() as usize];
        let mut done = 0;
        while done < out.len() {
            let moved = data.read(done as u64, &mut ReadBuf::kernel(&mut out[done..]));
            assert!(moved > 0, "a read before the end moves something");
            done += moved;
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_as_a_vector_of_bytes(steps in proptest::collection::vec(step(), 1..24)) {
            let (budget, mut data, mut model) = (Budget::unlimited(), Data::default(), Vec::<u8>::new());
            for step in steps {
                match step {
                    Step::Write(at, len, byte) => {
                        let bytes = vec![byte; len];
                        prop_assert_eq!(data.write(&budget, at, &mut WriteBuf::kernel(&bytes)), Ok(len));
                        if len > 0 {
                            let end = at as usize + len;
                            model.resize(model.len().max(end), 0);
                            model[at as usize..end].fill(byte);
                        }
                    }
                    Step::Truncate(size) => {
                        data.truncate(&budget, size);
                        model.resize(size as usize, 0);
                    }
                    Step::Clear(from, to) => {
                        data.clear(&budget, from, to);
                        let to = model.len().min(to as usize);
                        if (from as usize) < to {
                            model[from as usize..to].fill(0);
                        }
                    }
                    Step::Reserve(from, to) => {
                        prop_assert_eq!(data.reserve(&budget, from, to, true), Ok(()));
                        model.resize(model.len().max(to as usize), 0);
                    }
                    Step::Fill(index) => {
                        prop_assert!(data.page_or_fill(&budget, index).is_ok());
                    }
                }
                prop_assert_eq!(data.size(), model.len() as u64);
                prop_assert_eq!(budget.used_pages(), data.page_count());
            }
            prop_assert!(content(&data) == model);
            check_seek(&data, &model)?;
        }
    }

    /// What `SEEK_DATA` skips reads as zeroes, and data and holes alternate up to the end.
    fn check_seek(data: &Data, model: &[u8]) -> Result<(), TestCaseError> {
        let mut at = 0;
        while at < data.size() {
            let start = data.seek(at, false).unwrap_or(data.size());
            prop_assert!(model[at as usize..start as usize].iter().all(|&byte| byte == 0));
            if start == data.size() {
                break;
            }
            at = data.seek(start, true).unwrap();
            prop_assert!(at > start);
        }
        prop_assert_eq!(data.seek(data.size(), false), Err(Errno::ENXIO));
        Ok(())
    }

    #[test]
    fn the_limit_of_the_budget_is_no_space() {
        let budget = Budget::new(8, 2);
        let mut data = Data::default();
        let bytes = vec![1; 3 * PAGE_SIZE];
        assert_eq!(data.write(&budget, 0, &mut WriteBuf::kernel(&bytes)), Ok(2 * PAGE_SIZE));
        assert_eq!(data.write(&budget, 2 * PAGE, &mut WriteBuf::kernel(&bytes)), Err(Errno::ENOSPC));
        assert_eq!(data.write(&budget, PAGE, &mut WriteBuf::kernel(&bytes[..10])), Ok(10));
        assert_eq!(data.reserve(&budget, 0, 3 * PAGE, true), Err(Errno::ENOSPC));
        assert_eq!((data.size(), budget.used_pages()), (2 * PAGE, 2));
        data.truncate(&budget, 0);
        assert_eq!(budget.used_pages(), 0);
    }

    #[test]
    fn offsets_at_the_end_of_the_world_are_refused() {
        let (budget, mut data) = (Budget::unlimited(), Data::default());
        assert_eq!(data.write(&budget, SIZE_MAX, &mut WriteBuf::kernel(b"x")), Err(Errno::EFBIG));
        assert_eq!(data.write(&budget, SIZE_MAX - 1, &mut WriteBuf::kernel(b"xy")), Ok(1));
        assert_eq!(data.read(u64::MAX, &mut ReadBuf::kernel(&mut [0; 4])), 0);
        assert_eq!(data.seek(0, false), Ok((SIZE_MAX - 1) / PAGE * PAGE));
    }
}

//! Packet buffers and the frames in them.
//!
//! A [`Pool`] cuts DMA memory into buffers of one size. A [`Buffer`] is the right to one of them: a driver keeps it in its
//! ring while the device fills it, then turns it into a [`Frame`], which is handed up the network stack without a
//! copy. Dropping either returns the piece to the pool, from any core, without a lock.
//!
//! A frame that did not fit into one buffer, or that came when the pool was empty, lives in ordinary memory instead; who
//! reads it does not notice.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Deref, DerefMut, Range};

use crossbeam_queue::ArrayQueue;

use crate::dma::{BusAddress, Dma, DmaAllocator, NoMemory};
use crate::nic::RxChecksum;

/// Buffers of one size in one piece of DMA memory.
pub struct Pool {
    memory: Dma,
    stride: usize,
    free: ArrayQueue<u32>,
}

impl Pool {
    /// Makes `count` buffers of `size` bytes each, `size` rounded up to whole cache lines. Neither may be zero.
    pub fn new(allocator: &dyn DmaAllocator, count: usize, size: usize) -> Result<Arc<Self>, NoMemory> {
        let stride = size.checked_next_multiple_of(64).ok_or(NoMemory)?;
        let bytes = stride.checked_mul(count).filter(|&bytes| bytes > 0).ok_or(NoMemory)?;
        let last = u32::try_from(count - 1).map_err(|_| NoMemory)?;
        let memory = allocator.allocate(bytes)?;
        let free = ArrayQueue::new(count);
        (0..=last).for_each(|index| {
            // The queue has room for all of them.
            let _ = free.push(index);
        });
        Ok(Arc::new(Self { memory, stride, free }))
    }

    /// Takes a buffer out; `None` when all are in use.
    #[inline]
    pub fn take(self: &Arc<Self>) -> Option<Buffer> {
        let index = self.free.pop()?;
        Some(Buffer { pool: self.clone(), index })
    }

    /// The size of each buffer in bytes.
    pub fn buffer_size(&self) -> usize {
        self.stride
    }

    /// How many buffers are free at this moment.
    pub fn free(&self) -> usize {
        self.free.len()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({:?}, {} of {} free)", self.memory, self.free.len(), self.free.capacity())
    }
}

/// The right to one buffer of a pool.
///
/// While a driver has lent it to its device it keeps the value, and does not look at the bytes.
pub struct Buffer {
    pool: Arc<Pool>,
    // Invariant: below the pool's count, and in no other `Buffer` and not in `free`.
    index: u32,
}

impl Buffer {
    fn offset(&self) -> usize {
        self.index as usize * self.pool.stride
    }

    /// The device's address of the buffer.
    #[inline]
    pub fn bus(&self) -> BusAddress {
        self.pool.memory.bus().add(self.offset())
    }

    /// The size of the buffer in bytes.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.pool.stride
    }

    /// The bytes of the buffer.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the index is in bounds and ours alone, so only this value refers to these initialised bytes.
        unsafe {
            let start = self.pool.memory.memory().as_ptr().add(self.offset());
            core::slice::from_raw_parts(start, self.pool.stride)
        }
    }

    /// The bytes of the buffer, to be changed.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`; `&mut self` makes it the only reference.
        unsafe {
            let start = self.pool.memory.memory().as_ptr().add(self.offset());
            core::slice::from_raw_parts_mut(start, self.pool.stride)
        }
    }

    /// Hands out the bytes in `range` as a frame, and leaves a buffer in place for the next one: a fresh one from the
    /// pool, or, when all are in use further up, this one, whose bytes are copied. A device whose buffers are handed
    /// out like this is never starved by a slow reader. `None` when `range` is not in the buffer or there is no memory.
    #[inline]
    pub fn hand_out(&mut self, range: Range<usize>, checksum: RxChecksum) -> Option<Frame> {
        match self.pool.take() {
            Some(fresh) => core::mem::replace(self, fresh).into_frame(range, checksum),
            None => Frame::copy_from(core::iter::once(self.bytes().get(range)?), checksum),
        }
    }

    /// Makes a frame of the bytes in `range`; `None` when they do not lie in the buffer.
    #[inline]
    pub fn into_frame(self, range: Range<usize>, checksum: RxChecksum) -> Option<Frame> {
        if range.start > range.end || range.end > self.capacity() {
            return None;
        }
        Some(Frame { storage: Storage::Pooled(self), range, checksum })
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        // Cannot fail: the queue holds as many as there are buffers.
        let _ = self.pool.free.push(self.index);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({})", self.index)
    }
}

#[derive(Debug)]
enum Storage {
    Pooled(Buffer),
    Heap(Vec<u8>),
}

/// A received Ethernet frame, from the destination address on, without its frame check sequence.
#[derive(Debug)]
pub struct Frame {
    storage: Storage,
    range: Range<usize>,
    checksum: RxChecksum,
}

impl Frame {
    /// Copies `pieces`, in order, into ordinary memory; `None` when there is not enough of it.
    pub fn copy_from<'a>(
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
        checksum: RxChecksum,
    ) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(pieces.clone().map(<[u8]>::len).sum()).ok()?;
        pieces.for_each(|piece| bytes.extend_from_slice(piece));
        Some(Self::from_vec(bytes, checksum))
    }

    /// Makes a frame of bytes that are in memory already.
    pub fn from_vec(bytes: Vec<u8>, checksum: RxChecksum) -> Self {
        Self { range: 0..bytes.len(), storage: Storage::Heap(bytes), checksum }
    }

    /// What the device knows about the frame's checksums.
    pub fn checksum(&self) -> RxChecksum {
        self.checksum
    }
}

impl Deref for Frame {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.storage {
            Storage::Pooled(buffer) => &buffer.bytes()[self.range.clone()],
            Storage::Heap(bytes) => &bytes[self.range.clone()],
        }
    }
}

impl DerefMut for Frame {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Storage::Pooled(buffer) => &mut buffer.bytes_mut()[self.range.clone()],
            Storage::Heap(bytes) => &mut bytes[self.range.clone()],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::fake::FakeMemory;

    fn pool(count: usize, size: usize) -> Arc<Pool> {
        Pool::new(&FakeMemory::new(), count, size).unwrap()
    }

    #[test]
    fn buffers_are_disjoint_and_return_when_dropped() {
        let pool = pool(4, 100);
        let mut buffers: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        assert_eq!(buffers.len(), 4);
        let addresses: HashSet<_> = buffers.iter().map(|buffer| buffer.bus().0).collect();
        assert_eq!(addresses.len(), 4);
        for (value, buffer) in buffers.iter_mut().enumerate() {
            buffer.bytes_mut().fill(value as u8);
        }
        for (value, buffer) in buffers.iter().enumerate() {
            assert!(buffer.bytes().iter().all(|&byte| byte == value as u8));
        }
        drop(buffers);
        assert_eq!(pool.free(), 4);
    }

    #[test]
    fn a_frame_keeps_its_buffer_until_it_is_dropped() {
        let pool = pool(1, 64);
        let mut buffer = pool.take().unwrap();
        buffer.bytes_mut()[..4].copy_from_slice(b"abcd");
        let frame = buffer.into_frame(1..3, RxChecksum::Good).unwrap();
        assert_eq!((&frame[..], frame.checksum()), (&b"bc"[..], RxChecksum::Good));
        assert!(pool.take().is_none());
        drop(frame);
        assert!(pool.take().is_some());
    }

    #[test]
    fn a_frame_outside_of_its_buffer_is_refused_and_the_buffer_returns() {
        let pool = pool(1, 64);
        let length = pool.buffer_size();
        assert!(pool.take().unwrap().into_frame(10..length + 1, RxChecksum::Unknown).is_none());
        #[expect(clippy::reversed_empty_ranges, reason = "the reversed range is the bad input")]
        let reversed = 9..8;
        assert!(pool.take().unwrap().into_frame(reversed, RxChecksum::Unknown).is_none());
        assert_eq!(pool.free(), 1);
    }

    #[test]
    fn a_frame_is_copied_only_when_the_pool_is_empty() {
        let pool = pool(2, 64);
        let mut slot = pool.take().unwrap();
        let first = slot.bus();
        slot.bytes_mut()[0] = 1;
        let moved = slot.hand_out(0..1, RxChecksum::Good).unwrap();
        assert_ne!(slot.bus(), first);
        slot.bytes_mut()[0] = 2;
        let copied = slot.hand_out(0..1, RxChecksum::Good).unwrap();
        slot.bytes_mut()[0] = 3;
        assert_eq!((&moved[..], &copied[..]), (&[1][..], &[2][..]));
        assert!(slot.hand_out(0..65, RxChecksum::Good).is_none());
        drop(moved);
        assert_eq!(pool.free(), 1);
    }

    #[test]
    fn frames_outlive_the_driver_that_made_them() {
        let memory = FakeMemory::new();
        let pool = Pool::new(&memory, 2, 64).unwrap();
        let frame = pool.take().unwrap().into_frame(0..64, RxChecksum::Unknown).unwrap();
        drop(pool);
        assert_eq!(memory.live(), 1);
        drop(frame);
        assert_eq!(memory.live(), 0);
    }

    #[test]
    fn pieces_are_joined_in_order() {
        let pieces = [&b"ab"[..], &b""[..], &b"cde"[..]];
        let frame = Frame::copy_from(pieces.into_iter(), RxChecksum::Unknown).unwrap();
        assert_eq!(&frame[..], b"abcde");
    }

    #[test]
    fn no_buffers_and_impossible_sizes_are_errors() {
        let memory = FakeMemory::new();
        for (count, size) in [(0, 64), (1, 0), (2, usize::MAX), (usize::MAX, 64)] {
            assert_eq!(Pool::new(&memory, count, size).err(), Some(NoMemory), "{count} x {size}");
        }
    }

    #[test]
    fn threads_never_share_a_buffer() {
        let pool = pool(8, 64);
        thread::scope(|scope| {
            for mark in 0..4u8 {
                let pool = &pool;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let Some(mut buffer) = pool.take() else { continue };
                        buffer.bytes_mut().fill(mark);
                        assert!(buffer.bytes().iter().all(|&byte| byte == mark));
                    }
                });
            }
        });
        assert_eq!(pool.free(), 8);
    }

    proptest! {
        #[test]
        fn free_and_held_buffers_add_up(steps in prop::collection::vec((any::<bool>(), any::<usize>()), 0..200)) {
            let pool = pool(5, 64);
            let mut held = Vec::new();
            for (take, choice) in steps {
                if take {
                    let expected = held.len() < 5;
                    let taken = pool.take();
                    prop_assert_eq!(taken.is_some(), expected);
                    held.extend(taken);
                } else if !held.is_empty() {
                    held.swap_remove(choice % held.len());
                }
                prop_assert_eq!(pool.free() + held.len(), 5);
                let distinct: HashSet<_> = held.iter().map(|buffer| buffer.bus().0).collect();
                prop_assert_eq!(distinct.len(), held.len());
            }
        }
    }
}

//! A ring of bytes that grows on demand: the data of a pipe.

use alloc::vec::Vec;

use crate::errno::Errno;
use crate::uaccess::{ReadBuf, WriteBuf};

/// Bytes that the smallest ring holds.
const SMALLEST: usize = 4096;
/// Bytes that are moved whole or, when a part cannot be copied, not at all: a page of a pipe, as on Linux.
const PIECE: usize = 4096;

/// First in, first out; at most `capacity` bytes. Its memory grows as it fills, up to the capacity.
pub struct Ring {
    bytes: Vec<u8>,
    head: usize,
    len: usize,
    capacity: usize,
}

impl Ring {
    /// An empty ring for at most `capacity` bytes.
    pub const fn new(capacity: usize) -> Self {
        Self { bytes: Vec::new(), head: 0, len: 0, capacity }
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that fit.
    pub fn free(&self) -> usize {
        self.capacity.saturating_sub(self.len)
    }

    /// The most bytes it holds.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes the capacity. `EBUSY` when more than that is in it.
    pub fn set_capacity(&mut self, capacity: usize) -> Result<(), Errno> {
        if capacity < self.len {
            return Err(Errno::EBUSY);
        }
        let size = self.bytes.len().min(capacity);
        self.resize(size)?;
        self.capacity = capacity;
        Ok(())
    }

    /// Moves the content to memory of `size` bytes, at least its length.
    fn resize(&mut self, size: usize) -> Result<(), Errno> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
        let (first, second) = self.slices(self.len);
        bytes.extend_from_slice(first);
        bytes.extend_from_slice(second);
        bytes.resize(size, 0);
        (self.bytes, self.head) = (bytes, 0);
        Ok(())
    }

    /// The first `len` bytes of the content, in two pieces.
    fn slices(&self, len: usize) -> (&[u8], &[u8]) {
        let first = len.min(self.bytes.len() - self.head);
        (&self.bytes[self.head..self.head + first], &self.bytes[..len - first])
    }

    /// Appends as much of `buf` as fits, at most `limit` bytes, up to a piece in which the copy faults. Returns the number of bytes.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be copied; `ENOMEM` when there is no memory to grow.
    pub fn write_from(&mut self, buf: &mut WriteBuf<'_>, limit: usize) -> Result<usize, Errno> {
        let wanted = buf.remaining().min(self.free()).min(limit);
        self.make_room(self.len + wanted)?;
        let mut moved = 0;
        while moved < wanted {
            let piece = (wanted - moved).min(PIECE);
            let copied = self.fill_from(buf, piece);
            if copied < piece {
                buf.take_back(copied);
                break;
            }
            self.len += piece;
            moved += piece;
        }
        if moved == 0 && wanted > 0 { Err(Errno::EFAULT) } else { Ok(moved) }
    }

    /// Copies `len` bytes behind the content, where there is room for them. Returns how many did not fault.
    fn fill_from(&mut self, buf: &mut WriteBuf<'_>, len: usize) -> usize {
        let tail = (self.head + self.len) % self.bytes.len();
        let first = len.min(self.bytes.len() - tail);
        let copied = buf.pull(&mut self.bytes[tail..tail + first]);
        if copied < first { copied } else { copied + buf.pull(&mut self.bytes[..len - first]) }
    }

    /// Moves content to `buf`, as much as there is, at most `limit` bytes, up to a piece in which the copy faults. Returns
    /// the number of bytes.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be copied.
    pub fn read_to(&mut self, buf: &mut ReadBuf<'_>, limit: usize) -> Result<usize, Errno> {
        let wanted = buf.remaining().min(self.len).min(limit);
        let mut moved = 0;
        while moved < wanted {
            let piece = (wanted - moved).min(PIECE);
            let copied = self.copy_to(buf, piece);
            if copied < piece {
                buf.take_back(copied);
                break;
            }
            self.discard(piece);
            moved += piece;
        }
        if moved == 0 && wanted > 0 { Err(Errno::EFAULT) } else { Ok(moved) }
    }

    /// Copies the first `len` bytes of the content. Returns how many did not fault.
    fn copy_to(&self, buf: &mut ReadBuf<'_>, len: usize) -> usize {
        let (first, second) = self.slices(len);
        let copied = buf.push(first);
        if copied < first.len() { copied } else { copied + buf.push(second) }
    }

    /// Forgets the first `len` bytes, of at least as many.
    pub fn discard(&mut self, len: usize) {
        self.len -= len;
        // An empty ring starts over, so that most transfers are in one piece.
        self.head = if self.len == 0 { 0 } else { (self.head + len) % self.bytes.len() };
    }

    /// Forgets the last `len` bytes, of at least as many.
    pub fn take_back(&mut self, len: usize) {
        self.len -= len;
    }

    /// Copies content to `buf`, at most `limit` bytes, and leaves it. Returns the number of bytes.
    pub fn peek(&self, buf: &mut ReadBuf<'_>, limit: usize) -> usize {
        self.copy_to(buf, buf.remaining().min(self.len).min(limit))
    }

    /// Puts `bytes` in front of the content, beyond the capacity if need be.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn unread(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let len = self.len + bytes.len();
        if len > self.bytes.len() {
            self.resize(len)?;
        }
        let size = self.bytes.len();
        for (index, &byte) in bytes.iter().enumerate() {
            self.bytes[(self.head + size - bytes.len() + index) % size] = byte;
        }
        self.head = (self.head + size - bytes.len()) % size;
        self.len = len;
        Ok(())
    }

    fn make_room(&mut self, needed: usize) -> Result<(), Errno> {
        if needed <= self.bytes.len() {
            return Ok(());
        }
        self.resize(needed.next_power_of_two().max(SMALLEST).min(self.capacity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn behaves_like_a_queue(steps in prop::collection::vec((any::<bool>(), 0usize..9000), 1..60)) {
            let (mut ring, mut model, mut next) = (Ring::new(10_000), VecDeque::new(), 0u8);
            for (write, len) in steps {
                if write {
                    let data: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(7); next }).collect();
                    let taken = ring.write_from(&mut WriteBuf::kernel(&data), usize::MAX).unwrap();
                    prop_assert_eq!(taken, len.min(10_000 - model.len()));
                    model.extend(&data[..taken]);
                } else {
                    let mut out = vec![0; len];
                    let given = ring.read_to(&mut ReadBuf::kernel(&mut out), usize::MAX).unwrap();
                    let expected: Vec<u8> = model.drain(..len.min(model.len())).collect();
                    prop_assert_eq!(&out[..given], &expected[..]);
                }
                prop_assert_eq!(ring.len(), model.len());
            }
        }
    }

    #[test]
    fn shrinking_below_the_content_is_refused() {
        let mut ring = Ring::new(8192);
        ring.write_from(&mut WriteBuf::kernel(&[1; 5000]), usize::MAX).unwrap();
        assert_eq!(ring.set_capacity(4096), Err(Errno::EBUSY));
        assert_eq!(ring.set_capacity(5000), Ok(()));
        assert_eq!(ring.free(), 0);
    }
}

//! What is in a pipe: a stream of bytes, or packets (`O_DIRECT` of pipe2(2)), or some of each.
//!
//! The bytes lie in one [`Ring`]. Places in the stream are counted from the pipe's beginning; a packet is the range between two.
//! Linux keeps each packet in a page of its own, and so does the accounting here: as many packets fit as the pipe
//! has pages, however short they are.

use alloc::collections::VecDeque;
use core::ops::Range;

use super::{ATOMIC_WRITE, DEFAULT_SIZE};
use crate::errno::Errno;
use crate::fs::ring::Ring;
use crate::uaccess::{ReadBuf, WriteBuf};

/// Bytes of a page, and of the longest packet.
const PAGE: usize = ATOMIC_WRITE;

/// See the module.
pub struct Content {
    ring: Ring,
    /// The place of the ring's first byte.
    front: u64,
    /// In order; the first ones may lie before `front` until somebody reads on.
    packets: VecDeque<Range<u64>>,
}

impl Content {
    /// Nothing, in a pipe of the usual size.
    pub fn new() -> Self {
        Self { ring: Ring::new(DEFAULT_SIZE), front: 0, packets: VecDeque::new() }
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// The most bytes it holds.
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Changes the most bytes it holds. `EBUSY` when more is in it.
    pub fn set_capacity(&mut self, capacity: usize) -> Result<(), Errno> {
        let (packets, stream) = self.packets_and_stream();
        if packets + stream.div_ceil(PAGE) > capacity / PAGE {
            return Err(Errno::EBUSY);
        }
        self.ring.set_capacity(capacity)
    }

    /// Bytes of a stream that fit.
    pub fn room(&self) -> usize {
        if self.packets.is_empty() {
            return self.ring.free();
        }
        let (packets, stream) = self.packets_and_stream();
        let pages = self.capacity() / PAGE;
        (pages.saturating_sub(packets) * PAGE).saturating_sub(stream).min(self.ring.free())
    }

    /// The number of packets, and of bytes in none.
    fn packets_and_stream(&self) -> (usize, usize) {
        let ahead = self.packets.iter().filter(|packet| packet.end > self.front);
        let (count, bytes) = ahead.fold((0, 0), |(count, bytes), packet| {
            (count + 1, bytes + (packet.end - packet.start.max(self.front)) as usize)
        });
        (count, self.len() - bytes)
    }

    /// The first packet that has not been read to its end.
    fn first_packet(&mut self) -> Option<Range<u64>> {
        while self.packets.front().is_some_and(|packet| packet.end <= self.front) {
            self.packets.pop_front();
        }
        self.packets.front().cloned()
    }

    /// Moves bytes to `buf`, up to the end of the first packet. Returns their number.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be copied.
    pub fn take(&mut self, buf: &mut ReadBuf<'_>) -> Result<usize, Errno> {
        let limit = self.first_packet().map_or(usize::MAX, |packet| (packet.end - self.front) as usize);
        let moved = self.ring.read_to(buf, limit)?;
        self.front += moved as u64;
        Ok(moved)
    }

    /// As [`take`](Self::take), but what is left of a packet that does not fit into `buf` is lost, as pipe2(2) has it.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be copied.
    pub fn read(&mut self, buf: &mut ReadBuf<'_>) -> Result<usize, Errno> {
        let moved = self.take(buf)?;
        let packet =
            self.packets.front().filter(|packet| packet.start < self.front && self.front < packet.end);
        if let Some(packet) = packet
            && !buf.faulted()
        {
            self.ring.discard((packet.end - self.front) as usize);
            self.front = packet.end;
        }
        Ok(moved)
    }

    /// Copies bytes to `buf`, up to the end of the first packet, and leaves them. Returns their number.
    pub fn peek(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let limit = self.first_packet().map_or(usize::MAX, |packet| (packet.end - self.front) as usize);
        self.ring.peek(buf, limit)
    }

    /// Puts back the bytes that were taken last, beyond the capacity if need be.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn unread(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.ring.unread(bytes)?;
        self.front -= bytes.len() as u64;
        Ok(())
    }

    /// Appends bytes of `buf`: as much as there is room for and does not fault, or with `whole` all or none of them.
    ///
    /// # Errors
    /// `EAGAIN` when there is no room; `EFAULT`; `ENOMEM`.
    pub fn write(&mut self, buf: &mut WriteBuf<'_>, whole: bool) -> Result<usize, Errno> {
        let room = self.room();
        if room == 0 || whole && room < buf.remaining() {
            return Err(Errno::EAGAIN);
        }
        self.ring.write_from(buf, room)
    }

    /// Appends the bytes of `buf` as packets, each of a page but for the last, as many as there is room for.
    ///
    /// # Errors
    /// `EAGAIN` when there is no room; `EFAULT`; `ENOMEM`.
    pub fn write_packets(&mut self, buf: &mut WriteBuf<'_>) -> Result<usize, Errno> {
        let mut moved = 0;
        while buf.remaining() > 0 {
            match self.write_packet(buf) {
                Ok(len) => moved += len,
                Err(error) if moved == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(moved)
    }

    fn write_packet(&mut self, buf: &mut WriteBuf<'_>) -> Result<usize, Errno> {
        let wanted = buf.remaining().min(PAGE);
        let (packets, stream) = self.packets_and_stream();
        if packets + stream.div_ceil(PAGE) >= self.capacity() / PAGE || self.ring.free() < wanted {
            return Err(Errno::EAGAIN);
        }
        self.packets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let (start, before) = (self.front + self.len() as u64, buf.position());
        let moved = self.ring.write_from(buf, wanted)?;
        if moved < wanted {
            // A fault in the middle: a packet is written as a whole.
            self.ring.take_back(moved);
            buf.rewind(before);
            return Err(Errno::EFAULT);
        }
        self.packets.push_back(start..start + moved as u64);
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn packet(content: &mut Content, bytes: &[u8]) -> Result<usize, Errno> {
        content.write_packets(&mut WriteBuf::kernel(bytes))
    }

    fn stream(content: &mut Content, bytes: &[u8]) -> Result<usize, Errno> {
        content.write(&mut WriteBuf::kernel(bytes), false)
    }

    fn read(content: &mut Content, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let got = content.read(&mut ReadBuf::kernel(&mut bytes)).unwrap();
        bytes.truncate(got);
        bytes
    }

    #[test]
    fn a_read_takes_one_packet_and_loses_what_does_not_fit() {
        let mut content = Content::new();
        packet(&mut content, b"first").unwrap();
        packet(&mut content, b"second").unwrap();
        packet(&mut content, b"third").unwrap();
        assert_eq!((read(&mut content, 100), read(&mut content, 3)), (b"first".to_vec(), b"sec".to_vec()));
        assert_eq!((read(&mut content, 100), content.len()), (b"third".to_vec(), 0));
    }

    #[test]
    fn a_packet_ends_a_read_that_began_in_a_stream() {
        let mut content = Content::new();
        stream(&mut content, b"stream").unwrap();
        packet(&mut content, b"packet").unwrap();
        stream(&mut content, b"more").unwrap();
        assert_eq!(read(&mut content, 6), b"stream");
        assert_eq!(read(&mut content, 100), b"packet");
        packet(&mut content, b"second").unwrap();
        assert_eq!((read(&mut content, 6), read(&mut content, 9)), (b"morese".to_vec(), vec![]));
    }

    #[test]
    fn as_many_packets_fit_as_there_are_pages() {
        let mut content = Content::new();
        for _ in 0..DEFAULT_SIZE / PAGE {
            assert_eq!(packet(&mut content, b"x"), Ok(1));
        }
        assert_eq!(
            (packet(&mut content, b"x"), stream(&mut content, b"x")),
            (Err(Errno::EAGAIN), Err(Errno::EAGAIN))
        );
        assert_eq!((content.room(), content.set_capacity(PAGE)), (0, Err(Errno::EBUSY)));
        assert_eq!(read(&mut content, 9), b"x");
        assert_eq!((content.room(), stream(&mut content, &[7; PAGE + 1])), (PAGE, Ok(PAGE)));
        assert_eq!(packet(&mut content, b"x"), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_long_write_makes_several_packets() {
        let mut content = Content::new();
        assert_eq!(packet(&mut content, &[1; 2 * PAGE + 5]), Ok(2 * PAGE + 5));
        let lengths: Vec<usize> = (0..3).map(|_| read(&mut content, 100_000).len()).collect();
        assert_eq!(lengths, [PAGE, PAGE, 5]);
    }

    #[test]
    fn what_is_put_back_is_part_of_its_packet_again() {
        let mut content = Content::new();
        packet(&mut content, b"first").unwrap();
        packet(&mut content, b"second").unwrap();
        let mut bytes = [0; 9];
        assert_eq!(content.take(&mut ReadBuf::kernel(&mut bytes)), Ok(5));
        content.unread(&bytes[3..5]).unwrap();
        assert_eq!(content.peek(&mut ReadBuf::kernel(&mut bytes)), 2);
        assert_eq!((read(&mut content, 9), read(&mut content, 9)), (b"st".to_vec(), b"second".to_vec()));
    }

    proptest! {
        /// Against a list of pieces, each of which is a packet or not.
        #[test]
        fn behaves_like_a_list_of_pieces(steps in prop::collection::vec((0u8..3, 1usize..6000), 1..80)) {
            let (mut content, mut model, mut next) = (Content::new(), Vec::<(bool, Vec<u8>)>::new(), 0u8);
            for (step, len) in steps {
                let data: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(7); next }).collect();
                match step {
                    0 => {
                        if let Ok(taken) = stream(&mut content, &data) {
                            model.push((false, data[..taken].to_vec()));
                        }
                    }
                    1 => {
                        let taken = packet(&mut content, &data).unwrap_or(0);
                        model.extend(data[..taken].chunks(PAGE).map(|piece| (true, piece.to_vec())));
                    }
                    _ => {
                        let mut expected = Vec::new();
                        while expected.len() < len && !model.is_empty() {
                            let (is_packet, mut piece) = model.remove(0);
                            let rest = piece.split_off(piece.len().min(len - expected.len()));
                            expected.extend(piece);
                            if is_packet {
                                break;
                            }
                            if !rest.is_empty() {
                                model.insert(0, (false, rest));
                            }
                        }
                        prop_assert_eq!(read(&mut content, len), expected);
                    }
                }
                prop_assert_eq!(content.len(), model.iter().map(|piece| piece.1.len()).sum::<usize>());
                prop_assert!(model.iter().filter(|piece| piece.0).count() <= DEFAULT_SIZE / PAGE);
            }
        }
    }
}

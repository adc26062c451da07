//! What waits to be read from a unix-domain socket: pieces of a stream, or messages, with what was sent along.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::in_flight::Files;
use crate::errno::Errno;
use crate::fs::OpenFile;
use crate::net::socket::address::UnixName;
use crate::net::socket::message::PeerCredentials;
use crate::uaccess::{ReadBuf, WriteBuf};

/// Bytes that a piece of a stream begins with: small writes go into one piece.
const PIECE: usize = 4096;
/// A piece of a stream, or a message.
pub struct Piece {
    data: Vec<u8>,
    /// Bytes of it that have been read.
    read: usize,
    files: Option<Box<Files>>,
    /// Who sent it.
    pub sender: PeerCredentials,
    /// From which name.
    pub from: UnixName,
}

/// What a read took, beside the bytes.
pub struct Taken {
    /// Bytes copied; for a message its whole length.
    pub length: usize,
    /// Descriptors.
    pub files: Vec<Arc<OpenFile>>,
    /// Who sent the first byte.
    pub sender: PeerCredentials,
    /// From which name.
    pub from: UnixName,
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// The memory of a piece that was read, for the next.
    spare: Vec<u8>,
}

impl Queue {
    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages in all.
    pub fn messages(&self) -> usize {
        self.pieces.len()
    }

    /// Length of the first message.
    pub fn first_length(&self) -> usize {
        self.pieces.front().map_or(0, |piece| piece.data.len() - piece.read)
    }

    /// Appends to a stream what `buf` has, at most `room` bytes. Returns their number.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM` when that is none.
    pub fn write(
        &mut self,
        buf: &mut WriteBuf<'_>,
        room: usize,
        sender: PeerCredentials,
        files: Option<Box<Files>>,
    ) -> Result<usize, Errno> {
        let wanted = buf.remaining().min(room);
        if files.is_none()
            && let Some(last) = self.pieces.back_mut()
            && last.files.is_none()
            && last.sender == sender
            && last.data.capacity() - last.data.len() >= wanted
        {
            let written = fill(&mut last.data, buf, wanted)?;
            self.bytes += written;
            return Ok(written);
        }
        let mut data = core::mem::take(&mut self.spare);
        data.clear();
        data.try_reserve(wanted.max(PIECE)).map_err(|_| Errno::ENOMEM)?;
        self.pieces.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let written = fill(&mut data, buf, wanted)?;
        self.bytes += written;
        self.pieces.push_back(Piece { data, read: 0, files, sender, from: UnixName::Unnamed });
        Ok(written)
    }

    /// Appends a message.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn push(
        &mut self,
        data: Vec<u8>,
        sender: PeerCredentials,
        from: UnixName,
        files: Option<Box<Files>>,
    ) -> Result<(), Errno> {
        self.pieces.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.bytes += data.len();
        self.pieces.push_back(Piece { data, read: 0, files, sender, from });
        Ok(())
    }

    /// Reads from a stream into `buf`, up to and with the first piece that carries descriptors. `None` when nothing is there.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be copied.
    pub fn read(&mut self, buf: &mut ReadBuf<'_>, peek: bool) -> Result<Option<Taken>, Errno> {
        let Some(first) = self.pieces.front() else { return Ok(None) };
        let (sender, from) = (first.sender, first.from.clone());
        let (mut length, mut files) = (0, Vec::new());
        // When peeking, where a copy that met a fault stopped.
        let mut skip = if peek { buf.done() } else { 0 };
        let mut at = 0;
        while let Some(piece) = self.pieces.get_mut(at) {
            let rest = &piece.data[piece.read..];
            let skipped = skip.min(rest.len());
            skip -= skipped;
            let rest = &rest[skipped..];
            let (wanted, copied) = (rest.len().min(buf.remaining()), buf.push(rest));
            length += copied;
            if copied < wanted && length == 0 {
                return Err(Errno::EFAULT);
            }
            let carries = piece.files.is_some();
            if peek {
                files = piece.files.as_ref().map_or(files, |files| files.copy());
                at += 1;
            } else {
                piece.read += copied;
                self.bytes -= copied;
                files = piece.files.take().map_or(files, |passed| passed.arrive());
                let is_empty = piece.read == piece.data.len();
                if is_empty && let Some(piece) = self.pieces.pop_front() {
                    self.spare = piece.data;
                }
                if !is_empty {
                    break;
                }
            }
            if carries || buf.remaining() == 0 || copied < wanted {
                break;
            }
        }
        Ok(Some(Taken { length, files, sender, from }))
    }

    /// Takes the first message; what does not fit into `buf` is lost. `None` when there is none.
    ///
    /// # Errors
    /// `EFAULT`, and then it stays.
    pub fn pop(&mut self, buf: &mut ReadBuf<'_>, peek: bool) -> Result<Option<Taken>, Errno> {
        let Some(first) = self.pieces.front_mut() else { return Ok(None) };
        let done = buf.done().min(first.data.len());
        let wanted = (first.data.len() - done).min(buf.remaining());
        if buf.push(&first.data[done..]) < wanted {
            return Err(Errno::EFAULT);
        }
        let (length, sender, from) = (first.data.len(), first.sender, first.from.clone());
        let files = match peek {
            true => first.files.as_ref().map_or(Vec::new(), |files| files.copy()),
            false => first.files.take().map_or(Vec::new(), |passed| passed.arrive()),
        };
        if !peek {
            self.bytes -= length;
            self.pieces.pop_front();
        }
        Ok(Some(Taken { length, files, sender, from }))
    }
}

fn fill(data: &mut Vec<u8>, buf: &mut WriteBuf<'_>, wanted: usize) -> Result<usize, Errno> {
    let start = data.len();
    data.resize(start + wanted, 0);
    let written = buf.pull(&mut data[start..]);
    data.truncate(start + written);
    if written == 0 && wanted > 0 { Err(Errno::EFAULT) } else { Ok(written) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ME: PeerCredentials = PeerCredentials { pid: 1, uid: 2, gid: 3 };

    proptest! {
        #[test]
        fn a_stream_keeps_its_bytes_in_order(steps in prop::collection::vec((any::<bool>(), 0usize..6000), 1..60)) {
            let (mut queue, mut model) = (Queue::default(), VecDeque::new());
            let mut next = 0u8;
            for (write, count) in steps {
                if write {
                    let data: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                    prop_assert_eq!(queue.write(&mut WriteBuf::kernel(&data), 5000, ME, None), Ok(count.min(5000)));
                    model.extend(&data[..count.min(5000)]);
                } else {
                    let mut bytes = vec![0; count];
                    let peeked = queue.read(&mut ReadBuf::kernel(&mut bytes), true).unwrap().map_or(0, |taken| taken.length);
                    let expected: Vec<u8> = model.iter().copied().take(count).collect();
                    prop_assert_eq!(&bytes[..peeked], &expected[..]);
                    let read = queue.read(&mut ReadBuf::kernel(&mut bytes), false).unwrap().map_or(0, |taken| taken.length);
                    prop_assert_eq!(&bytes[..read], &expected[..]);
                    model.drain(..read);
                }
                prop_assert_eq!(queue.bytes(), model.len());
            }
        }
    }

    #[test]
    fn messages_keep_their_bounds() {
        let mut queue = Queue::default();
        for message in [&b"one"[..], b"", b"three"] {
            queue.push(message.to_vec(), ME, UnixName::Unnamed, None).unwrap();
        }
        let mut bytes = [0; 2];
        assert_eq!(queue.pop(&mut ReadBuf::kernel(&mut bytes), false).unwrap().unwrap().length, 3);
        assert_eq!(&bytes, b"on");
        assert_eq!(queue.pop(&mut ReadBuf::kernel(&mut bytes), false).unwrap().unwrap().length, 0);
        assert_eq!((queue.messages(), queue.bytes(), queue.first_length()), (1, 5, 5));
    }
}

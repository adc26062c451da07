//! The bytes of a message on their way from a program, which come whole or not at all.
//!
//! A copy from user memory may stop at a page that is not there; the caller brings it in and tries again with the same
//! [`WriteBuf`], which goes on where it stopped. What was copied before is kept here in between.

use alloc::vec::Vec;

use crate::errno::Errno;
use crate::uaccess::WriteBuf;

/// Bytes copied so far. Keeps its memory from message to message.
#[derive(Default)]
pub struct Scratch(Vec<u8>);

impl Scratch {
    /// Copies the whole message.
    ///
    /// # Errors
    /// `EFAULT`, upon which the caller may try again; `ENOMEM`.
    pub fn gather(&mut self, buf: &mut WriteBuf<'_>) -> Result<&[u8], Errno> {
        let (start, length) = (buf.done(), buf.len());
        if self.0.len() < start {
            return Err(Errno::EFAULT);
        }
        self.0.truncate(start);
        self.0.try_reserve(length - start).map_err(|_| Errno::ENOMEM)?;
        self.0.resize(length, 0);
        let pulled = buf.pull(&mut self.0[start..]);
        self.0.truncate(start + pulled);
        if start + pulled < length { Err(Errno::EFAULT) } else { Ok(&self.0) }
    }

    /// Hands over the message that was gathered last.
    pub fn take(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.0)
    }

    /// Takes a message back that could not be delivered now: it is gathered already.
    pub fn put_back(&mut self, message: Vec<u8>) {
        self.0 = message;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_gathered_whole() {
        let mut scratch = Scratch::default();
        assert_eq!(scratch.gather(&mut WriteBuf::kernel(b"first")), Ok(&b"first"[..]));
        assert_eq!(scratch.gather(&mut WriteBuf::kernel(b"two")), Ok(&b"two"[..]));
        let mut faulty = WriteBuf::user(crate::memory::VirtAddr::new(0x1000), 4);
        assert_eq!(scratch.gather(&mut faulty), Err(Errno::EFAULT));
    }
}

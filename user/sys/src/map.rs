//! Memory with known neighbours.

use crate::{Res, must, sys};

/// Bytes in a page.
pub const PAGE: usize = 4096;

/// A range of anonymous memory with an unmapped page before it and after it.
///
/// The neighbours make "one byte past the end" a fault for certain, and nothing that the C library maps later
/// can come to lie against the range: the whole is reserved, inaccessible, in one piece.
#[derive(Debug)]
pub struct Map {
    start: usize,
    len: usize,
}

impl Map {
    /// Maps `pages` private pages, readable and writable.
    ///
    /// # Panics
    /// With the errno, when the kernel refuses.
    #[track_caller]
    pub fn new(pages: usize) -> Self {
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let len = pages * PAGE;
        let base = match mmap(0, len + 2 * PAGE, libc::PROT_NONE, private, -1, 0) {
            Ok(base) => base,
            Err(errno) => panic!("mmap: {}", crate::errno_name(errno)),
        };
        let map = Self { start: base + PAGE, len };
        must(sys!(mprotect, map.start, len, libc::PROT_READ | libc::PROT_WRITE));
        map
    }

    /// Address of the first byte.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Address of the first byte past the range: not accessible.
    pub fn end(&self) -> usize {
        self.start + self.len
    }

    /// Address of page `index`.
    pub fn page(&self, index: usize) -> usize {
        self.start + index * PAGE
    }

    /// Changes the protection of the whole range.
    pub fn protect(&self, protection: i32) -> Res {
        sys!(mprotect, self.start, self.len, protection)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let _ = sys!(munmap, self.start - PAGE, self.len + 2 * PAGE);
    }
}

/// mmap(2) with all its arguments.
pub fn mmap(address: usize, len: usize, protection: i32, flags: i32, fd: i32, offset: usize) -> Res {
    sys!(mmap, address, len, protection, flags, fd, offset)
}

/// Reads the byte at `address`, whatever is there: a fault is what the caller is after.
pub fn peek(address: usize) -> u8 {
    // SAFETY: a byte may have any value; where nothing is mapped the process gets the signal that is tested.
    unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() }
}

/// Writes the byte at `address`, in memory that the caller mapped; a fault is what the caller is after.
pub fn poke(address: usize, value: u8) {
    // SAFETY: callers pass addresses in their own mappings, which hold no Rust values, or unmapped ones.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(value) }
}

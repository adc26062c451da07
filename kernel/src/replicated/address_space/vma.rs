//! A virtual memory area: a range of pages with one protection and one backing.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use crate::fs::PageSource;
use crate::memory::{PAGE_SIZE, VirtAddr};

bitflags::bitflags! {
    /// What a program may do with pages: `PROT_*` of mmap(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Protection: u8 {
        /// `PROT_READ`
        const READ = 1;
        /// `PROT_WRITE`; on x86 such pages can also be read.
        const WRITE = 2;
        /// `PROT_EXEC`; on x86 such pages can also be read.
        const EXEC = 4;
    }
}

bitflags::bitflags! {
    /// Properties of an area.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct VmaFlags: u16 {
        /// Changes are seen by all who map the object.
        const SHARED = 1 << 0;
        /// Grows downwards when it is touched below (`MAP_GROWSDOWN`): stacks.
        const GROWS_DOWN = 1 << 1;
        /// Locked in memory (mlock(2)).
        const LOCKED = 1 << 2;
        /// Not counted as a promise of memory (`MAP_NORESERVE`).
        const NO_RESERVE = 1 << 3;
        /// Not given to children (`MADV_DONTFORK`).
        const DONT_FORK = 1 << 4;
        /// Children get zeroes (`MADV_WIPEONFORK`).
        const WIPE_ON_FORK = 1 << 5;
        /// Not in core files (`MADV_DONTDUMP`).
        const DONT_DUMP = 1 << 6;
        /// Pages are locked as they come in (`MLOCK_ONFAULT`).
        const LOCK_ON_FAULT = 1 << 7;
    }
}

/// What `/proc/PID/maps` says of a mapped object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappingName {
    /// Path of the file, or a name such as `[vdso]`.
    pub path: Vec<u8>,
    /// Device that holds the inode.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// Where the contents of an area come from.
#[derive(Clone)]
pub enum Backing {
    /// Zeroes, private to the address space.
    Anonymous,
    /// The pages of an object.
    File {
        /// The object.
        source: Arc<dyn PageSource>,
        /// Where in the object the area begins: bytes, whole pages.
        offset: u64,
        /// What to call it.
        name: Option<Arc<MappingName>>,
    },
}

impl Backing {
    /// The backing from `bytes` further on.
    fn advanced(&self, bytes: usize) -> Self {
        match self {
            Self::Anonymous => Self::Anonymous,
            Self::File { source, offset, name } => Self::File {
                source: source.clone(),
                offset: offset.wrapping_add(bytes as u64),
                name: name.clone(),
            },
        }
    }

    /// Whether `next` goes on where `len` bytes of `self` end.
    fn continues(&self, len: usize, next: &Self) -> bool {
        match (self, next) {
            (Self::Anonymous, Self::Anonymous) => true,
            (
                Self::File { source: a, offset: at, name },
                Self::File { source: b, offset: then, name: next_name },
            ) => {
                Arc::ptr_eq(a, b) && at.checked_add(len as u64) == Some(*then) && {
                    name.as_ref().map(Arc::as_ptr) == next_name.as_ref().map(Arc::as_ptr)
                }
            }
            _ => false,
        }
    }
}

/// A virtual memory area.
#[derive(Clone)]
pub struct Vma {
    /// First address; a whole page.
    pub start: VirtAddr,
    /// First address past it; a whole page.
    pub end: VirtAddr,
    /// What is allowed.
    pub protection: Protection,
    /// What mprotect(2) may allow: a shared mapping of a file that was opened for reading never becomes writable.
    pub maximum: Protection,
    /// Properties.
    pub flags: VmaFlags,
    /// Contents.
    pub backing: Backing,
}

impl Vma {
    /// Its addresses.
    pub fn range(&self) -> Range<VirtAddr> {
        self.start..self.end
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Pages.
    pub fn pages(&self) -> usize {
        self.len() / PAGE_SIZE
    }

    /// Whether it is private and writable: what `RLIMIT_DATA` counts.
    pub fn is_data(&self) -> bool {
        self.protection.contains(Protection::WRITE)
            && !self.flags.intersects(VmaFlags::SHARED | VmaFlags::GROWS_DOWN)
    }

    /// The page of its object at `address`; `None` for anonymous memory.
    pub fn object_page(&self, address: VirtAddr) -> Option<(&Arc<dyn PageSource>, u64)> {
        match &self.backing {
            Backing::Anonymous => None,
            Backing::File { source, offset, .. } => {
                Some((source, (offset + (address - self.start) as u64) / PAGE_SIZE as u64))
            }
        }
    }

    /// The addresses at which `pages` of `source` appear in it.
    pub fn addresses_of(&self, source: &dyn PageSource, pages: &Range<u64>) -> Option<Range<VirtAddr>> {
        let Backing::File { source: own, offset, .. } = &self.backing else { return None };
        if !core::ptr::addr_eq(Arc::as_ptr(own), source) {
            return None;
        }
        let first = offset / PAGE_SIZE as u64;
        let at =
            |page: u64| self.start + page.saturating_sub(first).min(self.pages() as u64) as usize * PAGE_SIZE;
        let range = at(pages.start)..at(pages.end);
        (!range.is_empty()).then_some(range)
    }

    /// Cuts it in two at `address`, which lies inside: the lower part stays, the upper is returned.
    pub fn split_off(&mut self, address: VirtAddr) -> Self {
        let upper =
            Self { start: address, backing: self.backing.advanced(address - self.start), ..self.clone() };
        self.end = address;
        upper
    }

    /// Whether `next` can be made part of it.
    pub fn merges_with(&self, next: &Self) -> bool {
        self.end == next.start
            && self.protection == next.protection
            && self.maximum == next.maximum
            && self.flags == next.flags
            && self.backing.continues(self.len(), &next.backing)
    }
}

//! What can be asked of mmap(2), and why it may be refused.

use alloc::sync::Arc;

use crate::errno::Errno;
use crate::fs::PageSource;
use crate::memory::{OutOfMemory, VirtAddr};
use crate::replicated::address_space::{Backing, MappingName, Protection, Vma, VmaFlags};

bitflags::bitflags! {
    /// `MAP_*` of mmap(2), with Linux's numbers.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MapFlags: u32 {
        /// `MAP_SHARED`
        const SHARED = 0x01;
        /// `MAP_PRIVATE`
        const PRIVATE = 0x02;
        /// `MAP_FIXED`: exactly there, in place of what is there.
        const FIXED = 0x10;
        /// `MAP_ANONYMOUS`
        const ANONYMOUS = 0x20;
        /// `MAP_32BIT`: in the first 2 GiB.
        const LOW_2GIB = 0x40;
        /// `MAP_GROWSDOWN`
        const GROWSDOWN = 0x100;
        /// `MAP_DENYWRITE`: ignored since long, as on Linux.
        const DENYWRITE = 0x800;
        /// `MAP_EXECUTABLE`: ignored, as on Linux.
        const EXECUTABLE = 0x1000;
        /// `MAP_LOCKED`
        const LOCKED = 0x2000;
        /// `MAP_NORESERVE`
        const NORESERVE = 0x4000;
        /// `MAP_POPULATE`: page it in at once.
        const POPULATE = 0x8000;
        /// `MAP_NONBLOCK`: with `POPULATE`, do not.
        const NONBLOCK = 0x1_0000;
        /// `MAP_STACK`: no effect, as on Linux.
        const STACK = 0x2_0000;
        /// `MAP_FIXED_NOREPLACE`: exactly there, if nothing is there.
        const FIXED_NOREPLACE = 0x10_0000;
    }
}

/// Why memory cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No memory, no room, too many areas, or a limit: `ENOMEM`.
    OutOfMemory,
    /// Arguments that make no sense: `EINVAL`.
    Invalid,
    /// A range that is not mapped: `ENOMEM` from most calls, `EFAULT` from mremap(2).
    NotMapped,
    /// Something is there already: `EEXIST`.
    Exists,
    /// The object does not allow that protection: `EACCES`.
    NotPermitted,
    /// May not lock memory: `EPERM`.
    MayNotLock,
    /// Too much locked memory: `EAGAIN`.
    TooMuchLocked,
    /// The range is locked: `EBUSY`.
    Busy,
}

impl From<OutOfMemory> for MapError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<MapError> for Errno {
    fn from(error: MapError) -> Self {
        match error {
            MapError::OutOfMemory | MapError::NotMapped => Self::ENOMEM,
            MapError::Invalid => Self::EINVAL,
            MapError::Exists => Self::EEXIST,
            MapError::NotPermitted => Self::EACCES,
            MapError::MayNotLock => Self::EPERM,
            MapError::TooMuchLocked => Self::EAGAIN,
            MapError::Busy => Self::EBUSY,
        }
    }
}

/// What to map.
#[derive(Clone)]
pub struct MapRequest {
    /// Where, if possible; with `FIXED` or `FIXED_NOREPLACE`, exactly where. 0 is no wish.
    pub hint: VirtAddr,
    /// Bytes; rounded up to whole pages.
    pub len: usize,
    /// What is allowed.
    pub prot: Protection,
    /// What mprotect(2) may allow later.
    pub max_prot: Protection,
    /// How. `SHARED`, or else private.
    pub flags: MapFlags,
    /// Contents.
    pub backing: Backing,
}

impl MapRequest {
    /// `len` bytes of private zeroes, anywhere.
    pub fn anonymous(len: usize, prot: Protection) -> Self {
        Self {
            hint: VirtAddr::default(),
            len,
            prot,
            max_prot: Protection::all(),
            flags: MapFlags::PRIVATE,
            backing: Backing::Anonymous,
        }
    }

    /// `len` bytes of an object from byte `offset` on (whole pages), private, anywhere.
    pub fn file(
        source: Arc<dyn PageSource>,
        offset: u64,
        name: Option<Arc<MappingName>>,
        len: usize,
        prot: Protection,
    ) -> Self {
        Self { backing: Backing::File { source, offset, name }, ..Self::anonymous(len, prot) }
    }

    /// The same, exactly at `address`, in place of what is there.
    pub fn at(self, address: VirtAddr) -> Self {
        Self { hint: address, flags: self.flags | MapFlags::FIXED, ..self }
    }

    /// The same with further flags.
    pub fn with(self, flags: MapFlags) -> Self {
        Self { flags: self.flags | flags, ..self }
    }

    /// The area to be, without a place yet.
    pub(super) fn area(&self, len: usize) -> Vma {
        Vma {
            start: VirtAddr::default(),
            end: VirtAddr::new(len as u64),
            protection: self.prot,
            maximum: self.max_prot,
            flags: self.vma_flags(),
            backing: self.backing.clone(),
        }
    }

    fn vma_flags(&self) -> VmaFlags {
        let mut flags = VmaFlags::empty();
        flags.set(VmaFlags::SHARED, self.flags.contains(MapFlags::SHARED));
        flags.set(VmaFlags::GROWS_DOWN, self.flags.contains(MapFlags::GROWSDOWN));
        flags.set(VmaFlags::NO_RESERVE, self.flags.contains(MapFlags::NORESERVE));
        flags.set(VmaFlags::LOCKED, self.flags.contains(MapFlags::LOCKED));
        flags
    }
}

//! Page-table entries (Intel SDM volume 3, section 4.5, "4-Level Paging"; AMD APM volume 2, section 5.3).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::memory::PhysAddr;

bitflags::bitflags! {
    /// What an entry allows and what it says about its page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Attributes: u64 {
        /// The processor may use the entry. Without it, an entry that is not zero only *holds* its frame: the page is there but
        /// nothing is allowed (`PROT_NONE`).
        const PRESENT = 1 << 0;
        /// Stores are allowed.
        const WRITE = 1 << 1;
        /// User mode may use it.
        const USER = 1 << 2;
        /// Writes go through the cache.
        const WRITE_THROUGH = 1 << 3;
        /// Not cached: device registers.
        const NO_CACHE = 1 << 4;
        /// Set by the processor when the page is used.
        const ACCESSED = 1 << 5;
        /// Set by the processor when the page is written.
        const DIRTY = 1 << 6;
        /// In a directory: the entry maps a large page.
        const LARGE = 1 << 7;
        /// Survives a reload of CR3: pages of the kernel.
        const GLOBAL = 1 << 8;
        /// Free for software: the frame belongs to a file or another shared object.
        const OBJECT = 1 << 9;
        /// No instruction fetches.
        const NO_EXECUTE = 1 << 63;
    }
}

/// Bits 12 to 51: the address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The value of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    /// Maps nothing.
    pub const EMPTY: Self = Self(0);

    /// Maps the memory at `phys`.
    pub fn new(phys: PhysAddr, attributes: Attributes) -> Self {
        Self(phys.as_u64() & ADDRESS | attributes.bits())
    }

    /// Whether it maps or holds nothing.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The address of the page or table.
    pub fn phys(self) -> PhysAddr {
        PhysAddr::new(self.0 & ADDRESS)
    }

    /// Its attributes.
    pub fn attributes(self) -> Attributes {
        Attributes::from_bits_truncate(self.0)
    }

    /// The same page with other attributes.
    pub fn with(self, attributes: Attributes) -> Self {
        Self::new(self.phys(), attributes)
    }
}

/// The place of an entry in a table. The processor may set `ACCESSED` and `DIRTY` in it at any time, and nothing else; nothing
/// depends on these two, so what one load saw is what the next store replaces, and no locked instruction is needed.
#[repr(transparent)]
pub struct Slot(AtomicU64);

impl Slot {
    /// The entry there now.
    pub fn load(&self) -> Entry {
        Entry(self.0.load(Ordering::Relaxed))
    }

    /// Puts an entry there.
    pub fn store(&self, entry: Entry) {
        // Release: a processor that walks the tables finds what the entry points to as it was written before.
        self.0.store(entry.0, Ordering::Release);
    }

    /// Puts an entry there, and returns the one that it replaces.
    pub fn replace(&self, entry: Entry) -> Entry {
        let before = self.load();
        self.store(entry);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_address_and_attributes_apart() {
        let attributes =
            Attributes::PRESENT | Attributes::WRITE | Attributes::NO_EXECUTE | Attributes::OBJECT;
        let entry = Entry::new(PhysAddr::new(0x000f_ffff_ffff_f000), attributes);
        assert_eq!(entry.phys(), PhysAddr::new(0x000f_ffff_ffff_f000));
        assert_eq!(entry.attributes(), attributes);
        let narrowed = entry.with(Attributes::PRESENT);
        assert_eq!((narrowed.phys(), narrowed.attributes()), (entry.phys(), Attributes::PRESENT));
        assert!(Entry::EMPTY.is_empty() && !narrowed.is_empty());
    }
}

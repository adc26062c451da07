//! Translation look-aside buffers: which cores may hold what, and how they forget it.
//!
//! A change that takes something away (unmap, protect, another frame at an address) leaves stale translations in the
//! TLBs of the cores on which the space is active. The operations that do so return a [`Flush`], which must be performed
//! before a frame that was unmapped is freed. Filling an empty entry needs none: absent entries are not cached (SDM
//! volume 3, section 4.10.2.3).

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::CoreId;
use crate::memory::{PAGE_SIZE, VirtAddr};

/// A set of cores, changed by many.
#[derive(Default)]
pub struct CoreSet(AtomicU64);

const _: () = assert!(crate::arch::MAX_CORES <= 64);

impl CoreSet {
    /// No core.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `core`.
    pub fn insert(&self, core: CoreId) {
        // Before the core loads the tables: who changes them later sees it here (SeqCst, with `bits`).
        self.0.fetch_or(1 << core.0, Ordering::SeqCst);
    }

    /// Takes `core` out.
    pub fn remove(&self, core: CoreId) {
        self.0.fetch_and(!(1 << core.0), Ordering::SeqCst);
    }

    /// Bit `n` is set if core `n` is in the set.
    pub fn bits(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The addresses to forget. More pages than this, and everything is forgotten at once.
pub const FLUSH_ALL_ABOVE: usize = 32;

/// What has to leave the TLBs.
#[must_use = "stale translations stay in the TLBs until this is performed"]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flush(Option<Range<u64>>);

impl Flush {
    /// Nothing.
    pub const NONE: Self = Self(None);

    /// The page at `address`.
    pub fn page(address: VirtAddr) -> Self {
        let start = address.align_down(PAGE_SIZE).as_u64();
        Self(Some(start..start + PAGE_SIZE as u64))
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.start.min(b.start)..a.end.max(b.end))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// Has all `cores` forget it, which is this one or none: nothing starts a second core.
    pub fn perform(self, cores: &CoreSet) {
        let Some(range) = self.0 else { return };
        let here = 1 << crate::arch::core_id().0;
        let cores = cores.bits();
        if cores & here != 0 {
            flush_local(&range);
        }
        let others = cores & !here;
        assert!(others == 0, "cores {others:#x} run user programs, and cannot be told to flush");
    }

    /// Says that no processor can hold the translation: nothing has to be done.
    pub fn ignore(self) {}
}

/// Has this core forget the user pages of `range`: one by one, or everything when there are many.
fn flush_local(range: &Range<u64>) {
    let pages = (range.end - range.start) / PAGE_SIZE as u64;
    if pages > FLUSH_ALL_ABOVE as u64 {
        super::active::reload();
    } else {
        (0..pages).for_each(|page| super::active::invalidate(range.start + page * PAGE_SIZE as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_join_to_one_range() {
        let at = |address| Flush::page(VirtAddr::new(address));
        assert_eq!(at(0x5123), Flush(Some(0x5000..0x6000)));
        assert_eq!(at(0x5000).and(at(0x9000)), Flush(Some(0x5000..0xa000)));
        assert_eq!(Flush::NONE.and(at(0x1000)), at(0x1000));
        assert_eq!(Flush::NONE.and(Flush::NONE), Flush::NONE);
    }

    #[test]
    fn a_core_set_holds_each_core_once() {
        let set = CoreSet::new();
        set.insert(CoreId(3));
        set.insert(CoreId(3));
        set.insert(CoreId(63));
        assert_eq!(set.bits(), 1 << 3 | 1 << 63);
        set.remove(CoreId(3));
        assert_eq!(set.bits(), 1 << 63);
    }
}

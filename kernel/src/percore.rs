//! State of which every core has its own copy.

use crate::arch::{self, CoreId, MAX_CORES};

/// One `T` per core, each on cache lines of its own. Made by [`per_core!`](crate::per_core).
pub struct PerCore<T>(pub [CacheLine<T>; MAX_CORES]);

/// A value that shares its cache lines (two: the prefetcher takes pairs) with nothing else.
#[repr(align(128))]
pub struct CacheLine<T>(pub T);

/// `per_core!(EXPRESSION)`: a [`PerCore`] whose copies all begin as the constant expression.
#[macro_export]
macro_rules! per_core {
    ($init:expr) => {
        $crate::percore::PerCore([const { $crate::percore::CacheLine($init) }; $crate::arch::MAX_CORES])
    };
}

impl<T> PerCore<T> {
    /// The running core's copy.
    #[inline]
    pub fn here(&self) -> &T {
        self.of(arch::core_id())
    }

    /// The copy of `core`.
    #[inline]
    pub fn of(&self, core: CoreId) -> &T {
        &self.0[usize::from(core.0)].0
    }

    /// All copies, in the order of the cores.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|line| &line.0)
    }
}

//! Padding that keeps what different cores write out of one another's cache lines.

use core::ops::Deref;

/// A value on cache lines of its own. 128 bytes, because x86-64 cores fetch lines in adjacent pairs (Intel SDM
/// volume 1, optimization manual 3.7.3 "spatial prefetcher").
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> Deref for Padded<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

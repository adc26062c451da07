//! Numbers that parent and children share.

use std::sync::atomic::AtomicUsize;

use user_sys::map::mmap;

/// How many counters a page holds.
const COUNTERS: usize = 512;

/// A page of counters that forked children see and change.
#[derive(Debug)]
pub struct Shared(&'static [AtomicUsize; COUNTERS]);

impl Shared {
    /// Maps a fresh page, all zero. It stays mapped until the process ends.
    pub fn new() -> Result<Self, String> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let at = mmap(0, 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
            .map_err(|errno| format!("no shared page: {}", user_sys::errno_name(errno)))?;
        // SAFETY: the page is never unmapped, is aligned, and zero bytes are atomics.
        Ok(Self(unsafe { &*std::ptr::with_exposed_provenance(at) }))
    }

    /// Counter number `index`, below 512.
    pub fn counter(&self, index: usize) -> &'static AtomicUsize {
        &self.0[index]
    }
}

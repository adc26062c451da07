//! How much memory the buffers of TCP sockets may take.
//!
//! smoltcp wants a connection's buffers whole and at once. So that ten thousand idle connections do not cost a gigabyte, their
//! size depends on how much is in use already: connections are given the full size while there is plenty, less
//! later, and none at the limit (as Linux's tcp_mem does with its three thresholds).

use core::sync::atomic::{AtomicUsize, Ordering};

/// Buffers of a connection while there is plenty.
pub const FULL: usize = 64 << 10;
const REDUCED: usize = 16 << 10;
const LEAST: usize = 4 << 10;

/// The memory of a stack's buffers, in bytes.
pub struct Budget {
    used: AtomicUsize,
    limit: AtomicUsize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { used: AtomicUsize::new(0), limit: AtomicUsize::new(256 << 20) }
    }
}

impl Budget {
    /// Sets the limit: a part of the machine's memory.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The size of a new buffer, of which `wanted` bytes were asked for, or the default.
    pub fn buffer_size(&self, wanted: Option<usize>) -> usize {
        let (used, limit) = (self.used(), self.limit.load(Ordering::Relaxed));
        let most = if used < limit / 4 {
            return wanted.unwrap_or(FULL);
        } else if used < limit - limit / 4 {
            REDUCED
        } else {
            LEAST
        };
        wanted.unwrap_or(most).min(most)
    }

    /// Takes `bytes`; false at the limit.
    pub fn charge(&self, bytes: usize) -> bool {
        let taken = self.used.fetch_add(bytes, Ordering::Relaxed);
        if taken + bytes > self.limit.load(Ordering::Relaxed) {
            self.refund(bytes);
            return false;
        }
        true
    }

    /// Gives `bytes` back.
    pub fn refund(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_shrink_as_memory_fills_up() {
        let budget = Budget::default();
        budget.set_limit(1 << 20);
        assert_eq!(budget.buffer_size(None), FULL);
        assert!(budget.charge(512 << 10));
        assert_eq!((budget.buffer_size(None), budget.buffer_size(Some(8192))), (REDUCED, 8192));
        assert!(budget.charge(400 << 10));
        assert_eq!(budget.buffer_size(Some(FULL)), LEAST);
        assert!(!budget.charge(200 << 10));
        assert_eq!(budget.used(), 912 << 10);
        budget.refund(912 << 10);
        assert_eq!(budget.buffer_size(Some(1 << 20)), 1 << 20);
    }
}

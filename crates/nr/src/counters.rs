//! What a replica did, for those who want to see inside.
//!
//! Counting costs no shared cache line: reads, direct writes and waits are counted by each thread in its own slot,
//! batches by the combiner, which has the lane for itself. The numbers are read without stopping anybody, so they
//! belong to slightly different moments.

use crate::sync::{AtomicU64, Ordering};

/// Batch sizes are counted in this many classes: 1, 2-3, 4-7, 8-15, 16-31, 32-63, 64-127, 128 and more.
pub const BATCH_CLASSES: usize = 8;

/// Counters of one replica, summed over its logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Counters {
    /// Log entries applied (or skipped when the replica was copied). Does not move while the log is bypassed.
    pub position: u64,
    /// Entries between the replica and the tails of the logs.
    pub lag: u64,
    /// Batches of writes that combiners took from slots.
    pub batches: u64,
    /// Writes in these batches.
    pub combined: u64,
    /// Batches by size: class `i` counts those of 2^i to 2^(i+1)-1 writes, the last class all larger ones too.
    pub batch_sizes: [u64; BATCH_CLASSES],
    /// Writes that their own thread ran at once, without a batch.
    pub direct: u64,
    /// Reads.
    pub reads: u64,
    /// Operations that had to wait for another thread.
    pub waits: u64,
}

/// The combiner's counters of one lane. Written under the lane's lock.
#[derive(Debug, Default)]
pub(crate) struct LaneCounters {
    batches: AtomicU64,
    combined: AtomicU64,
    sizes: [AtomicU64; BATCH_CLASSES],
}

impl LaneCounters {
    /// Counts a batch of `size` writes, if it is one.
    pub(crate) fn count_batch(&self, size: usize) {
        let Some(class) = size.checked_ilog2() else { return };
        add(&self.batches, 1);
        add(&self.combined, size as u64);
        add(&self.sizes[(class as usize).min(BATCH_CLASSES - 1)], 1);
    }

    pub(crate) fn add_to(&self, sum: &mut Counters) {
        sum.batches += self.batches.load(Ordering::Relaxed);
        sum.combined += self.combined.load(Ordering::Relaxed);
        for (sum, size) in sum.batch_sizes.iter_mut().zip(&self.sizes) {
            *sum += size.load(Ordering::Relaxed);
        }
    }
}

/// Adds to a counter that has one writer at a time.
#[inline(always)]
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

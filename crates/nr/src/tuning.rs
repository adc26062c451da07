//! The numbers that were found by measurement, on two cores, with a hash map of 10,000 keys.
//!
//! They trade the time of one waiting thread for the time of the others; correctness depends on none of them. The model
//! checkers put smaller ones in their place, so that every path is short enough to be explored.

/// Rounds before a thread that waits looks at a lock again. About as long as a short operation takes.
pub(crate) const FIRST_PAUSE: u32 = 2;
/// How much longer each pause between looks is than the one before.
pub(crate) const PAUSE_GROWTH: u32 = 4;
/// The longest pause between two looks, in rounds: some microseconds.
pub(crate) const LONGEST_PAUSE: u32 = 256;

/// Operations that a thread runs for itself between two times that it serves the others.
pub(crate) const TURNS: u64 = 64;
/// Rounds for which a follower waits to be served before it looks at the lock: somewhat longer than `TURNS` operations.
pub(crate) const PATIENCE: u32 = 256;
/// Reads of a follower after which it does not count on being served any more.
pub(crate) const FOLLOWED_READS: u64 = 32;

/// Rounds for which a reader tries to share before it asks for the lock.
pub(crate) const READ_TRIES: u32 = 64;

//! The numbers that were found by measurement, on two cores of a Zen 4 server, with a hash map of 10,000 keys.
//!
//! They trade the time of one waiting thread for the time of the others; correctness depends on none of them. The model
//! checkers put smaller ones in their place, so that every path is short enough to be explored.

/// Rounds before a thread that waits looks at a lock again. About as long as a short operation takes.
pub(crate) const FIRST_PAUSE: u32 = 2;
/// How much longer each pause between looks is than the one before.
pub(crate) const PAUSE_GROWTH: u32 = 4;
/// The longest pause between two looks, in rounds: some microseconds.
pub(crate) const LONGEST_PAUSE: u32 = 256;

/// Operations that threads run for themselves between two times that the slots are served.
pub(crate) const TURNS: u32 = 32;

/// Rounds for which a reader tries to share before it asks for the lock.
pub(crate) const READ_TRIES: u32 = 64;

/// Own operations that one write by another thread outweighs when a thread estimates how contended its lane is.
pub(crate) const FOREIGN_WRITE: u32 = 16;
/// Above this the lane is hot: reads take the lock instead of sharing it.
pub(crate) const HOT: u32 = 32;
/// As hot as it gets: so many own operations, undisturbed, and it is cold.
pub(crate) const HOTTEST: u32 = 256;

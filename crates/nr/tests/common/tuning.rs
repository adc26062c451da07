//! The tuning of the models: every path is short.

pub(crate) const FIRST_PAUSE: u32 = 1;
pub(crate) const PAUSE_GROWTH: u32 = 1;
pub(crate) const LONGEST_PAUSE: u32 = 1;
pub(crate) const TURNS: u64 = 1;
pub(crate) const PATIENCE: u32 = 1;
pub(crate) const FOLLOWED_READS: u64 = 2;
pub(crate) const READ_TRIES: u32 = 2;

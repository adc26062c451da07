//! The tuning of the models: every path is short.

pub(crate) const FIRST_PAUSE: u32 = 1;
pub(crate) const PAUSE_GROWTH: u32 = 1;
pub(crate) const LONGEST_PAUSE: u32 = 1;
pub(crate) const TURNS: u32 = 1;
pub(crate) const READ_TRIES: u32 = 2;
pub(crate) const FOREIGN_WRITE: u32 = 4;
pub(crate) const HOT: u32 = 8;
pub(crate) const HOTTEST: u32 = 16;

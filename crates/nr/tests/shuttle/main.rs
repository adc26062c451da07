//! Longer programs than loom can exhaust, under random schedules of shuttle (with sequentially consistent memory).

extern crate alloc;

include!("../common/modules.rs");

#[path = "../common/tuning.rs"]
pub mod tuning;

/// shuttle's atomics in the place of the library's.
pub mod sync {
    pub(crate) use shuttle::sync::Arc;
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

    pub(crate) use super::cell::UnsafeCell;
}

mod cell;
mod schedules;

//! Scheduling: tasks, wait queues and timers.
//!
//! Every user thread and every kernel activity (network poll, reaper) is a *task*: a future polled by the executor of
//! its core ([`executor`]). A task that waits registers its waker in a [`WaitQueue`] or a [`timer`] and returns
//! `Pending`; it holds no stack meanwhile. Nothing here knows what a process is; signals and
//! system-call restarts are built on top, in `process/block.rs`.

mod dump;
mod executor;
#[cfg(test)]
pub mod fixture;
#[deny(unsafe_code)]
pub mod latency;
#[deny(unsafe_code)]
pub mod leftovers;
#[deny(unsafe_code)]
pub mod run_queue;
#[deny(unsafe_code)]
mod slots;
#[deny(unsafe_code)]
pub mod timer;
#[deny(unsafe_code)]
mod wait_queue;

pub use dump::{Deadline, Seconds, dump};
#[cfg(target_os = "none")]
pub use executor::run;
pub use executor::run_until_idle;
pub use executor::{NoRoom, Place, Priority, TaskHandle, spawn, spawn_at};
pub use executor::{give_way, is_preempted, slice_end, wait_for_wake, yield_now};
pub use run_queue::Share;
pub use slots::Slots;
pub use wait_queue::{Events, Registration, WaitQueue};

//! Processes, threads, signals.
//!
//! - [`Process`] (`group.rs`) and [`Thread`] (`thread.rs`) are what others look at; `registry.rs` finds them, and knows how they
//!   belong together (`replicated/process_table.rs`).
//! - `run.rs` is a thread's life: a future that enters user mode, serves what comes back, and looks at what others want. `fault.rs`
//!   turns exceptions into signals, `deliver.rs` has handlers called.
//! - A thread waits in [`block`] only; [`futex`] waits for words of memory.
//! - [`signal`]: sets, queues, actions, sending and taking. `stop.rs`: job control.
//! - `clone.rs`, [`exec`], `exit.rs`, `wait.rs` and `init.rs` are the way from birth to reaping.
//! - `access.rs`: who may look into a process.
//! - `limits.rs`, `credentials.rs`, `usage.rs`, `interval_timer.rs`, `posix_timer.rs`, `scheduling.rs`: what processes have besides.
//!
//! The system calls on all this are in `syscall/{process,signal,futex,time,credentials,sched,misc}.rs`. Above are system calls and
//! /proc; below are memory, files and the scheduler. What those do for processes without being below comes through [`hooks`].
//!
//! Lock order: process table, thread group (`Process::group`), a thread's signals, then any other lock of a process or thread alone.

mod access;
pub mod block;
pub mod clone;
mod cpu_limit;
mod credentials;
mod current;
pub(crate) mod deliver;
mod dump;
pub mod exec;
mod exit;
mod fault;
pub mod futex;
mod group;
pub mod hooks;
mod init;
pub mod interval_timer;
mod limits;
pub mod memory;
mod oom;
pub mod pace;
pub mod pidfd;
pub mod posix_timer;
mod registry;
pub(crate) mod robust;
pub(crate) mod run;
pub mod scheduling;
mod session;
pub mod signal;
mod status;
mod stop;
mod thread;
mod trace;
pub mod usage;
pub mod uts;
mod vfork;
pub mod wait;

pub use access::{ActingAs, may_inspect};
pub use credentials::{Credentials, MAX_GROUPS, UNCHANGED};
pub use current::current;
#[cfg(target_os = "none")]
pub use dump::describe_core;
pub use dump::dump;
pub use group::{INIT, Process};
#[cfg(target_os = "none")]
pub use init::start_init;
pub use limits::{Limit, Resource, UNLIMITED};
pub use registry::{
    counts, find, find_task, find_thread, group_members, is_group_of_session, is_orphaned_group, list,
    max_tasks, running, signal_group,
};
pub use session::ControllingTerminal;
pub use signal::{Signal, SignalInfo};
#[cfg(target_os = "none")]
pub use status::ExitStatus;
pub use thread::{DEFAULT_TIMER_SLACK, Name, RunState, Thread};

#[cfg(test)]
pub(crate) mod tests;

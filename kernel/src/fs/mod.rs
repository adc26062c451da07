//! Files: the objects behind descriptors, the in-memory file system, and the descriptor tables.
//!
//! From the descriptor downwards:
//! - [`FdTable`] gives numbers to [`OpenFile`]s (position, flags), which hold a [`File`], the object itself;
//! - [`open::open`] and the functions of [`tree`] act on names: [`path`] walks them to a [`Location`], a [`Node`] (inode) and the
//!   [`Mount`](mount::Mount) through which it was reached, beginning at the root or current directory of an [`FsContext`];
//! - nodes are of [`memfs`], or made up as they are asked for: [`proc`] and [`sys`];
//! - [`special`] finds the object behind a device number or FIFO; [`dev`] has the simplest devices.
//!
//! Nothing here waits (see [`File`]), and everything takes its identity as an argument ([`Identity`]): the system calls are in
//! `syscall/{file,dir,meta,fd}.rs`.

pub mod anon;
mod context;
pub mod dev;
pub mod epoll;
pub mod eventfd;
mod fd_table;
mod file;
#[cfg(test)]
pub mod fixture;
mod flags;
pub mod flight;
pub mod initramfs;
pub mod lock;
pub mod machine;
pub mod memfd;
pub mod memfs;
#[cfg(test)]
mod model;
pub mod mount;
pub mod node;
pub mod open;
mod open_file;
pub mod path;
mod permission;
pub mod pipe;
pub mod proc;
mod pseudo;
mod ring;
pub mod setup;
pub mod signalfd;
pub mod special;
pub mod standard;
pub mod stat;
pub mod sys;
pub mod timerfd;
pub mod tree;
pub mod tty;

pub use context::FsContext;
pub use fd_table::{FdTable, LIMIT_MAX as FD_LIMIT_MAX};
pub use file::{File, PageSource};
pub use flags::OpenFlags;
pub use mount::Location;
pub use node::{Change, Name, NewTime, Node};
pub use open_file::OpenFile;
pub use permission::{Identity, Protection, Wanted};
pub use stat::{DeviceNumber, FileType, FsStat, Stat, Time};

/// The present, in nanoseconds since the Unix epoch.
pub fn now() -> u64 {
    crate::arch::now() + crate::arch::wall_clock_offset()
}

/// The present, for time stamps.
fn stamp() -> Time {
    now() as Time
}

/// Whether the running thread may leave set-user-id bits in place when it writes (`CAP_FSETID`).
fn writer_is_root() -> bool {
    crate::process::current().is_none_or(|thread| thread.credentials().passes_files())
}

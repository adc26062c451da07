//! What an open descriptor refers to.
//!
//! A [`File`] is an object behind a descriptor: regular file, directory, pipe end, socket, eventfd, terminal, ... Its operations
//! never block: they return `EAGAIN` where a blocking call would wait, and say through [`File::wait_queue`] how to learn that
//! the state changed. Waiting, timeouts and signals are written once, above, in `process/block.rs`.

use core::any::Any;
use core::fmt;

use alloc::sync::Arc;

use super::OpenFlags;
use crate::errno::{Errno, SysResult};
use crate::memory::{Frame, Mappers, OutOfMemory};
use crate::process::Thread;
use crate::sched::{Events, WaitQueue};
use crate::uaccess::{ReadBuf, WriteBuf};

/// An object behind a descriptor.
///
/// Reads and writes follow one rule: bytes are taken from (or added to) the object only as far as the copy went. When
/// the copy moved nothing because of a fault, return `Err(EFAULT)`: the caller resolves the fault and tries again.
pub trait File: Any + Send + Sync {
    /// Reads at `offset` (ignored by streams). `Ok(0)` is end of file; `ERESTARTNOINTR`: a piece of the work is done, read again.
    fn read(&self, offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        let _ = (offset, buf);
        Err(Errno::EINVAL)
    }

    /// Writes at `offset` (ignored by streams).
    fn write(&self, offset: u64, buf: &mut WriteBuf<'_>) -> SysResult {
        let _ = (offset, buf);
        Err(Errno::EINVAL)
    }

    /// Writes at the end, atomically with respect to other appends (`O_APPEND`); returns the offset after the write and the count.
    fn append(&self, buf: &mut WriteBuf<'_>) -> Result<(u64, usize), Errno> {
        self.write(0, buf).map(|count| (0, count))
    }

    /// How many bytes one read or write moves at most, if it is [seekable](Self::is_seekable): one that moves as many is made again for
    /// the rest. Takes some hundred microseconds at most.
    fn piece(&self) -> usize {
        super::memfs::TRANSFER_MAX
    }

    /// Whether reads and writes have a position (lseek, pread). Streams have none: `ESPIPE`.
    fn is_seekable(&self) -> bool {
        false
    }

    /// Whether lseek is let pass but moves nothing: devices without places. The position is always 0.
    fn has_fixed_position(&self) -> bool {
        false
    }

    /// The first byte at or after `offset` that is data, or with `hole` that is not (`SEEK_DATA`, `SEEK_HOLE`).
    /// By default everything up to the end is data. `ENXIO` at or past the end.
    fn seek(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        let size = self.stat().size;
        match (offset < size, hole) {
            (false, _) => Err(Errno::ENXIO),
            (true, false) => Ok(offset),
            (true, true) => Ok(size),
        }
    }

    /// Cuts or extends a regular file (`EINVAL` for others).
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        let _ = size;
        Err(Errno::EINVAL)
    }

    /// fallocate(2) with `mode`, on bytes `offset..offset + len`, a range that is not empty and does not overflow.
    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        let _ = (mode, offset, len);
        Err(if self.is_seekable() { Errno::ENODEV } else { Errno::ESPIPE })
    }

    /// Whether [`allocate`](Self::allocate) could reserve all of `offset..offset + len`, as far as one can tell without doing it (`ENOSPC`).
    fn may_allocate(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let _ = (offset, len);
        Ok(())
    }

    /// `EAGAIN` while a blocking open has to wait on [`wait_queue`](Self::wait_queue): a FIFO without its other end.
    fn open_ready(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Another open of the same object, through /proc/PID/fd. `ENXIO` where there is no such thing (sockets).
    fn reopen(&self, flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
        let _ = flags;
        Err(Errno::ENXIO)
    }

    /// What the object is ready for now.
    fn poll(&self) -> Events {
        Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM
    }

    /// Who is told when [`poll`](Self::poll) changes; `None` for objects that are always ready.
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// How long, in nanoseconds, a blocking read (or with `write` a write) waits before it says `EAGAIN`
    /// (`SO_RCVTIMEO`, `SO_SNDTIMEO`); `None`: for ever.
    fn timeout(&self, write: bool) -> Option<u64> {
        let _ = write;
        None
    }

    /// ioctl(2). `argument` is a number or a user address, by `request`.
    fn ioctl(&self, thread: &Thread, request: u32, argument: u64) -> SysResult {
        let _ = (thread, request, argument);
        Err(Errno::ENOTTY)
    }

    /// Pages to map with mmap(2); `None`: `ENODEV`.
    fn pages(&self) -> Option<Arc<dyn PageSource>> {
        None
    }

    /// `O_DIRECT` is set or cleared (`F_SETFL`). `EINVAL` for files whose data is not pages, and that are no pipes.
    fn set_direct(&self, on: bool) -> Result<(), Errno> {
        if on && self.pages().is_none() { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Bytes that a pipe holds (`F_GETPIPE_SZ`); `None` for what is no pipe.
    fn pipe_size(&self) -> Option<usize> {
        None
    }

    /// Has a pipe hold at least `bytes` (`F_SETPIPE_SZ`); returns what it then holds.
    fn set_pipe_size(&self, bytes: usize) -> SysResult {
        let _ = bytes;
        Err(Errno::EBADF)
    }

    /// The seals of a memfd; `None` for what cannot be sealed.
    fn seals(&self) -> Option<u32> {
        None
    }

    /// Adds seals to a memfd: `EPERM` once `F_SEAL_SEAL` is set.
    fn add_seals(&self, seals: u32) -> Result<(), Errno> {
        let _ = seals;
        Err(Errno::EINVAL)
    }

    /// The class in the name that /proc/PID/fd shows for objects without a path and without a type
    /// (`anon_inode:[eventfd]`).
    fn class(&self) -> &'static str {
        "[unknown]"
    }

    /// Tells about an object that others are behind, in indented lines, for the dump (see [`crate::dump`]).
    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let _ = out;
        Ok(())
    }

    /// The inode behind it, for the stat family; anonymous objects have one of their own (see `fs/anon.rs`).
    fn stat(&self) -> super::Stat;
}

/// Pages that can be mapped: a file, or shared anonymous memory.
pub trait PageSource: Send + Sync {
    /// The frame of page `index`. `Ok(None)` past the end: the access is a bus error (`SIGBUS`).
    ///
    /// A hole is filled with a zeroed frame, for a read too: the page may be mapped shared, and
    /// then has to show what others write later. `write` says that it is going to be written through such a mapping.
    fn page(&self, index: u64, write: bool) -> Result<Option<Frame>, OutOfMemory>;

    /// Puts the frames of the pages from `first` on into `frames`, those that are there already: a fault maps the neighbours of
    /// a page along with it. Holes and pages past the end stay `None`; so does everything where it would cost more than a look.
    fn pages_present(&self, first: u64, frames: &mut [Option<Frame>]) {
        let _ = (first, frames);
    }

    /// Who maps it; `None` for what never loses pages.
    fn mappers(&self) -> Option<&Mappers> {
        None
    }
}

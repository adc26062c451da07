//! Open file descriptions: what dup(2) and fork(2) share.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};

use super::lock::Owner;
use super::memfs::SIZE_MAX;
use super::node::Use;
use super::{File, FileType, Location, OpenFlags, Stat};
use crate::errno::{Errno, SysResult};
use crate::sync::SpinLock;
use crate::uaccess::{ReadBuf, WriteBuf};

/// An open file description: a file, a position, flags. Dropped at the last close.
pub struct OpenFile {
    /// The object. For `O_PATH` an inert one.
    pub file: Arc<dyn File>,
    location: Option<Location>,
    flags: AtomicU32,
    seekable: bool,
    position: SpinLock<u64>,
    /// Who gets `SIGIO` and `SIGURG`: a process, or minus a process group; 0 for nobody.
    owner: AtomicI32,
    /// References to it that are under way in messages, if it is a socket.
    in_flight: AtomicUsize,
    /// Told of the last close.
    close_hooks: SpinLock<Vec<Weak<dyn CloseHook>>>,
}

/// Something that wants to know of the last close of open files: an epoll instance.
pub trait CloseHook: Send + Sync {
    /// The open file that was at this address is gone.
    fn closed(&self, file: usize);
}

impl OpenFile {
    /// An open object that has no path: a pipe, a socket, an eventfd, ... Of `flags` those are kept that fcntl(2) shows.
    pub fn new(file: Arc<dyn File>, flags: OpenFlags) -> Arc<Self> {
        Self::with_location(file, flags, None)
    }

    /// An open file that was found at `location`.
    ///
    /// # Errors
    /// `ETXTBSY` when it is to be written and is being executed.
    pub fn at(file: Arc<dyn File>, flags: OpenFlags, location: Location) -> Result<Arc<Self>, Errno> {
        if writes_content(flags, &location) {
            location.node.hold(Use::Write)?;
        }
        Ok(Self::with_location(file, flags, Some(location)))
    }

    fn with_location(file: Arc<dyn File>, flags: OpenFlags, location: Option<Location>) -> Arc<Self> {
        let seekable = file.is_seekable();
        let flags = AtomicU32::new(flags.difference(OpenFlags::CREATION).bits());
        Arc::new(Self {
            file,
            location,
            flags,
            seekable,
            position: SpinLock::new(0),
            owner: AtomicI32::new(0),
            in_flight: AtomicUsize::new(0),
            close_hooks: SpinLock::new(Vec::new()),
        })
    }

    /// Access mode and status flags.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Sets the status flags that `F_SETFL` may change.
    pub fn set_flags(&self, flags: OpenFlags) {
        let keep = !OpenFlags::SETTABLE.bits();
        let set = flags.intersection(OpenFlags::SETTABLE).bits();
        // Only this word depends on the old value, so a lost race is the order of two calls.
        let old = self.flags.load(Ordering::Relaxed);
        self.flags.store(old & keep | set, Ordering::Relaxed);
    }

    /// Whether calls return `EAGAIN` instead of waiting.
    pub fn is_nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }

    /// Where it was found; `None` for what has no path.
    pub fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }

    /// Whether it has a position.
    pub fn is_seekable(&self) -> bool {
        self.seekable
    }

    /// Its attributes: those of the inode by whose name it was opened, if any.
    pub fn stat(&self) -> Stat {
        match &self.location {
            Some(location) => location.stat(),
            None => self.file.stat(),
        }
    }

    /// Has `hook` told of the last close. `ENOMEM` when there is no memory to remember it.
    pub fn on_close(&self, hook: Weak<dyn CloseHook>) -> Result<(), Errno> {
        let mut hooks = self.close_hooks.lock();
        if hooks.iter().any(|known| Weak::ptr_eq(known, &hook)) {
            return Ok(());
        }
        hooks.retain(|known| known.strong_count() > 0);
        hooks.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        hooks.push(hook);
        Ok(())
    }

    /// One more message carries it.
    pub fn enter_flight(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// One message less carries it.
    pub fn leave_flight(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a message carries it.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// As a holder of locks.
    pub fn lock_owner(&self) -> Owner {
        Owner(core::ptr::from_ref(self).addr())
    }

    /// Who gets signals about it (`F_GETOWN`).
    pub fn signal_owner(&self) -> i32 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Sets who gets signals about it (`F_SETOWN`).
    pub fn set_signal_owner(&self, owner: i32) {
        self.owner.store(owner, Ordering::Relaxed);
    }

    /// Calls `with` with the position, which it may change.
    pub fn with_position<T>(&self, with: impl FnOnce(&mut u64) -> T) -> T {
        with(&mut self.position.lock())
    }

    /// The position, for who must not wait for it: 0 while it is in use.
    pub fn position_if_free(&self) -> u64 {
        self.position.try_lock().map_or(0, |position| *position)
    }

    /// read(2): at the position, which moves on. Does not wait; `EFAULT` may be one that can be resolved.
    pub fn read(&self, buf: &mut ReadBuf<'_>) -> SysResult {
        if !self.flags().readable() {
            return Err(Errno::EBADF);
        }
        if !self.seekable {
            return self.file.read(0, buf);
        }
        let mut position = self.position.lock();
        check_span(*position, buf.remaining())?;
        let moved = self.file.read(*position, buf)?;
        *position += moved as u64;
        Ok(moved)
    }

    /// write(2): at the position, or with `O_APPEND` at the end.
    pub fn write(&self, buf: &mut WriteBuf<'_>) -> SysResult {
        let flags = self.flags();
        if !flags.writable() {
            return Err(Errno::EBADF);
        }
        if !self.seekable {
            return self.file.write(0, buf);
        }
        let mut position = self.position.lock();
        check_span(*position, buf.remaining())?;
        if flags.contains(OpenFlags::APPEND) {
            let (end, moved) = self.file.append(buf)?;
            *position = end;
            return Ok(moved);
        }
        let moved = self.file.write(*position, buf)?;
        *position += moved as u64;
        Ok(moved)
    }

    /// pread(2).
    pub fn read_at(&self, offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        self.check_positioned(self.flags().readable())?;
        check_span(offset, buf.remaining())?;
        self.file.read(offset, buf)
    }

    /// pwrite(2); with `O_APPEND` at the end, whatever the offset, as Linux does.
    pub fn write_at(&self, offset: u64, buf: &mut WriteBuf<'_>) -> SysResult {
        let flags = self.flags();
        self.check_positioned(flags.writable())?;
        check_span(offset, buf.remaining())?;
        if flags.contains(OpenFlags::APPEND) {
            return self.file.append(buf).map(|(_, moved)| moved);
        }
        self.file.write(offset, buf)
    }

    fn check_positioned(&self, allowed: bool) -> Result<(), Errno> {
        match (self.flags().contains(OpenFlags::PATH), self.seekable, allowed) {
            (true, ..) => Err(Errno::EBADF),
            (_, false, _) => Err(Errno::ESPIPE),
            (_, _, false) => Err(Errno::EBADF),
            _ => Ok(()),
        }
    }
}

/// Whether an open file with these flags can write to a regular file. The access mode stays as it is while it is open.
fn writes_content(flags: OpenFlags, location: &Location) -> bool {
    flags.writable() && location.node.file_type() == FileType::Regular
}

/// `EINVAL` when a transfer would end beyond the largest offset.
fn check_span(offset: u64, len: usize) -> Result<(), Errno> {
    let end = offset.checked_add(len as u64);
    end.filter(|&end| end <= SIZE_MAX).map(drop).ok_or(Errno::EINVAL)
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(location) = &self.location {
            if let Some(locks) = location.node.locks() {
                locks.release(self.lock_owner());
            }
            if writes_content(self.flags(), location) {
                location.node.release(Use::Write);
            }
        }
        let hooks = core::mem::take(self.close_hooks.get_mut());
        let address = core::ptr::from_ref(self).addr();
        hooks.iter().filter_map(Weak::upgrade).for_each(|hook| hook.closed(address));
    }
}

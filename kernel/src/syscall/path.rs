//! Path arguments: from user memory to a walk.

use alloc::vec::Vec;

use super::Caller;
use crate::errno::Errno;
use crate::fs::node::PATH_MAX;
use crate::fs::path::{View, resolve};
use crate::fs::{Identity, Location};
use crate::memory::{AddressSpace, PAGE_SIZE};
use crate::process::Credentials;
use crate::uaccess::{self, UserPtr};

/// Relative paths begin at the current directory.
pub const AT_FDCWD: i32 = -100;
/// Do not follow a symbolic link at the end.
pub const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
/// Follow a symbolic link at the end, where that is not the rule.
pub const AT_SYMLINK_FOLLOW: u32 = 0x400;
/// Of automounts, which there are none of.
pub const AT_NO_AUTOMOUNT: u32 = 0x800;
/// An empty path names the descriptor itself.
pub const AT_EMPTY_PATH: u32 = 0x1000;

/// Most paths are shorter, and are copied without an allocation.
const SHORT: usize = 256;

/// A path, copied from user memory.
pub struct PathArgument {
    short: [u8; SHORT],
    len: usize,
    long: Vec<u8>,
}

impl PathArgument {
    /// The path at `pointer` (`EFAULT`, `ENAMETOOLONG`). It may be empty.
    pub fn read(space: &AddressSpace, pointer: UserPtr<u8>) -> Result<Self, Errno> {
        let address = pointer.address();
        let mut path = Self { short: [0; SHORT], len: 0, long: Vec::new() };
        // Not beyond the page: the next one may be absent though the path ends before it.
        let piece = SHORT.min(PAGE_SIZE - address.page_offset());
        uaccess::read_bytes(space, address, &mut path.short[..piece])?;
        match path.short[..piece].iter().position(|&byte| byte == 0) {
            Some(end) => path.len = end,
            None => path.long = uaccess::read_cstr(space, address, PATH_MAX, Errno::ENAMETOOLONG)?,
        }
        Ok(path)
    }

    /// The path's bytes, without its NUL.
    pub fn bytes(&self) -> &[u8] {
        if self.long.is_empty() { &self.short[..self.len] } else { &self.long }
    }
}

impl Caller<'_> {
    /// The path argument at `pointer`.
    pub fn path(&self, pointer: UserPtr<u8>) -> Result<PathArgument, Errno> {
        PathArgument::read(&self.thread.space(), pointer)
    }

    /// Calls `with` with the caller's view and the place from which `path`, relative to `fd`, is seen. The process's root and
    /// current directory stay as they are meanwhile.
    pub fn with_view<T>(
        &self,
        fd: i32,
        path: &[u8],
        with: impl FnOnce(View<'_>, &Location) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.with_view_of(Identity::of, fd, path, with)
    }

    /// As [`with_view`](Self::with_view), in the name that `identity` takes from the credentials.
    pub fn with_view_of<T>(
        &self,
        identity: impl for<'c> FnOnce(&'c Credentials) -> Identity<'c>,
        fd: i32,
        path: &[u8],
        with: impl FnOnce(View<'_>, &Location) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (credentials, fs) = (self.thread.credentials(), self.thread.fs());
        let who = identity(&credentials);
        if fd == AT_FDCWD || path.first() == Some(&b'/') {
            return fs.with(|places| with(View { who, root: &places.root }, &places.cwd));
        }
        let open = self.thread.files().get_any(fd)?;
        let start = open.location().ok_or(Errno::ENOTDIR)?;
        fs.with(|places| with(View { who, root: &places.root }, start))
    }

    /// The place that `path`, relative to `fd`, names. `flags`: `AT_EMPTY_PATH`; and whether a link at the end is followed.
    pub fn locate(&self, fd: i32, path: &[u8], flags: u32, follow: bool) -> Result<Location, Errno> {
        if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
            return match fd {
                AT_FDCWD => Ok(self.thread.fs().cwd()),
                // Pipes and sockets are no places.
                fd => self.thread.files().get_any(fd)?.location().cloned().ok_or(Errno::EINVAL),
            };
        }
        self.with_view(fd, path, |view, start| resolve(view, start, path, follow))
    }
}

/// `EINVAL` for flags that the call does not have.
pub fn check_flags(flags: u32, known: u32) -> Result<(), Errno> {
    if flags & !known == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}

//! What a name refers to: the inode as path walking and the directory calls see it.
//!
//! A [`Node`] is in a file system (memfs, procfs, ...); a [`File`] is what a descriptor uses.
//! A regular file of memfs is both; a directory of procfs is made anew for each look-up.
//! Every operation checks the caller's permission itself, under the same lock under which it acts.

use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};

use super::lock::FileLocks;
use super::{File, FileType, Identity, Location, OpenFlags, Protection, Stat, Time, Wanted};
use crate::errno::Errno;
use crate::sync::SpinLock;

/// The name of a directory entry: not empty, no `/`, no NUL, at most [`NAME_MAX`] bytes.
pub type Name = Arc<[u8]>;

/// Most bytes of a name.
pub const NAME_MAX: usize = 255;
/// Most bytes of a path, its NUL included.
pub const PATH_MAX: usize = 4096;

/// What to create.
#[derive(Clone, Copy, Debug)]
pub enum NewKind<'a> {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link to this path.
    Symlink(&'a [u8]),
    /// A named pipe.
    Fifo,
    /// The name of a bound socket.
    Socket,
    /// A device node: `CharDevice` or `BlockDevice`, and what it names.
    Device(FileType, u64),
}

impl NewKind<'_> {
    /// The type of the new file.
    pub fn file_type(&self) -> FileType {
        match self {
            Self::Regular => FileType::Regular,
            Self::Directory => FileType::Directory,
            Self::Symlink(_) => FileType::Symlink,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
            Self::Device(file_type, _) => *file_type,
        }
    }
}

/// A new value for a time stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// The present; needs only write permission.
    Now,
    /// This time; needs ownership.
    At(Time),
}

/// Changes to attributes: chmod, chown, utimensat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub accessed: Option<NewTime>,
    /// Modification time.
    pub modified: Option<NewTime>,
}

/// What rename does where both names exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// The old file takes the place of the new.
    Replace,
    /// `RENAME_NOREPLACE`: `EEXIST`.
    NoReplace,
    /// `RENAME_EXCHANGE`: they change places.
    Exchange,
}

/// A use of a regular file's content. Those of different kinds exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is open for writing.
    Write,
    /// It is executed.
    Execute,
}

/// An entry that listing a directory shows.
pub struct DirEntry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Inode number.
    pub inode: u64,
    /// Type.
    pub file_type: FileType,
    /// Listing goes on after this entry from here (`d_off`).
    pub next: u64,
}

/// Where a symbolic link leads.
pub enum Target {
    /// To this path.
    Path(Arc<[u8]>),
    /// Straight to a file, whatever its name is: the links of /proc/PID.
    Place(Location),
}

/// What a pipe or socket subsystem keeps with the inode of a FIFO or of a bound socket.
pub type Slot = SpinLock<Option<Arc<dyn Any + Send + Sync>>>;

/// An inode.
///
/// The defaults are those of something that is not a directory, cannot be changed and holds no data.
pub trait Node: Any + Send + Sync {
    /// Its type, which never changes.
    fn file_type(&self) -> FileType;

    /// Its attributes.
    fn stat(&self) -> Stat;

    /// Its owner, group and mode.
    fn protection(&self) -> Protection {
        let stat = self.stat();
        Protection { mode: stat.mode, uid: stat.uid, gid: stat.gid }
    }

    /// `EACCES` unless `who` may.
    fn check(&self, who: &Identity<'_>, wanted: Wanted) -> Result<(), Errno> {
        self.protection().check(who, wanted)
    }

    /// The entry `name`, which is neither `.` nor `..`; needs search permission.
    fn lookup(&self, who: &Identity<'_>, name: &[u8]) -> Result<Arc<dyn Node>, Errno> {
        let _ = (who, name);
        Err(Errno::ENOTDIR)
    }

    /// The directory that holds this, and the name there. `None` for the root of a file system and for what has no name.
    fn place(&self) -> Option<(Arc<dyn Node>, Name)> {
        None
    }

    /// Calls `emit` for the entries from position `from` (0: the first) until it returns false.
    /// The caller has checked read permission when it opened the directory. Needs no `.` and `..` of its own.
    fn list(&self, from: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        let _ = (from, emit);
        Err(Errno::ENOTDIR)
    }

    /// Makes a new entry. `mode` has permission bits only, with the umask applied.
    fn create(
        &self,
        who: &Identity<'_>,
        name: &[u8],
        kind: NewKind<'_>,
        mode: u32,
    ) -> Result<Arc<dyn Node>, Errno> {
        let _ = (who, name, kind, mode);
        Err(if self.file_type() == FileType::Directory { Errno::EACCES } else { Errno::ENOTDIR })
    }

    /// An unnamed regular file (`O_TMPFILE`), which link gives a name unless `exclusive`.
    fn create_unnamed(&self, who: &Identity<'_>, mode: u32, exclusive: bool) -> Result<Arc<dyn Node>, Errno> {
        let _ = (who, mode, exclusive);
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives `target`, of the same file system, another name.
    fn link(&self, who: &Identity<'_>, name: &[u8], target: &Arc<dyn Node>) -> Result<(), Errno> {
        let _ = (who, name, target);
        Err(Errno::EPERM)
    }

    /// Removes the entry `name`: a directory (`EISDIR` otherwise ... `ENOTDIR`) as `directory` says.
    fn unlink(&self, who: &Identity<'_>, name: &[u8], directory: bool) -> Result<(), Errno> {
        let _ = (who, name, directory);
        Err(Errno::EPERM)
    }

    /// Moves the entry `old` of this directory to `new` in `directory`, of the same file system.
    fn rename(
        &self,
        who: &Identity<'_>,
        old: &[u8],
        directory: &Arc<dyn Node>,
        new: &[u8],
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let _ = (who, old, directory, new, mode);
        Err(Errno::EPERM)
    }

    /// Where a symbolic link leads (`EINVAL` for others).
    fn target(&self) -> Result<Target, Errno> {
        Err(Errno::EINVAL)
    }

    /// The text that readlink(2) gives (`EINVAL` for what is no link).
    fn link_text(&self) -> Result<Arc<[u8]>, Errno> {
        match self.target()? {
            Target::Path(path) => Ok(path),
            Target::Place(_) => Err(Errno::EINVAL),
        }
    }

    /// Changes attributes.
    fn change(&self, who: &Identity<'_>, change: &Change) -> Result<(), Errno> {
        let _ = (who, change);
        Err(Errno::EPERM)
    }

    /// Cuts or extends a regular file.
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        let _ = size;
        Err(Errno::EINVAL)
    }

    /// Begins a use of the content (`ETXTBSY` while there is one of the other kind); ended by [`release`](Self::release).
    fn hold(&self, purpose: Use) -> Result<(), Errno> {
        let _ = purpose;
        Ok(())
    }

    /// Ends a use of the content.
    fn release(&self, purpose: Use) {
        let _ = purpose;
    }

    /// The object behind a new descriptor. Permission has been checked.
    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>, Errno>;

    /// Whether something is mounted here; `None` where nothing can be.
    fn mounted(&self) -> Option<&MountFlag> {
        None
    }

    /// The advisory locks on it; `None` where there are none.
    fn locks(&self) -> Option<&FileLocks> {
        None
    }

    /// Room for the pipe behind a FIFO or the socket behind a name.
    fn slot(&self) -> Option<&Slot> {
        None
    }
}

/// Whether a file system is mounted on a directory: lets path walking pass by the mount table.
#[derive(Default)]
pub struct MountFlag(AtomicBool);

impl MountFlag {
    /// Whether it is.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Notes it, under the lock of the mount table.
    pub(super) fn set(&self, mounted: bool) {
        self.0.store(mounted, Ordering::Release);
    }
}

/// Whether two handles are of the same node.
pub fn same_node(a: &Arc<dyn Node>, b: &Arc<dyn Node>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

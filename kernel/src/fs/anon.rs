//! The inodes of objects without a path: pipes, sockets, eventfds, ...
//!
//! Linux gives pipes and sockets inodes of hidden file systems, and all other anonymous objects one inode
//! in common; programs see the numbers in /proc/PID/fd (`socket:[4711]`).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::LazyLock;

use super::mount::{FileSystem, Mount};
use super::{File, FileType, FsStat, Location, Node, OpenFlags, Stat};
use crate::errno::Errno;
use crate::memory::PAGE_SIZE;

static DEVICE: LazyLock<u64> = LazyLock::new(super::mount::next_device);

/// An inode number for a new object.
pub fn next_inode() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The attributes of the object with number `inode` and type `file_type`, made by user `uid` and group `gid`.
pub fn stat(file_type: FileType, inode: u64, uid: u32, gid: u32) -> Stat {
    let permissions = if file_type == FileType::Socket { 0o777 } else { 0o600 };
    Stat {
        device: *DEVICE,
        inode,
        mode: file_type.mode() | permissions,
        links: 1,
        uid,
        gid,
        block_size: PAGE_SIZE as u32,
        ..Stat::default()
    }
}

/// The attributes of an object of `file_type` that the running thread makes. Objects without a type share one inode.
pub fn for_current(file_type: FileType) -> Stat {
    static SHARED: LazyLock<u64> = LazyLock::new(next_inode);
    let inode = if file_type == FileType::Anonymous { *SHARED } else { next_inode() };
    let owner = crate::process::current().map(|thread| thread.credentials());
    let (uid, gid) = owner.map_or((0, 0), |credentials| (credentials.fsuid, credentials.fsgid));
    stat(file_type, inode, uid, gid)
}

/// An object without a path as a node, for the links of /proc/PID/fd: opening it opens the object again.
pub struct AnonymousNode(Arc<dyn File>);

impl AnonymousNode {
    /// Where `file` is, in a file system that is not in the tree.
    pub fn place(file: Arc<dyn File>) -> Location {
        let mount = match file.stat().file_type() {
            FileType::Fifo => &PIPES,
            FileType::Socket => &SOCKETS,
            _ => &OTHERS,
        };
        Location { mount: (*mount).clone(), node: Arc::new(Self(file)) }
    }
}

impl Node for AnonymousNode {
    fn file_type(&self) -> FileType {
        self.0.stat().file_type()
    }

    fn stat(&self) -> Stat {
        self.0.stat()
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
        self.0.reopen(flags)
    }
}

/// A file system of objects without a path, with its name and magic number of statfs(2); its root is one too.
struct AnonymousFs(&'static str, u32);

/// What the root of [`AnonymousFs`] holds.
struct Nothing;

impl File for Nothing {
    fn stat(&self) -> Stat {
        Stat { device: *DEVICE, ..Stat::default() }
    }
}

type LazyMount = LazyLock<Arc<Mount>>;

static PIPES: LazyMount = LazyMount::new(|| Mount::detached(Arc::new(AnonymousFs("pipefs", 0x5049_5045))));
static SOCKETS: LazyMount = LazyMount::new(|| Mount::detached(Arc::new(AnonymousFs("sockfs", 0x534f_434b))));
static OTHERS: LazyMount =
    LazyMount::new(|| Mount::detached(Arc::new(AnonymousFs("anon_inodefs", 0x0904_1934))));

impl FileSystem for AnonymousFs {
    fn root(&self) -> Arc<dyn Node> {
        Arc::new(AnonymousNode(Arc::new(Nothing)))
    }

    fn name(&self) -> &'static str {
        self.0
    }

    fn stat(&self) -> FsStat {
        FsStat { magic: self.1, block_size: PAGE_SIZE as u64, ..FsStat::default() }
    }
}

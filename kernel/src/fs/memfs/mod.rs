//! The in-memory file system: the root, tmpfs mounts, /dev, and memfds.
//!
//! - [`MemFs`]: a file system; its inodes share a `Superblock`: limits ([`Budget`]), numbers, the lock of operations on its shape;
//! - [`Inode`]: a file of any type, node and open file in one, with one lock;
//! - `State` (`state.rs`): what an inode is, a sequential structure with typed operations;
//! - `Directory` (`directory.rs`) and `Data` (`data.rs`): entries, and bytes in frames.
//!
//! Metadata (`State`) and data pages (`Frame`s) are apart: metadata can be kept once per node, pages are shared.

mod budget;
mod data;
mod directory;
mod inode;
mod rename;
mod state;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

pub use budget::Budget;
pub use data::{SIZE_MAX, TRANSFER_MAX};
pub use inode::Inode;
pub use state::{SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SEAL, SEAL_SHRINK, SEAL_WRITE};

use self::data::Data;
use self::directory::Directory;
use self::inode::Beginning;
use self::state::Content;
use super::mount::FileSystem;
use super::{FileType, FsStat, Name, Node};
use crate::errno::Errno;
use crate::memory::PAGE_SIZE;
use crate::sync::SpinLock;

/// `TMPFS_MAGIC` of statfs(2).
const TMPFS_MAGIC: u32 = 0x0102_1994;

/// What the inodes of a file system share.
pub struct Superblock {
    budget: Budget,
    device: u64,
    last_number: AtomicU64,
    /// Held by operations that lock two directories: see `inode.rs`.
    topology: SpinLock<()>,
}

impl Superblock {
    fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A file system in memory: its root keeps all of it.
pub struct MemFs {
    root: Arc<Inode>,
}

impl MemFs {
    /// A file system with an empty root directory of the given permission bits, owned by user and group 0.
    pub fn new(budget: Budget, mode: u32) -> Result<Self, Errno> {
        let fs = Arc::new(Superblock {
            budget,
            device: super::mount::next_device(),
            last_number: AtomicU64::new(0),
            topology: SpinLock::new(()),
        });
        let root = Inode::new(
            &fs,
            Beginning {
                content: Content::Directory(Directory::new()),
                mode: FileType::Directory.mode() | mode,
                uid: 0,
                gid: 0,
                links: 2,
                linkable: false,
                place: None,
                now: super::stamp(),
            },
        )?;
        Ok(Self { root })
    }

    /// A file that is in no directory, with `seals`: memfd_create(2). It is shown as `label` of the root.
    pub fn unnamed(
        &self,
        label: Name,
        uid: u32,
        gid: u32,
        mode: u32,
        seals: u32,
    ) -> Result<Arc<Inode>, Errno> {
        let content = Content::Regular(Data::default(), Some(seals));
        let mode = FileType::Regular.mode() | mode;
        let place = Some((Arc::downgrade(&self.root), label));
        let now = super::stamp();
        Inode::new(
            &self.root.fs,
            Beginning { content, mode, uid, gid, links: 0, linkable: false, place, now },
        )
    }

    /// The root directory.
    pub fn inode(&self) -> &Arc<Inode> {
        &self.root
    }
}

impl FileSystem for MemFs {
    fn root(&self) -> Arc<dyn Node> {
        self.root.clone()
    }

    fn name(&self) -> &'static str {
        "tmpfs"
    }

    fn stat(&self) -> FsStat {
        let budget = &self.root.fs.budget;
        let (inodes, blocks) = budget.limits();
        // Without a limit of its own the machine's memory is the limit.
        let memory = crate::memory::statistics();
        FsStat {
            magic: TMPFS_MAGIC,
            block_size: PAGE_SIZE as u64,
            blocks: blocks.min(memory.total),
            free_blocks: budget.free_pages().min(memory.available),
            inodes,
            free_inodes: budget.free_inodes(),
        }
    }
}

/// An open regular file without a path.
#[cfg(test)]
pub fn anonymous_file_for_tests() -> alloc::sync::Arc<dyn crate::fs::File> {
    use crate::fs::mount::FileSystem;
    let fs = MemFs::new(Budget::new(16, 16), 0o755).expect("memory for a test");
    let kind = crate::fs::node::NewKind::Regular;
    let node = fs.root().create(&crate::fs::Identity::ROOT, b"file", kind, 0o644).expect("a new file");
    node.open(crate::fs::OpenFlags::RDWR).expect("opens")
}

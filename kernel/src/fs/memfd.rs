//! memfd_create(2): files of the in-memory file system that have no name, but a label.

use alloc::sync::Arc;

use spin::Once;

use super::memfs::{Budget, MemFs, SEAL_SEAL};
use super::mount::Mount;
use super::{Location, Name, OpenFile, OpenFlags};
use crate::errno::Errno;

/// The file system of memfds: limited by the machine's memory and by the processes' descriptors only.
struct Shelf {
    fs: Arc<MemFs>,
    mount: Arc<Mount>,
}

static SHELF: Once<Shelf> = Once::new();

fn shelf() -> Result<&'static Shelf, Errno> {
    SHELF.try_call_once(|| {
        let fs = Arc::new(MemFs::new(Budget::new(u64::MAX / 2, u64::MAX / 2), 0o777)?);
        Ok(Shelf { mount: Mount::detached(fs.clone()), fs })
    })
}

/// A new file of user `uid` and group `gid`, shown as `/memfd:NAME`.
pub fn create(name: &[u8], uid: u32, gid: u32, sealable: bool) -> Result<Arc<OpenFile>, Errno> {
    let shelf = shelf()?;
    let label = Name::from([b"memfd:", name].concat());
    let seals = if sealable { 0 } else { SEAL_SEAL };
    let inode = shelf.fs.unnamed(label, uid, gid, 0o777, seals)?;
    let location = Location { mount: shelf.mount.clone(), node: inode.clone() };
    OpenFile::at(inode, OpenFlags::RDWR | OpenFlags::LARGEFILE, location)
}

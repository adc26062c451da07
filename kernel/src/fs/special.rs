//! Files whose inode only names something else: devices by number, FIFOs, and the names of sockets.
//!
//! Drivers register their device numbers here; the pipe code registers how FIFOs are opened.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::stat::DeviceNumber;
use super::{File, FileType, Node, OpenFlags};
use crate::errno::Errno;
use crate::sync::RwSpinLock;

/// Makes the file behind a device number.
pub type OpenDevice = fn(DeviceNumber, OpenFlags) -> Result<Arc<dyn File>, Errno>;

/// Makes an end of the pipe behind a FIFO; the pipe is kept in the inode's [`Slot`](super::node::Slot). Does not wait: see
/// [`File::open_ready`]. `ENXIO` for a non-blocking open for writing without a reader.
pub type OpenFifo = fn(&dyn Node, OpenFlags) -> Result<Arc<dyn File>, Errno>;

struct Driver {
    file_type: FileType,
    major: u32,
    minors: Range<u32>,
    open: OpenDevice,
}

static DRIVERS: RwSpinLock<Vec<Driver>> = RwSpinLock::new(Vec::new());
static OPEN_FIFO: RwSpinLock<Option<OpenFifo>> = RwSpinLock::new(None);

/// Has `open` answer for the devices `major:minors` of a type (`CharDevice` or `BlockDevice`). The first to register wins.
pub fn register_device(file_type: FileType, major: u32, minors: Range<u32>, open: OpenDevice) {
    DRIVERS.write().push(Driver { file_type, major, minors, open });
}

/// Has `open` answer for FIFOs.
pub fn register_fifo(open: OpenFifo) {
    *OPEN_FIFO.write() = Some(open);
}

/// Opens the device `number`. `ENXIO` when no driver answers for it.
pub fn open_device(
    file_type: FileType,
    number: DeviceNumber,
    flags: OpenFlags,
) -> Result<Arc<dyn File>, Errno> {
    let drivers = DRIVERS.read();
    let found = drivers.iter().find(|driver| {
        driver.file_type == file_type
            && driver.major == number.major()
            && driver.minors.contains(&number.minor())
    });
    let open = found.ok_or(Errno::ENXIO)?.open;
    drop(drivers);
    open(number, flags)
}

/// Opens what an inode that is no regular file, directory or link names. A socket's name cannot be opened: `ENXIO`.
pub fn open(node: &dyn Node, flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
    match node.file_type() {
        FileType::Fifo => {
            let open = (*OPEN_FIFO.read()).ok_or(Errno::ENXIO)?;
            open(node, flags)
        }
        file_type @ (FileType::CharDevice | FileType::BlockDevice) => {
            open_device(file_type, DeviceNumber(node.stat().special_device), flags)
        }
        _ => Err(Errno::ENXIO),
    }
}

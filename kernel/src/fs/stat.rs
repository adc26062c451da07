//! What the stat family of calls reports about a file: [`Stat`], file types and mode bits.

/// Mask of the type in a mode.
pub const S_IFMT: u32 = 0o170_000;
/// Runs with the owner's user id.
pub const S_ISUID: u32 = 0o4000;
/// Runs with the group's id; on a directory: new entries inherit its group.
pub const S_ISGID: u32 = 0o2000;
/// On a directory: only owners remove entries.
pub const S_ISVTX: u32 = 0o1000;
/// All permission bits that chmod(2) sets.
pub const PERMISSIONS: u32 = 0o7777;

/// The type of a file, numbered as `d_type` of getdents64(2); shifted by 12 it is the type in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileType {
    /// Objects without a type of their own (eventfd, epoll, ...): no bits in the mode.
    Anonymous = 0,
    /// A named pipe.
    Fifo = 1,
    /// A character device.
    CharDevice = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    BlockDevice = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl FileType {
    /// The type's bits in a mode.
    pub const fn mode(self) -> u32 {
        (self as u32) << 12
    }

    /// The type in `mode`; `None` for bits that are no type.
    pub fn of_mode(mode: u32) -> Option<Self> {
        Some(match (mode & S_IFMT) >> 12 {
            0 => Self::Anonymous,
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }
}

/// A device number, composed as makedev(3) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DeviceNumber(pub u64);

impl DeviceNumber {
    /// The number of `major:minor`.
    pub const fn new(major: u32, minor: u32) -> Self {
        let (major, minor) = (major as u64, minor as u64);
        Self((minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32)
    }

    /// The driver.
    pub const fn major(self) -> u32 {
        ((self.0 >> 8 & 0xfff) | (self.0 >> 32 & !0xfff)) as u32
    }

    /// The device of that driver.
    pub const fn minor(self) -> u32 {
        ((self.0 & 0xff) | (self.0 >> 12 & 0xffff_ff00)) as u32
    }
}

/// Nanoseconds since the Unix epoch; negative before it.
pub type Time = i64;

/// Attributes of a file, in the units of stat(2) and inode(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Device that holds the inode, as `makedev(3)` composes it.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Type and permission bits (`S_IFMT`, `07777`).
    pub mode: u32,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// For a device node, the device it names.
    pub special_device: u64,
    /// Bytes.
    pub size: u64,
    /// Preferred bytes per transfer.
    pub block_size: u32,
    /// 512-byte units allocated.
    pub blocks: u64,
    /// Last access.
    pub accessed: Time,
    /// Last change of the data.
    pub modified: Time,
    /// Last change of the attributes.
    pub changed: Time,
    /// Creation; 0 where it is not kept.
    pub created: Time,
}

impl Stat {
    /// The type in the mode.
    pub fn file_type(&self) -> FileType {
        FileType::of_mode(self.mode).unwrap_or(FileType::Anonymous)
    }
}

/// What statfs(2) reports about a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsStat {
    /// Type of the file system, by its magic number.
    pub magic: u32,
    /// Bytes per block.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_composed_as_glibc_does() {
        assert_eq!(DeviceNumber::new(1, 3).0, 0x103);
        assert_eq!(DeviceNumber::new(0x12345, 0x6789a).0, 0x0001_2000_6783_459a);
        for (major, minor) in [(0, 0), (5, 1), (136, 300), (0xffff_ffff, 0xffff_ffff)] {
            let number = DeviceNumber::new(major, minor);
            assert_eq!((number.major(), number.minor()), (major, minor));
        }
    }

    #[test]
    fn types_and_modes_agree() {
        assert_eq!(FileType::Regular.mode(), 0o100_000);
        assert_eq!(FileType::of_mode(0o040_755), Some(FileType::Directory));
        assert_eq!(FileType::of_mode(0o030_000), None);
    }
}

//! The flags of open(2).

bitflags::bitflags! {
    /// Flags of open(2); the lowest two bits are the access mode. Kept in an open file: access mode and status flags.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct OpenFlags: u32 {
        /// Write only (access mode 1).
        const WRONLY = 0o1;
        /// Read and write (access mode 2).
        const RDWR = 0o2;
        /// Create the file if it is not there.
        const CREAT = 0o100;
        /// With `CREAT`: it must not be there.
        const EXCL = 0o200;
        /// Does not become the controlling terminal.
        const NOCTTY = 0o400;
        /// Cut a regular file to no bytes.
        const TRUNC = 0o1000;
        /// Every write goes to the end.
        const APPEND = 0o2000;
        /// No call waits.
        const NONBLOCK = 0o4000;
        /// Data is on stable storage when write returns: memory is as stable as it gets.
        const DSYNC = 0o1_0000;
        /// `SIGIO` when ready.
        const ASYNC = 0o2_0000;
        /// Bypass of a page cache; of a pipe: packets.
        const DIRECT = 0o4_0000;
        /// Large files: set in every file that has been opened by its name.
        const LARGEFILE = 0o10_0000;
        /// Must be a directory.
        const DIRECTORY = 0o20_0000;
        /// The last component must not be a symbolic link.
        const NOFOLLOW = 0o40_0000;
        /// Reads leave the access time alone.
        const NOATIME = 0o100_0000;
        /// Closed by execve.
        const CLOEXEC = 0o200_0000;
        /// With `DSYNC`: attributes too.
        const SYNC = 0o400_0000;
        /// Only names the file: no permission to it needed, no data.
        const PATH = 0o1000_0000;
        /// With `DIRECTORY`: an unnamed file in that directory.
        const TMPFILE = 0o2000_0000;
    }
}

impl OpenFlags {
    /// What `F_SETFL` changes.
    pub const SETTABLE: Self =
        Self::APPEND.union(Self::NONBLOCK).union(Self::ASYNC).union(Self::DIRECT).union(Self::NOATIME);
    /// What an open file does not keep.
    pub const CREATION: Self = Self::CREAT
        .union(Self::EXCL)
        .union(Self::NOCTTY)
        .union(Self::TRUNC)
        .union(Self::CLOEXEC)
        .union(Self::TMPFILE.difference(Self::DIRECTORY));

    /// Whether data may be read (access modes 0 and 2).
    pub fn readable(self) -> bool {
        !self.intersects(Self::PATH) && !self.contains(Self::WRONLY)
    }

    /// Whether data may be written (access modes 1 and 2).
    pub fn writable(self) -> bool {
        !self.intersects(Self::PATH) && matches!(self.bits() & 3, 1 | 2)
    }
}

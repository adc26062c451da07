//! /dev: a tmpfs with device nodes, and the simplest devices: null, zero, full, random.
//!
//! Other drivers register themselves with [`special::register_device`](super::special) and have their nodes made here.

use alloc::sync::Arc;

use super::memfs::MemFs;
use super::node::NewKind;
use super::special::register_device;
use super::{DeviceNumber, File, FileType, Identity, Node, PageSource, Stat, anon};
use crate::errno::{Errno, SysResult};
use crate::memory::{Frame, OutOfMemory};
use crate::uaccess::{ReadBuf, WriteBuf};

/// Major number of the memory devices.
const MEMORY: u32 = 1;
/// Major number of /dev/tty, /dev/console and /dev/ptmx.
pub const TTY: u32 = 5;

/// The nodes of a new /dev: name, major, minor, permissions.
const NODES: [(&str, u32, u32, u32); 9] = [
    ("null", MEMORY, 3, 0o666),
    ("zero", MEMORY, 5, 0o666),
    ("full", MEMORY, 7, 0o666),
    ("random", MEMORY, 8, 0o666),
    ("urandom", MEMORY, 9, 0o666),
    ("kmsg", MEMORY, 11, 0o600),
    ("tty", TTY, 0, 0o666),
    ("console", TTY, 1, 0o600),
    ("ptmx", TTY, 2, 0o666),
];

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

const DIRECTORIES: [(&str, u32); 2] = [("pts", 0o755), ("shm", 0o1777)];

/// Puts the nodes, links and directories that every /dev has into `fs`.
pub fn populate(fs: &MemFs) -> Result<(), Errno> {
    let root = fs.inode();
    let make = |name: &str, kind, mode| root.create(&Identity::ROOT, name.as_bytes(), kind, mode).map(drop);
    for (name, major, minor, mode) in NODES {
        make(name, NewKind::Device(FileType::CharDevice, DeviceNumber::new(major, minor).0), mode)?;
    }
    for (name, target) in LINKS {
        make(name, NewKind::Symlink(target.as_bytes()), 0o777)?;
    }
    DIRECTORIES.into_iter().try_for_each(|(name, mode)| make(name, NewKind::Directory, mode))
}

/// Has this module answer for the memory devices. Once, at boot.
pub fn init() {
    register_device(FileType::CharDevice, MEMORY, 0..256, |number, _| {
        Ok(Arc::new(match number.minor() {
            3 => MemoryDevice::Null,
            5 => MemoryDevice::Zero,
            7 => MemoryDevice::Full,
            8 | 9 => MemoryDevice::Random,
            11 => MemoryDevice::KernelLog,
            _ => return Err(Errno::ENXIO),
        }))
    });
}

/// The memory devices: null(4), full(4), random(4).
enum MemoryDevice {
    Null,
    Zero,
    Full,
    Random,
    /// Takes lines for the kernel's log.
    KernelLog,
}

/// Random bytes that are made at a time.
const RANDOM_PIECE: usize = 1024;

impl File for MemoryDevice {
    fn read(&self, _offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        let wanted = buf.remaining();
        let moved = match self {
            Self::Null => return Ok(0),
            Self::KernelLog => return Err(Errno::EAGAIN),
            Self::Zero | Self::Full => buf.push_zeroes(wanted.min(super::memfs::TRANSFER_MAX)),
            Self::Random => push_random(buf, wanted),
        };
        if moved == 0 && wanted > 0 { Err(Errno::EFAULT) } else { Ok(moved) }
    }

    fn write(&self, _offset: u64, buf: &mut WriteBuf<'_>) -> SysResult {
        match self {
            Self::Full => Err(Errno::ENOSPC),
            Self::KernelLog => log_line(buf),
            // What is written to /dev/random would only stir a pool that has all it needs.
            Self::Null | Self::Zero | Self::Random => Ok(skip(buf)),
        }
    }

    fn append(&self, buf: &mut WriteBuf<'_>) -> Result<(u64, usize), Errno> {
        self.write(0, buf).map(|count| (0, count))
    }

    fn piece(&self) -> usize {
        if matches!(self, Self::Random) { RANDOM_PIECE } else { super::memfs::TRANSFER_MAX }
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn has_fixed_position(&self) -> bool {
        true
    }

    fn pages(&self) -> Option<Arc<dyn PageSource>> {
        matches!(self, Self::Zero).then(|| Arc::new(Zeroes) as Arc<dyn PageSource>)
    }

    fn stat(&self) -> Stat {
        anon::stat(FileType::CharDevice, 1, 0, 0)
    }
}

/// Takes all without looking at it, as Linux does: not even a wrong address matters.
fn skip(buf: &mut WriteBuf<'_>) -> usize {
    buf.skip(buf.remaining())
}

fn push_random(buf: &mut ReadBuf<'_>, wanted: usize) -> usize {
    let (mut piece, mut done) = ([0; 256], 0);
    while done < wanted.min(RANDOM_PIECE) {
        let len = piece.len().min(wanted - done);
        crate::random::fill(&mut piece[..len]);
        let moved = buf.push(&piece[..len]);
        done += moved;
        if moved < len {
            break;
        }
    }
    done
}

/// A line for the kernel's log; a priority in front (`<6>`) is taken off.
fn log_line(buf: &mut WriteBuf<'_>) -> SysResult {
    let mut line = [0; 512];
    let wanted = buf.remaining();
    let taken = buf.pull(&mut line[..wanted.min(512)]);
    if taken == 0 && wanted > 0 {
        return Err(Errno::EFAULT);
    }
    let text = alloc::string::String::from_utf8_lossy(&line[..taken]);
    let text =
        text.split_once('>').filter(|(head, _)| head.starts_with('<')).map_or(&*text, |(_, rest)| rest);
    log::info!(target: "user", "{}", text.trim_end());
    Ok(taken + buf.skip(buf.remaining()))
}

/// A mapping of /dev/zero.
struct Zeroes;

impl PageSource for Zeroes {
    fn page(&self, _index: u64, _write: bool) -> Result<Option<Frame>, OutOfMemory> {
        Frame::zeroed().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(device: &MemoryDevice, out: &mut [u8]) -> SysResult {
        device.read(0, &mut ReadBuf::kernel(out))
    }

    #[test]
    fn the_memory_devices_do_what_their_names_say() {
        let mut out = [7; 600];
        assert_eq!(read(&MemoryDevice::Null, &mut out), Ok(0));
        assert_eq!(read(&MemoryDevice::Random, &mut out), Ok(600));
        assert!(out.windows(8).all(|bytes| bytes != [7; 8]) && out[..8] != out[8..16]);
        assert_eq!(read(&MemoryDevice::Zero, &mut out), Ok(600));
        assert!(out.iter().all(|&byte| byte == 0));
        assert_eq!(MemoryDevice::Full.write(0, &mut WriteBuf::kernel(b"x")), Err(Errno::ENOSPC));
        assert_eq!(MemoryDevice::Null.write(0, &mut WriteBuf::kernel(b"abc")), Ok(3));
        assert_eq!(MemoryDevice::Random.write(0, &mut WriteBuf::kernel(b"abc")), Ok(3));
    }
}

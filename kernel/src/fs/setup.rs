//! The tree with which the machine begins, and the kinds of file system that mount(2) knows.

use alloc::string::ToString;
use alloc::sync::Arc;

use spin::Once;

use super::memfs::{Budget, MemFs};
use super::mount::{self, FileSystem, Mount, MountFlags};
use super::node::NewKind;
use super::path::{View, resolve};
use super::{Identity, Location, dev};
use crate::errno::Errno;
use crate::memory::PAGE_SIZE;

/// The root of all, and its file system.
struct Root {
    fs: Arc<MemFs>,
    location: Location,
}

static ROOT: Once<Root> = Once::new();

/// Pages of the machine's memory.
fn memory_pages() -> u64 {
    crate::memory::total_bytes() / PAGE_SIZE as u64
}

/// The limits of a file system that may have `pages`. An inode or name takes up to 1 KiB of kernel memory, and all of them together at most
/// an eighth of the machine.
fn budget(pages: u64) -> Budget {
    Budget::new((memory_pages() / 2).max(1024), pages)
}

/// Makes the root file system, which the machine's memory alone limits, and mounts /proc, /sys and /dev. Once, at boot.
///
/// # Errors
/// Those of memory.
pub fn init() -> Result<(), Errno> {
    dev::init();
    let fs = Arc::new(MemFs::new(budget(u64::MAX / 2), 0o755)?);
    let mount = Mount::detached(fs.clone());
    let root = ROOT.call_once(|| Root { fs, location: Location::root_of(mount) });
    for (name, mode) in [(&b"dev"[..], 0o755), (b"proc", 0o555), (b"sys", 0o555), (b"tmp", 0o1777)] {
        root.location.node.create(&Identity::ROOT, name, NewKind::Directory, mode)?;
    }
    for (fs_type, path) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        let Ok(fs) = new_fs(fs_type.as_bytes(), b"") else { continue };
        mount::mount(fs, fs_type.to_string(), MountFlags::empty(), find(path)?)?;
    }
    Ok(())
}

/// The root directory.
///
/// # Panics
/// Before [`init`]: a mistake in the order of boot.
pub fn root() -> Location {
    ROOT.get().expect("the root file system is made before anything asks for it").location.clone()
}

/// The root's file system, into which the initramfs is unpacked.
pub fn root_fs() -> Arc<MemFs> {
    ROOT.get().expect("the root file system is made before anything asks for it").fs.clone()
}

/// What `path` names, seen by the kernel itself.
pub fn find(path: &str) -> Result<Location, Errno> {
    let root = root();
    let view = View { who: Identity::ROOT, root: &root };
    resolve(view, &root, path.as_bytes(), true)
}

/// The file system of /dev: one, however often it is mounted, as Linux's devtmpfs is.
fn dev_fs() -> Result<Arc<MemFs>, Errno> {
    static DEV: Once<Arc<MemFs>> = Once::new();
    let fs = DEV.try_call_once(|| {
        let fs = MemFs::new(budget(memory_pages() / 2), 0o755)?;
        dev::populate(&fs)?;
        Ok::<_, Errno>(Arc::new(fs))
    })?;
    Ok(fs.clone())
}

/// A file system of the type that mount(8) names so. Options: `size=`, `nr_inodes=`, `mode=` of tmpfs.
///
/// # Errors
/// `ENODEV` for an unknown type; `EINVAL` for an unknown option.
pub fn new_fs(fs_type: &[u8], options: &[u8]) -> Result<Arc<dyn FileSystem>, Errno> {
    match fs_type {
        b"tmpfs" | b"ramfs" => new_tmpfs(options),
        b"proc" => Ok(Arc::new(super::proc::new())),
        b"sysfs" => Ok(Arc::new(super::sys::new())),
        b"devtmpfs" => Ok(dev_fs()?),
        _ => Err(Errno::ENODEV),
    }
}

fn new_tmpfs(options: &[u8]) -> Result<Arc<dyn FileSystem>, Errno> {
    let (mut pages, mut inodes, mut mode) = (memory_pages() / 2, None, 0o1777);
    for option in options.split(|&byte| byte == b',').filter(|option| !option.is_empty()) {
        let text = core::str::from_utf8(option).map_err(|_| Errno::EINVAL)?;
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        match key {
            "size" => pages = parse_size(value)?.div_ceil(PAGE_SIZE as u64),
            "nr_blocks" => pages = parse_size(value)?,
            "nr_inodes" => inodes = Some(parse_size(value)?),
            "mode" => mode = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777,
            "rw" | "ro" | "nosuid" | "nodev" | "noexec" | "relatime" | "defaults" => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    let unlimited = |count: u64| if count == 0 { u64::MAX / 2 } else { count };
    let budget = match inodes {
        Some(inodes) => Budget::new(inodes.clamp(1, (memory_pages() / 2).max(1024)), unlimited(pages)),
        None => budget(unlimited(pages)),
    };
    Ok(Arc::new(MemFs::new(budget, mode)?))
}

/// A number with a suffix: `k`, `m`, `g`, or `%` of the machine's memory.
fn parse_size(text: &str) -> Result<u64, Errno> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    let unit = match &text[digits.len()..] {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "%" => return Ok((memory_pages() * PAGE_SIZE as u64 / 100).saturating_mul(number)),
        _ => return Err(Errno::EINVAL),
    };
    number.checked_mul(unit).ok_or(Errno::EINVAL)
}

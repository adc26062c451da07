//! System calls on names: directories, links, renames, the current directory, mounts.

use alloc::string::String;
use alloc::sync::Arc;

use zerocopy::{Immutable, IntoBytes};

use super::Caller;
use super::path::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, check_flags};
use crate::errno::{Errno, SysResult};
use crate::fs::mount::{self, FileSystem, MountFlags};
use crate::fs::node::{DirEntry, NewKind, PATH_MAX, RenameMode};
use crate::fs::path::resolve;
use crate::fs::stat::{DeviceNumber, PERMISSIONS, S_IFMT};
use crate::fs::tree::{self, At};
use crate::fs::{FileType, Identity, Location, OpenFile, Wanted};
use crate::memory::VirtAddr;
use crate::uaccess::{self, UserPtr};

/// mkdir(2)
pub fn mkdir(c: &mut Caller<'_>, path: UserPtr<u8>, mode: u32) -> SysResult {
    mkdirat(c, AT_FDCWD, path, mode)
}

/// mkdirat(2)
pub fn mkdirat(c: &mut Caller<'_>, fd: i32, path: UserPtr<u8>, mode: u32) -> SysResult {
    make(c, fd, path, NewKind::Directory, mode & 0o1777)
}

/// mknod(2)
pub fn mknod(c: &mut Caller<'_>, path: UserPtr<u8>, mode: u32, device: u32) -> SysResult {
    mknodat(c, AT_FDCWD, path, mode, device)
}

/// mknodat(2). The device number is the kernel's 32-bit one: 12 bits of major amid 20 of minor.
pub fn mknodat(c: &mut Caller<'_>, fd: i32, path: UserPtr<u8>, mode: u32, device: u32) -> SysResult {
    let device = DeviceNumber::new(device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00).0;
    let kind = match FileType::of_mode(mode) {
        Some(FileType::Anonymous | FileType::Regular) => NewKind::Regular,
        Some(FileType::Fifo) => NewKind::Fifo,
        Some(FileType::Socket) => NewKind::Socket,
        Some(file_type @ (FileType::CharDevice | FileType::BlockDevice)) => {
            NewKind::Device(file_type, device)
        }
        Some(FileType::Directory) => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    make(c, fd, path, kind, mode & !S_IFMT & PERMISSIONS)
}

fn make(c: &Caller<'_>, fd: i32, path: UserPtr<u8>, kind: NewKind<'_>, mode: u32) -> SysResult {
    let path = c.path(path)?;
    let mode = mode & !c.thread.fs().umask();
    c.with_view(fd, path.bytes(), |view, start| {
        tree::create(view, At { start, path: path.bytes() }, kind, mode)
    })?;
    Ok(0)
}

/// symlink(2)
pub fn symlink(c: &mut Caller<'_>, target: UserPtr<u8>, path: UserPtr<u8>) -> SysResult {
    symlinkat(c, target, AT_FDCWD, path)
}

/// symlinkat(2)
pub fn symlinkat(c: &mut Caller<'_>, target: UserPtr<u8>, fd: i32, path: UserPtr<u8>) -> SysResult {
    let (target, path) = (c.path(target)?, c.path(path)?);
    if target.bytes().is_empty() {
        return Err(Errno::ENOENT);
    }
    c.with_view(fd, path.bytes(), |view, start| {
        tree::create(view, At { start, path: path.bytes() }, NewKind::Symlink(target.bytes()), 0o777)
    })?;
    Ok(0)
}

/// link(2)
pub fn link(c: &mut Caller<'_>, old: UserPtr<u8>, new: UserPtr<u8>) -> SysResult {
    linkat(c, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// linkat(2)
pub fn linkat(
    c: &mut Caller<'_>,
    old_fd: i32,
    old: UserPtr<u8>,
    new_fd: i32,
    new: UserPtr<u8>,
    flags: u32,
) -> SysResult {
    check_flags(flags, AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)?;
    let (old, new) = (c.path(old)?, c.path(new)?);
    if old.bytes().is_empty() && flags & AT_EMPTY_PATH != 0 && !c.thread.credentials().passes_files() {
        return Err(Errno::ENOENT);
    }
    let old = c.locate(old_fd, old.bytes(), flags, flags & AT_SYMLINK_FOLLOW != 0)?;
    c.with_view(new_fd, new.bytes(), |view, start| tree::link(view, &old, At { start, path: new.bytes() }))?;
    Ok(0)
}

/// unlink(2)
pub fn unlink(c: &mut Caller<'_>, path: UserPtr<u8>) -> SysResult {
    unlinkat(c, AT_FDCWD, path, 0)
}

/// rmdir(2)
pub fn rmdir(c: &mut Caller<'_>, path: UserPtr<u8>) -> SysResult {
    unlinkat(c, AT_FDCWD, path, AT_REMOVEDIR)
}

const AT_REMOVEDIR: u32 = 0x200;

/// unlinkat(2)
pub fn unlinkat(c: &mut Caller<'_>, fd: i32, path: UserPtr<u8>, flags: u32) -> SysResult {
    check_flags(flags, AT_REMOVEDIR)?;
    let path = c.path(path)?;
    c.with_view(fd, path.bytes(), |view, start| {
        let at = At { start, path: path.bytes() };
        if flags & AT_REMOVEDIR != 0 { tree::rmdir(view, at) } else { tree::unlink(view, at) }
    })?;
    Ok(0)
}

/// rename(2)
pub fn rename(c: &mut Caller<'_>, old: UserPtr<u8>, new: UserPtr<u8>) -> SysResult {
    renameat2(c, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// renameat(2)
pub fn renameat(
    c: &mut Caller<'_>,
    old_fd: i32,
    old: UserPtr<u8>,
    new_fd: i32,
    new: UserPtr<u8>,
) -> SysResult {
    renameat2(c, old_fd, old, new_fd, new, 0)
}

/// renameat2(2). `RENAME_WHITEOUT` is not there: `EINVAL`.
pub fn renameat2(
    c: &mut Caller<'_>,
    old_fd: i32,
    old: UserPtr<u8>,
    new_fd: i32,
    new: UserPtr<u8>,
    flags: u32,
) -> SysResult {
    let mode = match flags {
        0 => RenameMode::Replace,
        1 => RenameMode::NoReplace,
        2 => RenameMode::Exchange,
        _ => return Err(Errno::EINVAL),
    };
    let (old, new) = (c.path(old)?, c.path(new)?);
    c.with_view(old_fd, old.bytes(), |view, old_start| {
        let old = At { start: old_start, path: old.bytes() };
        c.with_view(new_fd, new.bytes(), |_, new_start| {
            tree::rename(view, old, At { start: new_start, path: new.bytes() }, mode)
        })
    })?;
    Ok(0)
}

/// readlink(2)
pub fn readlink(c: &mut Caller<'_>, path: UserPtr<u8>, buffer: VirtAddr, size: i32) -> SysResult {
    readlinkat(c, AT_FDCWD, path, buffer, size)
}

/// readlinkat(2): an empty path reads the link that the descriptor (`O_PATH`) is.
pub fn readlinkat(c: &mut Caller<'_>, fd: i32, path: UserPtr<u8>, buffer: VirtAddr, size: i32) -> SysResult {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    let path = c.path(path)?;
    let empty = path.bytes().is_empty();
    let location = c.locate(fd, path.bytes(), if fd == AT_FDCWD { 0 } else { AT_EMPTY_PATH }, false)?;
    let text = location.node.link_text().map_err(|error| if empty { Errno::ENOENT } else { error })?;
    let len = text.len().min(size as usize);
    uaccess::write_bytes(&c.thread.space(), buffer, &text[..len])?;
    Ok(len)
}

/// chdir(2)
pub fn chdir(c: &mut Caller<'_>, path: UserPtr<u8>) -> SysResult {
    let to = directory(c, path)?;
    c.thread.fs().set_cwd(to);
    Ok(0)
}

/// fchdir(2)
pub fn fchdir(c: &mut Caller<'_>, fd: i32) -> SysResult {
    let file = c.thread.files().get_any(fd)?;
    let to = file.location().filter(|to| to.node.file_type() == FileType::Directory).ok_or(Errno::ENOTDIR)?;
    to.node.check(&Identity::of(&c.thread.credentials()), Wanted::EXECUTE)?;
    c.thread.fs().set_cwd(to.clone());
    Ok(0)
}

/// chroot(2)
pub fn chroot(c: &mut Caller<'_>, path: UserPtr<u8>) -> SysResult {
    let to = directory(c, path)?;
    check_privileged(c)?;
    c.thread.fs().set_root(to);
    Ok(0)
}

/// `EPERM` without the capability, which comes after what is wrong with the path.
fn check_privileged(c: &Caller<'_>) -> Result<(), Errno> {
    if c.thread.credentials().is_privileged() { Ok(()) } else { Err(Errno::EPERM) }
}

/// A directory that the caller may search.
fn directory(c: &Caller<'_>, path: UserPtr<u8>) -> Result<Location, Errno> {
    let path = c.path(path)?;
    c.with_view(AT_FDCWD, path.bytes(), |view, start| {
        let to = resolve(view, start, path.bytes(), true)?;
        if to.node.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        to.node.check(&view.who, Wanted::EXECUTE)?;
        Ok(to)
    })
}

/// getcwd(2): the number of bytes, NUL included.
pub fn getcwd(c: &mut Caller<'_>, buffer: VirtAddr, size: usize) -> SysResult {
    let fs = c.thread.fs();
    let mut path = fs.with(|places| {
        if places.cwd.stat().links == 0 {
            return Err(Errno::ENOENT);
        }
        match places.cwd.path(&places.root)? {
            Some(path) => Ok(path),
            None => Ok([b"(unreachable)", &places.cwd.display_path(&places.root)?[..]].concat()),
        }
    })?;
    path.push(0);
    if path.len() > PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    if path.len() > size {
        return Err(Errno::ERANGE);
    }
    uaccess::write_bytes(&c.thread.space(), buffer, &path)?;
    Ok(path.len())
}

/// umask(2)
pub fn umask(c: &mut Caller<'_>, mask: u32) -> SysResult {
    Ok(c.thread.fs().set_umask(mask) as usize)
}

/// Head of a `struct linux_dirent64`; the name follows, with its NUL.
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct Dirent64 {
    inode: u64,
    next: u64,
    len: u16,
    file_type: u8,
}

/// Head of a `struct linux_dirent`; the name follows, its NUL, and at the very end the type.
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct Dirent {
    inode: u64,
    next: u64,
    len: u16,
}

/// How entries are laid out.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    Old,
    New,
}

impl Layout {
    fn encode(self, entry: &DirEntry<'_>, out: &mut [u8]) -> Option<usize> {
        let (head, type_last) = match self {
            Self::Old => (size_of::<Dirent>(), 1),
            Self::New => (size_of::<Dirent64>(), 0),
        };
        let len = (head + entry.name.len() + 1 + type_last).next_multiple_of(8);
        let out = out.get_mut(..len)?;
        out.fill(0);
        let (inode, next, file_type) = (entry.inode, entry.next, entry.file_type as u8);
        match self {
            Self::Old => {
                out[..head].copy_from_slice(Dirent { inode, next, len: len as u16 }.as_bytes());
                out[len - 1] = file_type;
            }
            Self::New => {
                out[..head].copy_from_slice(Dirent64 { inode, next, len: len as u16, file_type }.as_bytes());
            }
        }
        out[head..head + entry.name.len()].copy_from_slice(entry.name);
        Some(len)
    }
}

/// getdents64(2)
pub fn getdents64(c: &mut Caller<'_>, fd: i32, buffer: VirtAddr, size: u32) -> SysResult {
    list(c, fd, buffer, size, Layout::New)
}

/// getdents(2)
pub fn getdents(c: &mut Caller<'_>, fd: i32, buffer: VirtAddr, size: u32) -> SysResult {
    list(c, fd, buffer, size, Layout::Old)
}

fn list(c: &Caller<'_>, fd: i32, buffer: VirtAddr, size: u32, layout: Layout) -> SysResult {
    /// Most bytes given at once; programs ask for 32 KiB or more, and come again.
    const PIECE: usize = 32 << 10;
    let file = c.thread.files().get(fd)?;
    let mut out = alloc::vec::Vec::new();
    let size = PIECE.min(size as usize);
    out.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    out.resize(size, 0);
    // The position moves only when the entries have arrived.
    let (before, len) = fill(&file, &mut out, layout)?;
    let written = uaccess::write_bytes(&c.thread.space(), buffer, &out[..len]);
    written.inspect_err(|_| file.with_position(|position| *position = before))?;
    Ok(len)
}

/// Fills `out` with entries from the position of `file` on, which moves; returns the old position and the bytes used.
/// Position 0 is before `.`, 1 before `..`, 2 before the first cookie; after that, it is 2 more than the last entry's cookie.
///
/// # Errors
/// `ENOTDIR`; `ENOENT` when the directory is removed; `EINVAL` when the next entry does not fit.
pub(super) fn fill(file: &OpenFile, out: &mut [u8], layout: Layout) -> Result<(u64, usize), Errno> {
    let location = file.location().ok_or(Errno::ENOTDIR)?;
    if location.node.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    let (own, parent) = (location.stat(), parent_inode(location));
    if own.links == 0 {
        return Err(Errno::ENOENT);
    }
    file.with_position(|position| {
        let (before, mut used, mut full) = (*position, 0, false);
        let mut emit = |entry: DirEntry<'_>| match layout.encode(&entry, &mut out[used..]) {
            Some(len) => {
                used += len;
                *position = entry.next;
                true
            }
            None => {
                full = true;
                false
            }
        };
        let dot = |name, inode, next| DirEntry { name, inode, file_type: FileType::Directory, next };
        let more =
            (before > 0 || emit(dot(b".", own.inode, 1))) && (before > 1 || emit(dot(b"..", parent, 2)));
        if more {
            location.node.list(before.saturating_sub(2), &mut |entry| {
                emit(DirEntry { next: entry.next + 2, ..entry })
            })?;
        }
        if used == 0 && full { Err(Errno::EINVAL) } else { Ok((before, used)) }
    })
}

/// The inode number of `..`.
fn parent_inode(location: &Location) -> u64 {
    let mut at = location.clone();
    while at.is_mount_root() {
        match at.mount_point().cloned() {
            Some(point) => at = point,
            None => return at.stat().inode,
        }
    }
    at.node.place().map_or_else(|| at.stat().inode, |(parent, _)| parent.stat().inode)
}

/// Options of mount(2) that are kept or without meaning here (`MS_NOATIME`, `MS_RELATIME`, `MS_SILENT`, ...).
const MS_KNOWN: u64 = 0xf | MS_WITHOUT_MEANING;
/// `MS_SYNCHRONOUS`, `DIRSYNC`, `NOATIME`, `NODIRATIME`, `SILENT`, `RELATIME`, `STRICTATIME`, `LAZYTIME`, `MGC_VAL`.
const MS_WITHOUT_MEANING: u64 =
    0x10 | 0x80 | 0x400 | 0x800 | 0x8000 | 1 << 21 | 1 << 24 | 1 << 25 | 0xc0ed_0000;
/// Of the mounts below, too.
const MS_REC: u64 = 0x4000;
/// `MS_UNBINDABLE`, `PRIVATE`, `SLAVE`, `SHARED`: how mounts propagate between namespaces, of which there is one.
const MS_PROPAGATION: u64 = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20;

/// mount(2) of tmpfs, proc, sysfs and devtmpfs, and changes of propagation, which have nobody to propagate to. No remounts, binds or moves: `EINVAL`.
pub fn mount(
    c: &mut Caller<'_>,
    source: UserPtr<u8>,
    target: UserPtr<u8>,
    fs_type: UserPtr<u8>,
    flags: u64,
    data: UserPtr<u8>,
) -> SysResult {
    let path = c.path(target)?;
    let at = c.locate(AT_FDCWD, path.bytes(), 0, true)?;
    check_privileged(c)?;
    let propagation = flags & MS_PROPAGATION;
    if propagation != 0 && flags & !(MS_PROPAGATION | MS_REC | MS_WITHOUT_MEANING) == 0 {
        let is_possible = propagation.is_power_of_two() && at.is_mount_root();
        return if is_possible { Ok(0) } else { Err(Errno::EINVAL) };
    }
    if flags & !(MS_KNOWN | MS_REC) != 0 {
        return Err(Errno::EINVAL);
    }
    let fs_type = c.path(fs_type.non_null().ok_or(Errno::EINVAL)?)?;
    let options = data.non_null().map(|data| c.path(data)).transpose()?;
    let fs = make_fs(fs_type.bytes(), options.as_ref().map_or(b"", |options| options.bytes()))?;
    let source = match source.non_null() {
        Some(source) => String::from_utf8_lossy(c.path(source)?.bytes()).into_owned(),
        None => "none".into(),
    };
    mount::mount(fs, source, MountFlags::from_bits_truncate(flags as u32), at)?;
    Ok(0)
}

fn make_fs(fs_type: &[u8], options: &[u8]) -> Result<Arc<dyn FileSystem>, Errno> {
    crate::fs::setup::new_fs(fs_type, options)
}

/// umount2(2)
pub fn umount2(c: &mut Caller<'_>, target: UserPtr<u8>, flags: u32) -> SysResult {
    const MNT_FORCE: u32 = 1;
    const MNT_DETACH: u32 = 2;
    const UMOUNT_NOFOLLOW: u32 = 8;
    check_flags(flags, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW)?;
    let path = c.path(target)?;
    let at = c.locate(AT_FDCWD, path.bytes(), 0, flags & UMOUNT_NOFOLLOW == 0)?;
    check_privileged(c)?;
    mount::unmount(&at, flags & MNT_DETACH != 0)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::OpenFlags;
    use crate::fs::fixture::Fixture;
    use alloc::vec::Vec;

    /// Names and types of the entries in `bytes`.
    fn parse(bytes: &[u8], layout: Layout) -> Vec<(String, u8)> {
        let mut all = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = usize::from(u16::from_le_bytes([rest[16], rest[17]]));
            assert_eq!(len % 8, 0);
            let (start, file_type) = match layout {
                Layout::Old => (18, rest[len - 1]),
                Layout::New => (19, rest[18]),
            };
            let end = start + rest[start..].iter().position(|&byte| byte == 0).unwrap();
            all.push((String::from_utf8(rest[start..end].to_vec()).unwrap(), file_type));
            rest = &rest[len..];
        }
        all
    }

    #[test]
    fn a_listing_goes_on_over_small_buffers_in_both_layouts() {
        let files = Fixture::new();
        files.mkdir("/dir");
        files.mkdir("/dir/below");
        files.file("/dir/file", b"");
        files.symlink("/dir/with a longer name", "x");
        let names = [(".", 4), ("..", 4), ("below", 4), ("file", 8), ("with a longer name", 10)];
        for (layout, size) in [(Layout::New, 48), (Layout::Old, 48), (Layout::New, 4096)] {
            let directory = files.open("/dir", OpenFlags::DIRECTORY).unwrap();
            let (mut all, mut out) = (Vec::new(), vec![0; size]);
            loop {
                let (_, len) = fill(&directory, &mut out, layout).unwrap();
                if len == 0 {
                    break;
                }
                all.extend(parse(&out[..len], layout));
            }
            let all: Vec<_> = all.iter().map(|(name, file_type)| (name.as_str(), *file_type)).collect();
            assert_eq!(all, names);
        }
    }

    #[test]
    fn listing_fails_where_nothing_fits_on_files_and_in_removed_directories() {
        let files = Fixture::new();
        files.mkdir("/dir");
        let directory = files.open("/dir", OpenFlags::DIRECTORY).unwrap();
        assert_eq!(fill(&directory, &mut [0; 20], Layout::New), Err(Errno::EINVAL));
        assert_eq!(fill(&files.file("/file", b""), &mut [0; 64], Layout::New), Err(Errno::ENOTDIR));
        tree::rmdir(files.view(), files.at("/dir")).unwrap();
        assert_eq!(fill(&directory, &mut [0; 64], Layout::New), Err(Errno::ENOENT));
    }

    #[test]
    fn tmpfs_takes_its_options_and_no_others() {
        let fs = make_fs(b"tmpfs", b"size=8k,nr_inodes=10,mode=700,nosuid").unwrap();
        assert_eq!((fs.stat().blocks, fs.stat().inodes), (2, 10));
        assert_eq!(fs.root().stat().mode, 0o040_700);
        assert_eq!(make_fs(b"tmpfs", b"size=lots").err(), Some(Errno::EINVAL));
        assert_eq!(make_fs(b"tmpfs", b"colour=red").err(), Some(Errno::EINVAL));
        assert_eq!(make_fs(b"ext4", b"").err(), Some(Errno::ENODEV));
    }
}

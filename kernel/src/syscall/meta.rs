//! System calls on attributes: the stat family, access, chmod, chown, times, statfs, extended attributes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use super::path::{AT_EMPTY_PATH, AT_FDCWD, AT_NO_AUTOMOUNT, AT_SYMLINK_NOFOLLOW, PathArgument, check_flags};
use crate::errno::{Errno, SysResult};
use crate::fs::anon::AnonymousNode;
use crate::fs::path::resolve;
use crate::fs::stat::PERMISSIONS;
use crate::fs::{Change, DeviceNumber, FileType, Identity, Location, NewTime, Stat, Time, Wanted};
use crate::memory::VirtAddr;
use crate::process::Credentials;
use crate::uaccess::{self, UserPtr};

const SECOND: i64 = 1_000_000_000;

/// `struct stat` of x86-64.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub struct UserStat {
    device: u64,
    inode: u64,
    links: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    padding: u32,
    special_device: u64,
    size: i64,
    block_size: i64,
    blocks: i64,
    accessed: TimeSpec,
    modified: TimeSpec,
    changed: TimeSpec,
    unused: [i64; 3],
}

/// `struct timespec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

impl TimeSpec {
    fn of(time: Time) -> Self {
        Self { seconds: time.div_euclid(SECOND), nanoseconds: time.rem_euclid(SECOND) }
    }
}

impl From<&Stat> for UserStat {
    fn from(stat: &Stat) -> Self {
        Self {
            device: stat.device,
            inode: stat.inode,
            links: stat.links.into(),
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            padding: 0,
            special_device: stat.special_device,
            size: stat.size as i64,
            block_size: stat.block_size.into(),
            blocks: stat.blocks as i64,
            accessed: TimeSpec::of(stat.accessed),
            modified: TimeSpec::of(stat.modified),
            changed: TimeSpec::of(stat.changed),
            unused: [0; 3],
        }
    }
}

/// The attributes of what `path`, relative to `fd`, names; or of the descriptor itself.
fn stat_of(c: &Caller<'_>, fd: i32, path: &PathArgument, flags: u32) -> Result<Stat, Errno> {
    let path = path.bytes();
    if path.is_empty() && flags & AT_EMPTY_PATH != 0 && fd != AT_FDCWD {
        return Ok(c.thread.files().get_any(fd)?.stat());
    }
    Ok(c.locate(fd, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?.stat())
}

/// stat(2)
pub fn stat(c: &mut Caller<'_>, path: UserPtr<u8>, to: UserPtr<UserStat>) -> SysResult {
    newfstatat(c, AT_FDCWD, path, to, 0)
}

/// lstat(2)
pub fn lstat(c: &mut Caller<'_>, path: UserPtr<u8>, to: UserPtr<UserStat>) -> SysResult {
    newfstatat(c, AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW)
}

/// fstat(2)
pub fn fstat(c: &mut Caller<'_>, fd: i32, to: UserPtr<UserStat>) -> SysResult {
    let stat = c.thread.files().get_any(fd)?.stat();
    to.write(&c.thread.space(), &UserStat::from(&stat))?;
    Ok(0)
}

/// newfstatat(2), which glibc calls for all of them.
pub fn newfstatat(
    c: &mut Caller<'_>,
    fd: i32,
    path: UserPtr<u8>,
    to: UserPtr<UserStat>,
    flags: u32,
) -> SysResult {
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH)?;
    let stat = stat_of(c, fd, &c.path(path)?, flags)?;
    to.write(&c.thread.space(), &UserStat::from(&stat))?;
    Ok(0)
}

/// `struct statx_timestamp`.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct StatxTime {
    seconds: i64,
    nanoseconds: u32,
    reserved: i32,
}

impl StatxTime {
    fn of(time: Time) -> Self {
        let TimeSpec { seconds, nanoseconds } = TimeSpec::of(time);
        Self { seconds, nanoseconds: nanoseconds as u32, reserved: 0 }
    }
}

/// `struct statx`.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub struct Statx {
    mask: u32,
    block_size: u32,
    attributes: u64,
    links: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    padding: u16,
    inode: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    accessed: StatxTime,
    created: StatxTime,
    changed: StatxTime,
    modified: StatxTime,
    special_major: u32,
    special_minor: u32,
    device_major: u32,
    device_minor: u32,
    spare: [u64; 14],
}

impl From<&Stat> for Statx {
    fn from(stat: &Stat) -> Self {
        /// `STATX_BASIC_STATS`
        const BASIC: u32 = 0x7ff;
        /// `STATX_BTIME`
        const CREATED: u32 = 0x800;
        let (special, device) = (DeviceNumber(stat.special_device), DeviceNumber(stat.device));
        Self {
            mask: if stat.created != 0 { BASIC | CREATED } else { BASIC },
            block_size: stat.block_size,
            attributes: 0,
            links: stat.links,
            uid: stat.uid,
            gid: stat.gid,
            mode: stat.mode as u16,
            padding: 0,
            inode: stat.inode,
            size: stat.size,
            blocks: stat.blocks,
            attributes_mask: 0,
            accessed: StatxTime::of(stat.accessed),
            created: StatxTime::of(stat.created),
            changed: StatxTime::of(stat.changed),
            modified: StatxTime::of(stat.modified),
            special_major: special.major(),
            special_minor: special.minor(),
            device_major: device.major(),
            device_minor: device.minor(),
            spare: [0; 14],
        }
    }
}

/// statx(2)
pub fn statx(
    c: &mut Caller<'_>,
    fd: i32,
    path: UserPtr<u8>,
    flags: u32,
    mask: u32,
    to: UserPtr<Statx>,
) -> SysResult {
    /// `AT_STATX_FORCE_SYNC` and `AT_STATX_DONT_SYNC`: nothing is remote.
    const SYNC: u32 = 0x6000;
    /// `STATX__RESERVED`
    const RESERVED: u32 = 1 << 31;
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | SYNC)?;
    if mask & RESERVED != 0 || flags & SYNC == SYNC {
        return Err(Errno::EINVAL);
    }
    let stat = stat_of(c, fd, &c.path(path)?, flags)?;
    to.write(&c.thread.space(), &Statx::from(&stat))?;
    Ok(0)
}

/// access(2)
pub fn access(c: &mut Caller<'_>, path: UserPtr<u8>, mode: u32) -> SysResult {
    faccessat2(c, AT_FDCWD, path, mode, 0)
}

/// faccessat(2)
pub fn faccessat(c: &mut Caller<'_>, fd: i32, path: UserPtr<u8>, mode: u32) -> SysResult {
    faccessat2(c, fd, path, mode, 0)
}

/// faccessat2(2)
pub fn faccessat2(c: &mut Caller<'_>, fd: i32, path: UserPtr<u8>, mode: u32, flags: u32) -> SysResult {
    const AT_EACCESS: u32 = 0x200;
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EACCESS | AT_EMPTY_PATH)?;
    let wanted = Wanted::from_bits(mode).ok_or(Errno::EINVAL)?;
    let path = c.path(path)?;
    let identity: fn(&Credentials) -> Identity<'_> =
        if flags & AT_EACCESS != 0 { Identity::effective } else { Identity::real };
    if path.bytes().is_empty() && flags & AT_EMPTY_PATH != 0 {
        let location = c.locate(fd, b"", flags, true)?;
        let credentials = c.thread.credentials();
        return check_access(&location, &identity(&credentials), wanted);
    }
    c.with_view_of(identity, fd, path.bytes(), |view, start| {
        let follow = flags & AT_SYMLINK_NOFOLLOW == 0;
        let location = resolve(view, start, path.bytes(), follow)?;
        check_access(&location, &view.who, wanted)
    })
}

fn check_access(location: &Location, who: &Identity<'_>, wanted: Wanted) -> SysResult {
    location.node.check(who, wanted)?;
    let file_type = location.node.file_type();
    if wanted.contains(Wanted::WRITE) && matches!(file_type, FileType::Regular | FileType::Directory) {
        location.mount.check_writable()?;
    }
    Ok(0)
}

/// Changes the attributes of what `path`, relative to `fd`, names.
fn change_at(c: &Caller<'_>, fd: i32, path: &[u8], flags: u32, change: &Change) -> SysResult {
    let location = c.locate(fd, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    change_place(c, &location, change)
}

fn change_place(c: &Caller<'_>, location: &Location, change: &Change) -> SysResult {
    location.mount.check_writable()?;
    location.node.change(&Identity::of(&c.thread.credentials()), change)?;
    Ok(0)
}

/// Changes the attributes of an open file. Those of anonymous objects are of no consequence, and changing them
/// is let pass for root and refused to others, as on Linux.
fn change_open(c: &Caller<'_>, fd: i32, change: &Change) -> SysResult {
    let file = c.thread.files().get(fd)?;
    match file.location() {
        Some(location) => change_place(c, location, change),
        None if c.thread.credentials().passes_files() => Ok(0),
        None => Err(Errno::EPERM),
    }
}

/// chmod(2)
pub fn chmod(c: &mut Caller<'_>, path: UserPtr<u8>, mode: u32) -> SysResult {
    fchmodat(c, AT_FDCWD, path, mode)
}

/// fchmodat(2), which at this level has no flags.
pub fn fchmodat(c: &mut Caller<'_>, fd: i32, path: UserPtr<u8>, mode: u32) -> SysResult {
    let change = Change { mode: Some(mode & PERMISSIONS), ..Change::default() };
    change_at(c, fd, c.path(path)?.bytes(), 0, &change)
}

/// fchmod(2)
pub fn fchmod(c: &mut Caller<'_>, fd: i32, mode: u32) -> SysResult {
    change_open(c, fd, &Change { mode: Some(mode & PERMISSIONS), ..Change::default() })
}

/// The ids of chown(2), in which -1 leaves one as it is.
fn owner(uid: u32, gid: u32) -> Change {
    let given = |id: u32| (id != u32::MAX).then_some(id);
    Change { uid: given(uid), gid: given(gid), ..Change::default() }
}

/// chown(2)
pub fn chown(c: &mut Caller<'_>, path: UserPtr<u8>, uid: u32, gid: u32) -> SysResult {
    fchownat(c, AT_FDCWD, path, uid, gid, 0)
}

/// lchown(2)
pub fn lchown(c: &mut Caller<'_>, path: UserPtr<u8>, uid: u32, gid: u32) -> SysResult {
    fchownat(c, AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)
}

/// fchown(2)
pub fn fchown(c: &mut Caller<'_>, fd: i32, uid: u32, gid: u32) -> SysResult {
    change_open(c, fd, &owner(uid, gid))
}

/// fchownat(2)
pub fn fchownat(c: &mut Caller<'_>, fd: i32, path: UserPtr<u8>, uid: u32, gid: u32, flags: u32) -> SysResult {
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    change_at(c, fd, c.path(path)?.bytes(), flags, &owner(uid, gid))
}

/// The times of utimensat(2): `None` where one is to stay.
fn new_times(times: [TimeSpec; 2]) -> Result<Change, Errno> {
    const UTIME_NOW: i64 = (1 << 30) - 1;
    const UTIME_OMIT: i64 = (1 << 30) - 2;
    let new = |time: TimeSpec| match time.nanoseconds {
        UTIME_NOW => Ok(Some(NewTime::Now)),
        UTIME_OMIT => Ok(None),
        0..=999_999_999 => Ok(Some(NewTime::At(nanoseconds(time)))),
        _ => Err(Errno::EINVAL),
    };
    Ok(Change { accessed: new(times[0])?, modified: new(times[1])?, ..Change::default() })
}

/// Times further from the epoch than 292 years become the last that an inode can hold, as Linux does.
fn nanoseconds(time: TimeSpec) -> Time {
    time.seconds.saturating_mul(SECOND).saturating_add(time.nanoseconds)
}

const NOW: Change =
    Change { mode: None, uid: None, gid: None, accessed: Some(NewTime::Now), modified: Some(NewTime::Now) };

/// utimensat(2); a null path means the descriptor.
pub fn utimensat(
    c: &mut Caller<'_>,
    fd: i32,
    path: UserPtr<u8>,
    times: UserPtr<[TimeSpec; 2]>,
    flags: u32,
) -> SysResult {
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let change = match times.non_null() {
        Some(times) => new_times(times.read(&c.thread.space())?)?,
        None => NOW,
    };
    if change == Change::default() {
        return Ok(0);
    }
    match path.non_null() {
        None if fd != AT_FDCWD && flags == 0 => change_open(c, fd, &change),
        None if fd != AT_FDCWD => Err(Errno::EINVAL),
        _ => change_at(c, fd, c.path(path)?.bytes(), flags, &change),
    }
}

/// `struct timeval`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TimeVal {
    seconds: i64,
    microseconds: i64,
}

/// utimes(2)
pub fn utimes(c: &mut Caller<'_>, path: UserPtr<u8>, times: UserPtr<[TimeVal; 2]>) -> SysResult {
    futimesat(c, AT_FDCWD, path, times)
}

/// futimesat(2)
pub fn futimesat(c: &mut Caller<'_>, fd: i32, path: UserPtr<u8>, times: UserPtr<[TimeVal; 2]>) -> SysResult {
    let change = match times.non_null() {
        Some(times) => {
            let times = times.read(&c.thread.space())?;
            if times.iter().any(|time| !(0..1_000_000).contains(&time.microseconds)) {
                return Err(Errno::EINVAL);
            }
            let precise =
                |time: TimeVal| TimeSpec { seconds: time.seconds, nanoseconds: time.microseconds * 1000 };
            new_times(times.map(precise))?
        }
        None => NOW,
    };
    match path.non_null() {
        None if fd != AT_FDCWD => change_open(c, fd, &change),
        _ => change_at(c, fd, c.path(path)?.bytes(), 0, &change),
    }
}

/// utime(2): two numbers of seconds.
pub fn utime(c: &mut Caller<'_>, path: UserPtr<u8>, times: UserPtr<[i64; 2]>) -> SysResult {
    let change = match times.non_null() {
        Some(times) => {
            let times = times.read(&c.thread.space())?;
            new_times(times.map(|seconds| TimeSpec { seconds, nanoseconds: 0 }))?
        }
        None => NOW,
    };
    change_at(c, AT_FDCWD, c.path(path)?.bytes(), 0, &change)
}

/// `struct statfs`.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub struct UserStatFs {
    magic: i64,
    block_size: i64,
    blocks: u64,
    free: u64,
    available: u64,
    inodes: u64,
    free_inodes: u64,
    id: [i32; 2],
    name_max: i64,
    fragment_size: i64,
    flags: i64,
    spare: [i64; 4],
}

fn write_statfs(c: &Caller<'_>, location: &Location, to: UserPtr<UserStatFs>) -> SysResult {
    /// `ST_VALID`: the flags are meant.
    const ST_VALID: i64 = 0x20;
    let (stat, device) = (location.mount.fs.stat(), location.stat().device);
    let value = UserStatFs {
        magic: stat.magic.into(),
        block_size: stat.block_size as i64,
        blocks: stat.blocks,
        free: stat.free_blocks,
        available: stat.free_blocks,
        inodes: stat.inodes,
        free_inodes: stat.free_inodes,
        id: [device as i32, (device >> 32) as i32],
        name_max: crate::fs::node::NAME_MAX as i64,
        fragment_size: stat.block_size as i64,
        flags: ST_VALID | i64::from(location.mount.flags.bits()),
        spare: [0; 4],
    };
    to.write(&c.thread.space(), &value)?;
    Ok(0)
}

/// statfs(2)
pub fn statfs(c: &mut Caller<'_>, path: UserPtr<u8>, to: UserPtr<UserStatFs>) -> SysResult {
    let location = c.locate(AT_FDCWD, c.path(path)?.bytes(), 0, true)?;
    write_statfs(c, &location, to)
}

/// fstatfs(2)
pub fn fstatfs(c: &mut Caller<'_>, fd: i32, to: UserPtr<UserStatFs>) -> SysResult {
    let file = c.thread.files().get_any(fd)?;
    match file.location() {
        Some(location) => write_statfs(c, location, to),
        None => write_statfs(c, &AnonymousNode::place(file.file.clone()), to),
    }
}

/// What a call on extended attributes asks for. There are none: as on a Linux tmpfs without user attributes, reading says `ENODATA`
/// in the namespaces that exist and `EOPNOTSUPP` in others, and nothing can be set.
fn check_attribute(c: &Caller<'_>, name: UserPtr<u8>, missing: Errno) -> Errno {
    let name = match uaccess::read_cstr(&c.thread.space(), name.address(), 256, Errno::ERANGE) {
        Ok(name) => name,
        Err(error) => return error,
    };
    match name.as_slice() {
        b"" => Errno::ERANGE,
        name if name.starts_with(b"trusted.") || name.starts_with(b"security.") => missing,
        _ => Errno::EOPNOTSUPP,
    }
}

/// getxattr(2)
pub fn getxattr(c: &mut Caller<'_>, path: UserPtr<u8>, name: UserPtr<u8>) -> SysResult {
    c.locate(AT_FDCWD, c.path(path)?.bytes(), 0, true)?;
    Err(check_attribute(c, name, Errno::ENODATA))
}

/// lgetxattr(2)
pub fn lgetxattr(c: &mut Caller<'_>, path: UserPtr<u8>, name: UserPtr<u8>) -> SysResult {
    c.locate(AT_FDCWD, c.path(path)?.bytes(), 0, false)?;
    Err(check_attribute(c, name, Errno::ENODATA))
}

/// fgetxattr(2)
pub fn fgetxattr(c: &mut Caller<'_>, fd: i32, name: UserPtr<u8>) -> SysResult {
    c.thread.files().get(fd)?;
    Err(check_attribute(c, name, Errno::ENODATA))
}

/// setxattr(2)
pub fn setxattr(c: &mut Caller<'_>, path: UserPtr<u8>, name: UserPtr<u8>) -> SysResult {
    c.locate(AT_FDCWD, c.path(path)?.bytes(), 0, true)?;
    Err(check_attribute(c, name, Errno::EOPNOTSUPP))
}

/// lsetxattr(2)
pub fn lsetxattr(c: &mut Caller<'_>, path: UserPtr<u8>, name: UserPtr<u8>) -> SysResult {
    c.locate(AT_FDCWD, c.path(path)?.bytes(), 0, false)?;
    Err(check_attribute(c, name, Errno::EOPNOTSUPP))
}

/// fsetxattr(2)
pub fn fsetxattr(c: &mut Caller<'_>, fd: i32, name: UserPtr<u8>) -> SysResult {
    c.thread.files().get(fd)?;
    Err(check_attribute(c, name, Errno::EOPNOTSUPP))
}

/// removexattr(2)
pub fn removexattr(c: &mut Caller<'_>, path: UserPtr<u8>, name: UserPtr<u8>) -> SysResult {
    getxattr(c, path, name)
}

/// lremovexattr(2)
pub fn lremovexattr(c: &mut Caller<'_>, path: UserPtr<u8>, name: UserPtr<u8>) -> SysResult {
    lgetxattr(c, path, name)
}

/// fremovexattr(2)
pub fn fremovexattr(c: &mut Caller<'_>, fd: i32, name: UserPtr<u8>) -> SysResult {
    fgetxattr(c, fd, name)
}

/// listxattr(2): an empty list.
pub fn listxattr(c: &mut Caller<'_>, path: UserPtr<u8>, _list: VirtAddr, _size: usize) -> SysResult {
    c.locate(AT_FDCWD, c.path(path)?.bytes(), 0, true)?;
    Ok(0)
}

/// llistxattr(2)
pub fn llistxattr(c: &mut Caller<'_>, path: UserPtr<u8>, _list: VirtAddr, _size: usize) -> SysResult {
    c.locate(AT_FDCWD, c.path(path)?.bytes(), 0, false)?;
    Ok(0)
}

/// flistxattr(2)
pub fn flistxattr(c: &mut Caller<'_>, fd: i32, _list: VirtAddr, _size: usize) -> SysResult {
    c.thread.files().get(fd)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_abi() {
        assert_eq!(size_of::<UserStat>(), 144);
        assert_eq!(size_of::<Statx>(), 256);
        assert_eq!(size_of::<UserStatFs>(), 120);
    }

    #[test]
    fn times_are_taken_apart_and_put_together() {
        let time = TimeSpec { seconds: 5, nanoseconds: 7 };
        assert_eq!(nanoseconds(time), 5 * SECOND + 7);
        assert_eq!(TimeSpec::of(nanoseconds(time)), time);
        let before = TimeSpec { seconds: -5, nanoseconds: 6 };
        assert_eq!((nanoseconds(before), TimeSpec::of(nanoseconds(before))), (-5 * SECOND + 6, before));
        assert_eq!(nanoseconds(TimeSpec { seconds: i64::MIN, nanoseconds: 0 }), i64::MIN);
        let now = TimeSpec { seconds: 0, nanoseconds: (1 << 30) - 1 };
        let omit = TimeSpec { seconds: 0, nanoseconds: (1 << 30) - 2 };
        let change = new_times([now, omit]).unwrap();
        assert_eq!((change.accessed, change.modified), (Some(NewTime::Now), None));
        assert_eq!(new_times([TimeSpec { seconds: 0, nanoseconds: SECOND }, now]), Err(Errno::EINVAL));
    }

    #[test]
    fn minus_one_leaves_an_owner() {
        assert_eq!(owner(u32::MAX, 3), Change { gid: Some(3), ..Change::default() });
    }
}

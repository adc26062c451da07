//! System calls on the data of files: open, read, write, seek, truncate, copy.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::Caller;
use super::path::AT_FDCWD;
use super::transfer::{self, COUNT_MAX, SEGMENTS_MAX, check_range, check_segments};
use crate::errno::{Errno, SysResult};
use crate::fs::memfs::SIZE_MAX;
use crate::fs::path::{Rules, View, resolve};
use crate::fs::stat::PERMISSIONS;
use crate::fs::tree::At;
use crate::fs::{FileType, OpenFile, OpenFlags, Wanted, open};
use crate::memory::{PAGE_SIZE, VirtAddr};
use crate::process::block::block_on;
use crate::process::pace::Pace;
use crate::process::signal::{Signal, SignalInfo};
use crate::process::{Resource, Thread};
use crate::sched::Events;
use crate::uaccess::{IoVec, ReadBuf, UserPtr, WriteBuf};

/// open(2)
pub async fn open(c: &mut Caller<'_>, path: UserPtr<u8>, flags: u32, mode: u32) -> SysResult {
    openat(c, AT_FDCWD, path, flags, mode).await
}

/// creat(2)
pub async fn creat(c: &mut Caller<'_>, path: UserPtr<u8>, mode: u32) -> SysResult {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    openat(c, AT_FDCWD, path, flags.bits(), mode).await
}

/// openat(2)
pub async fn openat(c: &mut Caller<'_>, fd: i32, path: UserPtr<u8>, flags: u32, mode: u32) -> SysResult {
    // Flags that no kernel knows are ignored by open(2) of old, and programs rely on it.
    let flags = OpenFlags::from_bits_truncate(flags);
    let open = open_path(c, fd, path, flags, mode)?;
    if !flags.contains(OpenFlags::NONBLOCK) {
        wait_until_open(c.thread, &open).await?;
    }
    Ok(c.thread.files().insert(open, flags.contains(OpenFlags::CLOEXEC))? as usize)
}

/// `struct open_how` of openat2(2).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

impl OpenHow {
    /// `EINVAL` for what openat(2) would ignore.
    fn check(&self) -> Result<(OpenFlags, u32, Rules), Errno> {
        let flags = u32::try_from(self.flags).ok().and_then(OpenFlags::from_bits).ok_or(Errno::EINVAL)?;
        let rules = Rules::from_bits(self.resolve).ok_or(Errno::EINVAL)?;
        let creates = flags.contains(OpenFlags::CREAT) || flags.contains(OpenFlags::TMPFILE);
        let path_only = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
        let wrong_mode = self.mode & !u64::from(PERMISSIONS) != 0 || (self.mode != 0 && !creates);
        let wrong_path = flags.contains(OpenFlags::PATH) && !path_only.contains(flags);
        let two_roots = rules.contains(Rules::BENEATH | Rules::IN_ROOT);
        if wrong_mode || wrong_path || two_roots {
            return Err(Errno::EINVAL);
        }
        Ok((flags, self.mode as u32, rules))
    }
}

/// openat2(2)
pub async fn openat2(
    c: &mut Caller<'_>,
    fd: i32,
    path: UserPtr<u8>,
    how: UserPtr<OpenHow>,
    size: usize,
) -> SysResult {
    let (flags, mode, rules) = read_how(c, how, size)?.check()?;
    let open = open_path_with(c, fd, path, flags, mode, rules)?;
    if !flags.contains(OpenFlags::NONBLOCK) {
        wait_until_open(c.thread, &open).await?;
    }
    Ok(c.thread.files().insert(open, flags.contains(OpenFlags::CLOEXEC))? as usize)
}

/// The structure, which may be longer than it is known here if the rest is zero (`E2BIG`).
fn read_how(c: &Caller<'_>, how: UserPtr<OpenHow>, size: usize) -> Result<OpenHow, Errno> {
    let known = size_of::<OpenHow>();
    if size < known {
        return Err(Errno::EINVAL);
    }
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    let space = c.thread.space();
    let rest = UserPtr::<u8>::new(how.address() + known).read_vec(&space, size - known, PAGE_SIZE)?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    how.read(&space)
}

fn open_path_with(
    c: &Caller<'_>,
    fd: i32,
    path: UserPtr<u8>,
    flags: OpenFlags,
    mode: u32,
    rules: Rules,
) -> Result<Arc<OpenFile>, Errno> {
    let path = c.path(path)?;
    let mode = mode & !c.thread.fs().umask();
    // An absolute path too may be seen from the descriptor.
    let seen_from = if rules.intersects(Rules::IN_ROOT | Rules::BENEATH) { b"" } else { path.bytes() };
    c.with_view(fd, seen_from, |view, start| {
        let root = if rules.contains(Rules::IN_ROOT) { start } else { view.root };
        let at = At { start, path: path.bytes() };
        open::open_with(View { root, ..view }, at, flags, mode, rules)
    })
}

fn open_path(
    c: &Caller<'_>,
    fd: i32,
    path: UserPtr<u8>,
    flags: OpenFlags,
    mode: u32,
) -> Result<Arc<OpenFile>, Errno> {
    let path = c.path(path)?;
    let mode = mode & PERMISSIONS & !c.thread.fs().umask();
    c.with_view(fd, path.bytes(), |view, start| open::open(view, start, path.bytes(), flags, mode))
}

/// A FIFO opens when its other end does.
async fn wait_until_open(thread: &Thread, open: &OpenFile) -> Result<(), Errno> {
    match (open.file.open_ready(), open.file.wait_queue()) {
        (Err(Errno::EAGAIN), Some(queue)) => {
            let events = Events::IN | Events::OUT | Events::HUP;
            block_on(thread, queue, events, None, || open.file.open_ready()).await
        }
        (ready, _) => ready,
    }
}

/// read(2)
pub async fn read(c: &mut Caller<'_>, fd: i32, address: VirtAddr, len: usize) -> SysResult {
    let file = c.thread.files().get(fd)?;
    let mut buf = ReadBuf::user(address, check_range(address, len)?);
    transfer::read(c.thread, &file, &mut buf, |buf| file.read(buf)).await
}

/// write(2)
pub async fn write(c: &mut Caller<'_>, fd: i32, address: VirtAddr, len: usize) -> SysResult {
    let file = c.thread.files().get(fd)?;
    let len = limit_size(c.thread, &file, None, check_range(address, len)?)?;
    let mut buf = WriteBuf::user(address, len);
    transfer::write(c.thread, &file, &mut buf, |buf| file.write(buf)).await
}

/// pread64(2)
pub async fn pread64(c: &mut Caller<'_>, fd: i32, address: VirtAddr, len: usize, offset: i64) -> SysResult {
    let (offset, file) = (check_offset(offset)?, c.thread.files().get(fd)?);
    let mut buf = ReadBuf::user(address, check_range(address, len)?);
    read_at(c.thread, &file, &mut buf, offset).await
}

/// pwrite64(2)
pub async fn pwrite64(c: &mut Caller<'_>, fd: i32, address: VirtAddr, len: usize, offset: i64) -> SysResult {
    let (offset, file) = (check_offset(offset)?, c.thread.files().get(fd)?);
    let len = limit_size(c.thread, &file, Some(offset), check_range(address, len)?)?;
    let mut buf = WriteBuf::user(address, len);
    write_at(c.thread, &file, &mut buf, offset).await
}

async fn read_at(thread: &Thread, file: &OpenFile, buf: &mut ReadBuf<'_>, offset: u64) -> SysResult {
    transfer::read(thread, file, buf, |buf| file.read_at(offset + buf.done() as u64, buf)).await
}

async fn write_at(thread: &Thread, file: &OpenFile, buf: &mut WriteBuf<'_>, offset: u64) -> SysResult {
    transfer::write(thread, file, buf, |buf| file.write_at(offset + buf.done() as u64, buf)).await
}

fn check_offset(offset: i64) -> Result<u64, Errno> {
    u64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// How many of `len` bytes may be written to a regular file under `RLIMIT_FSIZE`; `EFBIG` and a signal if none.
fn limit_size(thread: &Thread, file: &OpenFile, offset: Option<u64>, len: usize) -> SysResult {
    if !file.is_seekable() {
        return Ok(len);
    }
    let limit = thread.process().rlimit(Resource::FileSize).soft;
    if limit >= SIZE_MAX || file.stat().file_type() != FileType::Regular {
        return Ok(len);
    }
    let at = match offset {
        _ if file.flags().contains(OpenFlags::APPEND) => file.stat().size,
        Some(offset) => offset,
        None => file.with_position(|position| *position),
    };
    if len > 0 && at >= limit {
        return Err(too_big(thread));
    }
    Ok(len.min((limit - at.min(limit)) as usize))
}

fn too_big(thread: &Thread) -> Errno {
    let _ = thread.send_signal(SignalInfo::kernel(Signal::XFSZ));
    Errno::EFBIG
}

/// The segments at `pointer`, checked.
fn segments(c: &Caller<'_>, pointer: UserPtr<IoVec>, count: usize) -> Result<Vec<IoVec>, Errno> {
    let mut segments = pointer.read_vec(&c.thread.space(), count, SEGMENTS_MAX)?;
    check_segments(&mut segments)?;
    Ok(segments)
}

/// readv(2)
pub async fn readv(c: &mut Caller<'_>, fd: i32, vector: UserPtr<IoVec>, count: usize) -> SysResult {
    let file = c.thread.files().get(fd)?;
    let segments = segments(c, vector, count)?;
    let mut buf = ReadBuf::vectors(&segments);
    transfer::read(c.thread, &file, &mut buf, |buf| file.read(buf)).await
}

/// writev(2)
pub async fn writev(c: &mut Caller<'_>, fd: i32, vector: UserPtr<IoVec>, count: usize) -> SysResult {
    let file = c.thread.files().get(fd)?;
    let mut segments = segments(c, vector, count)?;
    limit_segments(c.thread, &file, None, &mut segments)?;
    let mut buf = WriteBuf::vectors(&segments);
    transfer::write(c.thread, &file, &mut buf, |buf| file.write(buf)).await
}

fn limit_segments(
    thread: &Thread,
    file: &OpenFile,
    offset: Option<u64>,
    segments: &mut [IoVec],
) -> Result<(), Errno> {
    let total = segments.iter().map(|segment| segment.len as usize).sum();
    let mut rest = limit_size(thread, file, offset, total)? as u64;
    for segment in segments {
        segment.len = segment.len.min(rest);
        rest -= segment.len;
    }
    Ok(())
}

/// preadv(2). The offset comes in two halves, of which a 64-bit program puts all into the first.
pub async fn preadv(
    c: &mut Caller<'_>,
    fd: i32,
    vector: UserPtr<IoVec>,
    count: usize,
    offset: i64,
) -> SysResult {
    let (offset, file) = (check_offset(offset)?, c.thread.files().get(fd)?);
    let segments = segments(c, vector, count)?;
    read_at(c.thread, &file, &mut ReadBuf::vectors(&segments), offset).await
}

/// pwritev(2)
pub async fn pwritev(
    c: &mut Caller<'_>,
    fd: i32,
    vector: UserPtr<IoVec>,
    count: usize,
    offset: i64,
) -> SysResult {
    let (offset, file) = (check_offset(offset)?, c.thread.files().get(fd)?);
    let mut segments = segments(c, vector, count)?;
    limit_segments(c.thread, &file, Some(offset), &mut segments)?;
    write_at(c.thread, &file, &mut WriteBuf::vectors(&segments), offset).await
}

/// `RWF_HIPRI`, `RWF_DSYNC`, `RWF_SYNC`: without effect on memory. The others are refused.
const RWF_KNOWN: u32 = 0x7;

/// preadv2(2): an offset of -1 is the position.
pub async fn preadv2(
    c: &mut Caller<'_>,
    fd: i32,
    vector: UserPtr<IoVec>,
    count: usize,
    offset: i64,
    _high: u64,
    flags: u32,
) -> SysResult {
    check_rwf(flags)?;
    match offset {
        -1 => readv(c, fd, vector, count).await,
        _ => preadv(c, fd, vector, count, offset).await,
    }
}

/// pwritev2(2): an offset of -1 is the position.
pub async fn pwritev2(
    c: &mut Caller<'_>,
    fd: i32,
    vector: UserPtr<IoVec>,
    count: usize,
    offset: i64,
    _high: u64,
    flags: u32,
) -> SysResult {
    check_rwf(flags)?;
    match offset {
        -1 => writev(c, fd, vector, count).await,
        _ => pwritev(c, fd, vector, count, offset).await,
    }
}

fn check_rwf(flags: u32) -> Result<(), Errno> {
    if flags & !RWF_KNOWN == 0 { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

/// lseek(2)
pub fn lseek(c: &mut Caller<'_>, fd: i32, offset: i64, whence: u32) -> SysResult {
    let file = c.thread.files().get(fd)?;
    seek(&file, offset, whence).map(|position| position as usize)
}

/// Moves the position of `file`; returns the new one.
pub(super) fn seek(file: &OpenFile, offset: i64, whence: u32) -> Result<u64, Errno> {
    if !file.is_seekable() {
        return Err(Errno::ESPIPE);
    }
    if file.file.has_fixed_position() {
        return Ok(0);
    }
    file.with_position(|position| {
        let base = match whence {
            0 => 0,
            1 => *position,
            2 => file.stat().size,
            3 | 4 => file.file.seek(u64::try_from(offset).map_err(|_| Errno::ENXIO)?, whence == 4)?,
            _ => return Err(Errno::EINVAL),
        };
        let offset = if whence < 3 { offset } else { 0 };
        let new = base.checked_add_signed(offset).filter(|&new| new <= SIZE_MAX).ok_or(Errno::EINVAL)?;
        *position = new;
        Ok(new)
    })
}

/// truncate(2)
pub fn truncate(c: &mut Caller<'_>, path: UserPtr<u8>, size: i64) -> SysResult {
    let size = check_size(c.thread, size)?;
    let path = c.path(path)?;
    c.with_view(AT_FDCWD, path.bytes(), |view, start| {
        let location = resolve(view, start, path.bytes(), true)?;
        match location.node.file_type() {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        location.node.check(&view.who, Wanted::WRITE)?;
        location.mount.check_writable()?;
        open::truncate_at(&location, size)
    })?;
    Ok(0)
}

/// ftruncate(2)
pub fn ftruncate(c: &mut Caller<'_>, fd: i32, size: i64) -> SysResult {
    let size = check_size(c.thread, size)?;
    let file = c.thread.files().get(fd)?;
    if !file.flags().writable() || file.stat().file_type() != FileType::Regular {
        return Err(Errno::EINVAL);
    }
    file.file.truncate(size)?;
    Ok(0)
}

fn check_size(thread: &Thread, size: i64) -> Result<u64, Errno> {
    let size = check_offset(size)?;
    if size > thread.process().rlimit(Resource::FileSize).soft {
        return Err(too_big(thread));
    }
    Ok(size)
}

/// fallocate(2)
pub async fn fallocate(c: &mut Caller<'_>, fd: i32, mode: u32, offset: i64, len: i64) -> SysResult {
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    let file = c.thread.files().get(fd)?;
    if !file.flags().writable() {
        return Err(Errno::EBADF);
    }
    match file.stat().file_type() {
        FileType::Regular => {}
        FileType::Fifo => return Err(Errno::ESPIPE),
        FileType::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::ENODEV),
    }
    if offset.checked_add(len).is_none() {
        return Err(Errno::EFBIG);
    }
    let end = offset as u64 + len as u64;
    if mode == 0 && end > c.thread.process().rlimit(Resource::FileSize).soft {
        return Err(too_big(c.thread));
    }
    if mode & !FALLOC_FL_KEEP_SIZE == 0 {
        reserve(c.thread, &file, offset as u64..end).await?;
    }
    file.file.allocate(mode, offset as u64, len as u64)?;
    Ok(0)
}

const FALLOC_FL_KEEP_SIZE: u32 = 1;
/// Bytes that fallocate(2) reserves at a time.
const RESERVED_AT_ONCE: usize = 64 * PAGE_SIZE;

/// Reserves memory for a range in pieces. When it runs out on the way, what there was of it stays reserved.
async fn reserve(thread: &Thread, file: &OpenFile, range: Range<u64>) -> Result<(), Errno> {
    file.file.may_allocate(range.start, range.end - range.start)?;
    let mut pace = Pace::new(thread);
    for at in range.clone().step_by(RESERVED_AT_ONCE) {
        let len = (range.end - at).min(RESERVED_AT_ONCE as u64);
        file.file.allocate(FALLOC_FL_KEEP_SIZE, at, len)?;
        pace.pause().await?;
    }
    Ok(())
}

/// fsync(2): memory is as stable as it gets. `EINVAL` for what cannot be synchronised.
pub fn fsync(c: &mut Caller<'_>, fd: i32) -> SysResult {
    let file = c.thread.files().get(fd)?;
    match file.stat().file_type() {
        FileType::Regular | FileType::Directory | FileType::BlockDevice => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// fdatasync(2)
pub fn fdatasync(c: &mut Caller<'_>, fd: i32) -> SysResult {
    fsync(c, fd)
}

/// sync_file_range(2)
pub fn sync_file_range(c: &mut Caller<'_>, fd: i32, offset: i64, len: i64, flags: u32) -> SysResult {
    if offset < 0 || len < 0 || flags & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let file = c.thread.files().get(fd)?;
    match file.stat().file_type() {
        FileType::Regular | FileType::Directory | FileType::BlockDevice | FileType::Symlink => Ok(0),
        _ => Err(Errno::ESPIPE),
    }
}

/// sync(2)
pub fn sync(_c: &mut Caller<'_>) -> SysResult {
    Ok(0)
}

/// syncfs(2)
pub fn syncfs(c: &mut Caller<'_>, fd: i32) -> SysResult {
    c.thread.files().get(fd)?;
    Ok(0)
}

/// fadvise64(2): everything is in memory already.
pub fn fadvise64(c: &mut Caller<'_>, fd: i32, _offset: i64, len: i64, advice: u32) -> SysResult {
    let file = c.thread.files().get(fd)?;
    if matches!(file.stat().file_type(), FileType::Fifo | FileType::Socket) {
        return Err(Errno::ESPIPE);
    }
    if advice > 5 || len < 0 { Err(Errno::EINVAL) } else { Ok(0) }
}

/// readahead(2): likewise.
pub fn readahead(c: &mut Caller<'_>, fd: i32, _offset: i64, _len: usize) -> SysResult {
    let file = c.thread.files().get(fd)?;
    if !file.flags().readable() {
        return Err(Errno::EBADF);
    }
    if file.stat().file_type() == FileType::Regular { Ok(0) } else { Err(Errno::EINVAL) }
}

/// ioctl(2): what concerns every descriptor here, the rest by the object.
pub fn ioctl(c: &mut Caller<'_>, fd: i32, request: u32, argument: u64) -> SysResult {
    const FIOCLEX: u32 = 0x5451;
    const FIONCLEX: u32 = 0x5450;
    const FIONBIO: u32 = 0x5421;
    const FIOASYNC: u32 = 0x5452;
    let files = c.thread.files();
    let file = files.get(fd)?;
    let value = || UserPtr::<i32>::new(VirtAddr::new(argument)).read(&c.thread.space());
    let switch = |flag: OpenFlags, on: bool| {
        let flags = file.flags();
        file.set_flags(if on { flags | flag } else { flags - flag });
    };
    match request {
        FIOCLEX => files.set_cloexec(fd, true)?,
        FIONCLEX => files.set_cloexec(fd, false)?,
        FIONBIO => switch(OpenFlags::NONBLOCK, value()? != 0),
        FIOASYNC if file.file.wait_queue().is_some() => switch(OpenFlags::ASYNC, value()? != 0),
        FIONREAD if file.stat().file_type() == FileType::Regular => return bytes_left(c, &file, argument),
        _ => return file.file.ioctl(c.thread, request, argument),
    }
    Ok(0)
}

const FIONREAD: u32 = 0x541b;

/// `FIONREAD` of a regular file: from the position to the end.
fn bytes_left(c: &Caller<'_>, file: &OpenFile, argument: u64) -> SysResult {
    let left = file.stat().size.saturating_sub(file.with_position(|position| *position));
    UserPtr::<i32>::new(VirtAddr::new(argument)).write(&c.thread.space(), &(left as i32))?;
    Ok(0)
}

/// memfd_create(2)
pub fn memfd_create(c: &mut Caller<'_>, name: UserPtr<u8>, flags: u32) -> SysResult {
    const CLOEXEC: u32 = 1;
    const ALLOW_SEALING: u32 = 2;
    /// Without the NUL; `memfd:` is put before it.
    const NAME_MAX: usize = 249;
    if flags & !(CLOEXEC | ALLOW_SEALING) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = crate::uaccess::read_cstr(&c.thread.space(), name.address(), NAME_MAX + 1, Errno::EINVAL)?;
    let credentials = c.thread.credentials();
    let open =
        crate::fs::memfd::create(&name, credentials.fsuid, credentials.fsgid, flags & ALLOW_SEALING != 0)?;
    Ok(c.thread.files().insert(open, flags & CLOEXEC != 0)? as usize)
}

/// Cuts a count to what one call moves.
pub(super) fn clamp_count(count: usize) -> usize {
    count.min(COUNT_MAX)
}

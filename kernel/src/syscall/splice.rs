//! System calls that move bytes through pipes: splice, tee. Of packets they pass the bytes on, one packet a call, not the bounds.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use super::Caller;
use super::copy::{Side, read_offset, write_offset};
use super::file::clamp_count;
use super::transfer;
use crate::errno::{Errno, SysResult};
use crate::fs::pipe::PipeEnd;
use crate::fs::{OpenFile, OpenFlags};
use crate::process::Thread;
use crate::process::block::block_on;
use crate::sched::Events;
use crate::uaccess::{ReadBuf, UserPtr, WriteBuf};

const SPLICE_F_MOVE: u32 = 1;
const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_F_MORE: u32 = 4;
const SPLICE_F_GIFT: u32 = 8;

/// Most bytes moved by one call, as if a pipe held no more; programs come again.
const PIECE: usize = 64 << 10;

/// `EINVAL` for flags that there are not.
fn check_flags(flags: u32) -> Result<bool, Errno> {
    let known = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(flags & SPLICE_F_NONBLOCK != 0)
}

/// The pipe that `file` is an end of.
fn pipe(file: &OpenFile) -> Option<&PipeEnd> {
    let any: &dyn Any = &*file.file;
    any.downcast_ref()
}

/// splice(2): from or to a pipe.
pub async fn splice(
    c: &mut Caller<'_>,
    from_fd: i32,
    from_offset: UserPtr<i64>,
    to_fd: i32,
    to_offset: UserPtr<i64>,
    count: usize,
    flags: u32,
) -> SysResult {
    let nonblocking = check_flags(flags)?;
    if count == 0 {
        return Ok(0);
    }
    let files = c.thread.files();
    let (from, to) = (files.get(from_fd)?, files.get(to_fd)?);
    check_ends(&from, &to)?;
    let is_offset = |pointer: UserPtr<i64>| pointer.non_null().is_some();
    let (source, target) = (pipe(&from), pipe(&to));
    match (source, target) {
        (None, None) => return Err(Errno::EINVAL),
        (Some(a), Some(b)) if a.is_same_pipe(b) => return Err(Errno::EINVAL),
        _ => {}
    }
    let streams = [
        (source.is_some() || !from.is_seekable(), from_offset),
        (target.is_some() || !to.is_seekable(), to_offset),
    ];
    if streams.iter().any(|&(stream, offset)| stream && is_offset(offset)) {
        return Err(Errno::ESPIPE);
    }
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let mut from_side = Side::new(&from, read_offset(c, from_offset)?);
    let mut to_side = Side::new(&to, read_offset(c, to_offset)?);
    let mut bytes = buffer(clamp_count(count).min(PIECE))?;
    let moved = move_piece(c.thread, &mut from_side, &mut to_side, &mut bytes, nonblocking).await?;
    write_offset(c, from_offset, from_side.offset())?;
    write_offset(c, to_offset, to_side.offset())?;
    Ok(moved)
}

fn check_ends(from: &OpenFile, to: &OpenFile) -> Result<(), Errno> {
    if from.flags().readable() && to.flags().writable() { Ok(()) } else { Err(Errno::EBADF) }
}

fn buffer(len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Reads once and writes what came; what cannot be written goes back.
async fn move_piece(
    thread: &Thread,
    from: &mut Side<'_>,
    to: &mut Side<'_>,
    bytes: &mut [u8],
    nonblocking: bool,
) -> SysResult {
    if let Some(target) = pipe(to.file()) {
        wait(thread, to.file(), Events::OUT, nonblocking, || target.write_ready()).await?;
    }
    let source = pipe(from.file());
    let read = match source {
        Some(source) => {
            let mut attempt = || source.take(&mut ReadBuf::kernel(bytes));
            wait(thread, from.file(), Events::IN, nonblocking, &mut attempt).await?
        }
        None => from.read(thread, bytes).await?,
    };
    let written = to.write_some(thread, &bytes[..read]).await;
    let rest = &bytes[*written.as_ref().unwrap_or(&0)..read];
    match source {
        Some(source) if !rest.is_empty() => source.unread(rest)?,
        _ => from.unread(rest.len()),
    }
    written
}

/// Waits on `file`, unless it or the call must not.
async fn wait<T>(
    thread: &Thread,
    file: &OpenFile,
    events: Events,
    nonblocking: bool,
    mut attempt: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match (attempt(), file.file.wait_queue()) {
        (Err(Errno::EAGAIN), Some(queue)) if !nonblocking && !file.is_nonblocking() => {
            block_on(thread, queue, events, None, attempt).await
        }
        (done, _) => done,
    }
}

/// tee(2): copies what is in one pipe to another, and leaves it.
pub async fn tee(c: &mut Caller<'_>, from_fd: i32, to_fd: i32, count: usize, flags: u32) -> SysResult {
    let nonblocking = check_flags(flags)?;
    if count == 0 {
        return Ok(0);
    }
    let files = c.thread.files();
    let (from, to): (Arc<OpenFile>, Arc<OpenFile>) = (files.get(from_fd)?, files.get(to_fd)?);
    check_ends(&from, &to)?;
    let (Some(source), Some(target)) = (pipe(&from), pipe(&to)) else { return Err(Errno::EINVAL) };
    if source.is_same_pipe(target) {
        return Err(Errno::EINVAL);
    }
    wait(c.thread, &to, Events::OUT, nonblocking, || target.write_ready()).await?;
    let mut bytes = buffer(clamp_count(count).min(PIECE))?;
    let mut peek = || source.peek(&mut ReadBuf::kernel(&mut bytes));
    let len = wait(c.thread, &from, Events::IN, nonblocking, &mut peek).await?;
    transfer::write_once(c.thread, &to, &mut WriteBuf::kernel(&bytes[..len]))
}

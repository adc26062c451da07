//! System calls that move bytes from file to file: sendfile, copy_file_range, splice.

use alloc::vec::Vec;

use super::Caller;
use super::file::clamp_count;
use super::transfer;
use crate::errno::{Errno, SysResult};
use crate::fs::memfs::SIZE_MAX;
use crate::fs::{FileType, OpenFile, OpenFlags};
use crate::process::Thread;
use crate::process::pace::Pace;
use crate::uaccess::{ReadBuf, UserPtr, WriteBuf};

/// Bytes moved at once.
const PIECE: usize = 64 << 10;

/// One side of a copy: at the file's position, or at an offset of the caller's.
pub(super) struct Side<'a> {
    file: &'a OpenFile,
    offset: Option<u64>,
}

impl<'a> Side<'a> {
    pub(super) fn new(file: &'a OpenFile, offset: Option<u64>) -> Self {
        Self { file, offset }
    }

    pub(super) fn file(&self) -> &'a OpenFile {
        self.file
    }

    pub(super) fn offset(&self) -> Option<u64> {
        self.offset
    }

    pub(super) async fn read(&mut self, thread: &Thread, out: &mut [u8]) -> SysResult {
        let mut buf = ReadBuf::kernel(out);
        let moved = match self.offset {
            None => transfer::read(thread, self.file, &mut buf, |buf| self.file.read(buf)).await?,
            Some(offset) => {
                let read = |buf: &mut ReadBuf<'_>| self.file.read_at(offset + buf.done() as u64, buf);
                transfer::read(thread, self.file, &mut buf, read).await?
            }
        };
        self.offset = self.offset.map(|offset| offset + moved as u64);
        Ok(moved)
    }

    async fn write(&mut self, thread: &Thread, bytes: &[u8]) -> SysResult {
        let mut buf = WriteBuf::kernel(bytes);
        let moved = match self.offset {
            None => transfer::write(thread, self.file, &mut buf, |buf| self.file.write(buf)).await?,
            Some(offset) => {
                let write = |buf: &mut WriteBuf<'_>| self.file.write_at(offset + buf.done() as u64, buf);
                transfer::write(thread, self.file, &mut buf, write).await?
            }
        };
        self.offset = self.offset.map(|offset| offset + moved as u64);
        Ok(moved)
    }

    /// Writes as much as goes at once; waits only while that is nothing.
    pub(super) async fn write_some(&mut self, thread: &Thread, bytes: &[u8]) -> SysResult {
        match self.offset {
            None => {
                let mut buf = WriteBuf::kernel(bytes);
                match transfer::write_once(thread, self.file, &mut buf) {
                    Err(Errno::EAGAIN) => self.write(thread, bytes).await,
                    result => result,
                }
            }
            Some(_) => self.write(thread, bytes).await,
        }
    }

    /// Takes back what was read and could not be written.
    pub(super) fn unread(&mut self, bytes: usize) {
        match &mut self.offset {
            Some(offset) => *offset -= bytes as u64,
            None if self.file.is_seekable() => self.file.with_position(|position| *position -= bytes as u64),
            None => {}
        }
    }
}

/// Copies up to `count` bytes; an error only if nothing was copied.
async fn copy(thread: &Thread, from: &mut Side<'_>, to: &mut Side<'_>, count: usize) -> SysResult {
    let mut piece = Vec::new();
    piece.try_reserve_exact(PIECE.min(count)).map_err(|_| Errno::ENOMEM)?;
    piece.resize(PIECE.min(count), 0);
    let (mut done, mut pace) = (0, Pace::new(thread));
    while done < count {
        let wanted = PIECE.min(count - done);
        let result = copy_piece(thread, from, to, &mut piece[..wanted]).await;
        match result {
            Ok((read, written)) => {
                done += written;
                if read < wanted || written < read {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        if pace.pause().await.is_err() || thread.interrupted() {
            break;
        }
    }
    Ok(done)
}

async fn copy_piece(
    thread: &Thread,
    from: &mut Side<'_>,
    to: &mut Side<'_>,
    piece: &mut [u8],
) -> Result<(usize, usize), Errno> {
    let read = from.read(thread, piece).await?;
    if read == 0 {
        return Ok((0, 0));
    }
    let written = to.write(thread, &piece[..read]).await;
    from.unread(read - *written.as_ref().unwrap_or(&0));
    Ok((read, written?))
}

/// The offset at `pointer`, if there is one (`EINVAL` when negative).
pub(super) fn read_offset(c: &Caller<'_>, pointer: UserPtr<i64>) -> Result<Option<u64>, Errno> {
    let Some(pointer) = pointer.non_null() else { return Ok(None) };
    let offset = pointer.read(&c.thread.space())?;
    u64::try_from(offset).map(Some).map_err(|_| Errno::EINVAL)
}

pub(super) fn write_offset(c: &Caller<'_>, pointer: UserPtr<i64>, offset: Option<u64>) -> Result<(), Errno> {
    match (pointer.non_null(), offset) {
        (Some(pointer), Some(offset)) => pointer.write(&c.thread.space(), &(offset as i64)),
        _ => Ok(()),
    }
}

/// sendfile(2)
pub async fn sendfile(
    c: &mut Caller<'_>,
    to_fd: i32,
    from_fd: i32,
    offset: UserPtr<i64>,
    count: usize,
) -> SysResult {
    let files = c.thread.files();
    let (from, to) = (files.get(from_fd)?, files.get(to_fd)?);
    let start = read_offset(c, offset)?;
    if !from.flags().readable() || !to.flags().writable() {
        return Err(Errno::EBADF);
    }
    if start.is_some() && !from.is_seekable() {
        return Err(Errno::ESPIPE);
    }
    // The source has to be something that has pages; sockets and pipes are not.
    let source = from.stat().file_type();
    let appends = to.flags().contains(OpenFlags::APPEND);
    if !matches!(source, FileType::Regular | FileType::BlockDevice | FileType::CharDevice) || appends {
        return Err(Errno::EINVAL);
    }
    let mut from = Side { file: &from, offset: start };
    let mut to = Side { file: &to, offset: None };
    let done = copy(c.thread, &mut from, &mut to, clamp_count(count)).await?;
    write_offset(c, offset, from.offset)?;
    Ok(done)
}

/// copy_file_range(2)
pub async fn copy_file_range(
    c: &mut Caller<'_>,
    from_fd: i32,
    from_offset: UserPtr<i64>,
    to_fd: i32,
    to_offset: UserPtr<i64>,
    count: usize,
    flags: u32,
) -> SysResult {
    let files = c.thread.files();
    let (from, to) = (files.get(from_fd)?, files.get(to_fd)?);
    let (start, target) = (read_offset(c, from_offset)?, read_offset(c, to_offset)?);
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    check_regular(&from, &to)?;
    if !from.flags().readable() || !to.flags().writable() || to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    let count = clamp_count(count);
    let at = |side: &OpenFile, offset: Option<u64>| offset.unwrap_or_else(|| side.with_position(|p| *p));
    let (a, b) = (at(&from, start), at(&to, target));
    if b > SIZE_MAX - count as u64 {
        return Err(Errno::EFBIG);
    }
    let same = from.stat().device == to.stat().device && from.stat().inode == to.stat().inode;
    if same && a < b.saturating_add(count as u64) && b < a.saturating_add(count as u64) {
        return Err(Errno::EINVAL);
    }
    let mut from = Side { file: &from, offset: start };
    let mut to = Side { file: &to, offset: target };
    let done = copy(c.thread, &mut from, &mut to, count).await?;
    write_offset(c, from_offset, from.offset)?;
    write_offset(c, to_offset, to.offset)?;
    Ok(done)
}

fn check_regular(from: &OpenFile, to: &OpenFile) -> Result<(), Errno> {
    let types = [from.stat().file_type(), to.stat().file_type()];
    match types {
        [FileType::Regular, FileType::Regular] => Ok(()),
        _ if types.contains(&FileType::Directory) => Err(Errno::EISDIR),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::fixture::{Fixture, rest};
    use crate::process::tests::{process, run_as_thread};
    use alloc::sync::Arc;

    /// Copies between two files, at offsets or positions.
    fn copied(
        from: (&Arc<OpenFile>, Option<u64>),
        to: (&Arc<OpenFile>, Option<u64>),
        count: usize,
    ) -> (SysResult, Option<u64>) {
        let thread = process().leader().unwrap();
        let ((from, start), (to, target)) = ((from.0.clone(), from.1), (to.0.clone(), to.1));
        let running = run_as_thread(thread.clone(), async move {
            let mut from = Side { file: &from, offset: start };
            let mut to = Side { file: &to, offset: target };
            let done = copy(&thread, &mut from, &mut to, count).await;
            (done, from.offset)
        });
        running.result().unwrap()
    }

    #[test]
    fn a_copy_moves_the_position_or_the_offset_but_not_both() {
        let files = Fixture::new();
        let (from, to) = (files.file("/from", b"0123456789"), files.file("/to", b""));
        from.with_position(|position| *position = 2);
        assert_eq!(copied((&from, None), (&to, None), 3), (Ok(3), None));
        assert_eq!(copied((&from, Some(8)), (&to, None), 100), (Ok(2), Some(10)));
        assert_eq!(from.with_position(|position| *position), 5);
        to.with_position(|position| *position = 0);
        assert_eq!(rest(&to), b"23489");
    }

    #[test]
    fn what_cannot_be_written_is_not_taken() {
        let files = Fixture::new();
        let from = files.file("/from", b"0123456789");
        files.file("/to", b"");
        let to = files.open("/to", OpenFlags::empty()).unwrap();
        assert_eq!(copied((&from, None), (&to, None), 10), (Err(Errno::EBADF), None));
        assert_eq!(from.with_position(|position| *position), 0);
    }
}
